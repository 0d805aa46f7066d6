// Two multiply-adds of the lane on two cascaded DSP48E2 slices:
//   p = (side ? a1 : a0) * s + (side ? b1 : b0) + gamma * r
// The side chooses alpha in the first slice's pre-adder (INMODE) and beta by the W multiplexers (OPMODE): no LUT.
// Edges, with s and side valid before edge 4: s is sampled at 4, side at 4; r at 6 (valid before it); p after 8.
// load: the coefficients are sampled at that edge; those of the last element before it must have passed edge 5
// (alpha), 7 (beta0, gamma) and 8 (beta1) by then, as control.sv's timing of passes guarantees.
module mac (
  input clk,
  input load,
  input signed [26:0] a0, a1, gamma,
  input signed [42:0] b0, b1,
  input signed [15:0] s,  // half of the sum: the multiplier gets {s, 0}
  input side,
  input signed [15:0] r,
  output [42:0] p
);
`ifdef ENGINE_DSP_PRIMITIVES
  reg side4, side5, side6;
  always @(posedge clk) begin
    side4 <= side;
    side5 <= side4;
    side6 <= side5;
  end
  wire [47:0] cascade, result;
  assign p = result[42:0];
  // A and D wait in their own registers (CEA2, CED, CEC = load); INMODE and OPMODE are registered in the slice.
  DSP48E2 #(
    .AMULTSEL("AD"), .AREG(1), .ACASCREG(1), .DREG(1), .ADREG(1), .BREG(2), .BCASCREG(2), .CREG(1), .MREG(1), .PREG(1),
    .INMODEREG(1), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
  ) first (
    .CLK(clk), .A({{3{a0[26]}}, a0}), .D(a1), .B({s[15], s, 1'b0}), .C({{5{b0[42]}}, b0}),
    .INMODE(side ? 5'b00110 : 5'b00000), .OPMODE(side5 ? 9'b000000101 : 9'b110000101),
    .ALUMODE(4'b0), .CARRYIN(1'b0), .CARRYINSEL(3'b0), .PCOUT(cascade), .P(), .PCIN(48'b0), .ACIN(30'b0), .BCIN(18'b0),
    .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
    .CEA1(load), .CEA2(load), .CED(load), .CEC(load), .CEAD(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEM(1'b1), .CEP(1'b1),
    .CEINMODE(1'b1), .CECTRL(1'b1), .CEALUMODE(1'b1), .CECARRYIN(1'b1),
    .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTINMODE(1'b0), .RSTCTRL(1'b0),
    .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0)
  );
  DSP48E2 #(
    .AMULTSEL("A"), .AREG(1), .ACASCREG(1), .DREG(1), .ADREG(1), .BREG(1), .BCASCREG(1), .CREG(1), .MREG(1), .PREG(1),
    .INMODEREG(1), .OPMODEREG(1), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
  ) second (
    .CLK(clk), .A({{3{gamma[26]}}, gamma}), .D(27'b0), .B({{2{r[15]}}, r}), .C({{5{b1[42]}}, b1}),
    .INMODE(5'b0), .OPMODE(side6 ? 9'b110010101 : 9'b000010101),
    .ALUMODE(4'b0), .CARRYIN(1'b0), .CARRYINSEL(3'b0), .PCIN(cascade), .P(result), .PCOUT(), .ACIN(30'b0), .BCIN(18'b0),
    .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0),
    .CEA1(load), .CEA2(load), .CED(1'b1), .CEC(load), .CEAD(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEM(1'b1), .CEP(1'b1),
    .CEINMODE(1'b1), .CECTRL(1'b1), .CEALUMODE(1'b1), .CECARRYIN(1'b1),
    .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTINMODE(1'b0), .RSTCTRL(1'b0),
    .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0)
  );
`else
  // The same registers, written out: edge numbers in the comments.
  reg signed [26:0] ra0, ra1, rg, ad;
  reg signed [42:0] rb0, rb1;
  reg signed [15:0] s1, s2, rr;
  reg side4, side5, side6, side7;
  reg signed [42:0] m1, p1, m2, p2;
  wire signed [42:0] ad_wide = {{16{ad[26]}}, ad}, s_wide = {{26{s2[15]}}, s2, 1'b0};
  wire signed [42:0] g_wide = {{16{rg[26]}}, rg}, r_wide = {{27{rr[15]}}, rr};
  always @(posedge clk) begin
    if (load) begin
      ra0 <= a0;
      ra1 <= a1;
      rg <= gamma;
      rb0 <= b0;
      rb1 <= b1;
    end
    s1 <= s;                      // 4
    side4 <= side;                // 4
    s2 <= s1;                     // 5
    ad <= side4 ? ra1 : ra0;      // 5
    side5 <= side4;               // 5
    m1 <= ad_wide * s_wide;       // 6
    side6 <= side5;               // 6
    rr <= r;                      // 6
    p1 <= m1 + (side6 ? 43'sd0 : rb0);  // 7
    side7 <= side6;               // 7
    m2 <= g_wide * r_wide;        // 7
    p2 <= p1 + m2 + (side7 ? rb1 : 43'sd0);  // 8
  end
  assign p = p2;
`endif
endmodule
