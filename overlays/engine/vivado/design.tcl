# The block design: processing system, engine, one SmartConnect for registers and one for memory, interrupt controller.

namespace eval design {
    variable name fracbnn
    variable ps zynq_ultra_ps_e_0
    variable reset proc_sys_reset_0
    variable control smartconnect_control
    variable memory smartconnect_memory
    variable concat xlconcat_0

    # The processing system without a board's preset: ports and clock of the fabric, and the memory of the Ultra96-V2.
    # pynq loads the fabric only, so that on a board memory, pins and PLLs stay as its boot image has set them.
    variable processor {
        PSU__PSS_REF_CLK__FREQMHZ 33.333333
        PSU_BANK_0_IO_STANDARD LVCMOS18
        PSU_BANK_1_IO_STANDARD LVCMOS18
        PSU_BANK_2_IO_STANDARD LVCMOS18
        PSU_BANK_3_IO_STANDARD LVCMOS18
        PSU__DDRC__MEMORY_TYPE {LPDDR 4}
        PSU__DDRC__DEVICE_CAPACITY {16384 MBits}
        PSU__DDRC__DRAM_WIDTH {32 Bits}
        PSU__DDRC__BUS_WIDTH {32 Bit}
        PSU__DDRC__ROW_ADDR_COUNT 16
        PSU__DDRC__BANK_ADDR_COUNT 3
        PSU__DDRC__RANK_ADDR_COUNT 0
        PSU__DDRC__SPEED_BIN LPDDR4_1066
        PSU__DDRC__LPDDR4_T_REF_RANGE {High (95 Max)}
        PSU__DDRC__T_FAW 40.0
        PSU__DDRC__T_RAS_MIN 42
        PSU__DDRC__T_RC 63
        PSU__DDRC__T_RCD 10
        PSU__DDRC__T_RP 12
        PSU__CRF_APB__DDR_CTRL__FREQMHZ 533
        PSU__DDR_HIGH_ADDRESS_GUI_ENABLE 0
        PSU__HIGH_ADDRESS__ENABLE 0
        PSU__UART1__PERIPHERAL__ENABLE 1
        PSU__UART1__PERIPHERAL__IO {MIO 0 .. 1}
        PSU__USE__FABRIC__RST 1
        PSU__NUM_FABRIC_RESETS 1
        PSU__FPGA_PL0_ENABLE 1
        PSU__FPGA_PL1_ENABLE 0
        PSU__CRL_APB__PL0_REF_CTRL__SRCSEL RPLL
        PSU__USE__M_AXI_GP0 1
        PSU__MAXIGP0__DATA_WIDTH 32
        PSU__USE__M_AXI_GP1 0
        PSU__USE__M_AXI_GP2 0
        PSU__USE__S_AXI_GP2 1
        PSU__SAXIGP2__DATA_WIDTH 128
        PSU__USE__IRQ0 1
        PSU__USE__IRQ1 0
    }
}

proc design::cell {vlnv name args} {
    set cell [create_bd_cell -type ip -vlnv $vlnv $name]
    set values {}
    foreach {key value} $args {
        lappend values CONFIG.$key $value
    }
    if {[llength $values]} {
        set_property -dict $values $cell
    }
}

proc design::wire {source args} {
    foreach sink $args {
        connect_bd_net [get_bd_pins $source] [get_bd_pins $sink]
    }
}

proc design::bus {master slave} {
    connect_bd_intf_net [get_bd_intf_pins $master] [get_bd_intf_pins $slave]
}

proc design::run {clock pixels} {
    variable name
    create_bd_design $name
    cells $clock $pixels
    connections
    addresses
    validate_bd_design
    save_bd_design
}

proc design::cells {clock pixels} {
    variable ps
    variable reset
    variable control
    variable memory
    variable concat
    variable processor
    # Xilinx' own without a version: the one of the Vivado that runs this.
    cell xilinx.com:ip:zynq_ultra_ps_e $ps {*}$processor PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $clock
    cell xilinx.com:ip:proc_sys_reset $reset
    cell xilinx.com:ip:smartconnect $control NUM_SI 1 NUM_MI 2 NUM_CLKS 1
    cell xilinx.com:ip:smartconnect $memory NUM_SI 1 NUM_MI 1 NUM_CLKS 1
    # One output as a plain pin: pynq follows nets, not interfaces, from the processor to the core.
    # The engine's line is a level, which the controller cannot learn through the concatenation.
    cell xilinx.com:ip:axi_intc $contract::controller C_IRQ_CONNECTION 1 C_IRQ_IS_LEVEL 1 \
        C_KIND_OF_INTR.VALUE_SRC USER C_KIND_OF_INTR 0x00000000
    cell xilinx.com:ip:xlconcat $concat NUM_PORTS 1
    cell $contract::vendor:$contract::library:$contract::name:$contract::version $contract::instance X $pixels
}

proc design::connections {} {
    variable ps
    variable reset
    variable control
    variable memory
    variable concat
    set engine $contract::instance
    set controller $contract::controller
    # One clock for all.
    wire $ps/pl_clk0 $ps/maxihpm0_fpd_aclk $ps/saxihp0_fpd_aclk $reset/slowest_sync_clk $control/aclk $memory/aclk \
        $controller/s_axi_aclk $engine/ap_clk
    wire $ps/pl_resetn0 $reset/ext_reset_in
    wire $reset/interconnect_aresetn $control/aresetn $memory/aresetn
    wire $reset/peripheral_aresetn $controller/s_axi_aresetn $engine/ap_rst_n
    # Registers.
    bus $ps/M_AXI_HPM0_FPD $control/S00_AXI
    bus $control/M00_AXI $engine/$contract::slave
    bus $control/M01_AXI $controller/s_axi
    # Memory.
    bus $engine/$contract::master $memory/S00_AXI
    bus $memory/M00_AXI $ps/S_AXI_HP0_FPD
    # Interrupt.
    wire $engine/$contract::interrupt $concat/In0
    wire $concat/dout $controller/intr
    wire $controller/irq $ps/pl_ps_irq0
}

proc design::addresses {} {
    variable ps
    set engine $contract::instance
    set registers [get_bd_addr_spaces $ps/Data]
    # The packager's name for a block of registers has changed between releases.
    set block [build::only "address segment of $engine" [get_bd_addr_segs $engine/$contract::slave/*]]
    assign_bd_address -offset $contract::base -range $contract::window -target_address_space $registers $block -force
    assign_bd_address -offset $contract::controller_base -range $contract::window -target_address_space $registers \
        [get_bd_addr_segs $contract::controller/S_AXI/Reg] -force
    set memory [get_bd_addr_spaces $engine/$contract::master]
    assign_bd_address -offset 0x00000000 -range $contract::reach -target_address_space $memory \
        [get_bd_addr_segs $ps/SAXIGP2/HP0_DDR_LOW] -force
    # What else the port reaches, which the engine has no business with.
    foreach segment {HP0_LPS_OCM HP0_QSPI} {
        set found [get_bd_addr_segs -quiet $ps/SAXIGP2/$segment]
        if {[llength $found]} {
            exclude_bd_addr_seg -target_address_space $memory $found
        }
    }
}
