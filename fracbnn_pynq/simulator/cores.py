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

from ..cores import CIFAR10_CORE, IMAGENET_CORE
from ..cores import Core as PublishedCore
from ..errors import OverlayError
from ..layouts import images as layout
from .compute import Cifar10Compute, ImageNetCompute, ImageNetNetwork
from .faults import Fault, FaultKind, FaultPlan
from .memory import Dram, MasterPort
from .registers import FIRST_ARGUMENT, ApCtrlHs, Ram32
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


def _roles(core: PublishedCore, *roles: str) -> dict[str, str]:
    return dict(zip(roles, core.arguments, strict=True))


class Kernel(Protocol):
    """What one kind of core does with its arguments."""

    roles: ClassVar[Mapping[str, str]]
    """Beginning of the argument register's name, by role, in the order of the registers."""

    def cycles(self, arguments: Arguments) -> int:
        """Clock cycles of a run."""

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        """Compute one run; raises BusError where memory does not answer."""

    def status(self) -> Mapping[int, int]:
        """Registers that only the core itself writes, by offset, as they are after a reset and after each run."""


class Cifar10Kernel:
    """The CIFAR-10 core: 24,576 bytes of thermometer words in, ten float32 logits out; weights in the bitstream."""

    roles: ClassVar[Mapping[str, str]] = _roles(CIFAR10_CORE, "image", "result")

    def __init__(self, compute: Cifar10Compute) -> None:
        self._compute = compute

    def cycles(self, arguments: Arguments) -> int:
        return CIFAR10_CORE.cycles

    def status(self) -> Mapping[int, int]:
        return {}

    def run(self, arguments: Arguments, port: MasterPort) -> Result:
        port.check(arguments["result"], layout.CIFAR10_RESULT_BYTES)
        image = np.frombuffer(port.read(arguments["image"], layout.CIFAR10_IMAGE_BYTES), np.uint64)
        logits = self._compute(image.reshape(layout.CIFAR10_IMAGE_SHAPE))
        return Result(arguments["result"], logits.astype(np.float32).tobytes())


class ImageNetKernel:
    """The ImageNet core: image, three weight buffers and 13 MB of scratch memory, whose first words are the result."""

    roles: ClassVar[Mapping[str, str]] = _roles(IMAGENET_CORE, "image", "conv3x3", "conv1x1", "parameters", "scratch")
    _weight_bytes: ClassVar[Mapping[str, int]] = {
        "conv3x3": layout.IMAGENET_CONV3X3_BYTES,
        "conv1x1": layout.IMAGENET_CONV1X1_BYTES,
        "parameters": layout.IMAGENET_PARAMETER_BYTES,
    }

    def __init__(self, compute: ImageNetCompute) -> None:
        self._compute = compute
        self._key: tuple[tuple[int, int], ...] = ()
        self._network: ImageNetNetwork | None = None

    def cycles(self, arguments: Arguments) -> int:
        return IMAGENET_CORE.cycles

    def status(self) -> Mapping[int, int]:
        return {}

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
        self.arguments = Ram32(kernel.status())
        self.arguments.locked.update(kernel.status())
        self.control = ApCtrlHs(self._start, arguments=self.arguments, interrupt=interrupt)
        self._kernel = kernel
        self._board = surroundings
        self.offsets = _find_registers(name, kernel, registers)
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
        arguments = {role: words.get(offset, 0) for role, offset in self.offsets.items()}
        job = Job(lambda: self._work(arguments, hz, faults), begin + self._seconds(arguments, hz, faults))
        if self._board.timed or self._wakes or FaultKind.LATE in faults:
            self._runner.submit(job, self.control.settle if self._wakes else None)
        else:
            job.compute()
        if fault := faults.get(FaultKind.POWER_CYCLE):
            self._board.on_fault(fault)
        return job

    def _seconds(self, arguments: Arguments, hz: float, faults: Mapping[FaultKind, Fault]) -> float:
        if FaultKind.HANG in faults or not hz:
            return math.inf
        late = faults[FaultKind.LATE].number(0.5) if FaultKind.LATE in faults else 0.0
        return late + (self._kernel.cycles(arguments) / hz if self._board.timed else 0.0)

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
        if data and (fault := faults.get(FaultKind.FLIPPED_BIT)):
            data = _flipped(data, int(fault.number(0)))
        if fault := faults.get(FaultKind.WRONG_LENGTH):
            data = data[: int(fault.number(len(data) // 2))]

        status = self._kernel.status()

        def commit() -> None:
            if data:
                port.write(result.address, data)
            self.arguments.values.update(status)
            for kind in (FaultKind.OVERLAY_REPLACED, FaultKind.OVERLAY_RELOADED):
                if fault := faults.get(kind):
                    self._board.on_fault(fault)

        return commit


def _flipped(data: bytes, bit: int) -> bytes:
    """``data`` with one bit changed; those beyond its end are counted on from its beginning."""
    place, changed = divmod(bit % (8 * len(data)), 8)
    return data[:place] + bytes([data[place] ^ 1 << changed]) + data[place + 1 :]


def _find_registers(core: str, kernel: Kernel, registers: Mapping[str, int]) -> dict[str, int]:
    """Offset of every argument by role: the first register whose name begins as the role's does; those of the published
    overlay where the hand-off file names no registers."""
    if not registers:
        return {role: FIRST_ARGUMENT + 8 * i for i, role in enumerate(kernel.roles)}
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
