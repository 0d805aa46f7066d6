"""The project's own accelerator: batches of raw pictures in, sums of the last map out, classifier on the host.

Any model of either network runs on it, in the ``faithful`` arithmetic: weights and tables go over once, as a memory
image (:mod:`fracbnn_pynq.engine`), and stay until another overlay is loaded. Imports pynq.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .. import faithful
from ..cores import ENGINE_VLNV
from ..engine import compile_model
from ..engine.explain import explain
from ..engine.image import checksum
from ..engine.registers import ERRORS, PIXELS, REGISTERS, VERSION
from ..errors import AcceleratorError, EngineError, OverlayError
from ..model import Model
from .accelerator import F32, TIMEOUT_S, U8, Accelerator, Encode, Take
from .buffers import Buffers
from .drivers import HlsCore
from .executor import Job
from .stages import Stopwatch

log = logging.getLogger(__name__)

BATCH_BYTES = 192 << 10
"""Pictures that one run takes fill about so many bytes, one picture at least: 64 small ones, or one large one."""
_UNWRITTEN = np.iinfo(np.int32).min
"""What results hold before a run: further from zero than any sum of 16-bit numbers over a map."""
_CONTROL = ("CTRL", "GIER", "IP_IER", "IP_ISR")


class EngineCore(HlsCore):
    """The engine's registers by name; see :mod:`fracbnn_pynq.engine.registers`."""

    bindto: ClassVar[list[str]] = [ENGINE_VLNV]
    arguments: ClassVar[tuple[str, ...]] = tuple(r.name for r in REGISTERS if r.name not in _CONTROL)

    def read_register(self, name: str) -> int:
        """The value of a register."""
        return int(self._words[self.offsets[name] >> 2])

    def write_register(self, name: str, value: int) -> None:
        """Set a register. The core must be idle: it reads its arguments while it runs."""
        self._write(name, value)


class EngineAccelerator(Accelerator):
    """The engine with ``model``'s weights. While it works on one batch of pictures, the next is copied.

    Other parameters and errors as for :class:`.accelerator.Accelerator`; further
    :class:`~fracbnn_pynq.errors.ModelError` for a model that the engine cannot run,
    :class:`~fracbnn_pynq.errors.OverlayError` for an engine of another version, and
    :class:`~fracbnn_pynq.errors.EngineError` where the engine itself reports what went wrong with a run.
    """

    driver: ClassVar[type[HlsCore]] = EngineCore
    result_is_overwritten: ClassVar[bool] = False
    direct: ClassVar[bool] = True

    _core: EngineCore

    def __init__(
        self, overlay: Any, model: Model, *, design_mhz: float | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.network = model.network
        self._model = model
        tables = faithful.fuse(model)
        weight = tables.fc_weight.astype(np.float64)
        self._classifier = weight, tables.fc_exponent, tables.fc_bias, model.network.pool_size**2
        self._picture_bytes = model.network.image_size**2 * 3
        self.batch = max(1, BATCH_BYTES // self._picture_bytes)
        """Pictures of one run at most."""
        self._loaded = False
        self._count = 0
        super().__init__(overlay, design_mhz=design_mhz, timeout_s=timeout_s)

    def counters(self) -> Mapping[str, int]:
        """What the engine counted in its last run: ``pictures``, ``cycles``, and cycles by what they waited for:
        ``weights``, ``picture``, ``rows``, ``result``."""
        names = {"pictures": "PICTURES_DONE", "cycles": "CYCLES"}
        names |= {reason: f"STALL_{reason.upper()}" for reason in ("weights", "picture", "rows", "result")}

        def read(job: Job[dict[str, int]]) -> dict[str, int]:
            return {key: self._core.read_register(name) for key, name in names.items()}

        return self._owner.call(read)

    def _allocate(self, buffers: Buffers) -> None:
        version, parameters = (self._core.read_register(name) for name in ("VERSION", "PARAMETERS"))
        pixels = parameters >> 16 & 0xFF
        if version != VERSION or pixels not in PIXELS:
            raise OverlayError(
                f"{self._core.instance}: expected version {VERSION:#010x} of the engine with X of "
                f"{' or '.join(map(str, PIXELS))}, found version {version:#010x} with X = {pixels}",
                advice="use an overlay and a release of this package that belong together",
            )
        self.pixels = pixels
        image = compile_model(self._model, pixels=pixels)
        self._picture_cycles = explain(image).cycles
        self.cycles = self.batch * self._picture_cycles
        self._checksum = checksum(image)
        self._image = buffers.allocate("the model", image.shape, np.uint8)
        self._image.array[:] = image
        shapes = (self.batch, self._picture_bytes), (self.batch, self.network.features)
        self._pictures = [buffers.allocate("pictures", shapes[0], np.uint8) for _ in range(2)]
        self._results = [buffers.allocate("results", shapes[1], np.int32) for _ in range(2)]

    def _upload(self) -> None:
        self._image.flush()
        self._core.set_address("IMAGE_ADDRESS", self._image.address)
        self._core.write_register("PICTURE_STRIDE", self._picture_bytes)
        self._core.write_register("RESULT_STRIDE", 4 * self.network.features)
        self._loaded = False

    def _encoder(self, images: U8) -> Encode:
        """Copies the pictures of a run, by its number, as they are: the engine makes their thermometer code itself."""

        def encode(slot: int, index: int) -> None:
            run = images[index * self.batch : (index + 1) * self.batch]
            np.copyto(self._pictures[slot].array[: len(run)], run.reshape(len(run), -1))

        return encode

    def _flush(self, slot: int) -> None:
        self._pictures[slot].flush()
        self._results[slot].array.fill(_UNWRITTEN)
        self._results[slot].flush()

    def _addresses(self, slot: int) -> Mapping[str, int]:
        return {"PICTURE_ADDRESS": self._pictures[slot].address, "RESULT_ADDRESS": self._results[slot].address}

    def _read(self, slot: int) -> npt.NDArray[np.int32]:
        self._results[slot].invalidate()
        return self._results[slot].array.copy()

    def _taker(self, logits: F32) -> Take:
        def take(index: int, result: npt.NDArray[np.int32]) -> None:
            run = slice(index * self.batch, (index + 1) * self.batch)
            logits[run] = faithful.classifier_logits(result, *self._classifier)

        return take

    def _run(self, job: Job[None], images: U8, take: Take, watch: Stopwatch) -> None:
        runs = [slice(first, first + self.batch) for first in range(0, len(images), self.batch)]
        encode = self._encoder(images)
        self._fill(0, 0, encode, watch)
        self._start_run(0, len(images[runs[0]]), watch)
        for index, run in enumerate(runs):
            slot, count = index & 1, len(images[run])
            more = index + 1 < len(runs) and not job.cancelled
            if more:
                self._fill(slot ^ 1, index + 1, encode, watch)
            self._wait(watch)
            self._check_run(count)
            if more:
                self._start_run(slot ^ 1, len(images[runs[index + 1]]), watch)
            result = self._read(slot)[:count]
            watch.lap("read")
            if result.min() == _UNWRITTEN:
                raise AcceleratorError(
                    f"{self._core.instance}: expected {count} whole results, found some that were not written",
                    advice="try again; if it happens again, call reload()",
                )
            take(index, result)
            watch.lap("post")
            if not more:
                break

    def _set_registers(self, slot: int) -> None:
        super()._set_registers(slot)
        self._core.write_register("PICTURES", self._count)
        self._core.write_register("LOAD", int(not self._loaded))
        self._loaded = False  # until this run has shown that it is

    def _start_run(self, slot: int, count: int, watch: Stopwatch) -> None:
        self._count = count
        self._waiter.expected_s = count * self._picture_cycles / (self.clock_mhz * 1e6)
        self._start(slot, watch)

    def _check_run(self, count: int) -> None:
        """Raise what the engine reports of the run that has ended."""
        code = self._core.read_register("ERROR")
        if code:
            name, meaning = ERRORS.get(code, ("UNKNOWN", "a code this package does not know"))
            raise EngineError(
                f"{self._core.instance}: the run ended with error {code} ({name}): {meaning}",
                advice="try again: the model is sent again; if it happens again, call reload()",
                code=code,
            )
        done, found = self._core.read_register("PICTURES_DONE"), self._core.read_register("LOADED")
        if done != count or found != self._checksum:
            raise AcceleratorError(
                f"{self._core.instance}: expected {count} pictures done with model {self._checksum:#010x}, found "
                f"{done} with {found:#010x}: it was reset, or used by somebody else, during the run",
                advice="try again: the model is sent again; if it happens again, call reload()",
            )
        self._loaded = True
