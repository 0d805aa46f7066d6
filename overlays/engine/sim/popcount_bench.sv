`timescale 1ns / 1ps
// The compressor tree against a plain count, with presets and gaps: prints "PASS n" or the first difference.
module popcount_bench;
  reg clk = 0;
  reg [143:0] a, w;
  reg en, first;
  reg signed [13:0] preset;
  wire signed [13:0] acc;
  popcount dut (.clk, .a, .w, .en, .first, .preset, .acc);
  integer i, j, n, wrong = 0, seed = 1;
  reg [7:0] counts[0:4];
  reg signed [13:0] expected;
  always #1 clk = !clk;
  initial begin
    expected = 0;
    for (i = 0; i < 5; i = i + 1) counts[i] = 0;
    for (i = 0; i < 3000; i = i + 1) begin
      for (j = 0; j < 144; j = j + 1) begin
        // Dense, sparse and full differences, so that every column of the tree reaches its largest count.
        a[j] = $random(seed);
        case (i % 4)
          0: w[j] = $random(seed);
          1: w[j] = ~a[j];
          2: w[j] = ~a[j] ^ ($random(seed) % 16 == 0);
          default: w[j] = a[j] ^ ($random(seed) % 16 == 0);
        endcase
      end
      n = 0;
      for (j = 0; j < 144; j = j + 1) n = n + (a[j] ^ w[j]);
      en = $random(seed) % 4 != 0;
      first = $random(seed) % 8 == 0;
      preset = $random(seed);
      // en, first and preset of this cycle go with the count of four cycles ago.
      if (i >= 8 && en) expected = (first ? preset : expected) - $signed({6'd0, counts[3]});
      else if (i < 8 && en) begin
        first = 1;
        expected = preset - $signed({6'd0, counts[3]});
      end
      counts[4] = counts[3];
      counts[3] = counts[2];
      counts[2] = counts[1];
      counts[1] = counts[0];
      counts[0] = n;
      @(posedge clk);
      #0.5;
      if (i >= 8 && acc !== expected) begin
        if (wrong < 5) $display("cycle %0d: expected %0d, found %0d", i, expected, acc);
        wrong = wrong + 1;
      end
    end
    if (wrong == 0) $display("PASS 3000");
    else $display("FAIL %0d", wrong);
    $finish;
  end
endmodule
