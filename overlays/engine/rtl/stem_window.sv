// The stem's activation bits: thermometer codes of a window of picture levels, made here from 6-bit levels.
// A group is 2X pixels: the M trees work on the first X, the L trees on the other X. Three blocks of columns follow each
// other: the group being computed, the one after it (its first column is the right neighbour), and the one being read.
module stem_window #(parameter X = 2, parameter U = 4) (
  input clk,
  input [4*U*18-1:0] levels,     // 4 row banks of U column banks, valid after edge 5
  input advance4,                // first cycle of a group, after edge 4: the blocks move up
  // Control, valid after edge 5.
  input [1:0] row_bank,          // bank of the first row being read
  input fetch,                   // this cycle reads U columns
  input [1:0] part,              // which of the block
  input stride2,
  input [2:0] slice,             // colour * 2 + half
  input pad_top, pad_bottom, pad_left, pad_right,   // of the group being computed
  output [X*9*16-1:0] m, l   // valid after edge 8
);
  localparam C = 4*X;            // columns of a block with stride 2 (2X with stride 1)
  reg [17:0] coming[0:2][0:C-1], next[0:2][0:C-1], now[0:2][0:C-1], previous[0:2];
  integer r, c;
  reg [1:0] bank;
  // ---- edge 5: the blocks move up; edge 6: columns come in
  always @(posedge clk) begin
    if (fetch)
      for (r = 0; r < 3; r = r + 1) begin
        bank = row_bank + r[1:0];
        for (c = 0; c < C; c = c + 1)
          if ({30'd0, part} == c / U)
            coming[r][c] <= bank == 2'd0 ? levels[(c%U)*18+:18] : bank == 2'd1 ? levels[(U+c%U)*18+:18]
                            : bank == 2'd2 ? levels[(2*U+c%U)*18+:18] : levels[(3*U+c%U)*18+:18];
      end
    if (advance4)
      for (r = 0; r < 3; r = r + 1) begin
        previous[r] <= stride2 ? now[r][C-1] : now[r][2*X-1];
        for (c = 0; c < C; c = c + 1) begin
          now[r][c] <= next[r][c];
          next[r][c] <= coming[r][c];
        end
      end
  end
  reg stride2_6;
  always @(posedge clk) stride2_6 <= stride2;
  // ---- edge 6: lit planes of the slice's sixteen, 0 to 16; column j is 2X * group * stride - 1 + j
  reg [4:0] lit[0:2][0:C];
  genvar gr, gc, gp, gt;
  generate
    for (gr = 0; gr < 3; gr = gr + 1) begin : g_row
      for (gc = 0; gc <= C; gc = gc + 1) begin : g_column
        wire [17:0] pixel;
        if (gc == 0) begin : g_left
          assign pixel = previous[gr];
        end else if (gc == 2*X + 1) begin : g_right
          assign pixel = stride2 ? now[gr][gc-1] : next[gr][0];
        end else begin : g_inside
          assign pixel = now[gr][gc-1];
        end
        wire [5:0] level = slice[2] ? pixel[17:12] : slice[1] ? pixel[11:6] : pixel[5:0];
        wire outside = (gr == 0 && pad_top) || (gr == 2 && pad_bottom) || (gc == 0 && pad_left) ||
                       (gc == 2*X + 1 && pad_right);
        wire [4:0] upper = level[5] ? 5'd16 : level[4] ? {1'b0, level[3:0]} : 5'd0;
        wire [4:0] lower = (level[5] || level[4]) ? 5'd16 : {1'b0, level[3:0]};
        always @(posedge clk) lit[gr][gc] <= outside ? 5'd0 : slice[0] ? upper : lower;
      end
    end
    // ---- edge 7: the taps' counts; edge 8: sixteen planes of each
    for (gp = 0; gp < 2*X; gp = gp + 1) begin : g_pixel
      for (gt = 0; gt < 9; gt = gt + 1) begin : g_tap
        reg [4:0] count;
        reg [15:0] planes;
        integer k;
        always @(posedge clk) begin
          count <= stride2_6 ? lit[gt/3][2*gp + gt%3] : lit[gt/3][gp + gt%3];
          for (k = 0; k < 16; k = k + 1) planes[k] <= count > k[4:0];
        end
        if (gp < X) begin : g_m
          assign m[(gp*9+gt)*16+:16] = planes;
        end else begin : g_l
          assign l[((gp-X)*9+gt)*16+:16] = planes;
        end
      end
    end
  endgenerate
endmodule
