"""Frames as they come: capture, classify, deliver, each at its own pace.

Three stages run at the same time: capture and inference each in a thread of their own, delivery in the caller's
(windows belong to the main thread). Between capture and inference waits at most one frame, and a newer one takes its
place: a slow model or a slow receiver costs frames, never freshness. Nothing here knows what a frame or a result is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from .stagetimes import Statistics

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Frame = TypeVar("Frame")
Result = TypeVar("Result")

RESULTS_WAITING = 2
"""Results that may wait for the receiver, which evens out a receiver that is late now and then."""

POLL_S = 0.05
"""A request to stop is noticed within this time. Signal handlers may only set a flag: a lock could be held already."""

STOP_TIMEOUT_S = 3.0
"""How long the stages may take to come back when the pipeline stops, before they are left behind: who presses Ctrl-C
does not wait for a device that does not answer (OpenCV gives it up after 10 s, a pipe without a writer never)."""


class EndOfStream(Exception):  # noqa: N818 - like StopIteration, not an error
    """Nothing more will come, or nobody takes anything more."""


class NothingYet(Exception):  # noqa: N818 - likewise
    """Nothing came in time. A class of its own: what the stages raise may be a TimeoutError."""


class Handover(Generic[Item]):
    """A bounded queue from one thread to one other, which also carries the end of the stream and its error."""

    def __init__(self, size: int, *, drop_oldest: bool) -> None:
        """``size``: items that may wait. ``drop_oldest``: when full, the oldest gives way; else the sender waits."""
        if size < 1:
            raise ValueError(f"size: expected at least 1, found {size}")
        self._items: deque[Item] = deque()
        self._size = size
        self._drop_oldest = drop_oldest
        self._changed = threading.Condition()
        self._finished = False
        self._abandoned = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> int:
        """Hand an item over; returns how many older ones gave way. Raises EndOfStream if nobody takes it."""
        with self._changed:
            while len(self._items) >= self._size and not self._drop_oldest and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise EndOfStream
            dropped = 0
            while len(self._items) >= self._size:
                self._items.popleft()
                dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """The oldest item. Raises NothingYet after ``timeout``; after the last, the sender's error or EndOfStream."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._abandoned, timeout)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            if self._finished or self._abandoned:
                raise EndOfStream
            raise NothingYet

    def finish(self, error: BaseException | None = None) -> None:
        """Called by the sender: nothing more will come, because of ``error`` if there is one."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Called by either side: what waits is thrown away, nothing more is taken."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()


@dataclass(frozen=True)
class Captured(Generic[Frame]):
    """A frame, and when the source handed it out (seconds of :func:`time.perf_counter`)."""

    frame: Frame
    captured: float


@dataclass(frozen=True)
class Delivery(Captured[Frame], Generic[Frame, Result]):
    """A frame with its result, and when inference began and ended."""

    result: Result
    started: float
    inferred: float


class Pipeline(Generic[Frame, Result]):
    """Frames of ``frames`` through ``infer`` to a receiver; for one run.

    ``frames``: iterated in a thread, closed there if it is a generator. ``infer``: called with one frame at a time, in
    another thread. ``drop``: whether a frame that waits gives way to a newer one; else the source waits (for files of
    which every frame counts). ``depth``: results that may wait for the receiver. ``interrupt``: called when the run
    ends; it should make a source that is waiting return.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        infer: Callable[[Frame], Result],
        *,
        drop: bool = True,
        depth: int = RESULTS_WAITING,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.statistics = Statistics()
        self._frames = frames
        self._infer = infer
        self._interrupt = interrupt
        self._waiting: Handover[Captured[Frame]] = Handover(1, drop_oldest=drop)
        self._results: Handover[Delivery[Frame, Result]] = Handover(depth, drop_oldest=False)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._capture_all, name="fracbnn-capture", daemon=True),
            threading.Thread(target=self._infer_all, name="fracbnn-infer", daemon=True),
        ]

    def run(
        self,
        deliver: Callable[[Delivery[Frame, Result]], None],
        *,
        seconds: float | None = None,
        tick: Callable[[], None] | None = None,
        interval: float = 1.0,
    ) -> Statistics:
        """Run until the source ends, :meth:`stop` is called or ``seconds`` have passed; returns what was measured.

        ``deliver`` is called in this thread with every result, in the order of the frames; ``tick`` about every
        ``interval`` seconds, also when nothing comes. An exception of the source or of ``infer`` is raised here after
        the results before it have been delivered; one of ``deliver`` or ``tick`` is raised at once. Either way no
        thread is left. Raises RuntimeError when called twice.
        """
        begin = time.perf_counter()
        end = None if seconds is None else begin + seconds
        next_tick = begin + interval
        with self:
            while not self._stopping and (end is None or time.perf_counter() < end):
                try:
                    delivery = self._results.get(POLL_S)
                except NothingYet:
                    pass
                except EndOfStream:
                    break
                else:
                    self._deliver(delivery, deliver)
                if tick is not None and (now := time.perf_counter()) >= next_tick:
                    tick()
                    next_tick = max(next_tick + interval, now)
        return self.statistics

    def stop(self) -> None:
        """End the run soon: the result being delivered is the last. From any thread, or from a signal handler."""
        self._stopping = True

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._waiting.abandon()
        self._results.abandon()
        if self._interrupt is not None:
            self._interrupt()
        deadline = time.perf_counter() + STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.perf_counter()))
            if thread.is_alive():
                log.warning("%s did not come back within %g s and is left behind", thread.name, STOP_TIMEOUT_S)

    def _capture_all(self) -> None:
        error = None
        frames = None
        try:
            frames = iter(self._frames)
            self._capture_from(frames)
        except EndOfStream:
            pass
        except BaseException as caught:
            error = caught
        finally:
            error = _close(frames, error)
            self._waiting.finish(error)

    def _capture_from(self, frames: Iterator[Frame]) -> None:
        statistics = self.statistics
        before = time.perf_counter()
        for frame in frames:
            now = time.perf_counter()
            statistics.captured.at(now)
            statistics.stages["capture"].add(now - before)
            statistics.dropped += self._waiting.put(Captured(frame, now))
            if self._stopping:
                return
            before = time.perf_counter()

    def _infer_all(self) -> None:
        error = None
        try:
            while not self._stopping:
                self._infer_one(self._waiting.get())
        except EndOfStream:
            pass
        except BaseException as caught:
            error = caught
        finally:
            self._waiting.abandon()
            self._results.finish(error)

    def _infer_one(self, waiting: Captured[Frame]) -> None:
        statistics = self.statistics
        started = time.perf_counter()
        result = self._infer(waiting.frame)
        inferred = time.perf_counter()
        statistics.classified.at(inferred)
        statistics.stages["wait for inference"].add(started - waiting.captured)
        statistics.stages["inference"].add(inferred - started)
        self._results.put(Delivery(waiting.frame, waiting.captured, result, started, inferred))

    def _deliver(self, delivery: Delivery[Frame, Result], deliver: Callable[[Delivery[Frame, Result]], None]) -> None:
        statistics = self.statistics
        before = time.perf_counter()
        deliver(delivery)
        now = time.perf_counter()
        statistics.delivered.at(now)
        statistics.stages["wait for delivery"].add(before - delivery.inferred)
        statistics.stages["delivery"].add(now - before)
        statistics.stages["end to end"].add(now - delivery.captured)


def _close(frames: object, error: BaseException | None) -> BaseException | None:
    """Close what can be closed; the first error wins."""
    close = getattr(frames, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as caught:
            return error or caught
    return error
