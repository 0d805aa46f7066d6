"""Signals while a local cluster starts: neither half a cluster nor workers that die of somebody's Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType

_LATER = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def unbroken_start() -> Iterator[None]:
    """Let a block that starts threads and processes come to its end; a signal that comes meanwhile is handled then, a
    second one at once.

    Ctrl-C in a terminal goes to all processes. Those that are started by threads that are started here never get it,
    since they inherit what is blocked; also those that dask starts later, in place of others.
    """
    resource_tracker.ensure_running()  # else it unblocks signals in the thread that starts the first process
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # Threads that were there before, such as those of NumPy, do get the signal, and Python then interrupts this one.
        with _later() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _later() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _LATER}
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        handler = before[signal.Signals(number)]
        if len(came) > 1 and callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)  # also in place of what came of it: workers may have got it, too
