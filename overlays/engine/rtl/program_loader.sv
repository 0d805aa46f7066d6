// Reads the memory image: header, descriptors, ring words. Keeps the descriptors and hands them out one after the other;
// fills the ring, once (resident) or again for every picture as room comes free.
`include "engine_contract.svh"
module program_loader #(parameter X = 2) (
  input clk,
  input rst,
  input run,
  input start,                      // one cycle
  input load,                       // with start: read header and descriptors too
  input [31:0] image_address,
  input [15:0] pictures,
  // The memory port's stream 0.
  output reg set,
  output reg [31:0] address,
  output reg [31:0] beats,
  output [13:0] room,
  input take,
  input [4:0] take_beats,
  input valid,
  input [127:0] data,
  // The ring.
  output reg ring_write,
  output reg [8:0] ring_address,
  output reg [4:0] ring_part,
  output reg [127:0] ring_data,
  input pass_done,                  // 3 + pass_words words are free
  input [6:0] pass_words,
  output words_ready,
  // Descriptors.
  output reg [511:0] next,
  output reg next_valid,
  input next_take,
  // What the header says.
  output reg ready,                 // header and descriptors are here (and a resident image's words)
  output reg loaded,
  output reg resident,
  output reg [31:0] checksum,
  output reg [31:0] picture_beats,
  output reg [11:0] picture_row_step,
  output reg [9:0] picture_size,
  output reg bad                    // not an image for this engine
);
  localparam OFF = 3'd0, HEADER = 3'd1, DESCRIPTORS = 3'd2, WORDS = 3'd3, STREAM = 3'd4;
  reg [2:0] state;
  reg [8:0] count;                  // beats of header or descriptors
  reg [6:0] descriptors;
  reg [15:0] ring_words;
  reg [31:0] ring_offset;
  reg wrong;

  // ---- the ring's room (beats, counted when asked for) and contents (words, counted when complete)
  reg [13:0] free;
  reg [9:0] available;
  assign room = (state == HEADER || state == DESCRIPTORS) ? 14'd256 : free;
  wire [7:0] words_done = {1'b0, pass_words} + 8'd3;
  // What is free can be overwritten only after the last read on its way through the pipeline.
  wire pass_done_later;
  wire [7:0] words_done_later;
  delay #(.N(12)) u_done (.clk, .d(pass_done && !rst), .q(pass_done_later));
  delay #(.W(8), .N(12)) u_words (.clk, .d(words_done), .q(words_done_later));
  wire [13:0] given = {2'd0, words_done_later, 4'd0} + {5'd0, words_done_later, 1'b0};  // times 18
  reg word_complete;
  assign words_ready = resident || (!pass_done && available >= {2'd0, words_done});
  wire streaming = state == STREAM || state == WORDS;
  // beats of all ring words: 18 a word
  wire [31:0] word_beats = {12'd0, ring_words, 4'd0} + {15'd0, ring_words, 1'b0};
  reg [15:0] pictures_left;
  reg again;

  always @(posedge clk) begin
    set <= 1'b0;
    bad <= 1'b0;
    ring_write <= 1'b0;
    word_complete <= ring_write && ring_part == 5'd17;
    if (start) begin
      wrong <= 1'b0;
      count <= 9'd0;
      free <= 14'd9216;
      available <= 10'd0;
      pictures_left <= pictures;
      again <= 1'b0;
      address <= image_address;
      ring_part <= 5'd17;
      ring_address <= 9'd511;
      if (load) begin
        set <= 1'b1;
        beats <= 32'd4;
        state <= HEADER;
        ready <= 1'b0;
        loaded <= 1'b0;
      end else if (resident) begin
        ready <= 1'b1;
        state <= OFF;
      end else begin
        ready <= 1'b1;
        again <= 1'b1;
        state <= STREAM;
      end
    end else begin
      case (state)
        HEADER:
          if (valid) begin
            count <= count + 9'd1;
            case (count[1:0])
              2'd0: begin
                wrong <= data[31:0] != `IMAGE_MAGIC || data[63:32] != `IMAGE_VERSION ||
                         data[95:64] != {8'd0, 8'(X), 8'd16, 8'd16} || data[127:96] == 0 || data[127:96] > 32'd64;
                descriptors <= data[102:96];
              end
              2'd1: begin
                ring_words <= data[15:0];
                resident <= data[32];
                ring_offset <= data[95:64];
                wrong <= wrong || data[31:0] < 32'd4 || data[31:16] != 0 || (data[32] && data[31:0] > 32'd512) ||
                         data[67:64] != 0;
              end
              2'd2: begin
                checksum <= data[31:0];
                picture_size <= data[41:32];
                picture_beats <= data[95:64];
                picture_row_step <= data[107:96];
                wrong <= wrong || data[33:32] != 0 || data[63:42] != 0 || data[95:64] == 0 || data[107:96] == 0;
              end
              default: begin
                bad <= wrong;
                state <= wrong ? OFF : DESCRIPTORS;
                set <= !wrong;
                address <= image_address + 32'd64;
                beats <= {23'd0, descriptors, 2'd0};
                count <= 9'd0;
              end
            endcase
          end
        DESCRIPTORS:
          if (valid) begin
            count <= count + 9'd1;
            if (count + 9'd1 == {descriptors, 2'd0}) begin
              again <= 1'b1;
              state <= resident ? WORDS : STREAM;
              ready <= !resident;
              loaded <= !resident;
            end
          end
        WORDS, STREAM: begin
          if (again && (resident || pictures_left != 0)) begin
            set <= 1'b1;
            address <= image_address + ring_offset;
            beats <= word_beats;
            pictures_left <= pictures_left - 16'd1;
            again <= 1'b0;
            count <= 9'd0;
          end
          if (valid) begin
            ring_write <= 1'b1;
            ring_data <= data;
            ring_part <= ring_part == 5'd17 ? 5'd0 : ring_part + 5'd1;
            if (ring_part == 5'd17) ring_address <= ring_address + 9'd1;
          end
          if (state == WORDS && word_complete && ring_words == {6'd0, available} + 16'd1) begin
            ready <= 1'b1;
            loaded <= 1'b1;
            state <= OFF;
          end
        end
        default: ;
      endcase
      // All of a picture's words are asked for: the next picture's follow.
      if (state == STREAM && !set && !again && asked_all) again <= 1'b1;
      free <= free - ((take && streaming) ? {9'd0, take_beats} : 14'd0) + (pass_done_later && !resident ? given : 14'd0);
      available <= available + {9'd0, word_complete} - ((pass_done && !resident) ? {2'd0, words_done} : 10'd0);
    end
    if (!run) ready <= 1'b0;
    if (rst) begin
      state <= OFF;
      {ready, loaded, resident} <= 3'b000;
      checksum <= 32'd0;
    end
  end
  // The memory port's stream has been set and asked for completely.
  reg [31:0] asked;
  wire asked_all = asked == word_beats;
  always @(posedge clk)
    if (set || start) asked <= 32'd0;
    else if (take && streaming) asked <= asked + {27'd0, take_beats};

  // ---- descriptors: written as they come, read four beats ahead of their use
  wire [127:0] read;
  reg [7:0] read_address;
  reg [6:0] index;
  reg [2:0] phase;
  block_ram #(.W(128), .A(8), .D(256)) u_descriptors (
    .clk, .we(valid && state == DESCRIPTORS), .waddr(count[7:0]), .d(data), .raddr(read_address), .q(read));
  always @(posedge clk) begin
    if (start || !ready) begin
      index <= 7'd0;
      phase <= 3'd0;
      next_valid <= 1'b0;
    end else if (next_take) begin
      index <= index + 7'd1 == descriptors ? 7'd0 : index + 7'd1;
      phase <= 3'd0;
      next_valid <= 1'b0;
    end else if (!next_valid) begin
      phase <= phase + 3'd1;
      if (phase >= 3'd3) next <= {read, next[511:128]};
      next_valid <= phase == 3'd6;
    end
    read_address <= {index[5:0], phase[1:0]};
  end
endmodule
