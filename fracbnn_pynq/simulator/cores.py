"""The two published FracBNN cores behind their register maps.

A core reads the addresses of its buffers from its argument registers, fetches image and weights from simulated DRAM,
has them computed (:mod:`.compute`) and writes the result back, in the time the published core takes at the present
clock. Registers are found by the names in the hand-off file, since builds of the same core differ in their offsets.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from ..board import layout
from ..errors import OverlayError
from .compute import Cifar10Compute, ImageNetCompute, ImageNetNetwork
from .faults import Fault, FaultKind, FaultPlan
from .memory import Dram, MasterPort
from .registers import ApCtrlHs, Ram32
from .runner import Commit, Job, Runner

log = logging.getLogger(__name__)

OVERCLOCK_MARGIN = 1.1
"""A core clocked faster than this multiple of its design clock returns wrong results."""

Arguments = Mapping[str, int]
"""Values of the argument registers by role."""


@dataclass(frozen=True)
class Result:
    """What a run leaves in memory: ``data`` at ``address``."""

    address: int
    data: bytes


class Kernel(Protocol):
    """What one kind of core does with its arguments."""

    cycles: ClassVar[int]
    """Clock cycles of one run."""
    roles: ClassVar[Mapping[str, str]]
    """Beginning of the argument register's name, by role."""
    offsets: ClassVar[Mapping[str, int]]
    """Offsets in the published overlay, by role, for hand-off files that name no registers."""

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        """Compute one run; raises BusError where memory does not answer."""


class Cifar10Kernel:
    """The CIFAR-10 core: 24,576 bytes of thermometer words in, ten float32 logits out; weights in the bitstream.

    89,000 cycles are 0.356 ms at 250 MHz, the paper's rate of 2,809 pictures a second (arXiv 2012.12206).
    """

    cycles: ClassVar[int] = 89_000
    roles: ClassVar[Mapping[str, str]] = {"image": "image", "result": "output"}
    offsets: ClassVar[Mapping[str, int]] = {"image": 0x10, "result": 0x18}

    def __init__(self, compute: Cifar10Compute) -> None:
        self._compute = compute

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        port.check(arguments["result"], layout.CIFAR10_RESULT_BYTES)
        image = np.frombuffer(port.read(arguments["image"], layout.CIFAR10_IMAGE_BYTES), np.uint64)
        logits = self._compute(image.reshape(layout.CIFAR10_IMAGE_SHAPE))
        return Result(arguments["result"], logits.astype(np.float32).tobytes())


class ImageNetKernel:
    """The ImageNet core: image, three weight buffers and 13 MB of scratch memory, whose first words are the result.

    5,200,000 cycles are 20.8 ms at 250 MHz, the paper's rate of 48.1 pictures a second (arXiv 2012.12206).
    """

    cycles: ClassVar[int] = 5_200_000
    roles: ClassVar[Mapping[str, str]] = {
        "image": "image_thermo",
        "conv3x3": "conv_weight_3x3",
        "conv1x1": "conv_weight_1x1",
        "parameters": "weights_all",
        "scratch": "DDR_buf_pack",
    }
    offsets: ClassVar[Mapping[str, int]] = {
        "image": 0x10,
        "conv3x3": 0x18,
        "conv1x1": 0x20,
        "parameters": 0x28,
        "scratch": 0x30,
    }
    _weight_bytes: ClassVar[Mapping[str, int]] = {
        "conv3x3": layout.IMAGENET_CONV3X3_BYTES,
        "conv1x1": layout.IMAGENET_CONV1X1_BYTES,
        "parameters": layout.IMAGENET_PARAMETER_BYTES,
    }

    def __init__(self, compute: ImageNetCompute) -> None:
        self._compute = compute
        self._key: tuple[tuple[int, int], ...] = ()
        self._network: ImageNetNetwork | None = None

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        port.check(arguments["scratch"], layout.IMAGENET_SCRATCH_BYTES)
        image = np.frombuffer(port.read(arguments["image"], layout.IMAGENET_IMAGE_BYTES), np.uint32)
        codes = self._load(arguments, port)(image.reshape(layout.IMAGENET_IMAGE_SHAPE))
        shape = (layout.IMAGENET_RESULT_WORDS, layout.WORD_BYTES)
        # The lanes of the column past the map keep what is in memory, as in the core.
        before = port.read(arguments["scratch"], shape[0] * shape[1])
        words = np.frombuffer(before, np.uint8).reshape(shape).copy()
        return Result(arguments["scratch"], layout.pack_imagenet_result(codes, words).tobytes())

    def _load(self, arguments: Arguments, port: MasterPort) -> ImageNetNetwork:
        """The network whose weights lie in memory, unpacked again only when they have changed."""
        spans = {role: (arguments[role], nbytes) for role, nbytes in self._weight_bytes.items()}
        key = tuple((address, port.generation(address, nbytes)) for address, nbytes in spans.values())
        if self._network is None or key != self._key:
            self._network = self._compute(*(port.read(*span) for span in spans.values()))
            self._key = key
        return self._network


@dataclass(frozen=True)
class Surroundings:
    """What a core needs of the board it is in. ``hz`` gives the present clock; ``timed`` False means no latency."""

    dram: Dram
    hz: Callable[[], float]
    timed: bool = True
    plan: FaultPlan = field(default_factory=FaultPlan)
    on_fault: Callable[[Fault], None] = lambda fault: None


class Core:
    """One core in the fabric: ``control`` and ``arguments`` are its register models (often one slave).

    ``design_hz`` is the clock it was built for; ``registers`` maps register names of the hand-off file to offsets.
    ``overclocked`` tells whether any run was started at more than 1.1 times that clock; such runs return wrong bits.
    """

    def __init__(
        self,
        name: str,
        kernel: Kernel,
        surroundings: Surroundings,
        *,
        registers: Mapping[str, int],
        design_hz: float,
        interrupt: Callable[[bool], None] | None = None,
    ) -> None:
        self.name = name
        self.design_hz = design_hz
        self.overclocked = False
        self.error: Exception | None = None
        self.arguments = Ram32()
        self.control = ApCtrlHs(self._start, arguments=self.arguments, interrupt=interrupt)
        self._kernel = kernel
        self._board = surroundings
        self._offsets = _find_registers(name, kernel, registers)
        self._runner = Runner(f"simulated {name}")
        self._wakes = interrupt is not None

    @property
    def runs(self) -> int:
        """Runs that have ended."""
        return self.control.runs

    def remove(self) -> None:
        """Take the core out of the fabric; a run under way never ends."""
        self.control.abandon()
        self._runner.stop()

    @property
    def ended(self) -> bool:
        """Whether a removed core's thread has ended, too."""
        return self._runner.ended

    def close(self) -> None:
        """Remove the core and wait for its thread."""
        self.remove()
        self._runner.join()

    def _start(self, words: Mapping[int, int]) -> Job:
        begin = time.perf_counter()
        faults = self._board.plan.next("run")
        hz = self._board.hz()
        arguments = {role: words.get(offset, 0) for role, offset in self._offsets.items()}
        job = Job(lambda: self._work(arguments, hz, faults), begin + self._seconds(hz, faults))
        if self._board.timed or self._wakes or FaultKind.LATE in faults:
            self._runner.submit(job, self.control.settle if self._wakes else None)
        else:
            job.compute()
        if fault := faults.get(FaultKind.POWER_CYCLE):
            self._board.on_fault(fault)
        return job

    def _seconds(self, hz: float, faults: Mapping[FaultKind, Fault]) -> float:
        if FaultKind.HANG in faults or not hz:
            return math.inf
        late = faults[FaultKind.LATE].number(0.5) if FaultKind.LATE in faults else 0.0
        return late + (self._kernel.cycles / hz if self._board.timed else 0.0)

    def _work(self, arguments: Arguments, hz: float, faults: Mapping[FaultKind, Fault]) -> Commit:
        broken = faults[FaultKind.BUS_ERROR].range() if FaultKind.BUS_ERROR in faults else None
        port = MasterPort(self._board.dram, broken=broken)
        try:
            result = self._kernel.run(arguments, port)
        except Exception as error:
            self.error = error
            raise
        data = result.data
        if hz > OVERCLOCK_MARGIN * self.design_hz:
            log.warning("%s runs at %.1f MHz but was built for %.1f MHz", self.name, hz / 1e6, self.design_hz / 1e6)
            self.overclocked = True
            data = _corrupted(data, self.runs)
        if fault := faults.get(FaultKind.WRONG_LENGTH):
            data = data[: int(fault.number(len(data) // 2))]

        def commit() -> None:
            port.write(result.address, data)
            if fault := faults.get(FaultKind.OVERLAY_REPLACED):
                self._board.on_fault(fault)

        return commit


def _find_registers(core: str, kernel: Kernel, registers: Mapping[str, int]) -> dict[str, int]:
    """Offset of every argument by role: the first register whose name begins as the role's does."""
    if not registers:
        return dict(kernel.offsets)
    found = {}
    for role, prefix in kernel.roles.items():
        offsets = [offset for name, offset in registers.items() if name.startswith(prefix)]
        if not offsets:
            raise OverlayError(f"{core}: expected a register {prefix}..., found {', '.join(registers)}")
        found[role] = min(offsets)
    return found


def _corrupted(data: bytes, seed: int) -> bytes:
    """Some bits flipped, always at least one, differently from run to run, as a core that misses its timing."""
    words = np.frombuffer(data, np.uint8).copy()
    rng = np.random.default_rng(seed)
    hit = rng.choice(len(words), max(1, len(words) // 8), replace=False)
    words[hit] ^= rng.integers(1, 256, len(hit), dtype=np.uint8)
    return bytes(words)
