"""One thread that owns a classifier, and its bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np

from ..backends import Reloadable
from ..classifier import Classifier
from .errors import ServiceError, late, unavailable
from .jobs import Images, Job, Logits
from .metrics import ModelCounters

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0


class Worker:
    """Runs ``classifier`` in one thread, which nothing else may use while this exists.

    ``capacity``: requests admitted at once. ``micro_batch``: pictures of different requests computed together; 1 keeps
    requests apart, so that a fault concerns one of them. ``batch_wait``: seconds to wait for more of them.

    A fault of the engine fails the requests it was computing; then the engine is reloaded if it can be, at once. Until
    that has succeeded nothing is admitted and :attr:`ready` is false; requests admitted before wait for this first
    reload. Where it fails they fail too, and it is tried again after 0.25, 0.5, 1, 2, 4 and then every 5 seconds. A
    fault before the reloaded engine has computed anything counts as a failed reload: the pauses go on growing.
    """

    def __init__(
        self, name: str, classifier: Classifier, *, capacity: int, micro_batch: int = 1, batch_wait: float = 0.0
    ) -> None:
        self.name = name
        self.classifier = classifier
        self.capacity = capacity
        self.counters = ModelCounters()
        self._micro_batch = micro_batch
        self._batch_wait = batch_wait
        self._admitted = 0
        self._places = threading.Lock()
        self._queue: deque[Job] = deque()
        self._wake = threading.Condition()
        self._state = "not started"
        self._reloads_tried = 0
        """Since the engine last computed something."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._state == "ready"

    @property
    def state(self) -> str:
        """``not started``, ``ready``, ``recovering`` or ``stopped``."""
        return self._state

    @property
    def admitted(self) -> int:
        """Requests held now, waiting or running."""
        return self._admitted

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work; results are delivered in ``loop``."""
        self._loop = loop
        self._state = "ready"
        self._thread = threading.Thread(target=self._run, name=f"fracbnn-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float, *, close: bool) -> bool:
        """Fail what waits, end the thread, ``close`` the classifier; whether the thread ended within ``timeout`` s."""
        with self._wake:
            self._state = "stopped"
            waiting = list(self._queue)
            self._queue.clear()
            self._wake.notify_all()
        self._deliver(waiting, unavailable("the service is shutting down"))
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("model %s: the engine did not finish within %.1f s", self.name, timeout)
                return False
        if close:
            self.classifier.close()
        return True

    def admit(self) -> None:
        """Take a place, to be given back by :meth:`drop`; 503 where there is none."""
        with self._places:
            if self._state != "ready":
                raise unavailable(f"model {self.name} is {self._state}: try again")
            if self._admitted < self.capacity:
                self._admitted += 1
                return
        self.counters.add(refused=1)
        raise unavailable(f"model {self.name} holds {self.capacity} requests, which is all it may: try again")

    def drop(self, job: Job, *, unbegun: bool = False) -> None:
        """Nobody waits for this job any more. Its place is given back now if nothing works on it, else when that ends.

        ``unbegun``: its pictures have not been looked at, and will not be.
        """
        job.dropped = True
        if not job.settled:
            with self._wake:
                if job in self._queue:
                    self._queue.remove(job)
                    unbegun = True
        if unbegun or job.settled:
            self._release(job)

    def _release(self, job: Job) -> None:
        with self._places:
            if not job.released:
                job.released = True
                self._admitted -= 1

    def compute(self, images: Images, timeout: float, admitted: float) -> tuple[Logits, Job]:
        """The logits of ``images`` uint8 [n, S, S, 3], and the job with its times; for threads that can wait.

        Raises :class:`ServiceError` as a request would see it: 503 where there is no place, after ``timeout`` seconds,
        and where the engine fails.
        """
        self.admit()
        future: Future[Logits] = Future()
        job = Job(future, time.perf_counter() + timeout, images=images, admitted=admitted)
        try:
            self.enqueue(job)
            return future.result(timeout), job
        except FutureTimeoutError:  # TimeoutError itself from Python 3.11 on
            self.counters.add(late=1, failure=1)
            raise late(f"no answer within the deadline of {timeout:g} s") from None
        except ServiceError:
            self.counters.add(failure=1)
            raise
        finally:
            self.drop(job)

    def enqueue(self, job: Job) -> None:
        """Put a job with its pictures into the queue; from any thread."""
        job.queued = time.perf_counter()
        with self._wake:
            if job.dropped:
                pass
            elif self._state == "ready" or (self._state == "recovering" and not self._reloads_tried):
                self._queue.append(job)
                self._wake.notify()
                return
        self._deliver([job], unavailable(f"model {self.name} is {self._state}: try again"))

    def fail(self, job: Job, error: Exception) -> None:
        """End a job that could not be prepared; from any thread."""
        self._deliver([job], error)

    def _run(self) -> None:
        while self._state != "stopped":
            if self._state == "recovering":
                with self._wake:
                    self._wake.wait_for(lambda: self._state == "stopped", self._pause())
                self._reload()
            else:
                self._execute(self._take())  # and keep no name for it: its pictures would stay in memory

    def _take(self) -> list[Job]:
        """The next jobs to compute together; empty where there is nothing to do or to wait for."""
        overdue: list[Job] = []
        batch: list[Job] = []
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._state != "ready")
            self._gather(batch, overdue)
            if batch and self._batch_wait and self._micro_batch > 1:
                # Others are being decoded: worth a fraction of a millisecond.
                end = time.perf_counter() + self._batch_wait
                while self._admitted > len(batch) and (left := end - time.perf_counter()) > 0:
                    self._wake.wait(left)
                    self._gather(batch, overdue)
        self._deliver(overdue, late("the request waited until its deadline"))
        return batch

    def _gather(self, batch: list[Job], overdue: list[Job]) -> None:
        count = sum(len(job.images) for job in batch)
        now = time.perf_counter()
        while self._queue:
            job = self._queue[0]
            if not job.dropped and now < job.deadline:
                if batch and count + len(job.images) > self._micro_batch:
                    return
                batch.append(job)
                count += len(job.images)
            else:
                overdue.append(job)
            self._queue.popleft()

    def _execute(self, batch: list[Job]) -> None:
        if not batch:
            return
        start = time.perf_counter()
        try:
            images = batch[0].images if len(batch) == 1 else np.concatenate([job.images for job in batch])
            logits = self.classifier.logits(images)
        except Exception as error:  # whatever an engine raises, the service stays
            log.error("model %s: the engine failed: %s", self.name, error, exc_info=True)
            self.counters.add(faults=1)
            # Before the answer, so that whoever gets it finds the model recovering.
            self._begin_recovery()
            self._deliver(batch, unavailable(f"the {self.classifier.backend} engine failed: {error}: try again"))
            return
        end = time.perf_counter()
        self._reloads_tried = 0
        self.counters.computed(len(images))
        first = 0
        results = []
        for job in batch:
            job.started, job.ended = start, end
            results.append(logits[first : first + len(job.images)])
            first += len(job.images)
        self._settle(batch, results)

    def _begin_recovery(self) -> None:
        """Admit nothing until the engine has been reloaded, if it can be."""
        if not isinstance(self.classifier.engine, Reloadable):
            return
        with self._wake:
            if self._state != "ready":
                return
            self._state = "recovering"
        if self._reloads_tried:
            self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        with self._wake:
            waiting = list(self._queue)
            self._queue.clear()
        self._deliver(waiting, unavailable(f"model {self.name} is recovering: try again"))

    def _pause(self) -> float:
        """Seconds before the next reload."""
        doublings = min(self._reloads_tried - 1, 30)
        return min(_FIRST_PAUSE_S * 2**doublings, _LONGEST_PAUSE_S) if self._reloads_tried else 0.0

    def _reload(self) -> None:
        if self._state != "recovering":
            return
        engine = self.classifier.engine
        try:
            if isinstance(engine, Reloadable):
                engine.reload()
        except Exception as error:  # as above
            self._reloads_tried += 1
            self._refuse_waiting()
            self.counters.add(failed_reloads=1)
            first = self._reloads_tried == 1  # of the same failure one traceback is enough
            message = "model %s: reloading failed, next try in %.2f s: %s: %s"
            log.error(message, self.name, self._pause(), type(error).__name__, error, exc_info=first)  # noqa: TRY400
            return
        self.counters.add(reloads=1)
        log.warning("model %s: the engine was reloaded after a fault", self.name)
        with self._wake:
            self._reloads_tried += 1
            if self._state == "recovering":
                self._state = "ready"

    def _deliver(self, jobs: list[Job], error: Exception) -> None:
        if jobs:
            self._settle(jobs, [error] * len(jobs))

    def _settle(self, jobs: list[Job], outcomes: Sequence[Logits | Exception]) -> None:
        """Give each job its outcome, where its future wants it: here, or all others in one turn of the event loop."""
        in_loop = []
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.settled = True
            if job.dropped:
                self._release(job)
            if isinstance(job.future, Future):
                _set(job, outcome)
            else:
                in_loop.append((job, outcome))
        if not in_loop:
            return
        if self._loop is None:
            raise ServiceError(503, "the service has not been started")
        try:
            self._loop.call_soon_threadsafe(_set_all, in_loop)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            log.debug("a result came after the end of the service")


def _set_all(settled: list[tuple[Job, Logits | Exception]]) -> None:
    for job, outcome in settled:
        _set(job, outcome)


def _set(job: Job, outcome: Logits | Exception) -> None:
    if job.dropped or job.future.done():
        return
    if isinstance(outcome, Exception):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
