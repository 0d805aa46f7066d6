// X pixels of 16 output channels, and the presets of their accumulators by border class.
module elements #(parameter X = 2) (
  input clk,
  input [X*144-1:0] am, al,            // after edge 8
  input [2303:0] weights,              // after edge 8
  input accumulate12, first12,         // after edge 12
  input stem10, left10, right10,       // after edge 10
  input [2:0] pixels10,
  input [671:0] presets11,
  input pair13, stem14, codes22,
  input sc_wide16, sc_first16, sc_mean16, sc_read16,
  input [X*256-1:0] sc_numbers16,
  input [X*96-1:0] sc_codes16,
  input [16*14-1:0] gate_at,
  input [16*15-1:0] knee,
  input [15:0] high,
  input load17,
  input [16*27-1:0] a0, a1, gamma,
  input [16*43-1:0] b0, b1,
  output [X*256-1:0] z,                // after edge 23
  output [X*64-1:0] q
);
  // Codes enter the accumulator with every element, numbers when they are read.
  wire enable16 = sc_read16 | ~sc_wide16;
  wire first = sc_first16 | ~sc_wide16;
  genvar x, p;
  generate
    for (x = 0; x < X; x = x + 1) begin : g_pixel
      // Border classes of the pixel in the M tree and of the one in the L tree (another one in the stem).
      reg left_m, right_m, left_l, right_l;
      always @(posedge clk) begin
        left_m <= left10 && x == 0;
        right_m <= right10 && !stem10 && pixels10 == x + 1;
        left_l <= left10 && !stem10 && x == 0;
        right_l <= right10 && (stem10 ? x == X - 1 : pixels10 == x + 1);
      end
      for (p = 0; p < 16; p = p + 1) begin : g_channel
        reg signed [13:0] preset_m, preset_l;
        wire [13:0] at_left = presets11[p*14+:14], middle = presets11[(16+p)*14+:14], at_right = presets11[(32+p)*14+:14];
        always @(posedge clk) begin
          preset_m <= left_m ? at_left : right_m ? at_right : middle;
          preset_l <= left_l ? at_left : right_l ? at_right : middle;
        end
        element u_element (
          .clk, .am(am[x*144+:144]), .al(al[x*144+:144]), .w(weights[p*144+:144]), .acc12(accumulate12), .first12(first12),
          .preset_m, .preset_l, .pair13, .stem14, .codes22, .sc_wide(sc_wide16), .sc_first16(first), .sc_mean(sc_mean16),
          .sc_en16(enable16), .sc_number(sc_numbers16[(x*16+p)*16+:16]), .sc_code(sc_codes16[(x*16+p)*6+:6]),
          .gate_at(gate_at[14*p+:14]), .knee(knee[15*p+:15]), .high(high[p]), .load17,
          .a0(a0[27*p+:27]), .a1(a1[27*p+:27]), .gamma(gamma[27*p+:27]), .b0(b0[43*p+:43]), .b1(b1[43*p+:43]),
          .z(z[(x*16+p)*16+:16]), .q(q[(x*16+p)*4+:4])
        );
      end
    end
  endgenerate
endmodule
