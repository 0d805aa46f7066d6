// Where finished elements go: addresses and write enables of A and B, rows counted, elements handed to the sums.
module writeback #(parameter X = 2, parameter NC = 4) (
  input clk,
  input rst,
  // After edge 0.
  input event_valid, event_stores, event_to_b, event_wide, event_final, event_last, event_row_end,
  input event_picture_end, event_parity,
  input [11:0] dst_row, dst_col, wide_row, wide_col,
  input [6:0] dst_pass,
  input [1:0] dst_bank, dst_split,
  input [2:0] dst_phase,
  input wide_phase,
  input [2:0] event_pixels,
  input clear_rows, clear_parity,
  // After edge 23.
  input [X*256-1:0] z,
  input [X*64-1:0] q,
  // Bank writes, after edge 24; memory holds them after edge 25.
  output reg [4*NC-1:0] a_write,
  output reg [11:0] a_address,
  output reg [NC*64-1:0] a_data,
  output reg [8*X-1:0] b_write,
  output reg [11:0] b_address,
  output reg [8*X*64-1:0] b_data,
  output reg [8:0] rows_written0, rows_written1,
  // To the sums, after edge 23.
  output sum_valid, sum_last, sum_picture_end,
  output [2:0] sum_pixels
);
  // ---- edges 1 and 2: addresses; B's bank group
  reg [11:0] row1, pass1, wide1, code2, wide2;
  reg [6:0] tile1;
  reg [2:0] group1, group2;
  wire [1:0] shift = 2'd3 - dst_split;
  wire [9:0] moved = {3'd0, dst_pass} << dst_split;
  always @(posedge clk) begin
    row1 <= dst_row + dst_col;
    pass1 <= {5'd0, event_to_b ? dst_pass >> shift : dst_pass};
    wide1 <= wide_row + wide_col;
    tile1 <= dst_pass;
    group1 <= moved[2:0] | dst_phase;
    code2 <= row1 + pass1;
    wide2 <= wide1 + {5'd0, tile1};
    group2 <= group1;
  end
  // ---- wait for the lanes
  wire to_a, to_b, to_wide, phase_w;
  wire [11:0] code23, wide23;
  wire [2:0] group23, phase23;
  wire [1:0] bank23;
  delay #(.W(27), .N(21)) u_address (.clk, .d({code2, wide2, group2}), .q({code23, wide23, group23}));
  delay #(.W(9), .N(23)) u_place (
    .clk,
    .d({dst_bank, dst_phase, wide_phase, event_valid && event_stores && !event_to_b && !rst,
        event_valid && event_stores && event_to_b && !rst, event_valid && event_wide && !rst}),
    .q({bank23, phase23, phase_w, to_a, to_b, to_wide}));
  delay #(.W(6), .N(23)) u_sum (
    .clk, .d({event_valid && event_final && !rst, event_last, event_picture_end, event_pixels}),
    .q({sum_valid, sum_last, sum_picture_end, sum_pixels}));
  integer r, c, b;
  always @(posedge clk) begin
    a_address <= code23;
    b_address <= to_wide ? wide23 : code23;
    for (r = 0; r < 4; r = r + 1)
      for (c = 0; c < NC; c = c + 1)
        a_write[r*NC+c] <= to_a && bank23 == r[1:0] && {29'd0, phase23} == c / X;
    for (c = 0; c < NC; c = c + 1) a_data[c*64+:64] <= q[(c%X)*64+:64];
    for (b = 0; b < 8*X; b = b + 1) begin
      // 16-bit numbers: four quads of channels, each in two column groups of X banks.
      b_write[b] <= to_wide ? ((b / X) % 2) == {31'd0, phase_w} : to_b && {29'd0, group23} == b / X;
      b_data[b*64+:64] <= to_wide ? z[(b%X)*256 + (b/(2*X))*64 +: 64] : q[(b%X)*64+:64];
    end
  end
  // ---- rows: a reader issued after edge 22 reads at its own edge 4, after this row's write at edge 25
  wire row_end, row_parity;
  delay #(.W(2), .N(21)) u_row (
    .clk, .d({event_valid && event_row_end && !rst, event_parity}), .q({row_end, row_parity}));
  always @(posedge clk) begin
    if (row_end && !row_parity) rows_written0 <= rows_written0 + 9'd1;
    if (row_end && row_parity) rows_written1 <= rows_written1 + 9'd1;
    if (clear_rows && !clear_parity) rows_written0 <= 9'd0;
    if (clear_rows && clear_parity) rows_written1 <= 9'd0;
    if (rst) begin
      rows_written0 <= 9'd0;
      rows_written1 <= 9'd0;
    end
  end
endmodule
