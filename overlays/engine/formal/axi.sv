// What the engine promises at its ports, for yosys-smtbmc: the reader with an environment that may do anything AXI4 allows.
//   a request stays until it is accepted; bursts keep the 4 KiB rule and have 1 to 16 beats; no more bursts are on their way
//   than promised; no more beats are asked for than a stream has room for; beats go to the stream that asked.
module axi_reader_properties (
  input clk,
  input run,
  input set0, set1,
  input [31:0] address0, address1,
  input [3:0] beats0, beats1,
  input [13:0] free0,
  input [5:0] free1,
  input arready, rvalid, rlast,
  input [1:0] rresp
);
  reg started = 0;
  wire rst = !started;
  always @(posedge clk) started <= 1;
  wire pending1, take0, take1, valid0, valid1, idle, error, arvalid, rready;
  wire [4:0] take_beats;
  wire [31:0] araddr;
  wire [7:0] arlen;
  axi_reader dut (
    .clk, .rst, .run, .set0, .set1, .address0({address0[31:4], 4'd0}), .address1({address1[31:4], 4'd0}),
    .beats0({26'd0, beats0, 2'd0}), .beats1({26'd0, beats1, 2'd0}), .room0(free0), .room1(free1), .pending1, .take0, .take1,
    .take_beats, .valid0, .valid1, .data(), .idle, .error, .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arvalid(arvalid),
    .m_axi_arready(arready), .m_axi_rdata(128'd0), .m_axi_rresp(rresp), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid),
    .m_axi_rready(rready));
  // The environment answers bursts in order, beat by beat, and nothing else.
  reg [3:0] bursts = 0;
  reg [7:0] lengths[0:15];
  reg owners[0:15];
  reg [3:0] head = 0, tail = 0;
  reg [7:0] beat = 0;
  reg last_valid = 0, last_owner = 0;
  reg ar_waits = 0;
  reg [31:0] ar_address;
  reg [7:0] ar_length;
  reg [5:0] free1_before;
  reg [13:0] free0_before;
  reg owner;
  reg [5:0] left0 = 0, left1 = 0;   // beats still to be asked for
  wire asked = arvalid && arready, ended = rvalid && rready && rlast;
  always @(posedge clk) begin
    if (!started) begin
      assume (!rvalid && !set0 && !set1);
    end else begin
      // A stream is set only when all of it has been asked for, and only during a run.
      assume (!set0 || (run && left0 == 0));
      assume (!set1 || (run && left1 == 0));
      assume (!rvalid || bursts != 0);
      assume (rlast == (beat == lengths[tail]));
      // Room shrinks only by what is taken.
      assume (free0 >= free0_before || take0);
      assume (free1 >= free1_before || take1);
      if (ar_waits) begin
        assert (arvalid);
        assert (araddr == ar_address);
        assert (arlen == ar_length);
      end
      if (arvalid) begin
        assert (arlen < 16);
        assert (araddr[3:0] == 0);
        assert ({1'b0, araddr[11:0]} + {1'b0, arlen + 8'd1, 4'd0} <= 13'd4096);
      end
      assert (bursts <= 8);
      assert (!idle || bursts == 0);
      if (take0) assert ({1'b0, take_beats} <= left0);
      if (take1) assert ({1'b0, take_beats} <= left1);
      assert (rready);
      if (take0) assert (take_beats != 0 && {9'd0, take_beats} <= free0_before);
      if (take1) assert (take_beats != 0 && {1'b0, take_beats} <= free1_before);
      assert (!(take0 && take1));
      assert (valid0 == (last_valid && !last_owner));
      assert (valid1 == (last_valid && last_owner));
    end
    free0_before <= free0;
    free1_before <= free1;
    ar_waits <= started && arvalid && !arready;
    ar_address <= araddr;
    ar_length <= arlen;
    last_valid <= started && rvalid && rready;
    last_owner <= owners[tail];
    if (take0 || take1) owner <= take1;
    left0 <= !started ? 6'd0 : set0 ? {beats0, 2'd0} : left0 - (take0 ? {1'b0, take_beats} : 6'd0);
    left1 <= !started ? 6'd0 : set1 ? {beats1, 2'd0} : left1 - (take1 ? {1'b0, take_beats} : 6'd0);
    if (started && asked) begin
      lengths[head] <= arlen;
      owners[head] <= (take0 || take1) ? take1 : owner;
      head <= head + 1;
    end
    if (started && rvalid && rready) beat <= rlast ? 8'd0 : beat + 8'd1;
    if (started && ended) tail <= tail + 1;
    bursts <= bursts + (started && asked) - (started && ended);
  end
endmodule

// The writer: a request and its data stay until they are accepted, four beats a burst with WLAST on the fourth, bursts
// aligned to 64 bytes; tiles promised never exceed the FIFO.
module axi_writer_properties (
  input clk,
  input run, start,
  input [31:0] address, stride,
  input tile_wish,
  input beat_end,
  input [127:0] beat,
  input awready, wready, bvalid,
  input [1:0] bresp
);
  reg started = 0;
  wire rst = !started;
  always @(posedge clk) started <= 1;
  wire room, idle, error, picture_end, awvalid, wvalid, wlast, bready;
  wire [31:0] awaddr;
  wire [7:0] awlen;
  wire [127:0] wdata;
  // Beats come in fours, some time after a pass that had room began.
  reg [2:0] coming = 0;
  wire tile_started = started && run && tile_wish && room && coming == 0;
  wire beat_valid = coming != 0;
  axi_writer dut (
    .clk, .rst, .run, .start, .address({address[31:6], 6'd0}), .stride({stride[31:6], 6'd0}), .tile_started, .beat_valid,
    .beat_picture_end(beat_end), .beat, .room, .idle, .error, .picture_end, .m_axi_awaddr(awaddr), .m_axi_awlen(awlen),
    .m_axi_awvalid(awvalid), .m_axi_awready(awready), .m_axi_wdata(wdata), .m_axi_wlast(wlast), .m_axi_wvalid(wvalid),
    .m_axi_wready(wready), .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready));
  reg aw_waits = 0, w_waits = 0, aw_done = 0, w_done = 0;
  reg [31:0] aw_address;
  reg [127:0] w_data;
  reg [1:0] count = 0;
  reg [4:0] owed = 0;               // passes whose results are not in memory
  always @(posedge clk) begin
    if (started) begin
      assume (run);
      assume (!start || (idle && owed == 0 && !tile_started));
      // A response comes only after address and data.
      assume (!bvalid || (aw_done && w_done));
      if (aw_waits) assert (awvalid && awaddr == aw_address);
      if (w_waits) assert (wvalid && wdata == w_data);
      if (awvalid) assert (awlen == 3);
      if (wvalid) assert (wlast == (count == 3));
      assert (owed <= 15);
    end
    owed <= owed + tile_started - (started && bvalid && bready);
    coming <= tile_started ? 3'd4 : coming != 0 ? coming - 3'd1 : 3'd0;
    aw_waits <= started && awvalid && !awready;
    w_waits <= started && wvalid && !wready;
    aw_address <= awaddr;
    w_data <= wdata;
    if (started && wvalid && wready) count <= count + 2'd1;
    if (started && awvalid && awready) aw_done <= 1;
    if (started && wvalid && wready && wlast) w_done <= 1;
    if (started && bvalid && bready) {aw_done, w_done} <= 2'b00;
  end
endmodule

// The register file: every access is answered once, answers stay until they are taken, a start is one cycle and never
// while the core is busy, and addresses do not change while it is.
module registers_properties (
  input clk,
  input [7:0] awaddr, araddr,
  input awvalid, wvalid, bready, arvalid, rready,
  input [31:0] wdata,
  input [3:0] wstrb,
  input busy, done
);
  reg started = 0;
  wire rst = !started;
  always @(posedge clk) started <= 1;
  wire awready, wready, bvalid, arready, rvalid, irq, start, load;
  wire [31:0] rdata, image_address, picture_address, result_address, picture_stride, result_stride;
  wire [15:0] pictures;
  registers dut (
    .clk, .rst, .s_axi_awaddr(awaddr), .s_axi_awvalid(awvalid), .s_axi_awready(awready), .s_axi_wdata(wdata), .s_axi_wstrb(wstrb),
    .s_axi_wvalid(wvalid), .s_axi_wready(wready), .s_axi_bresp(), .s_axi_bvalid(bvalid), .s_axi_bready(bready),
    .s_axi_araddr(araddr), .s_axi_arvalid(arvalid), .s_axi_arready(arready), .s_axi_rdata(rdata), .s_axi_rresp(),
    .s_axi_rvalid(rvalid), .s_axi_rready(rready), .irq, .start, .busy, .done, .image_address, .picture_address, .result_address,
    .picture_stride, .result_stride, .pictures, .load, .error(8'd0), .loaded(32'd0), .pictures_done(32'd0), .cycles(32'd0),
    .stall_words(32'd0), .stall_picture(32'd0), .stall_rows(32'd0), .stall_result(32'd0));
  reg reads = 0, writes = 0, r_waits = 0, b_waits = 0, was_busy = 0, was_start = 0;
  reg [31:0] r_data;
  reg [175:0] settings;
  wire [175:0] now = {image_address, picture_address, result_address, picture_stride, result_stride, pictures};
  always @(posedge clk) begin
    if (started) begin
      assume (!was_start || busy);  // the core answers a start by being busy
      assert (awready == wready);
      assert (rvalid == reads);
      assert (bvalid == writes);
      if (r_waits) assert (rvalid && rdata == r_data);
      if (b_waits) assert (bvalid);
      if (start) assert (!was_start);
      if (was_busy) assert (!start);
      if (was_busy) assert (now == settings);
    end
    reads <= started && ((arvalid && arready) || (reads && !rready));
    writes <= started && ((awvalid && awready) || (writes && !bready));
    r_waits <= started && rvalid && !rready;
    b_waits <= started && bvalid && !bready;
    r_data <= rdata;
    was_busy <= started && (busy || start);
    was_start <= started && start;
    settings <= now;
  end
endmodule
