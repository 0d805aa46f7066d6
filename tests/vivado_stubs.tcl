# Stands in for Vivado in tests/test_engine_vivado.py: every command the scripts use, recorded, with so much behind it
# that mistakes show. A command or a pin that is not here is an error. What pins IP cores have with which parameters is
# from hand-off files of real designs and the product guides.
#
#   tclsh vivado_stubs.tcl RECORD SCRIPT [ARGUMENT]...
#
# The environment changes what it finds: STUB_SLACK, STUB_HOLD, STUB_PERIOD, STUB_VERSION, STUB_PARTS, STUB_FAIL (the
# step that ends with an error), STUB_MISSING (an interface the packager does not recognise).

namespace eval stub {
    variable record [open [lindex $argv 0] w]
    variable ports {}       ;# of the packaged core: name and direction
    variable interfaces {}  ;# of the packaged core: name and mode
    variable vlnv {}        ;# of the packaged core
    variable cells {}
    variable configuration {}
    variable project {}
    variable status {}
    variable design {}
}

proc stub::note {args} {
    variable record
    puts $record [join [lmap word $args {string map {\n { }} $word}] \x1f]
    flush $record
}

proc stub::environment {name default} {
    return [expr {[info exists ::env($name)] ? $::env($name) : $default}]
}

# Commands of which nothing but their arguments matters.
foreach name {
    update_compile_order close_project update_ip_catalog validate_bd_design open_run report_timing_summary
    report_utilization close_design ipx::create_xgui_files ipx::update_checksums ipx::check_integrity ipx::save_core
    ipx::associate_bus_interfaces save_bd_design
} {
    namespace eval [namespace qualifiers ::$name] {}
    proc ::$name {args} "stub::note $name {*}\$args"
}

proc version {args} {
    return [stub::environment STUB_VERSION 2023.2]
}

proc get_parts {args} {
    return [stub::environment STUB_PARTS [lindex $args end]]
}

proc create_project {args} {
    stub::note create_project {*}$args
    set stub::project [list {*}[lrange [lsearch -all -inline -not -glob $args -*] 0 1]]
}

proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc get_runs {name} { return $name }
proc get_files {pattern} { return $pattern }

proc add_files {args} {
    stub::note add_files {*}$args
    if {"-fileset" in $args} {
        set args [lreplace $args 0 1]
    }
    foreach file [lindex $args end] {
        if {![file isfile $file]} {
            error "add_files: $file does not exist"
        }
    }
    set stub::added [lindex $args end]
}

proc set_property {args} {
    stub::note set_property {*}$args
    if {[lindex $args 0] eq "-dict"} {
        lassign $args _ values object
        dict for {key value} $values {
            dict set stub::configuration $object [string range $key 7 end] $value
        }
    } elseif {[lindex $args 2] eq "core"} {
        dict set stub::vlnv [lindex $args 0] [lindex $args 1]
    }
}

# Packaging ------------------------------------------------------------------------------------------------------------

proc ipx::package_project {args} {
    stub::note ipx::package_project {*}$args
    dict set stub::vlnv vendor [dict get $args -vendor]
    dict set stub::vlnv library [dict get $args -library]
    foreach file $stub::added {
        if {[file tail $file] eq "fracbnn_engine.v"} {
            set stream [open $file]
            set text [read $stream]
            close $stream
        }
    }
    foreach {_ direction name} [regexp -all -inline {\n  (input|output) wire (?:\[[0-9:]+\] )?(\w+)} $text] {
        lappend stub::ports $name $direction
        if {[regexp {^([sm])_axi_[a-z]+} $name interface mode]} {
            dict set stub::interfaces $interface [expr {$mode eq "s" ? "slave" : "master"}]
        }
    }
    foreach {_ name} [regexp -all -inline {X_INTERFACE_INFO = "xilinx.com:signal:\w+:1.0 (\w+) } $text] {
        dict set stub::interfaces $name signal
    }
    set missing [stub::environment STUB_MISSING {}]
    dict unset stub::interfaces $missing
    stub::note packaged [file normalize $stub::added]
}

proc ipx::current_core {} { return core }
proc ipx::get_bus_interfaces {name args} {
    return [expr {[dict exists $stub::interfaces $name] ? $name : ""}]
}
proc ipx::get_user_parameters {name args} { return $name }
proc ipx::get_memory_maps {name args} { return $name }
proc ipx::get_address_blocks {args} { return reg0 }
proc ipx::add_register {name block} {
    stub::note register $name
    return register/$name
}
proc ipx::get_registers {name args} { return register/$name }
proc ipx::add_field {name register} { return $register/$name }

# Block design ---------------------------------------------------------------------------------------------------------

proc create_bd_design {name} {
    stub::note create_bd_design $name
    set stub::design $name
}

proc create_bd_cell {args} {
    stub::note create_bd_cell {*}$args
    if {[lrange $args 0 1] ne {-type ip}} {
        error "create_bd_cell: expected -type ip, found $args"
    }
    set vlnv [dict get [lrange $args 0 3] -vlnv]
    set name [lindex $args 4]
    dict set stub::cells $name $vlnv
    dict set stub::configuration $name {}
    return $name
}

# Pins of a cell, with its present parameters: name, then in, out, optional (an input with a value of its own), master
# or slave.
proc stub::pins {name} {
    variable cells
    variable ports
    variable interfaces
    set vlnv [dict get $cells $name]
    set values [dict get $stub::configuration $name]
    set pins {}
    proc value {key default} {
        upvar values values
        return [expr {[dict exists $values $key] ? [dict get $values $key] : $default}]
    }
    switch -glob $vlnv {
        xilinx.com:ip:zynq_ultra_ps_e* {
            foreach {key default port clock kind} {
                M_AXI_GP0 1 M_AXI_HPM0_FPD maxihpm0_fpd_aclk master
                M_AXI_GP1 1 M_AXI_HPM1_FPD maxihpm1_fpd_aclk master
                M_AXI_GP2 0 M_AXI_HPM0_LPD maxihpm0_lpd_aclk master
                S_AXI_GP0 0 S_AXI_HPC0_FPD saxihpc0_fpd_aclk slave
                S_AXI_GP2 0 S_AXI_HP0_FPD saxihp0_fpd_aclk slave
                S_AXI_GP3 0 S_AXI_HP1_FPD saxihp1_fpd_aclk slave
                S_AXI_GP4 0 S_AXI_HP2_FPD saxihp2_fpd_aclk slave
                S_AXI_GP5 0 S_AXI_HP3_FPD saxihp3_fpd_aclk slave
            } {
                if {[value PSU__USE__$key $default]} {
                    lappend pins $port $kind $clock in
                }
            }
            foreach {key default port kind} {
                PSU__USE__IRQ0 1 pl_ps_irq0 in
                PSU__USE__IRQ1 0 pl_ps_irq1 in
                PSU__FPGA_PL0_ENABLE 1 pl_clk0 out
                PSU__FPGA_PL1_ENABLE 0 pl_clk1 out
                PSU__USE__FABRIC__RST 1 pl_resetn0 out
            } {
                if {[value $key $default]} {
                    lappend pins $port $kind
                }
            }
        }
        xilinx.com:ip:proc_sys_reset* {
            lappend pins slowest_sync_clk in ext_reset_in in aux_reset_in optional mb_debug_sys_rst optional \
                dcm_locked optional mb_reset out bus_struct_reset out peripheral_reset out interconnect_aresetn out \
                peripheral_aresetn out
        }
        xilinx.com:ip:smartconnect* {
            lappend pins aclk in aresetn in
            for {set i 0} {$i < [value NUM_SI 1]} {incr i} {
                lappend pins [format S%02d_AXI $i] slave
            }
            for {set i 0} {$i < [value NUM_MI 1]} {incr i} {
                lappend pins [format M%02d_AXI $i] master
            }
        }
        xilinx.com:ip:axi_intc* {
            lappend pins s_axi slave s_axi_aclk in s_axi_aresetn in intr in
            lappend pins {*}[expr {[value C_IRQ_CONNECTION 0] ? "irq out" : "interrupt master"}]
        }
        xilinx.com:ip:xlconcat* {
            for {set i 0} {$i < [value NUM_PORTS 2]} {incr i} {
                lappend pins In$i in
            }
            lappend pins dout out
        }
        default {
            variable vlnv_of_core
            set core [join [lmap key {vendor library name version} {dict get $stub::vlnv $key}] :]
            if {$vlnv ne $core} {
                error "the catalogue has no $vlnv, but $core"
            }
            foreach {port direction} $ports {
                if {![string match ?_axi_* $port]} {
                    lappend pins $port [expr {$direction eq "input" ? "in" : "out"}]
                }
            }
            dict for {interface mode} $interfaces {
                if {$mode ne "signal"} {
                    lappend pins $interface $mode
                }
            }
        }
    }
    return $pins
}

proc stub::find {path kinds} {
    variable cells
    lassign [split $path /] name pin
    if {![dict exists $cells $name] || ![dict exists [pins $name] $pin]} {
        error "no pin $path"
    }
    if {[dict get [pins $name] $pin] ni $kinds} {
        error "$path is a pin of another kind: [dict get [pins $name] $pin]"
    }
    return $path
}

proc get_bd_pins {path} { return [stub::find $path {in out optional}] }
proc get_bd_intf_pins {path} { return [stub::find $path {master slave}] }
proc connect_bd_net {source sink} { stub::note net $source $sink }
proc connect_bd_intf_net {master slave} { stub::note bus $master $slave }

proc get_bd_addr_spaces {path} {
    lassign [split $path /] name space
    if {![dict exists $stub::cells $name]} {
        error "no cell $name"
    }
    return $path
}

proc get_bd_addr_segs {args} {
    set path [string map {* reg0} [lindex $args end]]
    if {$path ni {
        fracbnn_engine_0/s_axi_control/reg0 axi_intc_0/S_AXI/Reg zynq_ultra_ps_e_0/SAXIGP2/HP0_DDR_LOW
        zynq_ultra_ps_e_0/SAXIGP2/HP0_LPS_OCM
    }} {
        return {}
    }
    return $path
}

proc assign_bd_address {args} {
    set segment [lindex $args 6]
    if {$segment eq "" || [lindex $args 7] ne "-force"} {
        error "assign_bd_address: expected a segment, found $args"
    }
    stub::note address {*}[lmap key {-offset -range -target_address_space} {dict get [lrange $args 0 5] $key}] $segment
}

proc exclude_bd_addr_seg {args} { stub::note exclude {*}$args }

proc generate_target {kind file} {
    foreach name [dict keys $stub::cells] {
        stub::note cell $name [dict get $stub::cells $name]
        foreach {pin kind} [stub::pins $name] {
            stub::note pin $name/$pin $kind
        }
        dict for {key value} [dict get $stub::configuration $name] {
            stub::note parameter $name $key $value
        }
    }
    lassign $stub::project name folder
    set handoff [file join $folder $name.gen sources_1 bd $stub::design hw_handoff $stub::design.hwh]
    file mkdir [file dirname $handoff]
    close [open $handoff w]
}

proc make_wrapper {args} {
    set wrapper [file join [lindex $stub::project 1] $stub::design.v]
    close [open $wrapper w]
    return $wrapper
}

# Implementation -------------------------------------------------------------------------------------------------------

proc launch_runs {run args} {
    stub::note launch_runs $run {*}$args
    set step [expr {"-to_step" in $args ? [dict get $args -to_step] : "synth_design"}]
    if {[stub::environment STUB_FAIL {}] eq $step} {
        set stub::status "$step ERROR"
        return
    }
    set stub::status "$step Complete!"
    if {$step eq "write_bitstream"} {
        set folder [get_property DIRECTORY impl_1]
        file mkdir $folder
        set stream [open [file join $folder ${stub::design}_wrapper.bit] w]
        puts $stream "a bitstream"
        close $stream
    }
}

proc wait_on_run {run} { stub::note wait_on_run $run }
proc get_timing_paths {args} { return [dict get $args -delay_type] }
proc get_clocks {args} { return clk_pl_0 }

proc get_property {name object} {
    switch $name {
        STATUS { return $stub::status }
        DIRECTORY { return [file join [lindex $stub::project 1] engine.runs $object] }
        SLACK { return [stub::environment [dict get {max STUB_SLACK min STUB_HOLD} $object] 0.05] }
        PERIOD {
            set clock [dict get [dict get $stub::configuration zynq_ultra_ps_e_0] PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ]
            return [stub::environment STUB_PERIOD [expr {1000.0 / $clock}]]
        }
    }
    error "no property $name of $object"
}

set script [lindex $argv 1]
set argv [lrange $argv 2 end]
source $script
