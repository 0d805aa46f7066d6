// Walks the layer descriptors and issues one step a cycle: loops pass (16 output channels), row, group of pixels, slice.
// Waits happen here only; what has been issued goes through the pipeline without a stop.
// All outputs are registers; edge 0 of the pipeline is the edge that writes them.
`include "engine_contract.svh"
module sequencer #(parameter X = 2, parameter NC = 4, parameter U = 4) (
  input clk,
  input rst,                       // also between runs
  input start,
  input [15:0] pictures,
  input resident,
  // The next descriptor.
  input [511:0] next,
  input next_valid,
  output reg next_take,
  // Progress of others.
  input words_ready,               // the ring holds the words of the pass at hand
  input [8:0] rows_written0, rows_written1, // rows of the last pass that are in memory, by descriptor parity
  input [9:0] picture_rows,        // rows of pictures in the ring, counted from the first one not released
  input result_room,
  output reg [6:0] pass_words,     // slices of the pass at hand, for words_ready
  output reg pass_done,            // one cycle: 3 + pass_words ring words are free (in flight)
  output reg [3:0] release_groups, // one cycle, with release_valid
  output reg [11:0] release_words,
  output reg release_valid,
  output reg clear_rows,           // one cycle: rows_written of clear_parity starts at zero
  output reg clear_parity,
  output reg tile_started,         // one cycle: a pass whose sums will be written
  output reg finished,             // one cycle: the last step of the last picture was issued
  output reg bad,                  // one cycle: the descriptor is not legal
  output reg stall_words, stall_picture, stall_rows, stall_result,
  // The step.
  output reg is_header,
  output reg [1:0] header_index,
  output reg first, accumulate, last,
  output reg [6:0] slice,
  output reg [9:0] ring_offset,    // from the start of the picture's or the stream's words
  output reg parity,
  output reg stem, one, stride2, wide, codes,
  output reg [1:0] row_class,
  output reg pad_top, pad_bottom, pad_left, pad_right,
  output reg [2:0] right_pixels,
  output reg capture,
  output reg [2:0] capture_slice,
  // Source addresses: of A and B (1x1) the sum of row, column and slice; of the picture row and column.
  output reg [11:0] src_row, src_row_step, src_col,
  output reg [6:0] src_col_step,
  output reg [1:0] src_bank,
  output reg [2:0] src_phase,
  output reg [1:0] src_split,
  output reg fetch,
  output reg [1:0] fetch_part,
  output reg advance,
  // 16-bit shortcut.
  output reg sc_read, sc_first,
  output reg [1:0] sc_part,
  output reg [11:0] sc_row, sc_row_step, sc_col,
  output reg [6:0] sc_tile,
  output reg sc_phase,
  // What the element becomes; one more for the stem's second half, in the next cycle.
  output reg event_valid,
  output reg event_stores, event_to_b, event_wide, event_final, event_last, event_row_end, event_picture_end,
  output reg event_parity,
  output reg [11:0] dst_row, dst_col,
  output reg [6:0] dst_pass,
  output reg [1:0] dst_bank, dst_split,
  output reg [2:0] dst_phase,
  output reg [11:0] wide_row, wide_col,
  output reg wide_phase,
  output reg [2:0] event_pixels
);
  localparam IDLE = 3'd0, NEXT = 3'd1, PASS = 3'd2, HEAD = 3'd3, RUN = 3'd4;
  localparam KEEP = X > 1;
  reg [2:0] state;
  reg [511:0] d;
  reg [15:0] picture;
  reg parity_now, descriptor_parity;
  reg [4:0] spacing;

  // ---- fields of the descriptor at hand
  wire [1:0] f_kind = d[`D_KIND];
  wire is_stem = f_kind == 2'd0, is_one = f_kind == 2'd2;
  wire f_stride2 = d[`D_STRIDE2], f_wide = d[`D_WIDE], f_final = d[`D_FINAL], f_wait = d[`D_WAIT];
  wire [6:0] f_steps = d[`D_STEPS], f_slices = d[`D_SLICES], f_passes = d[`D_PASSES], f_groups = d[`D_GROUPS];
  wire [7:0] f_rows = d[`D_ROWS];
  wire [7:0] f_need_max = d[`D_NEED_MAX];
  wire [11:0] f_src_row_step = d[`D_SRC_ROW_STEP], f_sc_row_step = d[`D_SC_ROW_STEP];
  wire [11:0] f_src_col_step = {5'd0, d[`D_SRC_COL_STEP]};

  // ---- counters
  reg [6:0] pass, group, step, sc_slice;
  reg [7:0] row;
  reg [1:0] flush;               // the stem's two groups after the last one read
  reg [9:0] base;                // ring words before this pass
  reg [7:0] need;
  reg row_ok;
  // Source pointers.
  reg [11:0] s_row, s_col, c_row, c_col;
  reg [1:0] s_bank;
  reg [3:0] s_phase;             // 3x3: bank of the window's first column; 1x1: column group in a row of banks
  reg c_phase;
  // The stem computes two groups behind the one it reads.
  reg lag1, lag2;                // there is such a group
  reg [3:0] lag1_pads, lag2_pads;  // top, bottom, left, right

  wire last_step = step + 7'd1 == f_steps;
  wire last_group = group + 7'd1 == f_groups;
  wire last_row = row + 8'd1 == f_rows;
  wire go = state == RUN && (step != 0 || row_ok || flush != 0);
  wire p_top = d[`D_PAD_TOP] && row == 0;
  wire p_bottom = d[`D_PAD_BOTTOM] && last_row;
  // With stride 2 and maps of an even size nothing lies to the right of the last pixel.
  wire [3:0] pads = {p_top, p_bottom, group == 0, last_group && !f_stride2};
  wire [3:0] pads_now = is_stem ? lag2_pads : pads;
  wire computes = is_stem ? lag2 : 1'b1;
  wire pass_end = go && last_step && (is_stem ? flush == 2'd2 : last_group && last_row);

  // ---- rows that must be there
  wire [8:0] rows_before = descriptor_parity ? rows_written0 : rows_written1;
  wire [9:0] rows_there = is_stem ? picture_rows : {1'b0, rows_before};
  wire [8:0] need_more = {1'b0, need} + (f_stride2 ? 9'd2 : 9'd1);
  wire [7:0] need_next = need_more > {1'b0, f_need_max} ? f_need_max : need_more[7:0];
  wire enough = !f_wait || rows_there >= {2'b0, need};

  // ---- legality: what would hang or run away; the compiler checks the rest
  wire [1:0] n_kind = next[`D_KIND];
  wire [6:0] n_steps = next[`D_STEPS], n_slices = next[`D_SLICES];
  wire illegal = next[`D_CHECK] != 8'hD5 || n_kind == 2'd3 || n_steps == 0 || n_slices == 0 || n_slices > n_steps ||
                 next[`D_PASSES] == 0 || next[`D_GROUPS] == 0 || next[`D_ROWS] == 0 || next[`D_LAST_PIXELS] == 0 ||
                 next[`D_LAST_PIXELS] > X || next[`D_SC_SLICES] == 0 || (n_kind == 2'd0 && n_steps != 7'd6) ||
                 (next[`D_FINAL] && (n_steps < X || n_kind == 2'd0)) ||
                 (n_kind == 2'd1 && next[`D_STRIDE2] && n_steps < 7'd2) ||
                 (next[`D_WIDE] && next[`D_STRIDE2] && n_kind != 2'd0 && n_steps < 7'd4);

  // ---- source steps
  localparam [3:0] COLUMNS = NC;
  wire [4:0] a_next = {1'b0, s_phase} + (f_stride2 ? 5'd2 * X : X);
  wire a_wraps = a_next >= {1'b0, COLUMNS};
  wire [3:0] a_phase = a_wraps ? a_next[3:0] - COLUMNS : a_next[3:0];
  wire [3:0] a_first = (f_stride2 && KEEP) ? 4'd0 : COLUMNS - 4'd1;
  wire [11:0] a_col_first = (f_stride2 && KEEP) ? 12'd0 : 12'd0 - f_src_col_step;
  wire [3:0] one_next = s_phase + 4'd1;
  wire one_wraps = one_next == (4'd1 << d[`D_SRC_SPLIT]);
  wire [2:0] bank_next = {1'b0, s_bank} + (f_stride2 ? 3'd2 : 3'd1);
  localparam [2:0] PARTS1 = 2*X/U, PARTS2 = 4*X/U;   // reads of a block of the picture
  wire [2:0] parts = f_stride2 ? PARTS2 : PARTS1;

  always @(posedge clk) begin
    next_take <= 1'b0;
    pass_done <= 1'b0;
    release_valid <= 1'b0;
    clear_rows <= 1'b0;
    tile_started <= 1'b0;
    finished <= 1'b0;
    bad <= 1'b0;
    {stall_words, stall_picture, stall_rows, stall_result} <= 4'd0;
    is_header <= 1'b0;
    fetch <= 1'b0;
    advance <= 1'b0;
    sc_read <= 1'b0;
    capture <= 1'b0;
    last <= 1'b0;
    accumulate <= 1'b0;
    if (spacing != 0) spacing <= spacing - 5'd1;
    row_ok <= enough || pass != 0;
    case (state)
      IDLE:
        if (start) begin
          state <= NEXT;
          picture <= 16'd0;
          base <= 10'd0;
        end
      NEXT:
        if (next_valid && !next_take) begin
          d <= next;
          next_take <= 1'b1;
          pass <= 7'd0;
          sc_slice <= 7'd0;
          descriptor_parity <= !descriptor_parity;
          clear_rows <= 1'b1;
          clear_parity <= !descriptor_parity;
          pass_words <= n_slices;
          bad <= illegal;
          state <= illegal ? IDLE : PASS;
        end
      PASS: begin
        row <= 8'd0;
        group <= 7'd0;
        step <= 7'd0;
        flush <= 2'd0;
        {lag1, lag2} <= 2'b00;
        need <= d[`D_NEED_FIRST];
        s_row <= d[`D_SRC_BASE];
        s_bank <= d[`D_SRC_ROW];
        s_col <= f_kind == 2'd1 ? a_col_first : 12'd0;
        s_phase <= f_kind == 2'd1 ? a_first : 4'd0;
        c_row <= d[`D_SC_BASE];
        c_col <= 12'd0;
        c_phase <= 1'b0;
        header_index <= 2'd0;
        if (f_final && !result_room) stall_result <= 1'b1;
        else if (!words_ready) stall_words <= 1'b1;
        else if (spacing == 0) begin
          state <= HEAD;
          parity_now <= !parity_now;
          tile_started <= f_final;
        end
      end
      HEAD: begin
        is_header <= 1'b1;
        header_index <= is_header ? header_index + 2'd1 : 2'd0;
        ring_offset <= base + (is_header ? {8'd0, header_index} + 10'd1 : 10'd0);
        if (is_header && header_index == 2'd1) begin
          state <= RUN;
          spacing <= 5'd16;
        end
      end
      default: begin  // RUN
        if (!go) begin
          stall_picture <= is_stem;
          stall_rows <= !is_stem;
        end else begin
          first <= step == 0;
          accumulate <= computes && step < f_slices;
          last <= computes && last_step;
          slice <= step;
          ring_offset <= base + 10'd3 + {3'd0, step};
          fetch <= is_stem && flush == 0 && step < {4'd0, parts};
          fetch_part <= step[1:0];
          advance <= is_stem && step == 0;
          capture <= !is_stem && step == (is_one ? {3'd0, sc_slice[6:3]} : sc_slice);
          sc_read <= f_wide && !is_stem && (f_stride2 ? step < 7'd4 : step == 0);
          sc_first <= step == 0;
          sc_part <= step[1:0];
          {pad_top, pad_bottom, pad_left, pad_right} <= pads_now;
          row_class <= pads_now[3] ? 2'd0 : pads_now[2] ? 2'd2 : 2'd1;
          src_row <= s_row;
          src_col <= s_col;
          src_bank <= s_bank;
          src_phase <= (f_kind == 2'd1 && KEEP) ? {2'd0, s_phase != COLUMNS - 4'd1 && !f_stride2} : s_phase[2:0];
          sc_row <= c_row;
          sc_col <= c_col;
          sc_phase <= c_phase;
          step <= last_step ? 7'd0 : step + 7'd1;
          if (last_step) begin
            lag1 <= flush == 0;
            lag2 <= lag1;
            lag1_pads <= pads;
            lag2_pads <= lag1_pads;
            if (flush != 0) flush <= flush + 2'd1;
            else begin
              group <= last_group ? 7'd0 : group + 7'd1;
              if (last_group) begin
                row <= row + 8'd1;
                need <= need_next;
                row_ok <= !f_wait || pass != 0 || rows_there >= {2'b0, need_next};
                if (is_stem && last_row) flush <= 2'd1;
              end
              // Source pointers: the next group, or the first of the next row.
              if (last_group) begin
                s_col <= f_kind == 2'd1 ? a_col_first : 12'd0;
                s_phase <= f_kind == 2'd1 ? a_first : 4'd0;
                s_bank <= bank_next[1:0];
                if (is_one || bank_next[2]) s_row <= s_row + f_src_row_step;
                c_col <= 12'd0;
                c_phase <= 1'b0;
                c_row <= c_row + (f_stride2 ? {f_sc_row_step[10:0], 1'b0} : f_sc_row_step);
              end else begin
                if (is_stem) s_col <= s_col + {9'd0, parts};
                else if (is_one) begin
                  s_phase <= one_wraps ? 4'd0 : one_next;
                  if (one_wraps) s_col <= s_col + f_src_col_step;
                end else begin
                  s_phase <= a_phase;
                  if (a_wraps) s_col <= s_col + f_src_col_step;
                end
                if (f_stride2 || c_phase) c_col <= c_col + {5'd0, d[`D_SC_COL_STEP]};
                if (!f_stride2) c_phase <= !c_phase;
              end
            end
          end
          if (pass_end) begin
            pass_done <= 1'b1;
            base <= base + 10'd3 + {3'd0, f_slices};
            pass <= pass + 7'd1;
            sc_slice <= sc_slice + 7'd1 == d[`D_SC_SLICES] ? 7'd0 : sc_slice + 7'd1;
            state <= PASS;
            if (pass + 7'd1 == f_passes) begin
              state <= NEXT;
              if (is_stem) begin
                release_valid <= 1'b1;
                release_groups <= d[`D_RELEASE];
                release_words <= d[`D_RELEASE_WORDS];
              end
              if (d[`D_LAST]) begin
                picture <= picture + 16'd1;
                if (resident) base <= 10'd0;
                if (picture + 16'd1 == pictures) begin
                  state <= IDLE;
                  finished <= 1'b1;
                end
              end
            end
          end
        end
      end
    endcase
    // Fields that go along unchanged.
    parity <= parity_now;
    {stem, one, stride2, wide, codes} <= {is_stem, is_one, f_stride2, f_wide, d[`D_CODES]};
    right_pixels <= d[`D_LAST_PIXELS];
    capture_slice <= sc_slice[2:0];
    src_row_step <= f_src_row_step;
    src_col_step <= d[`D_SRC_COL_STEP];
    src_split <= d[`D_SRC_SPLIT];
    sc_row_step <= f_sc_row_step;
    sc_tile <= sc_slice;
    if (rst) begin
      state <= IDLE;
      {parity_now, descriptor_parity} <= 2'b00;
      spacing <= 5'd0;
      row_ok <= 1'b0;
      is_header <= 1'b0;
    end
  end

  // ---- where elements go: pointers that move with every element, two elements a group for the stem
  reg second;                        // the stem's second half follows
  reg [7:0] t_group, t_groups;
  reg [11:0] t_row, t_col, v_row, v_col, t_row_step, v_row_step;
  reg [6:0] t_pass, t_col_step, v_col_step;
  reg [1:0] t_bank;
  reg [3:0] t_phase, t_phases;
  reg v_phase, t_last_pass;
  reg [7:0] t_rows;
  wire ends = go && computes && last_step;
  wire is_event = ends || second;
  wire t_last = t_group + 8'd1 == t_groups;
  always @(posedge clk) begin
    second <= ends && is_stem;
    event_valid <= is_event;
    event_parity <= descriptor_parity;
    event_stores <= !f_final;
    event_to_b <= d[`D_TO_B];
    event_wide <= f_wide && !f_final;
    event_final <= f_final;
    event_last <= t_last && t_rows == 8'd1;
    event_picture_end <= t_last && t_rows == 8'd1 && t_last_pass && d[`D_LAST];
    event_row_end <= t_last && t_last_pass;
    event_pixels <= t_last ? d[`D_LAST_PIXELS] : X;
    {dst_row, dst_col, dst_pass, dst_bank, dst_phase} <= {t_row, t_col, t_pass, t_bank, t_phase[2:0]};
    dst_split <= d[`D_DST_SPLIT];
    {wide_row, wide_col, wide_phase} <= {v_row, v_col, v_phase};
    if (is_event) begin
      t_group <= t_last ? 8'd0 : t_group + 8'd1;
      t_phase <= (t_last || t_phase + 4'd1 == t_phases) ? 4'd0 : t_phase + 4'd1;
      v_phase <= t_last ? 1'b0 : !v_phase;
      if (t_last) begin
        t_col <= 12'd0;
        v_col <= 12'd0;
        t_rows <= t_rows - 8'd1;
        t_bank <= t_bank + 2'd1;
        if (d[`D_TO_B] || t_bank == 2'd3) t_row <= t_row + t_row_step;
        v_row <= v_row + v_row_step;
      end else begin
        if (t_phase + 4'd1 == t_phases) t_col <= t_col + {5'd0, t_col_step};
        if (v_phase) v_col <= v_col + {5'd0, v_col_step};
      end
    end
    if (state == HEAD) begin
      t_group <= 8'd0;
      t_groups <= is_stem ? {f_groups, 1'b0} : {1'b0, f_groups};
      t_rows <= f_rows;
      t_row <= d[`D_DST_BASE];
      t_col <= 12'd0;
      t_bank <= d[`D_DST_ROW];
      t_row_step <= d[`D_DST_ROW_STEP];
      t_col_step <= d[`D_DST_COL_STEP];
      t_phase <= 4'd0;
      t_phases <= d[`D_TO_B] ? 4'd1 << d[`D_DST_SPLIT] : COLUMNS / X;
      v_row <= d[`D_WIDE_BASE];
      v_col <= 12'd0;
      v_phase <= 1'b0;
      v_row_step <= d[`D_WIDE_ROW_STEP];
      v_col_step <= d[`D_WIDE_COL_STEP];
      t_pass <= pass;
      t_last_pass <= pass + 7'd1 == f_passes;
    end
    if (rst) second <= 1'b0;
  end
endmodule
