"""A picture in, ranked labels out: the one public class."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import BackendError
from .models import chosen_model, find_model

if TYPE_CHECKING:
    from .backends import Backend
    from .backends.verified import VerifiedBackend
    from .model import Model
    from .networks import Network
    from .pictures import Picture

Frame = TypeVar("Frame", bound="Picture")

STREAM_DEPTH = 2
"""Frames of a stream in flight: one is classified while the next is fetched and the last is delivered."""


@dataclass(frozen=True)
class Prediction:
    """What a picture was taken for.

    ``top``: the best labels with their probabilities (softmax of the logits), best first. ``timings``: milliseconds by
    stage (``read``: decoding, resizing and cropping; ``infer``: encoding and the network; ``total``).
    """

    top: list[tuple[str, float]]
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The best label."""
        return self.top[0][0]

    @property
    def score(self) -> float:
        """The best label's probability, 0..1."""
        return self.top[0][1]

    def as_dict(self) -> dict[str, Any]:
        """What the command line, the service and its streams say of a picture: ``label``, ``score`` and ``top``, a list
        of ``{"label", "probability"}``."""
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        return {"label": self.label, "score": self.score, "top": top}


class Classifier:
    """A model on an engine. Use :meth:`load`; usable from several threads and as a context manager."""

    def __init__(self, model: Model, backend: Backend) -> None:
        self._model = model
        self._backend: Backend | None = backend

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        board: str = "auto",
        overlay: str = "auto",
        arithmetic: str = "auto",
        threads: int | None = None,
        verify: float = 0.0,
        verify_all: bool = True,
    ) -> Classifier:
        """Load a model and the engine that runs it.

        ``model``: a published model's name or a path to a model file (``None``: FRACBNN_MODEL, else what the
        ``overlay`` is meant for, else the bundled ``cifar10``). ``backend``: ``auto``, ``overlay``, ``cpu`` or
        ``reference``; ``board``: ``auto``, ``real`` or ``simulated``; ``overlay``: ``auto``, ``engine`` (the project's
        own accelerator, for any model) or a published overlay's name; ``arithmetic``: a name from
        :mod:`fracbnn_pynq.arithmetic`, or ``auto`` for what the model is made for or the engine does by itself.
        ``threads``: how many the CPU engine uses (``None``: all this process may). ``verify``: the share, 0 to 1, of an
        accelerator's results that the CPU computes again and compares, bit for bit (:attr:`verification`);
        ``verify_all``: wait for that where it falls behind, rather than leave pictures out.

        Raises :class:`~fracbnn_pynq.errors.ModelError` or :class:`~fracbnn_pynq.errors.BackendError`.
        """
        from .selection import create_backend, default_model  # noqa: PLC0415 - keeps "import fracbnn_pynq" light

        name = chosen_model(model, default_model(overlay))
        loaded = find_model(name)
        return cls(
            loaded,
            create_backend(
                loaded,
                backend=backend,
                board=board,
                overlay=overlay,
                arithmetic=arithmetic,
                threads=threads,
                model_name=str(name),
                verify=verify,
                verify_all=verify_all,
            ),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self._model.classes

    @property
    def network(self) -> Network:
        """The network the model is for."""
        return self._model.network

    @property
    def model(self) -> Model:
        """The loaded model."""
        return self._model

    @property
    def arithmetic(self) -> str:
        """Name of the arithmetic that computes the logits."""
        return self._engine.arithmetic.name

    @property
    def backend(self) -> str:
        """Name of the engine: ``overlay``, ``cpu`` or ``reference``."""
        return self._engine.name

    @property
    def engine(self) -> Backend:
        """The engine itself, for what only it can do."""
        return self._engine

    @property
    def verification(self) -> VerifiedBackend | None:
        """What checks the accelerator's results, and what it found; ``None`` without ``verify``."""
        from .backends.verified import VerifiedBackend  # noqa: PLC0415 - as in load()

        return self._engine if isinstance(self._engine, VerifiedBackend) else None

    def classify(self, picture: Picture, top: int = 5, *, bgr: bool = False) -> Prediction:
        """Classify one picture, in any form :func:`fracbnn_pynq.pictures.read_picture` takes.

        ``top``: how many labels. ``bgr``: the picture is an array in OpenCV's channel order. Raises
        :class:`~fracbnn_pynq.errors.PictureError` for a picture that cannot be read.
        """
        return self.classify_many([picture], top, bgr=bgr)[0]

    def classify_many(self, pictures: Iterable[Picture], top: int = 5, *, bgr: bool = False) -> list[Prediction]:
        """Classify several pictures in one batch; timings are per picture."""
        from .pictures import load  # noqa: PLC0415 - as in load()

        images = []
        read_ms = []
        for picture in pictures:
            start = time.perf_counter()
            images.append(load(picture, self.network, bgr=bgr))
            read_ms.append((time.perf_counter() - start) * 1e3)
        if not images:
            return []
        start = time.perf_counter()
        logits = self._engine.logits(np.stack(images))
        infer_ms = (time.perf_counter() - start) * 1e3 / len(images)
        return [
            Prediction(ranked, {"read": read, "infer": infer_ms, "total": read + infer_ms})
            for ranked, read in zip(self.rank(logits, top), read_ms, strict=True)
        ]

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Logits of pictures already at the network's size: uint8 RGB [N, H, W, 3] to float32 [N, classes]."""
        return self._engine.logits(images)

    def rank(self, logits: npt.NDArray[np.float32], top: int = 5) -> list[list[tuple[str, float]]]:
        """The ``top`` labels with probabilities for each row of ``logits`` [N, classes]; equal ones in class order."""
        if top < 1:
            raise ValueError(f"top: expected at least 1, found {top}")
        labels = self.labels
        ranked = []
        # Lists, as for the few numbers of one picture NumPy takes longer, and its sorting gives up the GIL.
        for values, shares in zip(logits.tolist(), softmax(logits).tolist(), strict=True):
            order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
            ranked.append([(labels[index], shares[index]) for index in order[:top]])
        return ranked

    def stream(self, frames: Iterable[Frame], top: int = 5, *, bgr: bool = False) -> Iterator[tuple[Frame, Prediction]]:
        """Classify frames as they come: an iterator of (frame, prediction), in order.

        A frame is classified while the next is being fetched and the last is being used by the caller.
        """
        pending: deque[tuple[Frame, Future[Prediction]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="fracbnn-stream") as worker:
            try:
                for frame in frames:
                    pending.append((frame, worker.submit(self.classify, frame, top, bgr=bgr)))
                    if len(pending) == STREAM_DEPTH:
                        done, prediction = pending.popleft()
                        yield done, prediction.result()
                while pending:
                    done, prediction = pending.popleft()
                    yield done, prediction.result()
            finally:
                for _, future in pending:
                    future.cancel()

    def close(self) -> None:
        """Free the engine's threads and buffers, once the calls that are running have their results.

        Using the classifier afterwards raises :class:`~fracbnn_pynq.errors.BackendError`. Idempotent; from any thread.
        """
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _engine(self) -> Backend:
        backend = self._backend  # read once: another thread may be closing
        if backend is None:
            raise BackendError("this classifier has been closed", advice="load another one")
        return backend


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities of logits [N, classes], float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    result: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result
