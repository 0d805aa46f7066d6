"""The project's own accelerator on the simulated board, twice: as a model, and as its hardware.

``FRACBNN_SIM_CORE=model`` (the default) decodes registers, descriptors and memory image and computes with the CPU's
kernels; ``FRACBNN_SIM_CORE=rtl`` runs the SystemVerilog of overlays/engine cycle by cycle, a thousand times slower
(:mod:`fracbnn_pynq.engine_simulation`). Faults are injected into the model only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..backends.pooled_sums import PooledSums
from ..engine import decompile
from ..engine.explain import Explanation, explain
from ..engine.image import checksum, parameters_word
from ..engine.registers import BEAT_BYTES, ERRORS, OFFSETS, REGISTERS, VERSION
from ..engine.sources import CORE_VARIABLE
from ..engine_simulation import SimulatedEngine
from ..errors import BackendError, ModelError
from .cores import Arguments, Result
from .interrupts import Line
from .memory import BusError, Dram, MasterPort
from .registers import CTRL, DONE, IDLE

CORES = ("model", "rtl")
_CODES = {name: code for code, (name, _) in ERRORS.items()}
_READ_ONLY = tuple(register.name for register in REGISTERS if register.access == "r")
_HEADER_BYTES, _TOTAL_BYTES_AT, _RESULT_ALIGNMENT = 64, 28, 64
_SLICE_CYCLES = 20_000
"""Cycles the hardware runs before whoever waits for its registers has a turn: some ten milliseconds."""


def engine_core() -> str:
    """Which of the two the environment asks for; raises :class:`~fracbnn_pynq.errors.BackendError` for another word."""
    chosen = os.environ.get(CORE_VARIABLE) or CORES[0]
    if chosen not in CORES:
        raise BackendError(f"{CORE_VARIABLE}: expected one of {', '.join(CORES)}, found {chosen!r}")
    return chosen


class EngineKernel:
    """What the engine of X = ``pixels`` does with its registers, in the time its own cycle model gives."""

    roles: ClassVar[Mapping[str, str]] = {r.name: r.name for r in REGISTERS if r.offset >= 0x10 and r.access == "rw"}

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._compute: PooledSums | None = None
        self._explained: Explanation | None = None
        self._status = dict.fromkeys(_READ_ONLY, 0) | {"VERSION": VERSION, "PARAMETERS": parameters_word(pixels)}

    def status(self) -> Mapping[int, int]:
        return {OFFSETS[name]: value for name, value in self._status.items()}

    def cycles(self, arguments: Arguments) -> int:
        return arguments["PICTURES"] * self._explained.cycles if self._explained is not None else 0

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        self._status.update(ERROR=0, PICTURES_DONE=0, CYCLES=0)
        try:
            return self._run(arguments, port)
        except BusError:
            return self._refuse("READ")
        except ModelError:
            return self._refuse("IMAGE")

    def _run(self, arguments: Arguments, port: MasterPort) -> Result:
        count = arguments["PICTURES"] & 0xFFFF
        aligned = {"IMAGE_ADDRESS": BEAT_BYTES, "PICTURE_ADDRESS": BEAT_BYTES, "PICTURE_STRIDE": BEAT_BYTES}
        aligned |= dict.fromkeys(("RESULT_ADDRESS", "RESULT_STRIDE"), _RESULT_ALIGNMENT)
        if not count or any(arguments[name] % multiple for name, multiple in aligned.items()):
            return self._refuse("ARGUMENT")
        if arguments["LOAD"] & 1:
            self._load(arguments["IMAGE_ADDRESS"], port)
        if self._compute is None or self._explained is None:
            return self._refuse("NOT_LOADED")
        network = self._compute.network
        picture_bytes = network.image_size**2 * 3
        starts = [arguments["PICTURE_ADDRESS"] + k * arguments["PICTURE_STRIDE"] for k in range(count)]
        pictures = b"".join(port.read(start, picture_bytes) for start in starts)
        shape = (count, network.image_size, network.image_size, 3)
        sums = self._compute(np.frombuffer(pictures, np.uint8).reshape(shape))
        self._status.update(PICTURES_DONE=count, CYCLES=count * self._explained.cycles)
        return _with_stride(sums, arguments["RESULT_ADDRESS"], arguments["RESULT_STRIDE"], port)

    def _load(self, address: int, port: MasterPort) -> None:
        self._compute, self._status["LOADED"] = None, 0
        head = port.read(address, _HEADER_BYTES)
        image = np.frombuffer(port.read(address, max(_HEADER_BYTES, _word(head, _TOTAL_BYTES_AT))), np.uint8)
        program = decompile(image)
        if program.pixels != self._pixels:
            raise ModelError(f"memory image: expected one for X = {self._pixels}, found X = {program.pixels}")
        self._compute = PooledSums(program.network, program.weights, program.tables)
        self._explained = explain(image)
        self._status["LOADED"] = checksum(image)

    def _refuse(self, error: str) -> Result:
        self._status["ERROR"] = _CODES[error]
        return Result(0, b"")


def _word(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _with_stride(
    sums: np.ndarray[tuple[int, int], np.dtype[np.int32]], address: int, stride: int, port: MasterPort
) -> Result:
    """One block of memory with a row of ``sums`` every ``stride`` bytes, and between them what was there."""
    count, row = len(sums), sums.shape[1] * 4
    if stride == row:
        return Result(address, sums.astype("<i4").tobytes())
    before = bytearray(port.read(address, (count - 1) * stride + row))
    for index, values in enumerate(sums):
        before[index * stride : index * stride + row] = values.astype("<i4").tobytes()
    return Result(address, bytes(before))


class HardwareEngine:
    """The simulated hardware behind its register map; its memory port sees the board's DRAM.

    Reads and writes take turns with the thread that lets the clock go on while the core is busy.
    """

    def __init__(self, dram: Dram, pixels: int, *, interrupt: Line | None = None) -> None:
        self._dram = dram
        self._interrupt = interrupt
        self._names = {register.offset: register.name for register in REGISTERS}
        self._lock = threading.Lock()
        self._engine = SimulatedEngine(pixels)
        self._busy = self._closed = self._done = False
        self._thread: threading.Thread | None = None

    def read(self, offset: int) -> int:
        with self._lock:
            if offset == CTRL:
                value = self._engine.read("CTRL") | DONE * self._done
                self._done = False
                return value
            return self._engine.read(self._names[offset]) if offset in self._names else 0

    def write(self, offset: int, value: int) -> None:
        if offset not in self._names:
            return
        with self._lock:
            if offset == CTRL and value & 1 and not self._busy:
                self._begin()
            self._engine.write(self._names[offset], value)
            self._drive()

    def close(self) -> None:
        """Stop the clock for good."""
        with self._lock:
            self._closed = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            self._engine.close()

    def _begin(self) -> None:
        self._engine.unmap_all()
        for buffer in self._dram.buffers:
            self._engine.map(buffer.address, buffer.dram)
        self._busy = True
        self._thread = threading.Thread(target=self._clock, name="simulated engine", daemon=True)
        self._thread.start()

    def _clock(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                self._engine.run(_SLICE_CYCLES, until_interrupt=True)
                control = self._engine.read("CTRL")
                self._done |= bool(control & DONE)
                self._drive()
                if control & IDLE:
                    self._busy = False
                    return

    def _drive(self) -> None:
        if self._interrupt is not None:
            self._interrupt(self._engine.interrupt)
