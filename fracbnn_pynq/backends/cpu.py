"""The CPU engine: native XNOR-popcount kernels, the same bits as the reference, many times faster.

The kernels are C behind CPython's stable ABI (native/), chosen at run time for the processor: AVX-512 with VPOPCNT,
AVX2, NEON, or 64-bit popcounts. They run without the GIL; batches are split over threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ..arithmetic import FLOAT, IMAGENET_2021, get_arithmetic
from ..errors import BackendError, PictureError
from ..modelfile import Model
from ..networks import THERMOMETER_LEVELS
from ..thermometer import LEVELS
from . import check_images
from .plan import Plan

try:
    from . import _native
except ImportError:  # installed without a C compiler
    _native = None  # type: ignore[assignment]

_SAME_LEVELS = np.arange(256, dtype=np.uint8)


def available() -> bool:
    """Whether the native kernels were built when this package was installed."""
    return _native is not None


def engines() -> list[str]:
    """The kernels this processor can run, fastest first; empty where they were not built."""
    return [name for name, _ in _native.engines()] if _native is not None else []


def usable_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CpuBackend:
    """Runs ``model`` with native kernels.

    ``threads``: how many to use for a batch (``None``: every processor this process may use). ``engine``: a name from
    :func:`engines` (``None``: the fastest).

    Raises :class:`~fracbnn_pynq.errors.BackendError` where the kernels are missing, the engine does not run on this
    processor, or the arithmetic is not defined for the model's network.
    """

    name = "cpu"

    def __init__(
        self, model: Model, arithmetic: str = "faithful", *, threads: int | None = None, engine: str | None = None
    ) -> None:
        self.network = model.network
        self.arithmetic = get_arithmetic(arithmetic, model.network)
        if self.arithmetic is FLOAT:
            raise BackendError("the cpu backend computes in integers; arithmetic 'float' needs backend 'reference'")
        if _native is None:
            raise BackendError(
                "the native kernels are missing: this package was installed without a C compiler; install gcc and "
                "reinstall it, or use backend 'reference'"
            )
        known = dict(_native.engines())
        self.engine = engine or next(iter(known))
        if self.engine not in known:
            raise BackendError(f"engine: expected one of {', '.join(known)} on this processor, found {engine!r}")
        self.threads = usable_cpus() if threads is None else threads
        if self.threads < 1:
            raise BackendError(f"threads: expected at least 1, found {threads}")
        self._plan = Plan(model, self.arithmetic, layout=known[self.engine])
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 RGB pictures [N, S, S, 3] to float32 logits [N, classes]."""
        check_images(images, self.network)
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

    def close(self) -> None:
        """End the threads."""
        with self._pool_lock:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def _check_levels(self, levels: npt.NDArray[np.uint8]) -> None:
        check_images(levels, self.network)
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

        def work(start: int, stop: int) -> None:
            _native.run(
                self.engine,
                self._plan.address,
                _address(table),
                _address(pictures) + start * pictures.strides[0],
                stop - start,
                _address(logits) + start * logits.strides[0],
                0 if codes is None else _address(codes) + start * codes.strides[0],
            )

        parts = min(self.threads, count)
        if parts <= 1:
            work(0, count)
            return logits
        bounds = [count * i // parts for i in range(parts + 1)]
        with self._pool_lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="fracbnn-cpu")
            pool = self._pool
        own, *rest = itertools.pairwise(bounds)
        others = [pool.submit(work, *part) for part in rest]
        work(*own)
        for other in others:
            other.result()
        return logits


def _address(array: npt.NDArray[np.generic]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
