"""What a worker does: load a classifier once in its process, and label partitions with it.

A worker is given :class:`Settings` once, by :mod:`.plugin`; tasks name them by their key.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..arithmetic import FLOAT
from ..classifier import Classifier, softmax
from ..errors import AcceleratorError, BackendError, PictureError, SourceError
from ..modelfile import parse_model
from ..pictures import load
from ..resizing import Pixels
from ..selection import create_backend
from .items import File, Place, Slice, Unreadable, encoded

BATCH = 32
"""Pictures decoded and classified together."""


@dataclass(frozen=True)
class Settings:
    """What classifies: the bytes of a model file with the model's name and digest, and the engine's names.

    ``top``: labels kept of a picture; ``logits``: keep these, too. ``seen``: paths that workers read themselves, with
    the size that they must have, or ``None`` for a folder.
    """

    key: str
    model: bytes
    model_name: str
    backend: str
    board: str
    overlay: str
    arithmetic: str
    threads: int
    top: int
    logits: bool
    seen: tuple[tuple[str, int | None], ...] = ()


@dataclass(frozen=True)
class Work:
    """A partition for a worker. ``arithmetic``: the one that the run's results are in."""

    key: str
    places: tuple[Place, ...]
    arithmetic: str


@dataclass(frozen=True)
class Labelled:
    """A partition's results: of the ``n`` pictures that could be read, in their order, the classes int32 [n, top] and
    their probabilities float64 [n, top], best first, and the logits float32 [n, classes] or ``None``.

    ``errors``: why the others could not be read, by their place in the partition. ``worker``: who did it, in
    ``seconds``, of which ``engine_seconds`` for the logits.
    """

    classes: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float32] | None
    errors: dict[int, str]
    worker: str
    seconds: float
    engine_seconds: float


@dataclass(frozen=True)
class Engine:
    """What computes on a worker."""

    backend: str
    arithmetic: str


_offered: dict[str, Settings] = {}
_loaded: dict[str, Classifier] = {}
_lock = threading.Lock()


def offer(settings: Settings) -> None:
    """Make ``settings`` known in this process; nothing is loaded before a task needs it."""
    with _lock:
        _offered[settings.key] = settings


def withdraw(key: str) -> None:
    """Forget settings, and free the engine that was loaded for them."""
    with _lock:
        _offered.pop(key, None)
        classifier = _loaded.pop(key, None)
    if classifier is not None:
        classifier.close()


def engine(key: str) -> Engine:
    """What computes here. Raises what loading it raises."""
    classifier = _classifier(key)[1]
    return Engine(classifier.backend, classifier.arithmetic)


def label(work: Work) -> Labelled:
    """Label a partition.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where the engine fails, which is loaded anew then.
    """
    start = time.perf_counter()
    settings, classifier = _classifier(work.key)
    if classifier.arithmetic != work.arithmetic:
        raise BackendError(
            f"worker {worker_name()}: expected arithmetic {work.arithmetic}, as the other results are, found "
            f"{classifier.arithmetic}",
            advice="give --arithmetic, or workers with the same overlay",
        )
    errors: dict[int, str] = {}
    logits = []
    engine_seconds = 0.0
    # Sums of floats depend on the batch; those of integers do not.
    batch = 1 if classifier.arithmetic == FLOAT.name else BATCH
    for images in _batches(classifier, work.places, batch, errors):
        begin = time.perf_counter()
        try:
            logits.append(classifier.logits(images))
        except AcceleratorError:
            _drop(work.key, classifier)
            raise
        engine_seconds += time.perf_counter() - begin
    every = np.concatenate(logits) if logits else np.empty((0, classifier.network.classes), np.float32)
    classes = np.argsort(-every, axis=1, kind="stable")[:, : settings.top]  # equal ones in class order
    scores = np.take_along_axis(softmax(every), classes, axis=1) if len(every) else np.empty(classes.shape)
    return Labelled(
        classes.astype(np.int32),
        scores,
        every if settings.logits else None,
        errors,
        worker_name(),
        time.perf_counter() - start,
        engine_seconds,
    )


def _batches(
    classifier: Classifier, places: Sequence[Place], size: int, errors: dict[int, str]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Pictures as the network reads them, uint8 [n, S, S, 3]; those that cannot be read are noted in ``errors``."""
    images: list[Pixels] = []
    for number, place in enumerate(places):
        try:
            images.append(_read(classifier, place))
        except PictureError as error:
            errors[number] = _without_name(str(error), place)
        if len(images) == size:
            yield np.stack(images)
            images = []
    if images:
        yield np.stack(images)


def _without_name(error: str, place: Place) -> str:
    """The error without what the decoder calls the picture: the row has its name, and paths differ between workers."""
    called = place.path if isinstance(place, File) else "bytes"
    return error.removeprefix(f"{called}: ").removeprefix(f"{called!r}: ")


def _read(classifier: Classifier, place: Place) -> Pixels:
    if isinstance(place, Unreadable):
        raise PictureError(place.error)
    if isinstance(place, bytes):
        return load(place, classifier.network)
    return load(encoded(place) if isinstance(place, Slice) else place.path, classifier.network)


def _classifier(key: str) -> tuple[Settings, Classifier]:
    with _lock:
        settings = _offered.get(key)
        if settings is None:
            raise BackendError(
                f"worker {worker_name()}: expected the settings of run {key}, found none", advice="start it again"
            )
        if key not in _loaded:
            _check_seen(settings)
            model = parse_model(settings.model)
            backend = create_backend(
                model,
                backend=settings.backend,
                board=settings.board,
                overlay=settings.overlay,
                arithmetic=settings.arithmetic,
                threads=settings.threads if settings.backend == "cpu" else None,
                model_name=settings.model_name,
            )
            _loaded[key] = Classifier(model, backend)
        return settings, _loaded[key]


def _check_seen(settings: Settings) -> None:
    for path, size in settings.seen:
        try:
            found: int | None = os.stat(path).st_size
        except OSError:
            found = -1
        if found == -1 or (size is not None and found != size):
            what = "none" if found == -1 else f"one of {found} bytes"
            of = "" if size is None else f" of {size} bytes"
            raise SourceError(
                f"worker {worker_name()}: expected {path}{of}, found {what}",
                advice="workers must see the sources under the same paths, or be sent the pictures (--send)",
            )


def _drop(key: str, classifier: Classifier) -> None:
    """Have the next task load a new engine in place of a faulty one."""
    with _lock:
        if _loaded.get(key) is classifier:
            del _loaded[key]
    classifier.close()


def worker_name() -> str:
    """What this worker is called; this process, where it is none."""
    from distributed import get_worker  # noqa: PLC0415 - an optional dependency

    try:
        worker = get_worker()
    except ValueError:
        return f"process {os.getpid()}"
    return str(worker.name)
