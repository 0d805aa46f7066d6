"""The CPU engine: native kernels, the same bits as the reference, many times faster.

The kernels (:mod:`fracbnn_pynq.native`) are chosen at run time for the processor: AVX-512 with VPOPCNT, AVX2, NEON, or
64-bit popcounts. They run without the GIL. Threads share a batch picture by picture, each taking the next, so that one
that the system holds up delays one picture; fewer ImageNet pictures than threads are shared layer by layer.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .. import native
from ..arithmetic import FLOAT, IMAGENET_2021, arithmetic_for
from ..cpus import check_threads
from ..errors import BackendError, PictureError
from ..model import Model
from ..networks import THERMOMETER_LEVELS, operations
from ..thermometer import LEVELS
from .plan import Plan

_WORTH_SHARING = 1_000_000_000
"""Binary multiply-accumulates from which a single picture is worked on by several threads: waiting for each other at
every layer and waking up cost more than a second core gains on CIFAR-10's 50 million, and little of ImageNet's 5
billion (benchmarks/README.md)."""

_SAME_LEVELS = np.arange(256, dtype=np.uint8)


class CpuBackend:
    """Runs ``model`` with native kernels.

    ``threads``: how many to use (``None``: every processor this process may use). ``engine``: a name from
    :func:`fracbnn_pynq.native.engines` (``None``: the fastest).

    Raises :class:`~fracbnn_pynq.errors.BackendError` where the kernels are missing, the engine does not run on this
    processor, or the arithmetic is not defined for the model's network.
    """

    name = "cpu"

    def __init__(
        self, model: Model, arithmetic: str = "faithful", *, threads: int | None = None, engine: str | None = None
    ) -> None:
        self.network = model.network
        self.arithmetic = arithmetic_for(model, arithmetic)
        if self.arithmetic is FLOAT:
            raise BackendError("the cpu backend computes in integers; arithmetic 'float' needs backend 'reference'")
        known = native.engines()
        if not known:
            raise BackendError(native.MISSING, advice=f"{native.MISSING_ADVICE}, or use backend 'reference'")
        self.engine = engine or next(iter(known))
        if self.engine not in known:
            raise BackendError(f"engine: expected one of {', '.join(known)} on this processor, found {engine!r}")
        self.threads = check_threads(threads)
        self._plan = Plan(model, self.arithmetic, engine=self.engine)
        self._shares_pictures = sum(map(operations, model.network.layers)) >= _WORTH_SHARING
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()
        self._closed = False
        _backends.add(self)

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 RGB pictures [N, S, S, 3] to float32 logits [N, classes]."""
        self.network.check_images(images)
        return self._run(images, LEVELS, None)

    def logits_from_levels(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As :meth:`logits`, from thermometer levels (0..32) uint8 [N, S, S, 3]."""
        self._check_levels(levels)
        return self._run(levels, _SAME_LEVELS, None)

    def result_map_from_levels(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The published ImageNet core's result: 4-bit codes uint8 [N, 1024, 7, 7] (``imagenet-2021`` only)."""
        if self.arithmetic.name != IMAGENET_2021.name:
            raise BackendError(f"the result map exists in {IMAGENET_2021.name} only, not in {self.arithmetic.name}")
        self._check_levels(levels)
        size, channels = self.network.pool_size, self.network.features
        codes = np.empty((len(levels), size, size, channels), np.uint8)
        self._run(levels, _SAME_LEVELS, codes)
        return np.ascontiguousarray(codes.transpose(0, 3, 1, 2))

    @property
    def timings(self) -> Mapping[str, float]:
        """Empty: this engine has no stages."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """Empty: nothing counts here."""
        return {}

    def describe(self) -> dict[str, str]:
        """See :class:`~fracbnn_pynq.backends.Backend`."""
        return {"backend": self.name, "arithmetic": self.arithmetic.name, "engine": self.engine}

    def close(self) -> None:
        """End the threads, once the calls that are running have their results; later ones raise BackendError."""
        with self._pool_lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _check_levels(self, levels: npt.NDArray[np.uint8]) -> None:
        self.network.check_images(levels)
        if levels.size and int(levels.max()) > THERMOMETER_LEVELS:
            raise PictureError(f"expected thermometer levels 0..{THERMOMETER_LEVELS}, found {int(levels.max())}")

    def _run(
        self,
        pictures: npt.NDArray[np.uint8],
        table: npt.NDArray[np.uint8],
        codes: npt.NDArray[np.uint8] | None,
    ) -> npt.NDArray[np.float32]:
        pictures = np.ascontiguousarray(pictures)
        count = len(pictures)
        logits = np.empty((count, self.network.classes), np.float32)

        by_picture = count >= self.threads or not self._shares_pictures
        helpers = max(0, (min(self.threads, count) if by_picture else self.threads) - 1) if count else 0
        team = native.Team(pieces=not by_picture) if helpers else None

        def work() -> None:
            native.run(self.engine, self._plan.words, table, pictures, logits, codes, team)

        others = self._start(work if team is None or by_picture else team.help, helpers)
        try:
            work()
        finally:
            if team is not None:
                team.dismiss()
        for other in others:
            if not other.cancel():  # who has not come by now is not needed
                other.result()
        return logits

    def _start(self, work: Callable[[], None], count: int) -> list[Future[None]]:
        """``work`` in up to ``count`` further threads; in fewer where there cannot be as many."""
        started: list[Future[None]] = []
        with self._pool_lock:
            if self._closed:
                raise BackendError("this engine has been closed", advice="load another one")
            if not count:
                return []
            pool = self._pool or ThreadPoolExecutor(self.threads - 1, thread_name_prefix="fracbnn-cpu")
            self._pool = pool
            for _ in range(count):
                try:
                    started.append(pool.submit(work))
                except RuntimeError:  # the interpreter is ending, or the system has no more threads
                    break
        return started

    def _forget_threads(self) -> None:
        """In a forked process: the threads are not in it, and the lock may have been held by one of them."""
        self._pool = None
        self._pool_lock = threading.Lock()


_backends: weakref.WeakSet[CpuBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_backends):
        backend._forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
