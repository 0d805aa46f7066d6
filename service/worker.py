"""One thread that owns a classifier, and its bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..classifier import Classifier
from .errors import ServiceError, unavailable
from .metrics import ModelCounters

log = logging.getLogger(__name__)

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0


@dataclass(eq=False)
class Job:
    """One request's pictures on their way: times are of ``time.perf_counter``, ``future`` gets the logits."""

    future: asyncio.Future[Logits]
    deadline: float
    images: Images = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
    context: Any = None
    admitted: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    dropped: bool = False
    """Set when nobody waits for the result any more."""


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
        """Take a place, to be given back by :meth:`release`; 503 where there is none. In the event loop only."""
        if self._state != "ready":
            raise unavailable(f"model {self.name} is {self._state}: try again")
        if self._admitted >= self.capacity:
            self.counters.add(refused=1)
            raise unavailable(f"model {self.name} holds {self._admitted} requests, which is all it may: try again")
        self._admitted += 1

    def release(self) -> None:
        """Give a place back."""
        self._admitted -= 1

    def enqueue(self, job: Job) -> None:
        """Put a job with its pictures into the queue; from any thread."""
        job.queued = time.perf_counter()
        with self._wake:
            if self._state == "ready" or (self._state == "recovering" and not self._reloads_tried):
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
            elif batch := self._take():
                self._execute(batch)

    def _take(self) -> list[Job]:
        """The next jobs to compute together; empty where there is nothing to do or to wait for."""
        late: list[Job] = []
        batch: list[Job] = []
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._state != "ready")
            self._gather(batch, late)
            if batch and self._batch_wait and self._micro_batch > 1:
                # Others are being decoded: worth a fraction of a millisecond.
                end = time.perf_counter() + self._batch_wait
                while self._admitted > len(batch) and (left := end - time.perf_counter()) > 0:
                    self._wake.wait(left)
                    self._gather(batch, late)
        self._deliver(late, unavailable("the request waited until its deadline: try again"))
        return batch

    def _gather(self, batch: list[Job], late: list[Job]) -> None:
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
                late.append(job)
            self._queue.popleft()

    def _execute(self, batch: list[Job]) -> None:
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
        self.counters.add(executions=1, pictures=len(images))
        first = 0
        results = []
        for job in batch:
            job.started, job.ended = start, end
            results.append(logits[first : first + len(job.images)])
            first += len(job.images)
        self._call(_set_results, batch, results)

    def _begin_recovery(self) -> None:
        """Admit nothing until the engine has been reloaded, if it can be."""
        if getattr(self.classifier.engine, "reload", None) is None:
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
        reload: Callable[[], None] = self.classifier.engine.reload  # type: ignore[attr-defined]
        try:
            reload()
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
            self._call(_set_error, jobs, error)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is None:
            raise ServiceError(503, "the service has not been started")
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            log.debug("a result came after the end of the service")


def _set_results(jobs: list[Job], results: list[Logits]) -> None:
    for job, result in zip(jobs, results, strict=True):
        if not job.dropped and not job.future.done():
            job.future.set_result(result)


def _set_error(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if not job.dropped and not job.future.done():
            job.future.set_exception(error)
