"""How fast the NEON kernel's inner loops would be on the board's processor, as a model of it says.

    python benchmarks/a53_estimate.py

compiles ``arm_neon.c`` for an aarch64, finds the innermost loops that count bits, and asks llvm-mca how many cycles a
pass of each takes on a Cortex-A53 with all data in the first cache. Needs aarch64-linux-gnu-gcc and llvm-mca. An
estimate: nothing here runs on a board, and what surrounds these loops is not in it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fracbnn_pynq.networks import CIFAR10, IMAGENET, operations

SOURCE = Path(__file__).resolve().parents[1] / "fracbnn_pynq" / "native" / "arm_neon.c"
COMPILER = "aarch64-linux-gnu-gcc"
FLAGS = ("-O3", "-std=c11", "-mcpu=cortex-a53", "-fno-math-errno", "-ffp-contract=off")
PASSES = 1000
BITS_OF_A_COUNT = 128
"""A CNT counts the bits of a vector, each of which is a binary multiply-accumulate."""
GHZ = 1.2
"""What the board's A53 runs at."""


def inner_loops(assembly: str) -> Iterator[list[str]]:
    """Instructions of the innermost loops with a CNT: from a label to a branch back to it, without another label."""
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = number
        branch = re.match(r"\s+(?:b\.?\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+)$", line)
        if branch is None or branch[1] not in labels:
            continue
        body = lines[labels[branch[1]] + 1 : number]  # without the branch, which llvm-mca does not follow
        if not any(re.match(r"\.L\w+:", each) for each in body) and any("\tcnt\t" in each for each in body):
            yield [each for each in body if re.match(r"\t[a-z]", each)]


def cycles(instructions: list[str], mca: str) -> float:
    """Cycles of one pass."""
    command = [mca, "-mtriple=aarch64-linux-gnu", "-mcpu=cortex-a53", f"-iterations={PASSES}"]
    done = subprocess.run(command, input="\n".join(instructions), capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"llvm-mca: expected a number of cycles, found {done.stdout[:500]}")
    return int(found[1]) / PASSES


def main() -> None:
    """Print the estimate."""
    mca = next(
        (name for name in ("llvm-mca", *(f"llvm-mca-{n}" for n in range(21, 12, -1))) if shutil.which(name)), None
    )
    if mca is None or shutil.which(COMPILER) is None:
        sys.exit(f"error: expected {COMPILER} and llvm-mca; apt-get install gcc-aarch64-linux-gnu llvm")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "neon.s")
        subprocess.run([COMPILER, *FLAGS, "-S", "-o", str(target), str(SOURCE)], check=True)
        loops = list(inner_loops(target.read_text(encoding="utf-8")))
    print(f"{'instructions':>12} {'cycles':>7} {'binary MACs':>11} {'a cycle':>7}")
    best = 0.0
    for loop in loops:
        took, done = cycles(loop, mca), BITS_OF_A_COUNT * sum("\tcnt\t" in line for line in loop)
        best = max(best, done / took)
        print(f"{len(loop):>12} {took:>7.1f} {done:>11} {done / took:>7.1f}")
    for network in (CIFAR10, IMAGENET):
        work = operations(network.stem) + 2 * sum(map(operations, network.layers))  # high and low bits, open or not
        milliseconds = 1e3 * work / best / (GHZ * 1e9)
        print(f"{network.name}: {milliseconds:.1f} ms a picture in the fastest loop alone, one core at {GHZ} GHz")


if __name__ == "__main__":
    main()
