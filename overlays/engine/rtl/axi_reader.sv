// AXI4 read master, 128 bits: INCR bursts of up to 16 beats that keep the 4 KiB rule, at most OUTSTANDING at a time.
// Two streams of consecutive beats; the picture's goes first. A burst is asked for only when its stream has room for all of
// it, so data are always accepted. After an error response no more bursts are asked for; those on their way are taken.
module axi_reader #(parameter OUTSTANDING = 8) (
  input clk,
  input rst,
  input run,                          // bursts may be asked for
  // Stream 0: the program; stream 1: the pictures. A set pulse gives address and number of beats.
  input set0, set1,
  input [31:0] address0, address1,    // multiples of 16
  input [31:0] beats0, beats1,
  input [13:0] room0,                 // beats the stream can take
  input [5:0] room1,
  output pending1,                    // beats of stream 1 still to be asked for
  output reg take0, take1,            // one cycle: take_beats of the room are used
  output reg [4:0] take_beats,
  output reg valid0, valid1,          // a beat
  output reg [127:0] data,
  output idle,                        // nothing on its way
  output reg error,
  output reg [31:0] m_axi_araddr,
  output reg [7:0] m_axi_arlen,
  output reg m_axi_arvalid,
  input m_axi_arready,
  input [127:0] m_axi_rdata,
  input [1:0] m_axi_rresp,
  input m_axi_rlast,
  input m_axi_rvalid,
  output m_axi_rready
);
  reg [31:0] at0, at1, left0, left1;
  reg [3:0] outstanding;
  reg [OUTSTANDING-1:0] order;         // stream of each burst on its way, the oldest at the bottom
  localparam PICK = 2'd0, SIZE = 2'd1, ASK = 2'd2, WAIT = 2'd3;
  reg [1:0] state;
  reg chosen;
  reg [5:0] size;                      // beats of the burst, at first not cut at 4 KiB
  wire [31:0] at = chosen ? at1 : at0;
  wire [8:0] to_page = 9'd256 - {1'b0, at[11:4]};
  wire [4:0] cut = {3'd0, size} > to_page ? to_page[4:0] : size[4:0];
  wire [4:0] want0 = left0 < 16 ? left0[4:0] : 5'd16, want1 = left1 < 16 ? left1[4:0] : 5'd16;
  wire asked = m_axi_arvalid && m_axi_arready;
  wire ended = m_axi_rvalid && m_axi_rready && m_axi_rlast;
  assign pending1 = left1 != 0;
  assign idle = outstanding == 0 && !m_axi_arvalid && state == PICK;
  assign m_axi_rready = 1'b1;
  always @(posedge clk) begin
    take0 <= 1'b0;
    take1 <= 1'b0;
    case (state)
      PICK:
        if (run && !error && outstanding < OUTSTANDING) begin
          if (left1 != 0 && room1 >= {1'b0, want1} && !take1) begin
            chosen <= 1'b1;
            size <= {1'b0, want1};
            state <= SIZE;
          end else if (left0 != 0 && room0 >= {9'd0, want0} && !take0) begin
            chosen <= 1'b0;
            size <= {1'b0, want0};
            state <= SIZE;
          end
        end
      SIZE: begin
        size <= {1'b0, cut};
        state <= ASK;
      end
      ASK: begin
        m_axi_arvalid <= 1'b1;
        m_axi_araddr <= at;
        m_axi_arlen <= {3'd0, size[4:0]} - 8'd1;
        take_beats <= size[4:0];
        take0 <= !chosen;
        take1 <= chosen;
        if (chosen) begin
          at1 <= at1 + {22'd0, size, 4'd0};
          left1 <= left1 - {26'd0, size};
        end else begin
          at0 <= at0 + {22'd0, size, 4'd0};
          left0 <= left0 - {26'd0, size};
        end
        state <= WAIT;
      end
      default:
        if (asked) begin
          m_axi_arvalid <= 1'b0;
          state <= PICK;
        end
    endcase
    if (set0) begin
      at0 <= address0;
      left0 <= beats0;
    end
    if (set1) begin
      at1 <= address1;
      left1 <= beats1;
    end
    // Bursts on their way.
    outstanding <= outstanding + {3'd0, asked} - {3'd0, ended};
    if (ended) order <= order >> 1;
    if (asked) order[ended ? outstanding[2:0] - 3'd1 : outstanding[2:0]] <= chosen;
    valid0 <= m_axi_rvalid && !order[0];
    valid1 <= m_axi_rvalid && order[0];
    data <= m_axi_rdata;
    if (m_axi_rvalid && m_axi_rready && m_axi_rresp[1]) error <= 1'b1;
    if (!run && idle) begin  // between runs
      left0 <= 32'd0;
      left1 <= 32'd0;
      error <= 1'b0;
    end
    if (rst) begin
      state <= PICK;
      outstanding <= 4'd0;
      m_axi_arvalid <= 1'b0;
      {left0, left1} <= 64'd0;
      {take0, take1, valid0, valid1, error} <= 5'd0;
    end
  end
endmodule
