// What follows an element's convolution sums: gate, knee, two multiply-adds, one rounding shift, one saturation.
// Works on halves (M and L are even): m = M/2, l = L/2, the gate's and the knee's thresholds halved too.
// Edges: m, l, pair at 1; stem at 2; r at 6; codes at 10. z and q after 10.
module lane (
  input clk,
  input signed [13:0] m, l,
  input pair,   // the stem's second pixel: the element of the L tree, one edge after that of the M tree
  input stem,
  input codes,
  input signed [15:0] r,
  input signed [13:0] gate_at,
  input signed [14:0] knee,
  input high,   // 24 bits are dropped, else 12
  input load,
  input signed [26:0] a0, a1, gamma,
  input signed [42:0] b0, b1,
  output reg signed [15:0] z,
  output reg [3:0] q
);
  reg gate, side;
  reg signed [13:0] m1, l1;
  reg signed [15:0] s2, s3;
  wire signed [15:0] doubled = {m1[13], m1, 1'b0}, single = {{2{m1[13]}}, m1}, low = {{2{l1[13]}}, l1};
  wire signed [15:0] main = stem ? single : doubled;
  wire signed [15:0] extra = gate ? low : 16'sd0;
  wire signed [15:0] knee_wide = {knee[14], knee};
  always @(posedge clk) begin
    gate <= m >= gate_at;         // 1
    m1 <= pair ? l1 : m;
    l1 <= l;
    s2 <= main + extra;           // 2
    side <= s2 < knee_wide;       // 3
    s3 <= s2;
  end

  wire [42:0] p;
  mac u_mac (.clk, .load, .a0, .a1, .gamma, .b0, .b1, .s(s3), .side, .r, .p);

  // Bits [27:12] or [39:24]; every bit above must equal the sign.
  wire sign = p[42];
  wire over24 = p[41:39] != {3{sign}};
  wire over12 = p[38:27] != {12{sign}};
  reg over, sign9;
  reg [15:0] y;
  wire signed [15:0] v = over ? {sign9, {15{~sign9}}} : y;
  wire [3:0] code = v[15] ? 4'd0 : (|v[14:4]) ? 4'd15 : v[3:0];
  wire two_thirds = v >= 16'sd342, minus_two_thirds = v >= -16'sd341;
  always @(posedge clk) begin
    over <= over24 | (over12 & ~high);   // 9
    sign9 <= sign;
    y <= high ? p[39:24] : p[27:12];
    z <= codes ? {12'd0, code} : v;      // 10
    q <= codes ? code : v[15] ? (minus_two_thirds ? 4'd4 : 4'd0) : (two_thirds ? 4'd15 : 4'd8);
  end
endmodule
