"""How many processors there are for us, which is not how many the machine has."""

from __future__ import annotations

import os
from numbers import Integral

from .errors import BackendError

MOST_THREADS = 1024


def usable_cpus() -> int:
    """Processors this process may use: in a container or under ``taskset`` fewer than ``os.cpu_count()``."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """How many threads to use: ``threads``, or as many as there are :func:`usable_cpus` for ``None``.

    Raises :class:`~fracbnn_pynq.errors.BackendError` for anything but a whole number from 1 to 1024.
    """
    if threads is None:
        return usable_cpus()
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
        raise BackendError(f"threads: expected a whole number from 1 to {MOST_THREADS}, found {threads!r}")
    return int(threads)
