// One pixel and one output channel: two popcount trees, the shortcut's accumulator, the lane.
// Edge numbers are those of the pipeline (docs/accelerator.md): activations and weights valid after edge 8.
module element (
  input clk,
  input [143:0] am, al, w,
  input acc12, first12,                 // valid after edge 12, as the presets
  input signed [13:0] preset_m, preset_l,
  input pair13, stem14, codes22,
  input sc_wide, sc_first16, sc_mean, sc_en16, // shortcut: valid after edge 16
  input signed [15:0] sc_number,
  input [5:0] sc_code,
  input signed [13:0] gate_at,
  input signed [14:0] knee,
  input high, load17,
  input signed [26:0] a0, a1, gamma,
  input signed [42:0] b0, b1,
  output signed [15:0] z,               // after edge 23
  output [3:0] q
);
  wire signed [13:0] m, l;
  popcount u_m (.clk, .a(am), .w, .en(acc12), .first(first12), .preset(preset_m), .acc(m));
  popcount u_l (.clk, .a(al), .w, .en(acc12), .first(first12), .preset(preset_l), .acc(l));
  // A map value, the mean of four (rounded half up), or a sum of codes.
  reg signed [17:0] total;
  wire signed [17:0] value = sc_wide ? {{2{sc_number[15]}}, sc_number} : {12'd0, sc_code};
  wire signed [17:0] start = sc_mean ? 18'sd2 : 18'sd0;
  wire signed [17:0] base = sc_first16 ? start : total;
  reg signed [15:0] r;
  always @(posedge clk) begin
    if (sc_en16) total <= base + value;           // 17
    r <= sc_mean ? total[17:2] : total[15:0];     // 18
  end
  lane u_lane (.clk, .m, .l, .pair(pair13), .stem(stem14), .codes(codes22), .r, .gate_at, .knee, .high, .load(load17),
               .a0, .a1, .gamma, .b0, .b1, .z, .q);
endmodule
