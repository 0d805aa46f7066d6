// Read addresses of A, B and the picture ring from the sequencer's pointers; three edges.
// A window's rows lie in at most two groups of four rows, its columns in at most two groups of columns: four sums, and every
// bank takes the one that its place asks for.
module addresses #(parameter X = 2, parameter NC = 4) (
  input clk,
  // After edge 0.
  input stem, stride2,
  input [11:0] src_row, src_row_step, src_col,
  input [6:0] src_col_step, slice,
  input [1:0] src_bank,
  input [2:0] src_phase,
  input [1:0] fetch_part,
  input [11:0] picture_tail,
  input sc_read,
  input [1:0] sc_part,
  input [11:0] sc_row, sc_row_step, sc_col,
  input [6:0] sc_tile,
  // After edge 3.
  output reg [4*NC*12-1:0] a_address,
  output reg [4*12-1:0] i_address,
  // After edge 13 (16-bit shortcut) or 3 (1x1).
  output reg [11:0] b_address
);
  localparam KEEP = X > 1;
  // ---- edge 1
  reg [11:0] row1, step1, col1, col_more1, wide_row1, wide_col1;
  reg [1:0] bank1, bank2;
  reg [2:0] phase1, phase2;
  reg plain1, plain2, wide1;
  always @(posedge clk) begin
    row1 <= src_row + (stem ? {10'd0, fetch_part} : {5'd0, slice});
    step1 <= src_row_step;
    col1 <= src_col + (stem ? picture_tail : 12'd0);
    col_more1 <= src_col + {5'd0, src_col_step};
    bank1 <= src_bank;
    phase1 <= src_phase;
    plain1 <= stride2 && KEEP;
    wide1 <= sc_read;
    wide_row1 <= sc_row + ((stride2 && sc_part[1]) ? sc_row_step : 12'd0);
    wide_col1 <= sc_col + {5'd0, sc_tile};
  end
  // ---- edge 2
  reg [11:0] s00, s01, s10, s11, wide2;
  reg wide_read2;
  always @(posedge clk) begin
    s00 <= row1 + col1;
    s01 <= row1 + col_more1;
    s10 <= row1 + step1 + col1;
    s11 <= row1 + step1 + col_more1;
    bank2 <= bank1;
    phase2 <= phase1;
    plain2 <= plain1;
    wide2 <= wide_row1 + wide_col1;
    wide_read2 <= wide1;
  end
  // ---- edge 3
  integer r, c;
  reg next_row, next_col;
  always @(posedge clk)
    for (r = 0; r < 4; r = r + 1) begin
      next_row = r[1:0] < bank2;
      i_address[r*12+:12] <= next_row ? s10 : s00;
      for (c = 0; c < NC; c = c + 1) begin
        if (plain2) next_col = 1'b0;
        else if (X == 1) next_col = c[2:0] < phase2;
        else next_col = phase2[0] ? c < X - 1 : c < NC - 1;
        a_address[(r*NC+c)*12+:12] <= next_row ? (next_col ? s11 : s10) : (next_col ? s01 : s00);
      end
    end
  wire [11:0] wide12;
  wire wide_read12;
  delay #(.W(13), .N(10)) u_wide (.clk, .d({wide_read2, wide2}), .q({wide_read12, wide12}));
  always @(posedge clk) b_address <= wide_read12 ? wide12 : s00;
endmodule
