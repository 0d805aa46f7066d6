// Differing bits of 144 activations and 144 weights, five edges after them in an accumulator:
//   acc <= (first ? preset : acc) - popcount(a ^ w)
// The preset is half of what the sum would be if every bit agreed, so the accumulator is half of the convolution sum.
// Compressors are boolean functions of six inputs, one LUT6 per output; an arithmetic "+" would become carry chains.
module popcount (
  input clk,
  input [143:0] a,
  input [143:0] w,
  input en,     // with the sum: four edges after a and w
  input first,
  input signed [13:0] preset,
  output reg signed [13:0] acc
);
  wire [7:0] count;  // four edges after a and w
`ifdef ENGINE_FAST_POPCOUNT
  // The same count at the same time, for a faster simulation; sim/popcount_bench.sv proves the two equal.
  reg [7:0] c0, c1, c2, c3;
  wire [143:0] differing = a ^ w;
  always @(posedge clk) begin
    c0 <= $countones(differing);
    c1 <= c0;
    c2 <= c1;
    c3 <= c2;
  end
  assign count = c3;
`else
  // Number of ones of six bits.
  function automatic [2:0] ones6(input [5:0] b);
    reg [2:0] n;
    begin
      case (b[2:0])
        3'd0: n = 3'd0;
        3'd1, 3'd2, 3'd4: n = 3'd1;
        3'd7: n = 3'd3;
        default: n = 3'd2;
      endcase
      case ({b[5:3], n[1:0]})
        5'b00000: ones6 = 3'd0;
        5'b00001, 5'b00100, 5'b01000, 5'b10000: ones6 = 3'd1;
        5'b00010, 5'b00101, 5'b01001, 5'b10001, 5'b01100, 5'b10100, 5'b11000: ones6 = 3'd2;
        5'b00011, 5'b00110, 5'b01010, 5'b10010, 5'b01101, 5'b10101, 5'b11001, 5'b11100: ones6 = 3'd3;
        5'b00111, 5'b01011, 5'b10011, 5'b01110, 5'b10110, 5'b11010, 5'b11101: ones6 = 3'd4;
        5'b01111, 5'b10111, 5'b11011, 5'b11110: ones6 = 3'd5;
        default: ones6 = 3'd6;
      endcase
    end
  endfunction

  // Level 0: three pairs of bits become a two-bit count, in two LUT6.
  reg [47:0] lo, hi;
  integer i;
  reg [2:0] t;
  always @(posedge clk)
    for (i = 0; i < 48; i = i + 1) begin
      t = a[3*i+:3] ^ w[3*i+:3];
      lo[i] <= ^t;
      hi[i] <= (t[0] & t[1]) | (t[0] & t[2]) | (t[1] & t[2]);
    end

  // Level 1: columns of weight 1 (8 bits), 2 (16), 4 (16), 8 (8).
  reg [7:0] k1, k8;
  reg [15:0] k2, k4;
  reg [2:0] u, v;
  always @(posedge clk)
    for (i = 0; i < 8; i = i + 1) begin
      u = ones6(lo[6*i+:6]);
      v = ones6(hi[6*i+:6]);
      k1[i] <= u[0];
      k2[i] <= u[1];
      k2[8+i] <= v[0];
      k4[i] <= u[2];
      k4[8+i] <= v[1];
      k8[i] <= v[2];
    end

  // Levels 2 and 3: at most four bits a column.
  wire [2:0] a0 = ones6(k1[5:0]);
  wire [2:0] b0 = ones6(k2[5:0]), b1 = ones6(k2[11:6]), b2 = ones6({2'b0, k2[15:12]});
  wire [2:0] c0 = ones6(k4[5:0]), c1 = ones6(k4[11:6]), c2 = ones6({2'b0, k4[15:12]});
  wire [2:0] d0 = ones6(k8[5:0]);
  wire [2:0] e0 = ones6({3'b0, a0[0], k1[7:6]});                          // weight 1
  wire [2:0] e1 = ones6({2'b0, a0[1], b0[0], b1[0], b2[0]});              // 2
  wire [2:0] e2 = ones6({a0[2], b0[1], b1[1], b2[1], c0[0], c1[0]});      // 4, with c2[0] left
  wire [2:0] e3 = ones6({b0[2], b1[2], b2[2], c0[1], c1[1], c2[1]});      // 8
  wire [2:0] e4 = ones6({3'b0, d0[0], k8[7:6]});                          // 8
  wire [2:0] e5 = ones6({2'b0, c0[2], c1[2], c2[2], d0[1]});              // 16
  reg r1, r64;
  reg [1:0] r2;
  reg [2:0] r4, r32;
  reg [3:0] r8, r16;
  always @(posedge clk) begin
    r1 <= e0[0];
    r2 <= {e0[1], e1[0]};
    r4 <= {e1[1], e2[0], c2[0]};
    r8 <= {e1[2], e2[1], e3[0], e4[0]};
    r16 <= {e2[2], e3[1], e4[1], e5[0]};
    r32 <= {e3[2], e5[1], d0[2]};
    r64 <= e5[2];
  end
  // Level 4: two rows and one adder.
  wire [2:0] g4 = ones6({3'b0, r4}), g8 = ones6({2'b0, r8}), g16 = ones6({2'b0, r16}), g32 = ones6({3'b0, r32});
  wire [2:0] h32 = ones6({3'b0, g8[2], g16[1], g32[0]});
  wire [2:0] h64 = ones6({2'b0, g16[2], g32[1], r64, h32[1]});
  reg [7:0] sum;
  always @(posedge clk)
    sum <= {h64[1:0], h32[0], g8[1:0], g4[0], r2[1], r1} + {3'b0, g16[0], g4[1], 1'b0, r2[0], 1'b0};
  assign count = sum;
`endif
  always @(posedge clk) if (en) acc <= (first ? preset : acc) - $signed({6'b0, count});
endmodule
