"""An accelerator on a board: buffers, starts, waits and results of a core, safe to use from several threads.

One thread at a time drives the core (:mod:`.executor`). While one picture runs, the next is encoded into the
other of two image buffers. Imports pynq.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import AcceleratorError, AcceleratorTimeoutError, FracBNNError, OverlayReplacedError
from ..networks import Network
from .buffers import Buffers
from .clock import design_clock_mhz, set_safe_clock
from .drivers import HlsCore, find_core
from .executor import Job, OwnerThread
from .loading import download
from .overlay_state import LoadedCheck
from .stages import STAGES, Stopwatch
from .waiting import INTERRUPT_PAYS_S, InterruptWaiter, PollingWaiter, Waiter

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
"""Some fifty times a run of the slower core; the sooner a hung core is noticed, the sooner it is loaded again."""
_CLOSING_S = 0.5

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Take = Callable[[int, Any], None]
"""``take(index, result)``: what is done on the host with the result of the run of that number; it goes to the caller's
array."""
Encode = Callable[[int, int], object]
"""``encode(slot, index)``: fills a slot's buffer for the run of that number."""


class Accelerator(ABC):
    """What the cores have in common; see :class:`.cifar10.Cifar10Accelerator`, :class:`.imagenet.ImageNetAccelerator`.

    ``overlay``: a loaded pynq overlay. ``design_mhz``: the clock it was built for (``None``: what its hand-off file
    says); a faster clock is brought down, see :func:`.clock.set_safe_clock`. ``timeout_s``: how long a run may take.

    Raises :class:`~fracbnn_pynq.errors.OverlayError` where overlay, clock or memory do not fit,
    :class:`~fracbnn_pynq.errors.AcceleratorError` where there is not enough contiguous memory.
    """

    network: Network
    driver: ClassVar[type[HlsCore]]
    cycles: int
    """Clock cycles of a run, from which the first run's duration is guessed."""
    result_is_overwritten: ClassVar[bool]
    """Whether the next run writes its result to the same place, so that it must be read before that is started."""
    direct: ClassVar[bool] = False
    """Whether a caller's thread may drive the core itself: where thread switches cost much of a run's time."""

    def __init__(self, overlay: Any, *, design_mhz: float | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if timeout_s <= 0:
            raise AcceleratorError(f"timeout_s: expected seconds above zero, found {timeout_s}")
        self.timeout_s = timeout_s
        self.clock_mhz = 0.0
        self.timings: Mapping[str, float] = dict.fromkeys(STAGES, 0.0)
        """Milliseconds per picture by stage (:data:`STAGES`) of the call that ended last."""
        self._overlay = overlay
        self._design_mhz = design_mhz
        self._buffers = Buffers(overlay.device)
        self._running = self._overdue = self._lost = False
        self._slot: int | None = None
        """The slot whose addresses are in the core's registers."""
        self._started = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = OwnerThread(f"fracbnn {self.network.name}")
        try:
            self._owner.call(self._open)
        except BaseException:
            self.close()
            raise

    # What a core defines

    @abstractmethod
    def _allocate(self, buffers: Buffers) -> None:
        """Allocate all buffers."""

    @abstractmethod
    def _upload(self) -> None:
        """Write and flush what stays in memory, and set the addresses that stay in the registers."""

    @abstractmethod
    def _encoder(self, images: U8) -> Encode:
        """What writes the code of one of ``images`` into a slot's buffer."""

    def _let_go(self) -> None:  # noqa: B027 - the engine copies them, and holds none
        """Hold no pictures of a call that has ended."""

    @abstractmethod
    def _flush(self, slot: int) -> None:
        """Hand a slot's buffers over to the core."""

    @abstractmethod
    def _addresses(self, slot: int) -> Mapping[str, int]:
        """Physical addresses of a slot's buffers, by the argument they are for."""

    @abstractmethod
    def _read(self, slot: int) -> Any:
        """A copy of a slot's result, taken over from the core."""

    @abstractmethod
    def _taker(self, logits: F32) -> Take:
        """What makes logits of a result, in their places, or raises AcceleratorError where the core has not written all
        of it."""

    # What others use

    def logits(self, images: U8) -> F32:
        """Logits float32 [N, classes] of uint8 RGB pictures [N, S, S, 3] at the network's size.

        Raises :class:`~fracbnn_pynq.errors.OverlayReplacedError` where another overlay has been loaded,
        :class:`~fracbnn_pynq.errors.AcceleratorTimeoutError` where a run does not end, and
        :class:`~fracbnn_pynq.errors.AcceleratorError` where the core is still busy since, or has not written a whole
        result. Each says whether :meth:`reload` is needed.
        """
        self.network.check_images(images)
        logits = np.empty((len(images), self.network.classes), np.float32)
        direct = self.direct and self._loop is None
        self._owner.call(lambda job: self._batch(job, images, self._taker(logits)), direct=direct)
        return logits

    def counters(self) -> Mapping[str, int]:
        """What the core counted in its last run; empty for a core that counts nothing."""
        return {}

    def reload(self) -> None:
        """Load the overlay again, set its clock and upload weights. Raises what the constructor raises."""
        self._owner.call(self._reload)

    def close(self) -> None:
        """Free the buffers and end the thread, once the calls that are running have their results. Idempotent.

        A core still running is stopped by loading the overlay again, lest it write into memory that belongs to somebody
        else. Calls that arrive meanwhile or later raise :class:`~fracbnn_pynq.errors.BackendError`. In a process forked
        from this one nothing is done: board and buffers are its parent's.
        """
        self._owner.stop(self._release)

    # All that follows runs in the owner thread, or in one that stands in for it

    def _open(self, job: Job[None]) -> None:
        if getattr(self._overlay, "interrupt_pins", None):
            self._loop = asyncio.new_event_loop()  # pynq binds interrupt lines to the loop it finds
            asyncio.set_event_loop(self._loop)
        self._check = LoadedCheck(self._overlay)
        with self._explained():
            self._core = find_core(self._overlay, self.driver)
            self._allocate(self._buffers)
            self._slot_registers = [self._core.registers_of(self._addresses(slot)) for slot in range(2)]
            self._prepare()
            self._waiter = self._make_waiter()

    def _prepare(self) -> None:
        self.clock_mhz = set_safe_clock(self._design_mhz or design_clock_mhz(self._overlay.bitfile_name))
        if not self._core.idle():
            raise AcceleratorError(
                f"{self._core.instance}: expected an idle core after loading the overlay, found a busy one",
                advice="load it again, and power-cycle the board if that does not help",
            )
        self._running = self._overdue = False
        self._slot = None
        self._upload()

    def _make_waiter(self) -> Waiter:
        expected_s = self.cycles / (self.clock_mhz * 1e6)
        if self._loop is not None and getattr(self._core, "interrupt", None) and expected_s >= INTERRUPT_PAYS_S:
            log.debug("%s: waiting for its interrupt", self._core.instance)
            return InterruptWaiter(self._core, self._loop, expected_s)
        return PollingWaiter(expected_s)

    def _reload(self, job: Job[None]) -> None:
        self._lost = True  # until all of what follows has succeeded
        download(self._overlay)
        self._running = False
        self._check = LoadedCheck(self._overlay)
        with self._explained():
            self._prepare()
        self._lost = False
        # pynq's interrupt objects do not outlive a download, and are made only once for an overlay.
        self._waiter = PollingWaiter(self._waiter.expected_s)

    def _release(self, job: Job[None]) -> None:
        try:
            # After a reload that failed nobody knows what is there; where nothing is, reading a register hangs the CPU.
            if self._running and (self._lost or (self._check.still() and not self._ends_within(_CLOSING_S))):
                log.warning("%s is still running: loading its overlay again to stop it", self._core.instance)
                download(self._overlay)
        except Exception:  # memory must be freed whatever the board does
            log.exception("%s could not be stopped", self._core.instance)
        finally:
            self._buffers.free()
            if self._loop is not None:
                asyncio.set_event_loop(None)
                self._loop.close()

    def _batch(self, job: Job[None], images: U8, take: Take) -> None:
        if not len(images):
            return
        watch = Stopwatch()
        try:
            with self._explained():
                self._check_ready()
                self._run(job, images, take, watch)
        finally:
            self._let_go()
        self.timings = watch.milliseconds(len(images))

    def _run(self, job: Job[None], images: U8, take: Take, watch: Stopwatch) -> None:
        encode = self._encoder(images)
        self._fill(0, 0, encode, watch)
        self._start(0, watch)
        lap = watch.lap
        last = len(images) - 1
        for index in range(len(images)):
            slot = index & 1
            more = index < last and not job.cancelled
            if more:
                self._fill(slot ^ 1, index + 1, encode, watch)
            self._wait(watch)
            if more and not self.result_is_overwritten:
                self._start(slot ^ 1, watch)
            result = self._read(slot)
            lap("read")
            if more and self.result_is_overwritten:
                self._start(slot ^ 1, watch)
            take(index, result)
            lap("post")
            if not more:
                break

    def _fill(self, slot: int, index: int, encode: Encode, watch: Stopwatch) -> None:
        encode(slot, index)
        watch.lap("encode")
        self._flush(slot)
        watch.lap("copy")

    def _start(self, slot: int, watch: Stopwatch) -> None:
        if not self._check.still():
            raise self._replaced()
        self._set_registers(slot)
        self._running = True
        self._started = perf_counter()
        self._core.start()
        watch.lap("start")

    def _set_registers(self, slot: int) -> None:
        """Set what a run of a slot needs, or see that it is still there; the overlay has just been seen to be."""
        if slot == self._slot:
            self._core.check_addresses()
            return
        self._slot = None  # in case of a KeyboardInterrupt before both addresses are set
        self._core.set_run_addresses(self._slot_registers[slot])
        self._slot = slot

    def _wait(self, watch: Stopwatch) -> None:
        if not self._waiter.wait(self._core.idle, self._started, self.timeout_s):
            self._overdue = True
            raise AcceleratorTimeoutError(
                f"{self._core.instance}: expected the end of a run within {self.timeout_s:g} s, found a busy core",
                advice="it is used again as soon as it is idle; if it does not become idle, call reload()",
            )
        self._running = False
        watch.since("run", self._started)

    def _check_ready(self) -> None:
        """Raise unless the core is there and idle; a run that an exception left behind is waited for."""
        if self._lost or not self._check.still(closely=True):
            raise self._replaced()
        if not self._running:
            return
        if not (self._core.idle() if self._overdue else self._ends_within(self.timeout_s)):
            raise AcceleratorError(
                f"{self._core.instance}: expected an idle core, found it still busy with a run that was started "
                f"{perf_counter() - self._started:.1f} s ago",
                advice="call reload() to load the overlay again",
            )
        self._running = self._overdue = False

    def _ends_within(self, seconds: float) -> bool:
        return self._waiter.wait(self._core.idle, perf_counter(), seconds)

    def _replaced(self) -> OverlayReplacedError:
        if self._lost:
            return OverlayReplacedError(
                f"expected the overlay {self._overlay.bitfile_name} on the board, found that loading it again has "
                f"failed",
                advice="call reload() until it succeeds, or power-cycle the board",
            )
        return OverlayReplacedError(
            f"expected the overlay {self._overlay.bitfile_name} on the board, found that another one has been loaded "
            f"since, or that the board lost it",
            advice="call reload() to load it again, after ending what loaded the other one",
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what is behind an error of the hardware: most often, that the overlay is no longer there."""
        try:
            yield
        except OverlayReplacedError:
            raise
        except (FracBNNError, OSError, RuntimeError, ValueError) as error:
            if not self._check.still(closely=True):
                raise self._replaced() from error
            if isinstance(error, FracBNNError):
                raise
            raise AcceleratorError(
                f"{self.network.title}: expected the board to answer, found {type(error).__name__}: {error}",
                advice="call reload() to load the overlay again",
            ) from error
