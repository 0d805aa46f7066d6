# The design has no pins: everything goes through the processing system, whose own constraints define clk_pl_0.
# Inside there is one clock and no exception to it.
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]
