#!/usr/bin/env bash
# Bounded proofs: run.sh [depth [part...]], parts axi_reader, axi_writer, registers. Needs yosys, yosys-smtbmc and z3.
# RTL=folder takes the sources from elsewhere. Every property holds for the first `depth` cycles after reset, whatever
# the other side does within the rules of AXI4; more cycles take minutes.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rtl=${RTL:-../rtl}
depth=${1:-10}
parts=("${@:2}")
for part in "${parts[@]:-axi_reader axi_writer registers}"; do
    for name in $part; do
        yosys -q -p "read_verilog -sv -formal -I$rtl $rtl/$name.sv axi.sv; hierarchy -top ${name}_properties; proc; flatten; \
            opt; memory_map; opt; dffunmap; opt_clean; write_smt2 -wires $work/$name.smt2" >"$work/$name.log" 2>&1 ||
            { cat "$work/$name.log"; exit 1; }
        echo "== $name, $depth cycles"
        yosys-smtbmc -s z3 --presat -t "$depth" "$work/$name.smt2" >"$work/$name.log" || { tail -5 "$work/$name.log"; exit 1; }
        tail -1 "$work/$name.log"
    done
done
