"""The service without HTTP: its models, each with its worker, and the way of one request through them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.verified import VerifiedBackend, make_report_folder
from ..board.power import PowerMeter
from ..camera import Image
from ..classifier import Classifier, Prediction
from ..errors import BackendError
from ..pictures import load
from .budget import PixelBudget
from .decoders import Decoders
from .errors import ServiceError, unavailable
from .jobs import Images, Job, Logits
from .live_camera import LiveCamera
from .metrics import HttpCounters, family, model_families, power_families, verification_families
from .settings import Settings, served_models
from .timeouts import Receive, RequestTimeout
from .worker import Worker

log = logging.getLogger(__name__)

VERSION = "1"
"""The one version of every model."""

Prepare = Callable[[Job], tuple[Images, Any]]
"""Makes a request's pictures, uint8 [n, S, S, 3], and whatever its answer needs; runs in a decoder thread. It calls the
job's ``check`` now and then, which raises where the work is in vain."""

CAMERA_LABELS = 5
"""Labels of a camera's frame; the first one is drawn."""
_POWER_INTERVAL_S = 1.0
_LARGE_ANSWER = 10_000
"""Logits from which on an answer is formatted outside the event loop."""


@dataclass(frozen=True)
class Outcome:
    """Logits float32 [n, classes] of a request, what its ``Prepare`` added, and milliseconds by stage."""

    logits: Logits
    context: Any
    timings: Mapping[str, float]


class Inference:
    """Models by name, ready to classify, and the camera if there is one. Between :meth:`start` and :meth:`stop`, which
    belong to one event loop.

    ``owns``: close the classifiers at the end. Raises :class:`~fracbnn_pynq.errors.CameraError` or
    :class:`~fracbnn_pynq.errors.PictureError` for a camera that can never be opened.
    """

    def __init__(self, classifiers: Mapping[str, Classifier], settings: Settings, *, owns: bool = False) -> None:
        self.settings = settings
        self.http = HttpCounters()
        self.grpc_answers: Counter[str] = Counter()
        """Answers over gRPC by the name of their status; used from the event loop only."""
        self.draining = False
        self.workers = {name: _worker(name, classifier, settings) for name, classifier in classifiers.items()}
        self.camera = None
        if settings.camera is not None:
            self.camera = LiveCamera(settings, self.worker(None).name, self.classify_frame)
        self.budget = PixelBudget(settings.decode_pixels)
        self._power = PowerMeter(interval=_POWER_INTERVAL_S)
        self._owns = owns
        self._stopped = False
        self._decoders: Decoders | None = None

    @classmethod
    def load(cls, settings: Settings) -> Inference:
        """Load the models that ``settings`` name.

        Raises :class:`~fracbnn_pynq.errors.ModelError`, :class:`~fracbnn_pynq.errors.BackendError`, and what the camera
        raises.
        """
        classifiers: dict[str, Classifier] = {}
        try:
            for name, target in served_models(settings.models).items():
                classifiers[name] = Classifier.load(
                    target,
                    backend=settings.backend,
                    board=settings.board,
                    overlay=settings.overlay,
                    arithmetic=settings.arithmetic,
                    threads=settings.threads,
                    verify=settings.verify,
                    verify_all=False,
                )
            return cls(classifiers, settings, owns=True)
        except BaseException:
            for classifier in classifiers.values():
                classifier.close()
            raise

    @property
    def ready(self) -> bool:
        """Whether every model takes requests and no shutdown has begun."""
        return not self.draining and all(worker.ready for worker in self.workers.values())

    def worker(self, name: str | None) -> Worker:
        """The worker of a model (``None``: of the first); 404 for an unknown one."""
        if name is None:
            return next(iter(self.workers.values()))
        if name not in self.workers:
            raise ServiceError(404, f"model: expected one of {', '.join(self.workers)}, found {name!r}")
        return self.workers[name]

    def version(self, name: str, version: str) -> Worker:
        """The worker of a version of a model; 404 for one that there is not."""
        worker = self.worker(name)
        if version != VERSION:
            raise ServiceError(404, f"version of model {name}: expected {VERSION}, found {version!r}")
        return worker

    def ensure_started(self) -> None:
        """Start where nobody has: an application that another one mounts is not told of the beginning."""
        if self._decoders is None and not self._stopped:
            self.start()

    def start(self) -> None:
        """Start the threads; in the event loop that will use them."""
        loop = asyncio.get_running_loop()
        self.draining = self._stopped = False
        self._decoders = Decoders(self.settings.decoders)
        self.budget.while_waiting = self._decoders.spare
        for worker in self.workers.values():
            worker.start(loop)
        self._power.start()
        if self.camera is not None:
            self.camera.start()

    async def stop(self) -> None:
        """End the threads, within the grace of the settings, and close the classifiers if they are owned."""
        self.draining = self._stopped = True
        if self.camera is not None:
            await self.camera.stop(self.settings.grace)
        self._power.stop()
        for worker in self.workers.values():
            verification = None if self.settings.verify_report is None else worker.classifier.verification
            # Waits for the engine, and the loop has to deliver what ends meanwhile.
            await asyncio.to_thread(worker.stop, self.settings.grace, close=self._owns)
            if verification is not None:
                await asyncio.to_thread(_report, verification, Path(self.settings.verify_report or "", worker.name))
        if self._decoders is not None:
            self._decoders.stop()
            self._decoders = None

    async def infer(self, worker: Worker, prepare: Prepare, receive: Receive) -> Outcome:
        """Prepare pictures in a decoder thread and compute their logits in the model's.

        ``receive``: the request's, to learn that its client has gone. Raises :class:`ServiceError`: what ``prepare``
        raised, or 503 where the queue is full, the deadline has passed or the engine failed.
        """
        decoders = self._decoders
        if decoders is None:
            raise unavailable("the service is not running")
        worker.admit()
        now = time.perf_counter()
        future: asyncio.Future[Logits] = asyncio.get_running_loop().create_future()
        job = Job(future, now + self.settings.deadline, admitted=now)
        timeout = RequestTimeout(worker, job, future, receive, self.settings.deadline)
        task = decoders.submit(_prepare, worker, job, prepare)
        try:
            logits = await future
        except BaseException:
            worker.counters.add(failure=1, failure_us=(time.perf_counter() - now) * 1e6)
            raise
        finally:
            worker.drop(job, unbegun=decoders.withdraw(task))
            await timeout.end()
        return _outcome(logits, job)

    def classify_frame(self, image: Image) -> Prediction:
        """The best labels of the camera's frame, uint8 [H, W, 3] BGR, by the first model; for a thread that can wait.

        Raises :class:`~fracbnn_pynq.errors.FracBNNError` where it cannot be classified now.
        """
        worker = self.worker(None)
        received = time.perf_counter()
        images = load(image, worker.classifier.network, bgr=True)[None]
        outcome = _outcome(*worker.compute(images, self.settings.deadline, received))
        (top,) = worker.classifier.rank(outcome.logits, CAMERA_LABELS)
        self.count(worker, outcome, received)
        return Prediction(top, outcome.timings)

    async def answer(self, outcome: Outcome, build: Callable[[], Any]) -> Any:
        """Call ``build``, in a thread if the answer is a long one."""
        if outcome.logits.size < _LARGE_ANSWER or self._decoders is None:
            return build()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._decoders.submit(_build, loop, future, build)
        return await future

    def count(self, worker: Worker, outcome: Outcome, received: float) -> None:
        """Count an answered request. ``received``: when it came, of ``time.perf_counter``."""
        times = outcome.timings
        total = (time.perf_counter() - received) * 1e6
        inside = 1e3 * (times["read"] + times["queue"] + times["infer"])
        worker.counters.add(
            success=1,
            request_us=total,
            input_us=1e3 * times["read"],
            queue_us=1e3 * times["queue"],
            infer_us=1e3 * times["infer"],
            output_us=max(0.0, total - inside),
        )

    def metrics(self) -> Iterator[str]:
        """Lines of Prometheus text."""
        workers = self.workers
        yield from model_families({name: worker.counters for name, worker in workers.items()}, VERSION)
        gauges: dict[str, tuple[str, Callable[[Worker], float]]] = {
            "fracbnn_queue_depth": ("Requests held now, waiting or running", lambda w: w.admitted),
            "fracbnn_queue_capacity": ("Requests that may be held", lambda w: w.capacity),
            "fracbnn_model_ready": ("1 while the model takes requests", lambda w: w.ready),
        }
        for name, (meaning, read) in gauges.items():
            samples = [({"model": model, "version": VERSION}, float(read(worker))) for model, worker in workers.items()]
            yield from family(name, "gauge", meaning, samples)
        about = [({"model": name, **worker.classifier.engine.describe()}, 1.0) for name, worker in workers.items()]
        yield from family("fracbnn_backend_info", "gauge", "1, with what computes the model as labels", about)
        checked = {name: worker.classifier.verification for name, worker in workers.items()}
        yield from verification_families({name: each.counts() for name, each in checked.items() if each is not None})
        yield from power_families(self._power)
        if self.camera is not None:
            yield from self.camera.metrics()
        statuses = [({"status": str(status)}, float(n)) for status, n in sorted(self.http.by_status.items())]
        yield from family("fracbnn_http_responses", "counter", "Answers by status", statuses)
        if self.settings.grpc is not None:
            statuses = [({"status": name}, float(n)) for name, n in sorted(self.grpc_answers.items())]
            yield from family("fracbnn_grpc_responses", "counter", "Answers over gRPC by status", statuses)


def _worker(name: str, classifier: Classifier, settings: Settings) -> Worker:
    # An accelerator gains nothing from batches of several requests, and a fault of it then concerns one of them.
    micro_batch = 1 if classifier.backend == "overlay" else settings.micro_batch
    return Worker(name, classifier, capacity=settings.queue, micro_batch=micro_batch, batch_wait=settings.batch_wait)


def _report(verification: VerifiedBackend, folder: Path) -> None:
    """Write what differed; where that fails, say so, as the service ends all the same."""
    try:
        make_report_folder(folder.parent)
        verification.save(folder)
    except BackendError as error:
        log.error("the report of --verify is lost: %s", error)  # noqa: TRY400 - its message says all


def _prepare(worker: Worker, job: Job, prepare: Prepare) -> None:
    try:
        job.check()
        job.images, job.context = prepare(job)
    except ServiceError as error:
        worker.fail(job, error)
    except MemoryError:
        worker.fail(job, unavailable("not enough memory for this request now"))
    except Exception as error:  # what is wrong here must reach the waiting request, and then the log
        worker.fail(job, error)
    else:
        worker.enqueue(job)


def _build(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], build: Callable[[], Any]) -> None:
    def deliver(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    try:
        call = future.set_result, build()
    except Exception as error:  # belongs to the waiting request
        call = future.set_exception, error
    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
        loop.call_soon_threadsafe(deliver, *call)


def _outcome(logits: Logits, job: Job) -> Outcome:
    """With milliseconds: ``read`` (waiting for a decoder, and decoding), ``queue``, ``infer``."""
    timings = {
        "read": (job.queued - job.admitted) * 1e3,
        "queue": (job.started - job.queued) * 1e3,
        "infer": (job.ended - job.started) * 1e3,
    }
    return Outcome(logits, job.context, timings)
