// A two-state model of the DSP48E2 modes that rtl/mac.sv uses, for benches only; Vivado brings the vendor's own.
// Written from the slice's description in UG579: A, D and B registers, pre-adder, multiplier, C, and the W, X, Y, Z choices.
module DSP48E2 #(
  parameter AMULTSEL = "A", AREG = 1, ACASCREG = 1, DREG = 1, ADREG = 1, BREG = 1, BCASCREG = 1, CREG = 1, MREG = 1,
  PREG = 1, INMODEREG = 1, OPMODEREG = 1, ALUMODEREG = 0, CARRYINREG = 0, CARRYINSELREG = 0
) (
  input CLK,
  input [29:0] A,
  input [26:0] D,
  input [17:0] B,
  input [47:0] C,
  input [4:0] INMODE,
  input [8:0] OPMODE,
  input [3:0] ALUMODE,
  input CARRYIN,
  input [2:0] CARRYINSEL,
  output [47:0] PCOUT, P,
  input [47:0] PCIN,
  input [29:0] ACIN,
  input [17:0] BCIN,
  input CARRYCASCIN, MULTSIGNIN,
  input CEA1, CEA2, CEAD, CEALUMODE, CEB1, CEB2, CEC, CECARRYIN, CECTRL, CED, CEINMODE, CEM, CEP,
  input RSTA, RSTALLCARRYIN, RSTALUMODE, RSTB, RSTC, RSTCTRL, RSTD, RSTINMODE, RSTM, RSTP
);
  reg [26:0] a, d, ad;
  reg [17:0] b1, b2;
  reg [47:0] c, p;
  reg signed [44:0] m;
  reg [4:0] inmode;
  reg [8:0] opmode;
  wire signed [26:0] left = AMULTSEL == "AD" ? ad : a;
  wire signed [17:0] right = b2;
  wire signed [44:0] left_wide = left, right_wide = right;
  wire [47:0] product = {{3{m[44]}}, m};
  always @(posedge CLK) begin
    if (CEA2) a <= A[26:0];
    if (CED) d <= D;
    if (CEINMODE) inmode <= INMODE;
    if (CECTRL) opmode <= OPMODE;
    if (CEC) c <= C;
    if (CEB1) b1 <= B;
    if (CEB2) b2 <= BREG == 2 ? b1 : B;
    if (CEAD) ad <= (inmode[1] ? 27'd0 : a) + (inmode[2] ? d : 27'd0);
    if (CEM) m <= left_wide * right_wide;
    if (CEP)
      p <= (opmode[3:0] == 4'b0101 ? product : 48'd0) + (opmode[8:7] == 2'b11 ? c : 48'd0)
           + (opmode[6:4] == 3'b001 ? PCIN : 48'd0);
  end
  assign P = p;
  assign PCOUT = p;
endmodule
