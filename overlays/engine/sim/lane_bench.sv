`timescale 1ns / 1ps
// The lane against expected values from a file: per channel a line of coefficients, then lines of elements.
// Channels follow each other with four idle cycles between them, as passes do; the coefficients of the next channel arrive
// while the last elements of the one before are still on their way.
module lane_bench;
  reg clk = 0;
  integer file, rc, channels, elements, g, e, cycle, wrong = 0, total = 0;
  reg [13:0] gate_next, gate_at;
  reg [14:0] knee_next, knee;
  reg high_next, high, stem, codes;
  reg [26:0] a0, a1, gamma;
  reg [42:0] b0, b1;
  reg [13:0] m, l;
  reg [15:0] r, z_expected;
  reg [3:0] q_expected;
  wire signed [15:0] z;
  wire [3:0] q;
  reg loads;
  // Values along the pipeline: r five edges after m and l, the stem bit one, the codes bit nine.
  reg [15:0] r_line[0:4];
  reg stem_line, valid;
  reg [8:0] codes_line;
  reg [20:0] expect_line[0:9];
  reg [20:0] load_line;
  reg load17;
  lane dut (.clk, .m, .l, .pair(1'b0), .stem(stem_line), .codes(codes_line[8]), .r(r_line[4]), .gate_at, .knee, .high,
            .load(load17), .a0, .a1, .gamma, .b0, .b1, .z, .q);
  integer k;
  task tick;
    begin
      @(posedge clk);
      #0.1;
      if (expect_line[8][20]) begin
        total = total + 1;
        if (z !== expect_line[8][19:4] || q !== expect_line[8][3:0]) begin
          if (wrong < 5) $display("element %0d: expected %h %h, found %h %h", total, expect_line[8][19:4], expect_line[8][3:0], z, q);
          wrong = wrong + 1;
        end
      end
      for (k = 4; k > 0; k = k - 1) r_line[k] = r_line[k-1];
      r_line[0] = r;
      for (k = 9; k > 0; k = k - 1) expect_line[k] = expect_line[k-1];
      expect_line[0] = {valid, z_expected, q_expected};
      stem_line = stem;
      codes_line = {codes_line[7:0], codes};
      // The header word's own edges: compares at 13, coefficients at 18, dropped bits at 20; the lane's edge 0 is 13.
      load_line = {load_line[19:0], loads};
      if (load_line[0]) {gate_at, knee} = {gate_next, knee_next};
      load17 = load_line[3];
      if (load_line[6]) high = high_next;
    end
  endtask
  always #1 clk = !clk;
  initial begin
    for (k = 0; k < 10; k = k + 1) expect_line[k] = 0;
    {load_line, loads, load17, valid, m, l, r, stem, codes, codes_line, stem_line} = 0;
    file = $fopen("lane_vectors.txt", "r");
    rc = $fscanf(file, "%d %d", channels, elements);
    for (g = 0; g < channels; g = g + 1) begin
      rc = $fscanf(file, "%h %h %h %h %h %h %h %h %h %h", stem, codes, gate_next, knee_next, a0, a1, gamma, b0, b1, high_next);
      // Two idle cycles, then the one in which the last header word goes by, then one more.
      valid = 0;
      tick;
      tick;
      loads = 1;
      tick;
      loads = 0;
      tick;
      for (e = 0; e < elements; e = e + 1) begin
        rc = $fscanf(file, "%h %h %h %h %h", m, l, r, z_expected, q_expected);
        valid = 1;
        tick;
      end
    end
    valid = 0;
    repeat (12) tick;
    if (wrong == 0) $display("PASS %0d", total);
    else $display("FAIL %0d of %0d", wrong, total);
    $finish;
  end
endmodule
