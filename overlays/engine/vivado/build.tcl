# The overlay from the sources, in one run of Vivado:
#
#   vivado -mode batch -source build.tcl -tclargs --out DIR [--work DIR] [--clock 250|200] [--pixels 1|2|4] [--jobs N]
#
# "fracbnn overlays build engine" finds Vivado and runs this.

set here [file dirname [file normalize [info script]]]
foreach script {contract common package design implement} {
    source [file join $here $script.tcl]
}

proc build::one_of {option value allowed} {
    if {$value ni $allowed} {
        fail "$option: expected one of [join $allowed {, }], found \"$value\"" "choose one of them"
    }
}

# Options as a dictionary.
proc build::options {arguments} {
    set values [dict create --clock [lindex $contract::clocks 0] --pixels 2 --jobs 2 --out "" --work ""]
    if {[llength $arguments] % 2} {
        fail "expected options with a value each, found \"$arguments\"" "see the first lines of build.tcl"
    }
    foreach {name value} $arguments {
        if {![dict exists $values $name]} {
            fail "expected one of the options [join [dict keys $values] {, }], found \"$name\"" "leave it out"
        }
        dict set values $name $value
    }
    one_of --clock [dict get $values --clock] $contract::clocks
    one_of --pixels [dict get $values --pixels] $contract::pixels
    if {![string is integer -strict [dict get $values --jobs]] || [dict get $values --jobs] < 1} {
        fail "--jobs: expected a whole number from 1 on, found \"[dict get $values --jobs]\"" "leave it out for 2"
    }
    if {[dict get $values --out] eq ""} {
        fail "--out: expected a folder, found none" "name the folder for the bitstream"
    }
    if {[dict get $values --work] eq ""} {
        dict set values --work [file join [dict get $values --out] build]
    }
    return $values
}

proc build::check_tool {} {
    if {[package vcompare [lindex [split [version -short] _] 0] 2020.2] < 0} {
        fail "expected Vivado 2020.2 or later, found [version -short]" "install a newer one"
    }
    if {![llength [get_parts -quiet $contract::part]]} {
        fail "expected the device $contract::part in this Vivado, found none" \
            "run its installer again and add Zynq UltraScale+ MPSoC"
    }
}

proc build::main {hardware arguments} {
    set values [options $arguments]
    set clock [dict get $values --clock]
    set pixels [dict get $values --pixels]
    set jobs [dict get $values --jobs]
    set out [file normalize [dict get $values --out]]
    set work [file normalize [dict get $values --work]]
    check_tool
    set project [file join $work project]
    file delete -force [file join $work ip] $project
    file mkdir $out $work
    step "package the core"
    package_core::run $hardware [file join $work ip]
    step "block design: X = $pixels, $clock MHz"
    create_project engine $project -part $contract::part
    set_property ip_repo_paths [list [file join $work ip]] [current_project]
    update_ip_catalog
    add_files -fileset constrs_1 -norecurse [file join $hardware vivado constraints.xdc]
    design::run $clock $pixels
    implement::prepare
    step "synthesis"
    implement::to synth_1 synth_design $jobs
    step "placement and routing"
    implement::to impl_1 route_design $jobs
    step "timing"
    implement::check_timing $clock $pixels $out
    step "bitstream"
    implement::to impl_1 write_bitstream $jobs
    step "export"
    implement::export $project $out
}

if {[catch {build::main [file dirname $here] $argv} message options]} {
    if {[lindex [dict get $options -errorcode] 0] ne "FRACBNN"} {
        puts [dict get $options -errorinfo]
    }
    puts "fracbnn: error: $message"
    flush stdout
    exit 1
}
