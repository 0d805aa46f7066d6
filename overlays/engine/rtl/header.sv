// The coefficients and corrections of a pass, taken from its three header words as they pass the weight register.
// The words are staged; what the lanes compare and multiply with changes when the last element of the pass before has
// gone by (edges 13, 18 and 20 of the last header word), which the three header cycles make room for.
module header (
  input clk,
  input [2303:0] word,          // valid after edge 8
  input is_header8,             // valid after edge 8
  input [1:0] index8,
  input parity8,
  input [1:0] row_class10,      // of the element, valid after edge 10
  input parity10,
  output [671:0] presets,       // after edge 11: [column class][channel] of the row class
  output reg [16*14-1:0] gate_at,
  output reg [16*15-1:0] knee,
  output reg [15:0] high,
  output load17,
  output [16*27-1:0] a0, a1, gamma,
  output [16*43-1:0] b0, b1
);
  localparam AT = 672;
  reg [16*81-1:0] alphas;
  reg [16*86-1:0] betas;
  reg [16*35-1:0] limits;
  (* ram_style = "distributed" *) reg [671:0] rows[0:7];
  reg [671:0] row;
  always @(posedge clk) begin
    if (is_header8) rows[{parity8, index8}] <= word[671:0];
    if (is_header8 && index8 == 2'd0) alphas <= word[AT +: 16*81];
    if (is_header8 && index8 == 2'd1) betas <= word[AT +: 16*86];
    if (is_header8 && index8 == 2'd2) limits <= word[AT +: 16*35];
    row <= rows[{parity10, row_class10}];
  end
  assign presets = row;

  wire last8 = is_header8 && index8 == 2'd2;
  wire compare12, multiply17, drop19;
  delay #(.N(4)) u_compare (.clk, .d(last8), .q(compare12));
  delay #(.N(5)) u_multiply (.clk, .d(compare12), .q(multiply17));
  delay #(.N(2)) u_drop (.clk, .d(multiply17), .q(drop19));
  assign load17 = multiply17;
  integer i;
  always @(posedge clk)
    for (i = 0; i < 16; i = i + 1) begin
      if (compare12) gate_at[14*i+:14] <= limits[35*i+:14];
      if (compare12) knee[15*i+:15] <= limits[35*i+14+:15];
      if (drop19) high[i] <= limits[35*i+29];
    end
  genvar p;
  generate
    for (p = 0; p < 16; p = p + 1) begin : g_channel
      assign a0[27*p+:27] = alphas[81*p+:27];
      assign a1[27*p+:27] = alphas[81*p+27+:27];
      assign gamma[27*p+:27] = alphas[81*p+54+:27];
      assign b0[43*p+:43] = betas[86*p+:43];
      assign b1[43*p+:43] = betas[86*p+43+:43];
    end
  endgenerate
endmodule
