"""Runs of a simulated core in real time: what is computed in how long, and when the core may say so.

A run is over once its results are computed *and* its modelled time has passed. Nobody is woken at that moment: the
question is answered when a driver reads the control register. Only a core with an interrupt line, or one that
restarts itself, needs the thread to wait until then.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable

from .memory import BusError

log = logging.getLogger(__name__)

Commit = Callable[[], None]
"""Makes a run's results visible; called when the run ends."""

_POLL = 50e-6
"""How long a poll waits for a run still computing. It lets the computing thread have the interpreter."""
_SPIN = 200e-6
"""``time.sleep`` may return this much late, so the rest of a wait is spent asking for the time."""


class Job:
    """One run: ``work`` computes and returns what is left to do at the end, due at ``due`` (``time.perf_counter``)."""

    def __init__(self, work: Callable[[], Commit], due: float) -> None:
        self.due = due
        self.error: Exception | None = None
        self._work = work
        self._commit: Commit | None = None
        self._computed = threading.Event()

    def compute(self) -> None:
        """Do the work. A bus error stops the run for good, as in hardware; any other error is raised by a poll."""
        try:
            self._commit = self._work()
        except BusError as error:
            log.warning("simulated core stopped: %s", error)
            self.error = error
        except Exception as error:  # handed to the thread that polls
            self.error = error
        self._computed.set()

    def finished(self) -> bool:
        """Whether the run is over by now; waits at most 50 microseconds for a computation still going on."""
        if not self._computed.is_set() and not self._computed.wait(_POLL):
            return False
        if self.error is not None and not isinstance(self.error, BusError):
            raise self.error
        return self._commit is not None and time.perf_counter() >= self.due

    def commit(self) -> None:
        """Make the results visible; a bus error here loses them, since the core does not look at the answer."""
        if self._commit is not None:
            try:
                self._commit()
            except BusError as error:
                log.warning("simulated core lost its results: %s", error)
                self.error = error

    def wait(self, stopped: threading.Event) -> bool:
        """Sleep until the run is due; False where it never will be or ``stopped`` is set first."""
        if self._commit is None or math.isinf(self.due):
            return False
        remaining = self.due - time.perf_counter()
        if remaining > _SPIN and stopped.wait(remaining - _SPIN):
            return False
        while time.perf_counter() < self.due:
            time.sleep(0)
        return True


class Runner:
    """One thread, started when first needed, that computes a core's runs one after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Job, Callable[[], None] | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def submit(self, job: Job, when_due: Callable[[], None] | None = None) -> None:
        """Compute ``job``; then, if given, wait until it is due and call ``when_due``."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((job, when_due))

    def stop(self) -> None:
        """Let the thread end after the computation it is in. Does not wait for it, so any thread may call it."""
        self._stopped.set()
        self._jobs.put(None)

    @property
    def ended(self) -> bool:
        """Whether there is no thread, or none any more."""
        return self._thread is None or not self._thread.is_alive()

    def join(self) -> None:
        """Stop and wait until the thread has ended."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while (item := self._jobs.get()) is not None and not self._stopped.is_set():
            job, when_due = item
            job.compute()
            if when_due is not None and job.wait(self._stopped):
                when_due()
