"""Waiting for the end of a run: asleep for most of it, awake for its last moments, never past a deadline."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol

from .drivers import HlsCore

# Measured on x86-64 Linux 6 with CPython 3.10 to 3.12: time.sleep(50e-6) takes 120 us and time.sleep(1e-3) 1.08 ms,
# since the kernel rounds timers up by some 50 us; time.sleep(0) takes 0.6 us on 3.10 but 70 us from 3.11 on, where it
# became a timer; os.sched_yield() takes 0.6 us on all. Of a run of 0.36 ms every 18 us are 5 % of the throughput.
# So: one sleep that ends early by what sleeps are usually late, then looks with sched_yield() between them.
_FIRST_LATENESS = 100e-6
_SPARE = 30e-6
_SHORTEST_SLEEP = 40e-6
_GRACE = 200e-6
"""How long after its expected end a run is still looked at without sleeping."""
_LONGEST_SLEEP = 5e-3
_LONGEST_TRUST = 0.05
"""How long an interrupt is waited for before the core is looked at all the same."""

INTERRUPT_PAYS_S = 2e-3
"""Runs shorter than this end before an event loop has gone to sleep and woken up."""


class Waiter(Protocol):
    """Waits for a run of a core."""

    expected_s: float

    def wait(self, idle: Callable[[], bool], started: float, timeout_s: float) -> bool:
        """Whether ``idle()`` came true within ``timeout_s`` after ``started`` (``time.perf_counter``)."""


class PollingWaiter:
    """Looks at AP_IDLE; learns from every run how long runs take, and how late sleeps end."""

    def __init__(self, expected_s: float) -> None:
        self.expected_s = expected_s
        self._lateness = _FIRST_LATENESS

    def wait(self, idle: Callable[[], bool], started: float, timeout_s: float) -> bool:
        busy = 0.0
        while not idle():
            busy = time.perf_counter() - started
            if busy >= timeout_s:
                return idle()  # this thread may have been off the processor while the run ended
            self._pause(busy, timeout_s)
        self._learn(busy, time.perf_counter() - started)
        return True

    def _learn(self, busy: float, done: float) -> None:
        """Correct the expectation by a run that ended between ``busy`` and ``done``.

        Slowly upwards, since a run seems long whenever this thread was kept off the processor; a run that ended while
        this thread slept is expected a little earlier, so that the next one's end is seen.
        """
        if self.expected_s < busy:
            self.expected_s = min(busy, self.expected_s * 1.1 + 10e-6)
            return
        self.expected_s = min(self.expected_s, done)
        if done - busy > _SHORTEST_SLEEP:
            self.expected_s = max(busy, self.expected_s * 0.95)

    def _pause(self, elapsed: float, timeout_s: float) -> None:
        """Let some time pass."""
        left = self.expected_s - elapsed
        # A third of what is left in any case: it lets other Python threads work, and shows how late sleeps are now.
        duration = max(left - self._lateness - _SPARE, left / 3)
        if left < -_GRACE:
            duration = min(-left / 8, _LONGEST_SLEEP, timeout_s - elapsed)
        if duration < _SHORTEST_SLEEP:
            os.sched_yield()
            return
        before = time.perf_counter()
        time.sleep(duration)
        late = time.perf_counter() - before - duration
        self._lateness += (min(late, 1e-3) - self._lateness) / 8


class InterruptWaiter:
    """Waits for the core's interrupt in the event loop of the thread that owns the core.

    An interrupt only means that it is time to look: interrupts can be spurious, late, or from a run before.
    """

    def __init__(self, core: HlsCore, loop: asyncio.AbstractEventLoop, expected_s: float) -> None:
        self.expected_s = expected_s
        self._core = core
        self._loop = loop
        core.clear_interrupt()
        core.enable_interrupt()

    def wait(self, idle: Callable[[], bool], started: float, timeout_s: float) -> bool:
        return self._loop.run_until_complete(self._wait(idle, started, timeout_s))

    async def _wait(self, idle: Callable[[], bool], started: float, timeout_s: float) -> bool:
        while not idle():
            left = started + timeout_s - time.perf_counter()
            if left <= 0:
                return idle()
            trust = min(left, max(_LONGEST_TRUST, 2 * self.expected_s))
            try:
                await asyncio.wait_for(self._core.interrupt.wait(), trust)
            except asyncio.TimeoutError:
                continue
            self._core.clear_interrupt()
        self._core.clear_interrupt()
        return True
