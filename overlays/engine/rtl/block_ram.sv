// Simple dual-port block RAM with an output register: q is two clock edges after raddr.
// A word read in the cycle in which it is written is undefined to its reader; no reader in the engine depends on it.
module block_ram #(parameter W = 64, parameter A = 10, parameter D = 1024) (
  input clk,
  input we,
  input [A-1:0] waddr,
  input [W-1:0] d,
  input [A-1:0] raddr,
  output reg [W-1:0] q
);
  (* ram_style = "block" *) reg [W-1:0] mem[0:D-1];
  reg [W-1:0] r;
  always @(posedge clk) begin
    if (we) mem[waddr] <= d;
    r <= mem[raddr];
    q <= r;
  end
endmodule
