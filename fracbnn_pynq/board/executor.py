"""Who may touch an accelerator's registers and buffers: one thread at a time, in general a thread of its own."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..errors import BackendError

T = TypeVar("T")


class Job(Generic[T]):
    """One piece of work. ``cancelled``: nobody waits for its result any more, so it should end soon."""

    def __init__(self, work: Callable[[Job[T]], T]) -> None:
        self.cancelled = False
        self._work = work
        self._result: T
        self._error: BaseException | None = None
        self._done = threading.Lock()  # faster to wait for than an Event
        self._done.acquire()

    def run(self) -> None:
        """Do the work and wake the thread that waits for it."""
        try:
            self._result = self._work(self)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        self._done.release()

    def result(self) -> T:
        """Wait for the result; an exception here (KeyboardInterrupt) cancels the job."""
        try:
            self._done.acquire()
        except BaseException:
            self.cancelled = True
            raise
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._result


class OwnerThread:
    """Runs jobs one after the other, never two at a time.

    The thread ends with :meth:`stop`, when this object is collected, or with the process. It is not in a process forked
    from this one, which can have nothing done.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopped = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=_serve, args=(self._jobs, self._turn), name=name, daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, self._jobs.put, None)
        self._finalizer.atexit = False  # other functions that run at the end may still have work

    def call(self, work: Callable[[Job[T]], T], *, direct: bool = False) -> T:
        """Have ``work(job)`` run by the owner thread; its result or exception.

        ``direct``: the caller's thread may stand in for the owner where that is idle. It saves two thread switches, 40
        to 100 microseconds; but a KeyboardInterrupt may then strike anywhere in ``work``, which must allow for it.
        Raises :class:`~fracbnn_pynq.errors.BackendError` once stopped, and in a forked process.
        """
        self._check_process()
        job = Job(work)
        if direct and not self._turn.locked():
            with self._turn:
                self._check_open()
                return work(job)
        with self._lock:
            self._check_open()
            self._jobs.put(job)
        return job.result()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise BackendError(
                f"this accelerator belongs to process {self._process}; process {os.getpid()} was forked from it, and "
                "two cannot drive one board",
                advice="load the classifier after forking, in the one process that uses it",
            )

    def _check_open(self) -> None:
        if self._stopped:
            raise BackendError("this accelerator has been closed", advice="open another one")

    def stop(self, last: Callable[[Job[None]], None] = lambda job: None) -> None:
        """Let the jobs asked for so far be done, then ``last``, and the thread end.

        Nothing is done between the two: a job that arrives meanwhile raises BackendError. Only the first call has its
        ``last`` done, and raises what that raises; others wait until it is. In a forked process, nothing happens.
        """
        if self._process != os.getpid():
            return
        job = Job(last)
        with self._lock:
            first, self._stopped = not self._stopped, True
            if first and threading.current_thread() is not self._thread:
                self._jobs.put(job)
            self._finalizer()
        if threading.current_thread() is self._thread:  # collected there, between two jobs
            if first:
                last(job)
            return
        self._thread.join()
        if first:
            job.result()


def _serve(jobs: queue.SimpleQueue[Job[Any] | None], turn: threading.Lock) -> None:
    while (job := jobs.get()) is not None:
        with turn:
            job.run()
        del job  # not to keep its pictures until the next one comes
