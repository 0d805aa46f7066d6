"""Signals beside dask: no half-started cluster, no workers that die of somebody's Ctrl-C, no interrupt that is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

_HANDLED: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


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
        # Threads that were there before, such as those of NumPy, do get it, and Python then interrupts this one.
        with _later() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Have signals handled where this block calls what this gives, several times a second; a second one at once.

    An exception that a handler raises while a destructor runs, of which dask's futures have some, is printed and lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    with _later() as check:
        yield check


@contextlib.contextmanager
def _later() -> Iterator[Callable[[], None]]:
    before = {number: signal.getsignal(number) for number in _HANDLED}
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            _call(before[number], number, frame)

    def check() -> None:
        if came:
            _call(before[came[0]], came[0])

    try:
        with _handled_by(handle):
            yield check
    finally:
        check()  # also in place of what came of it: workers may have got it, too


@contextlib.contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _HANDLED}
    for number, handler in before.items():
        if callable(handler):  # else it is the system's business, or ignored
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _call(handler: Any, number: int, frame: FrameType | None = None) -> None:
    if callable(handler):
        handler(number, frame)
