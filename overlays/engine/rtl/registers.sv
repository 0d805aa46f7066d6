// AXI4-Lite slave: control and status registers with ap_ctrl_hs block control. Offsets come from engine_contract.svh.
`include "engine_contract.svh"
module registers #(parameter X = 2) (
  input clk,
  input rst,
  input [7:0] s_axi_awaddr,
  input s_axi_awvalid,
  output s_axi_awready,
  input [31:0] s_axi_wdata,
  input [3:0] s_axi_wstrb,
  input s_axi_wvalid,
  output s_axi_wready,
  output [1:0] s_axi_bresp,
  output reg s_axi_bvalid,
  input s_axi_bready,
  input [7:0] s_axi_araddr,
  input s_axi_arvalid,
  output s_axi_arready,
  output reg [31:0] s_axi_rdata,
  output [1:0] s_axi_rresp,
  output reg s_axi_rvalid,
  input s_axi_rready,
  output irq,
  // The core.
  output reg start,
  input busy,
  input done,                       // one cycle
  output reg [31:0] image_address, picture_address, result_address, picture_stride, result_stride,
  output reg [15:0] pictures,
  output reg load,
  input [7:0] error,
  input [31:0] loaded, pictures_done, cycles, stall_words, stall_picture, stall_rows, stall_result
);
  reg gie, done_flag;
  reg [1:0] ier, isr;
  wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
  wire read = s_axi_arvalid && !s_axi_rvalid;
  assign s_axi_awready = write;
  assign s_axi_wready = write;
  assign s_axi_arready = read;
  assign s_axi_bresp = 2'b00;
  assign s_axi_rresp = 2'b00;
  assign irq = gie && (ier & isr) != 0;
  // Byte strobes, as a bit mask.
  wire [31:0] mask = {{8{s_axi_wstrb[3]}}, {8{s_axi_wstrb[2]}}, {8{s_axi_wstrb[1]}}, {8{s_axi_wstrb[0]}}};
  wire [31:0] data = s_axi_wdata & mask;
  always @(posedge clk) begin
    start <= 1'b0;
    if (s_axi_bvalid && s_axi_bready) s_axi_bvalid <= 1'b0;
    if (s_axi_rvalid && s_axi_rready) s_axi_rvalid <= 1'b0;
    if (write) begin
      s_axi_bvalid <= 1'b1;
      case (s_axi_awaddr)
        `REG_CTRL: start <= data[0] && !busy && !start;
        `REG_GIER: if (mask[0]) gie <= data[0];
        `REG_IP_IER: if (mask[0]) ier <= data[1:0];
        `REG_IP_ISR: isr <= isr ^ data[1:0];
        default:
          if (!busy && !start)
            case (s_axi_awaddr)
              `REG_IMAGE_ADDRESS: image_address <= data | (image_address & ~mask);
              `REG_PICTURE_ADDRESS: picture_address <= data | (picture_address & ~mask);
              `REG_RESULT_ADDRESS: result_address <= data | (result_address & ~mask);
              `REG_PICTURE_STRIDE: picture_stride <= data | (picture_stride & ~mask);
              `REG_RESULT_STRIDE: result_stride <= data | (result_stride & ~mask);
              `REG_PICTURES: pictures <= data[15:0] | (pictures & ~mask[15:0]);
              `REG_LOAD: if (mask[0]) load <= data[0];
              default: ;
            endcase
      endcase
    end
    if (read) begin
      s_axi_rvalid <= 1'b1;
      case (s_axi_araddr)
        `REG_CTRL: begin
          s_axi_rdata <= {28'd0, done_flag, !busy && !start, done_flag, busy || start};
          done_flag <= 1'b0;
        end
        `REG_GIER: s_axi_rdata <= {31'd0, gie};
        `REG_IP_IER: s_axi_rdata <= {30'd0, ier};
        `REG_IP_ISR: s_axi_rdata <= {30'd0, isr};
        `REG_IMAGE_ADDRESS: s_axi_rdata <= image_address;
        `REG_PICTURE_ADDRESS: s_axi_rdata <= picture_address;
        `REG_RESULT_ADDRESS: s_axi_rdata <= result_address;
        `REG_PICTURE_STRIDE: s_axi_rdata <= picture_stride;
        `REG_RESULT_STRIDE: s_axi_rdata <= result_stride;
        `REG_PICTURES: s_axi_rdata <= {16'd0, pictures};
        `REG_LOAD: s_axi_rdata <= {31'd0, load};
        `REG_VERSION: s_axi_rdata <= `ENGINE_VERSION;
        `REG_PARAMETERS: s_axi_rdata <= {8'd0, 8'(X), 8'd16, 8'd16};
        `REG_ERROR: s_axi_rdata <= {24'd0, error};
        `REG_LOADED: s_axi_rdata <= loaded;
        `REG_PICTURES_DONE: s_axi_rdata <= pictures_done;
        `REG_CYCLES: s_axi_rdata <= cycles;
        `REG_STALL_WEIGHTS: s_axi_rdata <= stall_words;
        `REG_STALL_PICTURE: s_axi_rdata <= stall_picture;
        `REG_STALL_ROWS: s_axi_rdata <= stall_rows;
        `REG_STALL_RESULT: s_axi_rdata <= stall_result;
        default: s_axi_rdata <= 32'd0;
      endcase
    end
    if (done) begin
      done_flag <= 1'b1;
      isr <= isr | ier;             // done and ready come together
    end
    if (rst) begin
      {start, gie, done_flag, s_axi_bvalid, s_axi_rvalid, load} <= 6'd0;
      {ier, isr} <= 4'd0;
      pictures <= 16'd0;
      {image_address, picture_address, result_address, picture_stride, result_stride} <= 160'd0;
    end
  end
endmodule
