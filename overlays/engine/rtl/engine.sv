// The engine: AXI4-Lite registers, one AXI4 master, loaders, sequencer, datapath, and the run that ties them together.
`include "engine_contract.svh"
module engine #(parameter X = 2) (
  input ap_clk,
  input ap_rst_n,
  input [7:0] s_axi_control_awaddr,
  input s_axi_control_awvalid,
  output s_axi_control_awready,
  input [31:0] s_axi_control_wdata,
  input [3:0] s_axi_control_wstrb,
  input s_axi_control_wvalid,
  output s_axi_control_wready,
  output [1:0] s_axi_control_bresp,
  output s_axi_control_bvalid,
  input s_axi_control_bready,
  input [7:0] s_axi_control_araddr,
  input s_axi_control_arvalid,
  output s_axi_control_arready,
  output [31:0] s_axi_control_rdata,
  output [1:0] s_axi_control_rresp,
  output s_axi_control_rvalid,
  input s_axi_control_rready,
  output [31:0] m_axi_memory_araddr,
  output [7:0] m_axi_memory_arlen,
  output [2:0] m_axi_memory_arsize,
  output [1:0] m_axi_memory_arburst,
  output [3:0] m_axi_memory_arcache,
  output [2:0] m_axi_memory_arprot,
  output m_axi_memory_arvalid,
  input m_axi_memory_arready,
  input [127:0] m_axi_memory_rdata,
  input [1:0] m_axi_memory_rresp,
  input m_axi_memory_rlast,
  input m_axi_memory_rvalid,
  output m_axi_memory_rready,
  output [31:0] m_axi_memory_awaddr,
  output [7:0] m_axi_memory_awlen,
  output [2:0] m_axi_memory_awsize,
  output [1:0] m_axi_memory_awburst,
  output [3:0] m_axi_memory_awcache,
  output [2:0] m_axi_memory_awprot,
  output m_axi_memory_awvalid,
  input m_axi_memory_awready,
  output [127:0] m_axi_memory_wdata,
  output [15:0] m_axi_memory_wstrb,
  output m_axi_memory_wlast,
  output m_axi_memory_wvalid,
  input m_axi_memory_wready,
  input [1:0] m_axi_memory_bresp,
  input m_axi_memory_bvalid,
  output m_axi_memory_bready,
  output irq
);
  localparam NC = X == 4 ? 8 : 4;      // column banks of A
  localparam U = X == 1 ? 2 : 4;       // column banks of the picture ring
  localparam DRAIN = 64;               // more than the pipeline's edges from the sequencer to the sums
  wire clk = ap_clk;
  wire rst = !ap_rst_n;
  assign m_axi_memory_arsize = 3'd4;
  assign m_axi_memory_arburst = 2'b01;
  assign m_axi_memory_arcache = 4'b0011;
  assign m_axi_memory_arprot = 3'b000;
  assign m_axi_memory_awsize = 3'd4;
  assign m_axi_memory_awburst = 2'b01;
  assign m_axi_memory_awcache = 4'b0011;
  assign m_axi_memory_awprot = 3'b000;
  assign m_axi_memory_wstrb = 16'hffff;

  // ---- registers
  wire start, load;
  reg busy, done;
  reg [7:0] error;
  wire [31:0] image_address, picture_address, result_address, picture_stride, result_stride, checksum;
  wire [15:0] pictures;
  reg [31:0] pictures_done, cycles, stall_words, stall_picture, stall_rows, stall_result;
  wire loaded;
  registers #(.X(X)) u_registers (
    .clk, .rst, .s_axi_awaddr(s_axi_control_awaddr), .s_axi_awvalid(s_axi_control_awvalid),
    .s_axi_awready(s_axi_control_awready), .s_axi_wdata(s_axi_control_wdata), .s_axi_wstrb(s_axi_control_wstrb),
    .s_axi_wvalid(s_axi_control_wvalid), .s_axi_wready(s_axi_control_wready), .s_axi_bresp(s_axi_control_bresp),
    .s_axi_bvalid(s_axi_control_bvalid), .s_axi_bready(s_axi_control_bready), .s_axi_araddr(s_axi_control_araddr),
    .s_axi_arvalid(s_axi_control_arvalid), .s_axi_arready(s_axi_control_arready), .s_axi_rdata(s_axi_control_rdata),
    .s_axi_rresp(s_axi_control_rresp), .s_axi_rvalid(s_axi_control_rvalid), .s_axi_rready(s_axi_control_rready), .irq,
    .start, .busy, .done, .image_address, .picture_address, .result_address, .picture_stride, .result_stride, .pictures,
    .load, .error, .loaded(loaded ? checksum : 32'd0), .pictures_done, .cycles, .stall_words, .stall_picture,
    .stall_rows, .stall_result);

  // ---- the run
  localparam IDLE = 3'd0, BEGIN = 3'd1, LOAD = 3'd2, RUN = 3'd3, EMPTY = 3'd4, END = 3'd5;
  reg [2:0] state;
  reg [6:0] drain;
  reg begin_load, begin_run;           // one cycle each
  wire run = busy;
  wire ready, image_bad, descriptor_bad, finished, read_error, write_error, reader_idle, writer_idle, picture_end;
  wire misaligned = image_address[3:0] != 0 || picture_address[3:0] != 0 || picture_stride[3:0] != 0 ||
                    result_address[5:0] != 0 || result_stride[5:0] != 0;
  wire failed = image_bad || descriptor_bad || read_error || write_error;
  wire quiet = rst || state == IDLE || state == BEGIN || state == LOAD || state == END;  // no steps on their way
  wire [3:0] stalls;
  always @(posedge clk) begin
    done <= 1'b0;
    begin_load <= 1'b0;
    begin_run <= 1'b0;
    if (busy) begin
      cycles <= cycles + 32'd1;
      stall_words <= stall_words + {31'd0, stalls[3]};
      stall_picture <= stall_picture + {31'd0, stalls[2]};
      stall_rows <= stall_rows + {31'd0, stalls[1]};
      stall_result <= stall_result + {31'd0, stalls[0]};
      if (picture_end) pictures_done <= pictures_done + 32'd1;
    end
    case (state)
      IDLE:
        if (start) begin
          busy <= 1'b1;
          error <= `ERROR_NONE;
          {pictures_done, cycles, stall_words, stall_picture, stall_rows, stall_result} <= 192'd0;
          state <= BEGIN;
        end
      BEGIN: begin
        state <= LOAD;
        begin_load <= 1'b1;
        if (pictures == 0 || misaligned) begin
          error <= `ERROR_ARGUMENT;
          begin_load <= 1'b0;
          state <= END;
        end else if (!load && !loaded) begin
          error <= `ERROR_NOT_LOADED;
          begin_load <= 1'b0;
          state <= END;
        end
      end
      LOAD:
        if (ready && !begin_load) begin
          begin_run <= 1'b1;
          state <= RUN;
        end
      RUN: begin
        drain <= DRAIN;
        if (finished) state <= EMPTY;
      end
      EMPTY: begin
        if (drain != 0) drain <= drain - 7'd1;
        else if (writer_idle && reader_idle) state <= END;
      end
      default: // END: after an error, what was in the pipeline runs out before the next run can begin
        if (drain != 0) drain <= drain - 7'd1;
        else if (reader_idle && writer_idle) begin
          busy <= 1'b0;
          done <= 1'b1;
          state <= IDLE;
        end
    endcase
    if ((state == LOAD || state == RUN || state == EMPTY) && failed) begin
      error <= image_bad ? `ERROR_IMAGE : descriptor_bad ? `ERROR_DESCRIPTOR : read_error ? `ERROR_READ : `ERROR_WRITE;
      drain <= DRAIN;
      state <= END;
    end
    if (rst) begin
      state <= IDLE;
      {busy, done, begin_load, begin_run} <= 4'd0;
      drain <= 7'd0;
      error <= 8'd0;
      {pictures_done, cycles, stall_words, stall_picture, stall_rows, stall_result} <= 192'd0;
    end
  end

  // ---- memory port
  wire set0, set1, pending1, take0, take1, valid0, valid1;
  wire [31:0] address0, address1, beats0, beats1;
  wire [13:0] room0;
  wire [5:0] room1;
  wire [4:0] take_beats;
  wire [127:0] data;
  axi_reader u_reader (
    .clk, .rst, .run(run && state != END), .set0, .set1, .address0, .address1, .beats0, .beats1, .room0, .room1,
    .pending1, .take0, .take1, .take_beats, .valid0, .valid1, .data, .idle(reader_idle), .error(read_error),
    .m_axi_araddr(m_axi_memory_araddr), .m_axi_arlen(m_axi_memory_arlen), .m_axi_arvalid(m_axi_memory_arvalid),
    .m_axi_arready(m_axi_memory_arready), .m_axi_rdata(m_axi_memory_rdata), .m_axi_rresp(m_axi_memory_rresp),
    .m_axi_rlast(m_axi_memory_rlast), .m_axi_rvalid(m_axi_memory_rvalid), .m_axi_rready(m_axi_memory_rready));
  wire tile_started, beat_valid, beat_picture_end, result_room;
  wire [127:0] beat;
  axi_writer u_writer (
    .clk, .rst, .run(run && state != END), .start(begin_run), .address(result_address), .stride(result_stride),
    .tile_started, .beat_valid, .beat_picture_end, .beat, .room(result_room), .idle(writer_idle), .error(write_error),
    .picture_end, .m_axi_awaddr(m_axi_memory_awaddr), .m_axi_awlen(m_axi_memory_awlen),
    .m_axi_awvalid(m_axi_memory_awvalid), .m_axi_awready(m_axi_memory_awready), .m_axi_wdata(m_axi_memory_wdata),
    .m_axi_wlast(m_axi_memory_wlast), .m_axi_wvalid(m_axi_memory_wvalid), .m_axi_wready(m_axi_memory_wready),
    .m_axi_bresp(m_axi_memory_bresp), .m_axi_bvalid(m_axi_memory_bvalid), .m_axi_bready(m_axi_memory_bready));

  // ---- loaders
  wire ring_write, pass_done, words_ready, next_valid, next_take, resident, release_valid;
  wire [8:0] ring_address;
  wire [4:0] ring_part;
  wire [127:0] ring_data;
  wire [6:0] pass_words;
  wire [511:0] next;
  wire [31:0] picture_beats;
  wire [11:0] picture_row_step, release_words, picture_ring_address, picture_tail;
  wire [9:0] picture_size, picture_rows;
  wire [3:0] release_groups, picture_write;
  wire [U*18-1:0] picture_data;
  program_loader #(.X(X)) u_program (
    .clk, .rst, .run(run && state != END), .start(begin_load), .load, .image_address, .pictures, .set(set0), .address(address0),
    .beats(beats0), .room(room0), .take(take0), .take_beats, .valid(valid0), .data, .ring_write, .ring_address, .ring_part,
    .ring_data, .pass_done, .pass_words, .words_ready, .next, .next_valid, .next_take, .ready, .loaded, .resident, .checksum,
    .picture_beats, .picture_row_step, .picture_size, .bad(image_bad));
  assign beats1 = picture_beats;
  picture_loader #(.U(U), .D(4096 / U)) u_picture (
    .clk, .rst(quiet), .start(begin_run), .address(picture_address), .stride(picture_stride), .pictures,
    .size(picture_size), .row_step(picture_row_step), .set(set1), .set_address(address1), .room(room1), .pending(pending1),
    .take(take1), .take_beats, .valid(valid1), .data, .ring_write(picture_write), .ring_address(picture_ring_address),
    .ring_data(picture_data), .release_valid, .release_groups, .release_words, .tail(picture_tail), .rows(picture_rows));

  // ---- sequencer and datapath
  wire clear_rows, clear_parity;
  wire [8:0] rows_written0, rows_written1;
  wire is_header, first, accumulate, last, parity, stem, one, stride2, wide, codes, pad_top, pad_bottom, pad_left,
       pad_right, capture, fetch, advance, sc_read, sc_first, sc_phase, event_valid, event_stores, event_to_b, event_wide,
       event_final, event_last, event_row_end, event_picture_end, event_parity, wide_phase;
  wire [1:0] header_index, row_class, src_bank, src_split, fetch_part, sc_part, dst_bank, dst_split;
  wire [2:0] right_pixels, capture_slice, src_phase, dst_phase, event_pixels;
  wire [6:0] slice, src_col_step, sc_tile, dst_pass;
  wire [9:0] ring_offset;
  wire [11:0] src_row, src_row_step, src_col, sc_row, sc_row_step, sc_col, dst_row, dst_col, wide_row, wide_col;
  sequencer #(.X(X), .NC(NC), .U(U)) u_sequencer (
    .clk, .rst(quiet), .start(begin_run), .pictures, .resident, .next, .next_valid, .next_take, .words_ready,
    .rows_written0, .rows_written1, .picture_rows, .result_room, .pass_words, .pass_done, .release_groups, .release_words,
    .release_valid, .clear_rows, .clear_parity, .tile_started, .finished, .bad(descriptor_bad),
    .stall_words(stalls[3]), .stall_picture(stalls[2]), .stall_rows(stalls[1]), .stall_result(stalls[0]),
    .is_header, .header_index, .first, .accumulate, .last, .slice, .ring_offset, .parity, .stem, .one, .stride2,
    .wide, .codes, .row_class, .pad_top, .pad_bottom, .pad_left, .pad_right, .right_pixels, .capture, .capture_slice,
    .src_row, .src_row_step, .src_col, .src_col_step, .src_bank, .src_phase, .src_split, .fetch, .fetch_part, .advance,
    .sc_read, .sc_first, .sc_part, .sc_row, .sc_row_step, .sc_col, .sc_tile, .sc_phase, .event_valid, .event_stores,
    .event_to_b, .event_wide, .event_final, .event_last, .event_row_end, .event_picture_end, .event_parity,
    .dst_row, .dst_col, .dst_pass, .dst_bank, .dst_split, .dst_phase, .wide_row, .wide_col, .wide_phase, .event_pixels);
  datapath #(.X(X), .NC(NC), .U(U)) u_datapath (
    .clk, .rst(quiet), .is_header, .first, .accumulate, .last, .parity, .stem, .one, .stride2, .wide, .codes,
    .header_index, .row_class, .slice, .ring_offset, .pad_top, .pad_bottom, .pad_left, .pad_right, .right_pixels, .capture,
    .capture_slice, .src_row, .src_row_step, .src_col, .src_col_step, .src_bank, .src_split, .src_phase, .fetch, .advance,
    .fetch_part, .sc_read, .sc_first, .sc_part, .sc_row, .sc_row_step, .sc_col, .sc_tile, .sc_phase, .event_valid,
    .event_stores, .event_to_b, .event_wide, .event_final, .event_last, .event_row_end, .event_picture_end,
    .event_parity, .dst_row, .dst_col, .wide_row, .wide_col, .dst_pass, .dst_bank, .dst_split, .dst_phase, .wide_phase,
    .event_pixels, .clear_rows, .clear_parity, .rows_written0, .rows_written1, .ring_write, .ring_address, .ring_part,
    .ring_data, .picture_write, .picture_address(picture_ring_address), .picture_tail, .picture_data, .beat_valid, .beat_picture_end,
    .beat);
endmodule
