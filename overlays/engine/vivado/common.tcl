# What the scripts share: messages, and the steps that are shown while they run.

namespace eval build {
    variable steps 7
    variable done 0
}

# Begin a step: one line that "fracbnn overlays build" shows.
proc build::step {title} {
    variable steps
    variable done
    incr done
    puts "fracbnn: step $done of $steps: $title"
    flush stdout
}

# End with a message: what was expected, what was found, what to do.
proc build::fail {message advice} {
    return -code error -errorcode {FRACBNN} "$message; $advice"
}

# The one object of a query, or an error that says what is missing.
proc build::only {what objects} {
    if {[llength $objects] != 1} {
        build::fail "$what: expected one, found [llength $objects]" \
            "this release of Vivado does something differently; the log says what it made"
    }
    return [lindex $objects 0]
}
