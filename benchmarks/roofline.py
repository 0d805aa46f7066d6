"""The binary multiply-accumulate roofline of one core: builds ``roofline.c``, runs it and reads its answer.

Run as a program it prints a table: ``python benchmarks/roofline.py [--seconds S] [--json]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("roofline.c")


class RooflineError(RuntimeError):
    """The micro-benchmark could not be built or run."""


@dataclass(frozen=True)
class Rate:
    """What one kernel reached on one core.

    ``operands`` says whether one operand came from the first-level cache ("l1") or both stayed in registers.
    ``method``: "direct" is xor, popcount and add for every step; "carry-save" and "table" need fewer instructions
    and prepared operands. ``clock_hz`` is 0 where it cannot be estimated.
    """

    name: str
    isa: str
    operands: str
    method: str
    macs_per_second: float
    clock_hz: float

    @property
    def macs_per_cycle(self) -> float | None:
        return self.macs_per_second / self.clock_hz if self.clock_hz else None


def measure(seconds: float = 0.2) -> list[Rate]:
    """Rates of all kernels this machine's core can run, ``seconds`` of measurement for each.

    Raises :class:`RooflineError` when the C compiler (``$CC``, else ``cc``) is missing or fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "roofline"
        _run([*compiler, "-O3", "-std=gnu11", "-o", str(program), str(SOURCE)])
        answer = json.loads(_run([str(program), str(seconds)]))
    return [Rate(**kernel, clock_hz=answer["clock_hz"]) for kernel in answer["kernels"]]


def best_direct(rates: list[Rate]) -> Rate:
    """The highest rate of xor, popcount and add: the usual popcount roofline."""
    return max((rate for rate in rates if rate.method == "direct"), key=lambda rate: rate.macs_per_second)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RooflineError(f"cannot run {command[0]!r}: {error}; install a C compiler or set CC") from error
    if done.returncode != 0:
        raise RooflineError(f"{command[0]!r} failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def table(rates: list[Rate]) -> str:
    """The rates as aligned plain text."""
    lines = [f"{'kernel':<24}{'method':<12}{'operands':<11}{'GMAC/s':>8}{'MAC/cycle':>11}{'clock GHz':>11}"]
    for rate in rates:
        per_cycle = rate.macs_per_cycle
        lines.append(
            f"{rate.name:<24}{rate.method:<12}{rate.operands:<11}{rate.macs_per_second / 1e9:>8.0f}"
            f"{f'{per_cycle:.0f}' if per_cycle else '-':>11}{f'{rate.clock_hz / 1e9:.2f}' if per_cycle else '-':>11}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Binary multiply-accumulate rates of one core.")
    parser.add_argument("--seconds", type=float, default=0.2, help="measuring time per kernel (default 0.2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rates = measure(arguments.seconds)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(rate) | {"macs_per_cycle": rate.macs_per_cycle} for rate in rates]))
    else:
        print(table(rates))


if __name__ == "__main__":
    main()
