"""Resources and logic depth of the engine by yosys, against budgets: ``python overlays/engine/report.py [X]``.

Counts are cells after ``synth_xilinx -family xcup``, module by module and not flattened: LUT1 to LUT6 (yosys does not
pair small ones in one LUT6_2), LUTs used as memory and shift registers, flip-flops, DSP slices, block RAMs in halves.
Depth is the longest chain of LUTs from register (or port) to register inside a module; a carry chain counts as nothing.
Where it misleads: paths through ports of two modules are not added up, inverters (INV) and wide multiplexers (MUXF) are
free, and routing, which decides, is not known. Fails (exit status 1) over a budget.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

RTL = Path(__file__).resolve().parent / "rtl"
BUDGETS = {2: {"LUT": 40_000, "BRAM36": 190, "DSP": 80}, 4: {"LUT": 64_000, "BRAM36": 190, "DSP": 300}}
MOST_LEVELS = 7
LUTS_OF_MEMORY = {"RAM32M16": 8, "RAM64M8": 8, "RAM32M": 4, "RAM64M": 4, "SRL16E": 1, "SRLC32E": 1}


def synthesise(pixels: int, target: Path) -> dict[str, Any]:
    """The mapped design, module by module, as yosys writes it."""
    script = (
        f"read_verilog -sv -D ENGINE_DSP_PRIMITIVES -I{RTL} {RTL}/*.sv; chparam -set X {pixels} engine; "
        f"synth_xilinx -family xcup -top engine -noiopad -noclkbuf; write_json {target}"
    )
    quiet = subprocess.DEVNULL
    subprocess.run(["yosys", "-q", "-p", script], check=True, stdout=quiet, stderr=quiet)  # noqa: S603, S607
    modules: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))["modules"]
    return modules


def resources(cells: Counter[str]) -> Counter[str]:
    """LUT, FF, DSP and BRAM36 of a module's own cells."""
    found: Counter[str] = Counter()
    for kind, count in cells.items():
        if re.fullmatch(r"LUT[1-6]", kind):
            found["LUT"] += count
        elif kind in LUTS_OF_MEMORY:
            found["LUT"] += count * LUTS_OF_MEMORY[kind]
            found["LUT as memory"] += count * LUTS_OF_MEMORY[kind]
        elif kind.startswith("FD"):
            found["FF"] += count
        elif kind == "DSP48E2":
            found["DSP"] += count
        elif kind == "RAMB36E2":
            found["BRAM18"] += 2 * count
        elif kind == "RAMB18E2":
            found["BRAM18"] += count
    return found


def instances(modules: dict[str, Any], top: str) -> Counter[str]:
    """How often each module is in the design."""
    counts: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        counts[name] += times
        inside = Counter(cell["type"] for cell in modules[name]["cells"].values() if cell["type"] in own)
        for child, number in inside.items():
            visit(child, times * number)

    own = {name for name, module in modules.items() if "blackbox" not in module["attributes"]}
    own = {name for name in own if "whitebox" not in modules[name]["attributes"]}
    visit(top, 1)
    return counts


def depth(module: dict[str, Any]) -> int:
    """The most LUTs in a chain between registers or ports of the module."""
    drivers: dict[int, tuple[str, str, int]] = {}
    cells = module["cells"]
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) == "output":
                drivers.update({bit: (name, port, index) for index, bit in enumerate(bits) if isinstance(bit, int)})
    known: dict[int, int] = {}

    def level(bit: Any) -> int:
        if bit not in drivers:
            return 0
        if bit in known:
            return known[bit]
        known[bit] = 0
        name, _, index = drivers[bit]
        kind = cells[name]["type"]
        if not re.match(r"LUT|INV|MUXF|CARRY", kind):
            return 0
        inputs = []
        for port, bits in cells[name]["connections"].items():
            if cells[name]["port_directions"].get(port) == "output":
                continue
            # A carry chain's bit depends on the bits below it.
            inputs += bits[: index + 1] if kind.startswith("CARRY") and port in {"S", "DI"} else bits
        known[bit] = max((level(x) for x in inputs), default=0) + kind.startswith("LUT")
        return known[bit]

    ends = [bit for cell in cells.values() for bits in cell["connections"].values() for bit in bits]
    ends += [bit for port in module["ports"].values() for bit in port["bits"]]
    return max((level(bit) for bit in ends), default=0)


def main(pixels: int) -> int:
    """Print the report; 1 over a budget, else 0."""
    sys.setrecursionlimit(100_000)
    with tempfile.TemporaryDirectory() as work:
        modules = synthesise(pixels, Path(work) / "engine.json")
    top = next(name for name in modules if re.search(r"(^|\\)engine($|\\)", name))
    total: Counter[str] = Counter()
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    levels: dict[str, int] = defaultdict(int)
    for name, times in instances(modules, top).items():
        short = re.sub(r"^\$paramod(\$[0-9a-f]+)?\\?", "", name).split("\\")[0]
        own = resources(Counter(cell["type"] for cell in modules[name]["cells"].values()))
        for kind, count in own.items():
            rows[short][kind] += count * times
            total[kind] += count * times
        rows[short]["instances"] += times
        levels[short] = max(levels[short], depth(modules[name]))
    print(
        f"{'module':16s} {'number':>6s} {'LUT':>7s} {'memory':>7s} {'FF':>7s} {'DSP':>5s} {'BRAM18':>6s} {'levels':>6s}"
    )
    for short, row in sorted(rows.items(), key=lambda item: -item[1]["LUT"]):
        print(
            f"{short:16s} {row['instances']:6d} {row['LUT']:7d} {row['LUT as memory']:7d} {row['FF']:7d} "
            f"{row['DSP']:5d} {row['BRAM18']:6d} {levels[short]:6d}"
        )
    found = {"LUT": total["LUT"], "BRAM36": total["BRAM18"] / 2, "DSP": total["DSP"]}
    over = [name for name, most in BUDGETS.get(pixels, {}).items() if found[name] > most]
    deep = [short for short, most in levels.items() if most > MOST_LEVELS]
    print(f"X = {pixels}: {found['LUT']} LUT, {total['FF']} FF, {found['DSP']} DSP, {found['BRAM36']:g} BRAM36")
    print(f"budgets: {BUDGETS.get(pixels, {})}, {MOST_LEVELS} levels; over: {', '.join(over + deep) or 'none'}")
    return int(bool(over or deep))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
