// From the banks' words to the activation bits of X pixels, and the shortcut's codes.
// A: 4 row banks of NC column banks, 64-bit words (16 channels of 4-bit codes). B: 8 X banks, the same words.
// Stride 2 reads 2X + 1 columns from 2X banks: the first column is the last one of the group before, kept per slice.
module window #(parameter X = 2, parameter NC = 4) (
  input clk,
  input [4*NC*64-1:0] a,           // valid after edge 5
  input [8*X*64-1:0] b,            // after edge 5
  // Control, valid after edge 5; later stages delay it here.
  input [1:0] row_bank,            // bank of the window's first row
  input [1:0] phase,               // 3x3: where the window's first column lies (X = 1: its bank; else 0 or 1)
  input stride2,
  input one,                       // 1x1
  input stem,
  input keep,                      // an element's slice: the column may be kept
  input [6:0] slice,
  input pad_top, pad_bottom, pad_left, pad_right,
  input [2:0] right_pixels,        // pixels of the last group
  input [1:0] split,               // 1x1: log2 of column groups in a row of banks
  input [2:0] rotation,            // 1x1: which of them
  input capture,                   // this slice is the shortcut's
  input [2:0] capture_bank,        // 1x1: group of banks that holds it
  input [X*9*16-1:0] stem_m, stem_l,   // valid after edge 8
  output [X*9*16-1:0] am, al,          // valid after edge 8
  output [X*16*6-1:0] codes            // sum of the shortcut's codes, after edge 10
);
  // The 2-bit activation of a 4-bit code: 0-2, 3-7, 8-12, 13-15.
  function automatic [1:0] activation(input [3:0] q);
    activation = {q[3], q[3] ? (q[2] & (q[1] | q[0])) : (q[2] | (q[1] & q[0]))};
  endfunction
  localparam KEEP = X > 1;   // with X = 1 the banks hold all three columns of a stride-2 window

  // ---- edge 6: the window's three rows out of four row banks; the eight slices of a 1x1 out of B
  reg [63:0] rows[0:2][0:NC-1];
  reg [63:0] tiles[0:X*8-1];
  reg [63:0] tile_code[0:X-1];
  integer x, i;
  genvar gr, gc;
  generate
    for (gr = 0; gr < 3; gr = gr + 1) begin : g_window_row
      wire [1:0] bank = row_bank + gr;
      wire outside = (gr == 0 && pad_top) || (gr == 2 && pad_bottom);
      for (gc = 0; gc < NC; gc = gc + 1) begin : g_bank
        wire [63:0] pair0 = bank[0] ? a[(NC+gc)*64+:64] : a[gc*64+:64];
        wire [63:0] pair1 = bank[0] ? a[(3*NC+gc)*64+:64] : a[(2*NC+gc)*64+:64];
        always @(posedge clk) rows[gr][gc] <= outside ? 64'd0 : bank[1] ? pair1 : pair0;
      end
    end
  endgenerate
  genvar gx, gt;
  generate
    for (gx = 0; gx < X; gx = gx + 1) begin : g_tile_pixel
      for (gt = 0; gt < 8; gt = gt + 1) begin : g_tile
        // Bank group of slice t: t with eight slices in a row of banks, 2t + rotation with four, 4t + rotation with two.
        wire [63:0] eight = b[(gt*X+gx)*64+:64];
        if (gt < 2) begin : g_low
          wire [63:0] four = rotation[0] ? b[((2*gt+1)*X+gx)*64+:64] : b[((2*gt)*X+gx)*64+:64];
          wire [63:0] two = rotation[1] ? (rotation[0] ? b[((4*gt+3)*X+gx)*64+:64] : b[((4*gt+2)*X+gx)*64+:64])
                                        : (rotation[0] ? b[((4*gt+1)*X+gx)*64+:64] : b[((4*gt)*X+gx)*64+:64]);
          always @(posedge clk) tiles[gx*8+gt] <= split[1] ? two : split[0] ? four : eight;
        end else if (gt < 4) begin : g_middle
          wire [63:0] four = rotation[0] ? b[((2*gt+1)*X+gx)*64+:64] : b[((2*gt)*X+gx)*64+:64];
          always @(posedge clk) tiles[gx*8+gt] <= split[1] ? 64'd0 : split[0] ? four : eight;
        end else begin : g_high
          always @(posedge clk) tiles[gx*8+gt] <= split != 0 ? 64'd0 : eight;
        end
      end
    end
  endgenerate
  generate
    for (gx = 0; gx < X; gx = gx + 1) begin : g_tile_code
      wire [63:0] pair0 = capture_bank[0] ? b[(X+gx)*64+:64] : b[gx*64+:64];
      wire [63:0] pair1 = capture_bank[0] ? b[(3*X+gx)*64+:64] : b[(2*X+gx)*64+:64];
      wire [63:0] pair2 = capture_bank[0] ? b[(5*X+gx)*64+:64] : b[(4*X+gx)*64+:64];
      wire [63:0] pair3 = capture_bank[0] ? b[(7*X+gx)*64+:64] : b[(6*X+gx)*64+:64];
      wire [63:0] low = capture_bank[1] ? pair1 : pair0, high = capture_bank[1] ? pair3 : pair2;
      always @(posedge clk) tile_code[gx] <= capture_bank[2] ? high : low;
    end
  endgenerate

  // ---- control after edges 6 and 7
  reg stride2_6, one_6, stem_6, keep_6, left_6, right_6, capture_6, stem_7, keep_7, capture_7;
  reg [1:0] phase_6, phase_7, choice_7;   // phase_7: X = 1 only
  reg [6:0] slice_6, slice_7;
  reg [2:0] pixels_6;
  always @(posedge clk) begin
    {stride2_6, one_6, stem_6, keep_6, capture_6} <= {stride2, one, stem, keep, capture};
    {stem_7, keep_7, capture_7} <= {stem_6, keep_6, capture_6};
    {left_6, right_6, phase_6, pixels_6, slice_6} <= {pad_left && !one, pad_right && !one, phase, right_pixels, slice};
    phase_7 <= phase_6;
    slice_7 <= slice_6;
    // What the taps read: 0 and 1 stride 1 in either phase, 2 stride 2, 3 a 1x1 layer.
    choice_7 <= one_6 ? 2'd3 : stride2_6 ? 2'd2 : {1'b0, phase_6[0]};
  end

  // ---- edge 7: activations of what the banks gave
  function automatic [31:0] activations(input [63:0] w);
    integer n;
    reg [1:0] two;
    for (n = 0; n < 16; n = n + 1) begin
      two = activation(w[4*n+:4]);
      activations[16+n] = two[1];
      activations[n] = two[0];
    end
  endfunction
  reg [31:0] bits[0:2][0:NC-1], tile_bits[0:X*8-1];
  wire [31:0] kept[0:2];
  generate
    for (gr = 0; gr < 3; gr = gr + 1) begin : g_bits_row
      for (gc = 0; gc < NC; gc = gc + 1) begin : g_bits
        always @(posedge clk) bits[gr][gc] <= activations(rows[gr][gc]);
      end
      if (KEEP) begin : g_ram
        (* ram_style = "distributed" *) reg [31:0] ram[0:127];
        assign kept[gr] = ram[slice_7];
        // Written one edge before the next group reads it: its slices are at least two cycles later.
        always @(posedge clk) if (keep_7) ram[slice_7] <= bits[gr][NC-1];
      end else begin : g_none
        assign kept[gr] = 32'd0;
      end
    end
    for (gx = 0; gx < 8*X; gx = gx + 1) begin : g_tile_bits
      always @(posedge clk) tile_bits[gx] <= activations(tiles[gx]);
    end
  endgenerate
  reg [63:0] shortcut[0:X*4-1];
  // The shortcut's codes: the window's centre, or the 2 x 2 square that stride 2 pools, or a slice of B.
  wire [63:0] centre[0:X-1], square[0:X*4-1];
  generate
    for (gx = 0; gx < X; gx = gx + 1) begin : g_centre
      if (X == 1) begin : g_any
        // Window columns 1 (stride 1) or 1 and 2 (stride 2) of four banks.
        wire [1:0] place0 = phase_6 + 2'd1, place1 = phase_6 + 2'd2;
        assign centre[gx] = rows[1][place0];
        assign square[4*gx] = rows[1][place0];
        assign square[4*gx+1] = rows[1][place1];
        assign square[4*gx+2] = rows[2][place0];
        assign square[4*gx+3] = rows[2][place1];
      end else begin : g_two
        assign centre[gx] = phase_6[0] ? rows[1][X+gx] : rows[1][gx];
        assign square[4*gx] = rows[1][2*gx];
        assign square[4*gx+1] = rows[1][2*gx+1];
        assign square[4*gx+2] = rows[2][2*gx];
        assign square[4*gx+3] = rows[2][2*gx+1];
      end
    end
  endgenerate
  always @(posedge clk)
    for (x = 0; x < X; x = x + 1) begin
      shortcut[4*x] <= one_6 ? tile_code[x] : stride2_6 ? square[4*x] : centre[x];
      for (i = 1; i < 4; i = i + 1) shortcut[4*x+i] <= (stride2_6 && !one_6) ? square[4*x+i] : 64'd0;
    end

  // ---- edge 8: nine taps of every pixel. Window column j is map column (first pixel) * stride - 1 + j: with stride 1 it lies
  // in bank (phase 0: NC - 1, phase 1: X - 1) + j, with stride 2 in bank j - 1, column 0 being the kept one.
  reg [31:0] taps[0:X*9-1];
  reg stem_8;
  always @(posedge clk) stem_8 <= stem_7;
  generate
    for (gx = 0; gx < X; gx = gx + 1) begin : g_pixel
      for (gc = 0; gc < 3; gc = gc + 1) begin : g_tap_column
        reg outside_7;
        always @(posedge clk) outside_7 <= (gx + gc == 0 && left_6) || (gx + gc > 0 && right_6 && pixels_6 < gx + gc);
        for (gr = 0; gr < 3; gr = gr + 1) begin : g_tap_row
          wire [31:0] tile, one_stride, two_stride;
          if (3*gr + gc < 8) begin : g_tile_tap
            assign tile = tile_bits[gx*8 + (3*gr+gc)%8];
          end else begin : g_no_tile
            assign tile = 32'd0;
          end
          if (X == 1) begin : g_any
            wire [1:0] place = phase_7 + gc;
            assign one_stride = bits[gr][place];
            assign two_stride = one_stride;
          end else begin : g_two
            assign one_stride = choice_7[0] ? bits[gr][(X - 1 + gx + gc) % NC] : bits[gr][(NC - 1 + gx + gc) % NC];
            if (2*gx + gc == 0) begin : g_kept
              assign two_stride = kept[gr];
            end else begin : g_bank
              assign two_stride = bits[gr][(2*gx + gc + NC - 1) % NC];
            end
          end
          always @(posedge clk)
            taps[gx*9+3*gr+gc] <= outside_7 ? 32'd0 : choice_7[1] ? (choice_7[0] ? tile : two_stride) : one_stride;
        end
      end
    end
  endgenerate
  generate
    for (gx = 0; gx < 9*X; gx = gx + 1) begin : g_out
      assign am[gx*16+:16] = stem_8 ? stem_m[gx*16+:16] : taps[gx][31:16];
      assign al[gx*16+:16] = stem_8 ? stem_l[gx*16+:16] : taps[gx][15:0];
    end
  endgenerate

  // ---- edges 8 to 10: sum of four codes, kept when the shortcut's slice goes by
  reg [4:0] low[0:X*16-1], high[0:X*16-1];
  reg [5:0] sum[0:X*16-1], out[0:X*16-1];
  reg capture_8;
  always @(posedge clk) begin
    capture_8 <= capture_7;
    for (x = 0; x < X; x = x + 1)
      for (i = 0; i < 16; i = i + 1) begin
        low[16*x+i] <= {1'b0, shortcut[4*x][4*i+:4]} + {1'b0, shortcut[4*x+1][4*i+:4]};
        high[16*x+i] <= {1'b0, shortcut[4*x+2][4*i+:4]} + {1'b0, shortcut[4*x+3][4*i+:4]};
        if (capture_8) sum[16*x+i] <= {1'b0, low[16*x+i]} + {1'b0, high[16*x+i]};
        out[16*x+i] <= sum[16*x+i];
      end
  end
  generate
    for (gx = 0; gx < 16*X; gx = gx + 1) begin : g_codes
      assign codes[6*gx+:6] = out[gx];
    end
  endgenerate
endmodule
