"""What the driver of an accelerator costs the host, in instructions a picture, by valgrind.

    python benchmarks/driver_instructions.py [engine|cifar10] [--pictures 64] [--calls 4 20] [--interrupt]

``engine`` is this project's own accelerator, ``cifar10`` the published CIFAR-10 core. The driver is the package's own,
on pynq's own MMIO and buffers; registers are plain memory, as on a board, and the core takes no time: its results are
there as soon as it is started, so that nothing is waited for. Two runs of the same program, with few and with many
calls, are counted by callgrind, and their difference divided by the pictures between them: start-up cancels out.

Not counted: what the kernel does, and so cache maintenance, which on a board is a system call for each buffer. Counted,
though no part of the driver: the Python lines that stand in for the core.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
GOALS = {"engine": 25_000, "cifar10": 60_000}
CTRL, IDLE = 0, 4
CIFAR10_BASE = 0xA001_0000
"""Of the published core, by its hand-off file."""


def plain_board(base: int, registers: Mapping[int, int]) -> Any:
    """A board whose core at ``base`` is memory, as a mapping of /dev/mem is, and whose caches need no care.

    ``registers``: values by offset that it begins with, besides an idle core.
    """
    from fracbnn_pynq import simulator

    simulator.import_pynq()
    from fracbnn_pynq.simulator import pynqapi
    from fracbnn_pynq.simulator.device import SimulatedDevice

    class PlainRegisters(SimulatedDevice):
        def mmap(self, base_addr: int, length: int) -> Any:
            if base_addr != base:
                return super().mmap(base_addr, length)
            words = np.zeros(length // 4, np.uint32)
            for offset, value in ({CTRL: IDLE} | dict(registers)).items():
                words[offset >> 2] = value
            return words

        def flush(self, bo: Any, offset: int, ptr: int, size: int) -> None:
            pass

        def invalidate(self, bo: Any, offset: int, ptr: int, size: int) -> None:
            pass

    board = PlainRegisters(timed=False, strict_cache=False)
    pynqapi.activate(board)
    return board


def drive_engine(pictures: int, calls: int, interrupt: bool) -> None:
    """Call the engine's driver with batches of random pictures; ``interrupt``: the overlay has an interrupt
    controller."""
    from fracbnn_pynq.cores import ENGINE_BASE
    from fracbnn_pynq.engine import registers as r

    board = plain_board(ENGINE_BASE, {r.OFFSETS["VERSION"]: r.VERSION, r.OFFSETS["PARAMETERS"]: 2 << 16 | 16 << 8 | 16})
    from fracbnn_pynq.board import engine
    from fracbnn_pynq.models import find_model

    class Core(engine.EngineCore):
        """The driver of a core that is done at once."""

        bindto = engine.EngineCore.bindto
        results: dict[int, np.ndarray] = {}  # noqa: RUF012 - filled once
        checksum = 0

        def start(self) -> None:
            super().start()
            words = self._words
            self.results[words[r.OFFSETS["RESULT_ADDRESS"] >> 2]].fill(1)
            words[r.OFFSETS["PICTURES_DONE"] >> 2] = words[r.OFFSETS["PICTURES"] >> 2]
            words[r.OFFSETS["LOADED"] >> 2] = self.checksum
            words[CTRL] = IDLE

    class Driver(engine.EngineAccelerator):
        driver = Core

    def open_driver(overlay: Any) -> Any:
        accelerator = Driver(overlay, find_model("cifar10"))
        Core.checksum = accelerator._checksum
        Core.results = {buffer.address: buffer.array for buffer in accelerator._results}
        return accelerator

    _drive(board, "engine", open_driver, pictures, calls, interrupt)


def drive_cifar10(pictures: int, calls: int, interrupt: bool) -> None:
    """As :func:`drive_engine`, for the published CIFAR-10 core."""
    board = plain_board(CIFAR10_BASE, {})
    from fracbnn_pynq.board import cifar10, drivers

    class Core(drivers.Cifar10Core):
        """The driver of a core that is done at once."""

        bindto = drivers.Cifar10Core.bindto
        results: dict[int, memoryview] = {}  # noqa: RUF012 - filled once

        def start(self) -> None:
            super().start()
            words = self._words
            self.results[words[self.output]][:] = self.logits
            words[CTRL] = IDLE

    class Driver(cifar10.Cifar10Accelerator):
        driver = Core

    def open_driver(overlay: Any) -> Any:
        accelerator = Driver(overlay)
        Core.results = {buffer.address: buffer.bytes for buffer in accelerator._results}
        Core.logits = np.ones(10, np.float32).tobytes()
        Core.output = accelerator._core.offsets["output"] >> 2
        return accelerator

    _drive(board, "cifar10", open_driver, pictures, calls, interrupt)


def _drive(board: Any, overlay: str, open_driver: Any, pictures: int, calls: int, interrupt: bool) -> None:
    import pynq

    from fracbnn_pynq import simulator

    with tempfile.TemporaryDirectory() as folder:
        bit = simulator.write_overlay(folder, overlay, interrupt=interrupt)
        accelerator = open_driver(pynq.Overlay(str(bit)))
        images = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
        for _ in range(calls):
            accelerator.logits(images)
        accelerator.close()
    board.close()


DRIVES = {"engine": drive_engine, "cifar10": drive_cifar10}


def instructions(core: str, pictures: int, calls: int, interrupt: bool, keep: Path | None = None) -> int:
    """Instructions of a whole run, by callgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = keep or Path(folder) / "callgrind.out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", sys.executable, __file__]
        command += [core, "--drive", str(pictures), str(calls), *(["--interrupt"] if interrupt else [])]
        environment = {**os.environ, **dict.fromkeys(VARIABLE_THREADS, "1"), "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"valgrind ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    (count,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", nargs="?", choices=DRIVES, default="engine")
    parser.add_argument("--pictures", type=int, default=64, help="pictures of a call")
    parser.add_argument("--calls", type=int, nargs=2, default=(4, 20), help="calls of the two runs")
    parser.add_argument("--interrupt", action="store_true", help="the overlay has an interrupt controller")
    parser.add_argument("--keep", type=Path, help="file for callgrind's account of the longer run")
    parser.add_argument("--drive", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        DRIVES[arguments.core](*arguments.drive, interrupt=arguments.interrupt)
        return
    few, many = arguments.calls
    short = instructions(arguments.core, arguments.pictures, few, arguments.interrupt)
    long = instructions(arguments.core, arguments.pictures, many, arguments.interrupt, arguments.keep)
    each = (long - short) / ((many - few) * arguments.pictures)
    print(f"{few} calls: {short:,} instructions; {many} calls: {long:,}")
    goal = GOALS[arguments.core]
    print(f"calls of {arguments.pictures} pictures: {each:,.0f} instructions a picture (goal: at most {goal:,})")


if __name__ == "__main__":
    main()
