// Everything between the sequencer and the results: memories, window, trees, lanes, write-back, sums.
// The number in a signal's name is the edge after which it is valid, counted from the sequencer's registers (edge 0).
module datapath #(parameter X = 2, parameter NC = 4, parameter U = 4) (
  input clk,
  input rst,
  // The step (edge 0), as the sequencer describes it.
  input is_header, first, accumulate, last, parity, stem, one, stride2, wide, codes,
  input [1:0] header_index, row_class,
  input [6:0] slice,
  input [9:0] ring_offset,
  input pad_top, pad_bottom, pad_left, pad_right,
  input [2:0] right_pixels,
  input capture,
  input [2:0] capture_slice,
  input [11:0] src_row, src_row_step, src_col,
  input [6:0] src_col_step,
  input [1:0] src_bank, src_split,
  input [2:0] src_phase,
  input fetch, advance,
  input [1:0] fetch_part,
  input sc_read, sc_first,
  input [1:0] sc_part,
  input [11:0] sc_row, sc_row_step, sc_col,
  input [6:0] sc_tile,
  input sc_phase,
  input event_valid, event_stores, event_to_b, event_wide, event_final, event_last, event_row_end,
  input event_picture_end, event_parity,
  input [11:0] dst_row, dst_col, wide_row, wide_col,
  input [6:0] dst_pass,
  input [1:0] dst_bank, dst_split,
  input [2:0] dst_phase,
  input wide_phase,
  input [2:0] event_pixels,
  input clear_rows, clear_parity,
  output [8:0] rows_written0, rows_written1,
  // The ring, filled by the program loader.
  input ring_write,
  input [8:0] ring_address,
  input [4:0] ring_part,
  input [127:0] ring_data,
  // The picture's levels.
  input [3:0] picture_write,
  input [11:0] picture_address, picture_tail,
  input [U*18-1:0] picture_data,
  output beat_valid, beat_picture_end,
  output [127:0] beat
);
  localparam A_DEPTH = 32768 / (4*NC), A_BITS = $clog2(A_DEPTH), B_DEPTH = 32768 / (8*X), B_BITS = $clog2(B_DEPTH);
  localparam I_DEPTH = 4096 / U, I_BITS = $clog2(I_DEPTH);
  genvar g, r, x, ch;

  // ---- memories: addresses after edge 3 (B's 16-bit shortcut: 13), words two edges later
  wire [4*NC*12-1:0] a_raddr3;
  wire [47:0] i_raddr3;
  wire [11:0] b_raddr;
  addresses #(.X(X), .NC(NC)) u_addresses (
    .clk, .stem, .stride2, .src_row, .src_row_step, .src_col, .src_col_step, .slice, .src_bank, .src_phase, .fetch_part,
    .picture_tail, .sc_read, .sc_part, .sc_row, .sc_row_step, .sc_col, .sc_tile,
    .a_address(a_raddr3), .i_address(i_raddr3), .b_address(b_raddr));
  wire [4*NC-1:0] a_write;
  wire [11:0] a_waddr, b_waddr;
  wire [NC*64-1:0] a_data;
  wire [8*X-1:0] b_write;
  wire [8*X*64-1:0] b_data;
  wire [4*NC*64-1:0] a5;
  wire [8*X*64-1:0] b5;
  wire [4*U*18-1:0] i5;
  generate
    for (g = 0; g < 4*NC; g = g + 1) begin : g_a
      block_ram #(.W(64), .A(A_BITS), .D(A_DEPTH)) u_bank (
        .clk, .we(a_write[g]), .waddr(a_waddr[A_BITS-1:0]), .d(a_data[(g%NC)*64+:64]),
        .raddr(a_raddr3[g*12+:A_BITS]), .q(a5[g*64+:64]));
    end
    for (g = 0; g < 8*X; g = g + 1) begin : g_b
      block_ram #(.W(64), .A(B_BITS), .D(B_DEPTH)) u_bank (
        .clk, .we(b_write[g]), .waddr(b_waddr[B_BITS-1:0]), .d(b_data[g*64+:64]),
        .raddr(b_raddr[B_BITS-1:0]), .q(b5[g*64+:64]));
    end
    for (r = 0; r < 4; r = r + 1) begin : g_i_row
      for (g = 0; g < U; g = g + 1) begin : g_i
        block_ram #(.W(18), .A(I_BITS), .D(I_DEPTH)) u_bank (
          .clk, .we(picture_write[r]), .waddr(picture_address[I_BITS-1:0]), .d(picture_data[g*18+:18]),
          .raddr(i_raddr3[r*12+:I_BITS]), .q(i5[(r*U+g)*18+:18]));
      end
    end
  endgenerate
  // The ring: a word is 18 beats side by side; read so that the weight register holds it after edge 8.
  wire [2303:0] ring7;
  wire [8:0] ring_raddr5;
  delay #(.W(9), .N(5)) u_ring_address (.clk, .d(ring_offset[8:0]), .q(ring_raddr5));
  generate
    for (g = 0; g < 18; g = g + 1) begin : g_ring
      block_ram #(.W(128), .A(9), .D(512)) u_part (
        .clk, .we(ring_write && ring_part == g), .waddr(ring_address), .d(ring_data),
        .raddr(ring_raddr5), .q(ring7[g*128+:128]));
    end
  endgenerate
  reg [2303:0] word8;
  always @(posedge clk) word8 <= ring7;

  // ---- control, along the pipeline
  wire [1:0] row_bank5, split5, part5;
  wire [2:0] phase5, pixels5, capture_slice4, phase4;
  wire [1:0] split4;
  // Formed one edge early, so that it is a register and not logic before every bit it selects.
  reg [2:0] capture_bank5;
  always @(posedge clk) capture_bank5 <= (capture_slice4 << split4) | phase4;
  delay #(.W(8), .N(4)) u_capture (
    .clk, .d({capture_slice, src_phase, src_split}), .q({capture_slice4, phase4, split4}));
  wire [6:0] slice5;
  wire stride2_5, one5, stem5, accumulate5, top5, bottom5, left5, right5, capture5, fetch5, advance4;
  delay #(.W(1), .N(4)) u_advance (.clk, .d(advance), .q(advance4));
  delay #(.W(29), .N(5)) u_control5 (
    .clk,
    .d({src_bank, src_split, fetch_part, src_phase, right_pixels, slice, stride2, one, stem, accumulate,
        pad_top, pad_bottom, pad_left, pad_right, capture, fetch}),
    .q({row_bank5, split5, part5, phase5, pixels5, slice5, stride2_5, one5, stem5, accumulate5,
        top5, bottom5, left5, right5, capture5, fetch5}));
  wire header8, parity8, parity10, stem10, left10, right10, accumulate12, first12, pair13, stem14, codes22;
  wire [1:0] index8, class10;
  wire [2:0] pixels10;
  delay #(.W(4), .N(8)) u_control8 (
    .clk, .d({is_header && !rst, header_index, parity}), .q({header8, index8, parity8}));
  delay #(.W(3), .N(10)) u_control10 (.clk, .d({parity, row_class}), .q({parity10, class10}));
  delay #(.W(6), .N(10)) u_border10 (
    .clk, .d({stem, pad_left, pad_right, right_pixels}), .q({stem10, left10, right10, pixels10}));
  delay #(.W(2), .N(12)) u_control12 (.clk, .d({accumulate, first}), .q({accumulate12, first12}));
  // The stem's second pixel follows the first by one edge.
  delay #(.W(1), .N(14)) u_control13 (.clk, .d(last && stem), .q(pair13));
  delay #(.W(1), .N(14)) u_control14 (.clk, .d(stem), .q(stem14));
  delay #(.W(1), .N(22)) u_control22 (.clk, .d(codes), .q(codes22));

  // ---- activations
  wire [X*144-1:0] am8, al8, stem_m8, stem_l8;
  wire [X*96-1:0] codes10, codes16;
  window #(.X(X), .NC(NC)) u_window (
    .clk, .a(a5), .b(b5), .row_bank(row_bank5), .phase(phase5[1:0]), .stride2(stride2_5), .one(one5), .stem(stem5),
    .keep(accumulate5), .slice(slice5), .pad_top(top5), .pad_bottom(bottom5), .pad_left(left5), .pad_right(right5),
    .right_pixels(pixels5), .split(split5), .rotation(phase5), .capture(capture5), .capture_bank(capture_bank5),
    .stem_m(stem_m8), .stem_l(stem_l8), .am(am8), .al(al8), .codes(codes10));
  stem_window #(.X(X), .U(U)) u_stem (
    .clk, .levels(i5), .row_bank(row_bank5), .advance4, .fetch(fetch5), .part(part5), .stride2(stride2_5),
    .slice(slice5[2:0]), .pad_top(top5), .pad_bottom(bottom5), .pad_left(left5), .pad_right(right5),
    .m(stem_m8), .l(stem_l8));

  // ---- the 16-bit shortcut: B's words after edge 15, one number a channel after edge 16
  wire phase15, stride2_15, part15, sc_read16, sc_first16, wide16, stride2_16;
  delay #(.W(3), .N(15)) u_shortcut15 (.clk, .d({sc_phase, stride2, sc_part[0]}), .q({phase15, stride2_15, part15}));
  delay #(.W(4), .N(16)) u_shortcut16 (
    .clk, .d({sc_read, sc_first, wide, stride2}), .q({sc_read16, sc_first16, wide16, stride2_16}));
  delay #(.W(X*96), .N(6)) u_codes (.clk, .d(codes10), .q(codes16));
  reg [X*256-1:0] numbers16;
  generate
    for (x = 0; x < X; x = x + 1) begin : g_number
      for (ch = 0; ch < 4; ch = ch + 1) begin : g_quad
        wire [63:0] at_even = b5[(ch*2*X+2*x)*64+:64], at_odd = b5[(ch*2*X+2*x+1)*64+:64];
        wire [63:0] at_low = b5[(ch*2*X+x)*64+:64], at_high = b5[(ch*2*X+X+x)*64+:64];
        always @(posedge clk)
          numbers16[(x*4+ch)*64+:64] <= stride2_15 ? (part15 ? at_odd : at_even) : (phase15 ? at_high : at_low);
      end
    end
  endgenerate

  // ---- trees and lanes
  wire [671:0] presets11;
  wire [16*14-1:0] gate_at;
  wire [16*15-1:0] knee;
  wire [15:0] high;
  wire load17;
  wire [16*27-1:0] a0, a1, gamma;
  wire [16*43-1:0] b0, b1;
  header u_header (
    .clk, .word(word8), .is_header8(header8), .index8, .parity8, .row_class10(class10), .parity10, .presets(presets11),
    .gate_at, .knee, .high, .load17, .a0, .a1, .gamma, .b0, .b1);
  wire [X*256-1:0] z23;
  wire [X*64-1:0] q23;
  elements #(.X(X)) u_elements (
    .clk, .am(am8), .al(al8), .weights(word8), .accumulate12, .first12, .stem10, .left10, .right10, .pixels10, .presets11,
    .pair13, .stem14, .codes22, .sc_wide16(wide16), .sc_first16, .sc_mean16(wide16 && stride2_16), .sc_read16,
    .sc_numbers16(numbers16), .sc_codes16(codes16), .gate_at, .knee, .high, .load17, .a0, .a1, .gamma, .b0, .b1,
    .z(z23), .q(q23));

  // ---- results
  wire sum_valid, sum_last, sum_picture_end;
  wire [2:0] sum_pixels;
  writeback #(.X(X), .NC(NC)) u_writeback (
    .clk, .rst, .event_valid, .event_stores, .event_to_b, .event_wide, .event_final, .event_last,
    .event_row_end, .event_picture_end, .event_parity, .dst_row, .dst_col, .wide_row, .wide_col, .dst_pass, .dst_bank,
    .dst_split, .dst_phase, .wide_phase, .event_pixels, .clear_rows, .clear_parity, .z(z23), .q(q23),
    .a_write, .a_address(a_waddr), .a_data, .b_write, .b_address(b_waddr), .b_data, .rows_written0, .rows_written1,
    .sum_valid, .sum_last, .sum_picture_end, .sum_pixels);
  sums #(.X(X)) u_sums (
    .clk, .rst, .valid(sum_valid), .last(sum_last), .picture_end(sum_picture_end), .pixels(sum_pixels),
    .z(z23), .beat_valid, .beat_picture_end, .beat);
endmodule
