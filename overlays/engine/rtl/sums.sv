// The last map's sums over its positions: sixteen channels a pass, one pixel a cycle; then four beats of four int32.
module sums #(parameter X = 2) (
  input clk,
  input rst,
  input valid, last, picture_end,
  input [2:0] pixels,
  input [X*256-1:0] z,
  output reg beat_valid,
  output reg beat_picture_end,      // with a picture's last four beats
  output reg [127:0] beat
);
  // Pixels still to add; each group is at least X cycles after the one before.
  reg [255:0] held[0:X-1];
  reg [2:0] left;
  reg ends, ends_picture, finish;
  reg signed [31:0] total[0:15];
  genvar g;
  generate
    for (g = 0; g < X; g = g + 1) begin : g_held
      if (g == X - 1) begin : g_top
        always @(posedge clk) if (valid) held[g] <= z[g*256+:256];
      end else begin : g_lower
        always @(posedge clk) held[g] <= valid ? z[g*256+:256] : held[g+1];
      end
    end
    for (g = 0; g < 16; g = g + 1) begin : g_total
      wire signed [15:0] value = held[0][g*16+:16];
      // Cleared when they are handed on: the next pass's first element is several cycles away.
      always @(posedge clk)
        if (finish || rst) total[g] <= 32'sd0;
        else if (left != 0) total[g] <= total[g] + {{16{value[15]}}, value};
    end
  endgenerate

  // A pass lasts longer than the four cycles its beats take.
  reg [511:0] done;
  reg [2:0] beats;
  reg picture, picture_done;
  integer i;
  always @(posedge clk) begin
    finish <= 1'b0;
    if (left != 0) begin
      left <= left - 3'd1;
      finish <= ends && left == 3'd1;
      picture <= ends_picture;
    end
    if (valid) begin
      left <= pixels;
      ends <= last;
      ends_picture <= picture_end;
    end
    if (finish) begin
      for (i = 0; i < 16; i = i + 1) done[32*i+:32] <= total[i];
      picture_done <= picture;
      beats <= 3'd4;
    end else if (beats != 0) beats <= beats - 3'd1;
    beat_valid <= beats != 0;
    beat_picture_end <= picture_done;
    beat <= beats[2] ? done[127:0] : beats[1:0] == 2'd3 ? done[255:128] : beats[1:0] == 2'd2 ? done[383:256] : done[511:384];
    if (rst) begin
      left <= 3'd0;
      beats <= 3'd0;
      finish <= 1'b0;
      beat_valid <= 1'b0;
    end
  end
endmodule
