"""A request's work, on its way from thread to thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CLIENT_GONE, ServiceError, late

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(eq=False)
class Job:
    """One request's pictures on their way: times are of ``time.perf_counter``, ``future`` gets the logits.

    A future of :mod:`asyncio` gets them in the event loop, one of :mod:`concurrent.futures` in the worker's thread.
    """

    future: asyncio.Future[Logits] | Future[Logits]
    deadline: float
    images: Images = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
    context: Any = None
    admitted: float = 0.0
    queued: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    dropped: bool = False
    """Set when nobody waits for the result any more."""
    settled: bool = False
    """Set when nothing works on it any more."""
    released: bool = False
    """Set when its place has been given back."""

    def check(self) -> None:
        """Raise where the work on it is in vain: 503 past the deadline, 499 once it has been dropped."""
        if self.dropped:
            raise ServiceError(CLIENT_GONE, "nobody waits for this any more")
        if time.perf_counter() >= self.deadline:
            raise late("the request was worked on until its deadline")


def within(seconds: float) -> Callable[[], None]:
    """A check as :meth:`Job.check`, for work that has no job: it raises 503 from ``seconds`` on."""
    end = time.perf_counter() + seconds

    def check() -> None:
        if time.perf_counter() >= end:
            raise late("the request was worked on until its deadline")

    return check
