// A W-bit signal N clock cycles later (shift registers; N >= 0).
module delay #(parameter W = 1, parameter N = 1) (
  input clk,
  input [W-1:0] d,
  output [W-1:0] q
);
  generate
    if (N == 0) begin : g_wire
      assign q = d;
    end else begin : g_shift
      reg [W*N-1:0] line;
      if (N == 1) begin : g_one
        always @(posedge clk) line <= d;
      end else begin : g_more
        always @(posedge clk) line <= {line[W*(N-1)-1:0], d};
      end
      assign q = line[W*N-1 -: W];
    end
  endgenerate
endmodule
