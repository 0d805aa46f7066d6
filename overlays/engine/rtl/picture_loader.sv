// Reads pictures ahead (uint8 RGB, row by row) and turns every byte into a thermometer level, 0 to 32, on its way into the
// ring of rows: 4 row banks of U column banks, 18 bits a pixel.
module picture_loader #(parameter U = 4, parameter D = 1024) (
  input clk,
  input rst,                        // also between runs
  input start,                      // one cycle, when the image's header is known
  input [31:0] address, stride,
  input [15:0] pictures,
  input [9:0] size,                 // pixels of a row, and rows
  input [11:0] row_step,
  // The memory port's stream 1.
  output reg set,
  output reg [31:0] set_address,
  output [5:0] room,
  input pending,
  input take,
  input [4:0] take_beats,
  input valid,
  input [127:0] data,
  // The ring.
  output reg [3:0] ring_write,
  output reg [11:0] ring_address,
  output reg [U*18-1:0] ring_data,
  input release_valid,
  input [3:0] release_groups,
  input [11:0] release_words,
  output reg [11:0] tail,           // first word not released
  output reg [9:0] rows             // rows in the ring
);
  // ---- one picture after the other
  reg [15:0] left;
  reg [31:0] at;
  always @(posedge clk) begin
    set <= 1'b0;
    if (start) begin
      left <= pictures;
      at <= address;
    end else if (left != 0 && !pending && !set && !take) begin
      set <= 1'b1;
      set_address <= at;
      at <= at + stride;
      left <= left - 16'd1;
    end
    if (rst) left <= 16'd0;
  end

  // ---- beats wait in a FIFO of 32
  (* ram_style = "distributed" *) reg [127:0] fifo[0:31];
  reg [4:0] head, bottom;
  reg [5:0] promised, stored;
  wire pop;
  assign room = 6'd32 - promised;
  always @(posedge clk) begin
    if (valid) fifo[head] <= data;
    head <= rst ? 5'd0 : head + {4'd0, valid};
    bottom <= rst ? 5'd0 : bottom + {4'd0, pop};
    stored <= rst ? 6'd0 : stored + {5'd0, valid} - {5'd0, pop};
    promised <= rst ? 6'd0 : promised + (take ? {1'b0, take_beats} : 6'd0) - {5'd0, pop};
  end

  // ---- U pixels a cycle out of the bytes; a unit is U bytes, a beat 16 / U of them, U pixels three
  localparam UNITS = 16 / U, UB = 8 * U;
  reg [UB*(UNITS+2)-1:0] bytes;
  reg [4:0] units;
  reg space;                        // this group of four rows has room in the ring
  wire emit = units >= 5'd3 && space;
  wire [4:0] units_left = emit ? units - 5'd3 : units;
  wire [UB*(UNITS+2)-1:0] bytes_left = emit ? bytes >> (3 * UB) : bytes;
  assign pop = units_left < 5'd3 && stored != 0;
  wire [127:0] beat = fifo[bottom];
  // Level of a byte: v / 8, rounded to nearest, ties to the even neighbour.
  function automatic [5:0] level(input [7:0] v);
    level = {1'b0, v[7:3]} + {5'd0, (v[2:0] > 3'd4) || (v[2:0] == 3'd4 && v[3])};
  endfunction
  reg [9:0] column;                 // in steps of U
  reg [9:0] row;
  reg [11:0] group, words;          // ring address of this group of rows; words used
  localparam [9:0] STEP = U;
  localparam [11:0] MASK = D - 1;
  wire last_column = column + STEP == size;
  wire [12:0] group_next = {1'b0, group} + {1'b0, row_step};
  wire [12:0] tail_next = {1'b0, tail} + {1'b0, release_words};
  wire [12:0] place = {1'b0, group} + {3'd0, column} / U;
  // Room comes free after the last read on its way through the pipeline.
  wire freed;
  wire [11:0] freed_words;
  delay #(.N(12)) u_freed (.clk, .d(release_valid && !rst), .q(freed));
  delay #(.W(12), .N(12)) u_words (.clk, .d(release_words), .q(freed_words));
  wire row_done = emit && last_column;
  wire claims = !space && ({1'b0, words} + {1'b0, row_step} <= {1'b0, MASK} + 13'd1);
  integer i;
  always @(posedge clk) begin
    ring_write <= 4'd0;
    bytes <= bytes_left | (pop ? {{(UB*2){1'b0}}, beat} << (units_left * UB) : {(UB*(UNITS+2)){1'b0}});
    units <= units_left + (pop ? UNITS : 5'd0);
    if (emit) begin
      ring_write[row[1:0]] <= 1'b1;
      ring_address <= place[11:0] & MASK;
      for (i = 0; i < U; i = i + 1)
        ring_data[i*18+:18] <= {level(bytes[i*24+16+:8]), level(bytes[i*24+8+:8]), level(bytes[i*24+:8])};
      column <= last_column ? 10'd0 : column + STEP;
      if (last_column) begin
        row <= row + 10'd1;
        if (row[1:0] == 2'd3) begin
          space <= 1'b0;
          group <= group_next[11:0] & MASK;
        end
      end
    end
    if (claims) space <= 1'b1;
    words <= words + (claims ? row_step : 12'd0) - (freed ? freed_words : 12'd0);
    rows <= rows + {9'd0, row_done} - (release_valid ? {4'd0, release_groups, 2'd0} : 10'd0);
    if (release_valid) tail <= tail_next[11:0] & MASK;
    if (rst || start) begin
      bytes <= {(UB*(UNITS+2)){1'b0}};
      units <= 5'd0;
      space <= 1'b0;
      column <= 10'd0;
      row <= 10'd0;
      {group, words, tail} <= 36'd0;
      rows <= 10'd0;
    end
  end
endmodule
