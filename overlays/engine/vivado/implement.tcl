# From the block design to the two files of an overlay.

namespace eval implement {}

# Run `run` up to `step` and check that it got there.
proc implement::to {run step jobs} {
    if {$step eq "synth_design"} {
        launch_runs $run -jobs $jobs
    } else {
        launch_runs $run -to_step $step -jobs $jobs
    }
    wait_on_run $run
    set status [get_property STATUS [get_runs $run]]
    if {![string match "*$step Complete*" $status]} {
        build::fail "$run: expected \"$step Complete\", found \"$status\"" \
            "see runme.log in [get_property DIRECTORY [get_runs $run]]"
    }
}

proc implement::prepare {} {
    set file [get_files $design::name.bd]
    # As one design, not core by core: the strategy below is then the engine's too.
    set_property synth_checkpoint_mode None $file
    generate_target all $file
    add_files -norecurse [make_wrapper -files $file -top]
    set_property top ${design::name}_wrapper [current_fileset]
    update_compile_order -fileset sources_1
    set_property strategy Flow_PerfOptimized_high [get_runs synth_1]
    set_property strategy Performance_Explore [get_runs impl_1]
}

# Slack of the worst path in ns, "max" for setup and "min" for hold.
proc implement::slack {kind} {
    set paths [get_timing_paths -delay_type $kind -max_paths 1]
    if {![llength $paths]} {
        build::fail "timing: expected paths between registers, found none" "the clock is not constrained: see the log"
    }
    return [get_property SLACK [lindex $paths 0]]
}

# Write reports, and fail where the design is too slow for its clock.
proc implement::check_timing {clock pixels out} {
    open_run impl_1
    report_timing_summary -max_paths 10 -file [file join $out $contract::name.timing.rpt]
    report_utilization -hierarchical -file [file join $out $contract::name.utilization.rpt]
    set period [expr {1000.0 / $clock}]
    set found [get_property PERIOD [build::only "clock clk_pl_0" [get_clocks -quiet clk_pl_0]]]
    if {$found > $period * 1.001} {
        build::fail "clock clk_pl_0: expected a period of $period ns, found $found ns" \
            "the processing system cannot make $clock MHz; the hand-off file would say something else"
    }
    set setup [slack max]
    set hold [slack min]
    puts "fracbnn: worst slack [format %.3f $setup] ns (setup), [format %.3f $hold] ns (hold) at $clock MHz"
    if {$setup < 0 || $hold < 0} {
        set advice "build it with --clock [lindex $contract::clocks end]"
        if {$pixels > 1} {
            append advice " or fewer --pixels"
        }
        build::fail "timing: expected no negative slack at $clock MHz, found [format %.3f $setup] ns (setup) and\
            [format %.3f $hold] ns (hold)" "$advice; [file join $out $contract::name.timing.rpt] has the paths"
    }
    close_design
}

# Copy bitstream and hand-off file to `out`, under one name.
proc implement::export {project out} {
    set bit [file join [get_property DIRECTORY [get_runs impl_1]] ${design::name}_wrapper.bit]
    # The folder's name depends on the release.
    set handoffs {}
    foreach folder {gen srcs} {
        lappend handoffs {*}[glob -nocomplain \
            [file join $project engine.$folder sources_1 bd $design::name hw_handoff $design::name.hwh]]
    }
    set handoff [build::only "hand-off file of the block design" [lrange $handoffs 0 0]]
    if {![file isfile $bit]} {
        build::fail "expected the bitstream $bit, found none" "see runme.log in its folder"
    }
    foreach {from extension} [list $bit bit $handoff hwh] {
        set to [file join $out $contract::name.$extension]
        file copy -force $from $to
        puts "fracbnn: wrote $to"
    }
}
