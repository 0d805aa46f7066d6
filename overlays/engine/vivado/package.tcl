# The core: sources of rtl/ and the wrapper as an IP of a repository of its own.

namespace eval package_core {
    # In no order: Vivado sorts modules itself. The header is read by `include.
    variable sources {
        addresses.sv axi_reader.sv axi_writer.sv block_ram.sv datapath.sv delay.sv element.sv elements.sv engine.sv
        header.sv lane.sv mac.sv picture_loader.sv popcount.sv program_loader.sv registers.sv sequencer.sv
        stem_window.sv sums.sv window.sv writeback.sv
    }
    variable headers {engine_contract.svh}
    variable wrapper fracbnn_engine.v
    # Files that differ for Vivado, by a `define. A packaged core takes no defines of a project with it, so that each
    # of these files gets its own as a first line.
    variable defines {mac.sv ENGINE_DSP_PRIMITIVES}
}

# Copy the sources of `hardware` (overlays/engine) into `folder`; returns the copies.
proc package_core::copy_sources {hardware folder} {
    variable sources
    variable headers
    variable wrapper
    variable defines
    set wanted {}
    foreach name [concat $sources $headers] {
        lappend wanted [file join $hardware rtl $name]
    }
    lappend wanted [file join $hardware vivado $wrapper]
    file mkdir $folder
    set copies {}
    foreach path $wanted {
        if {![file isfile $path]} {
            build::fail "expected the source file $path, found none" "use a whole checkout"
        }
        set stream [open $path r]
        set text [read $stream]
        close $stream
        set name [file tail $path]
        set copy [file join $folder $name]
        set stream [open $copy w]
        if {[dict exists $defines $name]} {
            puts $stream "`define [dict get $defines $name]"
        }
        puts -nonewline $stream $text
        close $stream
        lappend copies $copy
    }
    return $copies
}

# Package the core into `folder`, which becomes a repository of IP.
proc package_core::run {hardware folder} {
    variable headers
    set files [copy_sources $hardware [file join $folder src]]
    create_project package_engine [file join $folder project] -part $contract::part
    add_files -norecurse $files
    foreach name $headers {
        set_property file_type {Verilog Header} [get_files [file join $folder src $name]]
    }
    set_property top $contract::name [current_fileset]
    update_compile_order -fileset sources_1
    ipx::package_project -root_dir $folder -vendor $contract::vendor -library $contract::library -taxonomy /UserIP
    set core [ipx::current_core]
    set_property name $contract::name $core
    set_property version $contract::version $core
    set_property display_name "FracBNN engine" $core
    set_property description "Accelerator of both FracBNN networks: docs/accelerator.md of fracbnn_pynq" $core
    set_property supported_families {zynquplus Production} $core
    # The clock is what the design gives it, not one that was fixed here.
    set_property ipi_drc {ignore_freq_hz true} $core
    check_interfaces $core
    describe_parameter $core
    describe_registers $core
    ipx::create_xgui_files $core
    ipx::update_checksums $core
    ipx::check_integrity $core
    ipx::save_core $core
    close_project
}

# Every interface of the wrapper, recognised and belonging to the clock.
proc package_core::check_interfaces {core} {
    foreach name [list $contract::slave $contract::master ap_clk ap_rst_n $contract::interrupt] {
        build::only "interface $name of the packaged core" [ipx::get_bus_interfaces $name -of_objects $core]
    }
    foreach name [list $contract::slave $contract::master] {
        ipx::associate_bus_interfaces -busif $name -clock ap_clk -reset ap_rst_n $core
    }
}

# X as a parameter of the core with its legal values.
proc package_core::describe_parameter {core} {
    set parameter [build::only "parameter X of the packaged core" [ipx::get_user_parameters X -of_objects $core]]
    set_property value_validation_type list $parameter
    set_property value_validation_list $contract::pixels $parameter
}

# The registers, as pynq reads them from the hand-off file.
proc package_core::describe_registers {core} {
    set map [build::only "memory map of $contract::slave" [ipx::get_memory_maps $contract::slave -of_objects $core]]
    set block [build::only "address block of $contract::slave" [ipx::get_address_blocks -of_objects $map]]
    set_property range [expr {$contract::window}] $block
    set_property usage register $block
    foreach register $contract::registers {
        lassign $register name offset access meaning
        set object [ipx::add_register $name $block]
        set_property address_offset $offset $object
        set_property size 32 $object
        set_property access $access $object
        set_property description $meaning $object
    }
    set control [ipx::get_registers CTRL -of_objects $block]
    foreach {name bit access} {
        AP_START 0 read-write
        AP_DONE 1 read-only
        AP_IDLE 2 read-only
        AP_READY 3 read-only
    } {
        set field [ipx::add_field $name $control]
        set_property bit_offset $bit $field
        set_property bit_width 1 $field
        set_property access $access $field
    }
}
