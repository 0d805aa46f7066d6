// AXI4 write master for results: one burst of four beats (64 bytes, 64-byte aligned) for every sixteen sums.
module axi_writer (
  input clk,
  input rst,
  input run,                        // 0 between runs
  input start,                      // one cycle: the first result's address
  input [31:0] address,
  input [31:0] stride,
  input tile_started,               // a pass began whose four beats will come
  input beat_valid,
  input beat_picture_end,
  input [127:0] beat,
  output room,                      // for one more pass
  output idle,
  output reg error,
  output reg picture_end,           // one cycle: a picture's last result is in memory
  output reg [31:0] m_axi_awaddr,
  output [7:0] m_axi_awlen,
  output reg m_axi_awvalid,
  input m_axi_awready,
  output [127:0] m_axi_wdata,
  output m_axi_wlast,
  output reg m_axi_wvalid,
  input m_axi_wready,
  input [1:0] m_axi_bresp,
  input m_axi_bvalid,
  output m_axi_bready
);
  // Beats wait in a FIFO of 64; a pass starts only when there is room for its four.
  (* ram_style = "distributed" *) reg [128:0] fifo[0:63];
  reg [5:0] head, tail;
  reg [6:0] stored;
  reg [4:0] promised;               // tiles here and to come
  reg busy, waiting;
  reg [1:0] part;
  reg [31:0] base, next;
  wire [128:0] front = fifo[tail];
  reg word_end;
  assign room = promised < 5'd14;
  assign idle = stored == 0 && !busy && !waiting;
  assign m_axi_awlen = 8'd3;
  assign m_axi_wdata = front[127:0];
  assign m_axi_wlast = part == 2'd3;
  assign m_axi_bready = waiting;
  wire take = run && !busy && !waiting && stored >= 7'd4;
  wire pop = m_axi_wvalid && m_axi_wready;
  always @(posedge clk) begin
    picture_end <= 1'b0;
    if (beat_valid) fifo[head] <= {beat_picture_end, beat};
    head <= head + {5'd0, beat_valid};
    tail <= tail + {5'd0, pop};
    stored <= stored + {6'd0, beat_valid} - {6'd0, pop};
    promised <= promised + {4'd0, tile_started} - {4'd0, take};
    if (take) begin
      busy <= 1'b1;
      part <= 2'd0;
      word_end <= front[128];
      m_axi_awvalid <= 1'b1;
      m_axi_awaddr <= next;
      m_axi_wvalid <= 1'b1;
    end
    if (m_axi_awvalid && m_axi_awready) m_axi_awvalid <= 1'b0;
    if (pop) begin
      part <= part + 2'd1;
      if (m_axi_wlast) m_axi_wvalid <= 1'b0;
    end
    if (busy && !m_axi_awvalid && !m_axi_wvalid) begin
      busy <= 1'b0;
      waiting <= 1'b1;
      next <= word_end ? base + stride : next + 32'd64;
      if (word_end) base <= base + stride;
    end
    if (waiting && m_axi_bvalid) begin
      waiting <= 1'b0;
      picture_end <= word_end && !m_axi_bresp[1];
      if (m_axi_bresp[1]) error <= 1'b1;
    end
    if (!run && !busy && !waiting) begin
      {head, tail, stored, promised} <= 24'd0;
      error <= 1'b0;
    end
    if (start) begin
      base <= address;
      next <= address;
    end
    if (rst) begin
      {head, tail, stored, promised} <= 24'd0;
      {busy, waiting, error, m_axi_awvalid, m_axi_wvalid} <= 5'd0;
    end
  end
endmodule
