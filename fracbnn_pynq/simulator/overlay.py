"""The simulated board as the overlay engine uses it: one per process, with a bitstream made for the model asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..engine.registers import PIXELS
from ..errors import BackendError
from ..model import Model
from . import install, write_overlay

LATENCY_VARIABLE = "FRACBNN_SIM_LATENCY"
TIMEOUT_S = 10.0
"""A simulated core computes on this machine's processor, where its first run takes a second or two."""

PIXELS_VARIABLE = "FRACBNN_SIM_PIXELS"

_in_use = threading.Lock()
"""Held while a simulated board exists: pynq has one active device per process."""


@contextmanager
def simulated_overlay(model: Model, arithmetic: str, *, kind: str, **options: Any) -> Iterator[tuple[Path, str]]:
    """A simulated board with an overlay for ``model``: the path of its bitstream, and the board's part.

    ``kind``: as for :func:`fracbnn_pynq.simulator.write_overlay`; the engine's X is FRACBNN_SIM_PIXELS, 2 without it.

    ``options`` are those of :func:`fracbnn_pynq.simulator.install`; FRACBNN_SIM_LATENCY gives the latency.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where this process has a simulated board already, or no pynq.
    """
    if not _in_use.acquire(blocking=False):
        raise BackendError(
            "the simulated board is in use by this process",
            advice="close the classifier that uses it first (with Classifier.close() or a with block); a process can "
            "have one board at a time",
        )
    try:
        options.setdefault("latency", os.environ.get(LATENCY_VARIABLE) or "published")
        with (
            install(model=model, **options) as device,
            _folder() as folder,
        ):
            interrupt = kind == "engine"  # as in its block design; the published ones have none
            bit = write_overlay(folder, kind, arithmetic=arithmetic, pixels=_pixels(), interrupt=interrupt)
            yield bit, device.part
    finally:
        _in_use.release()


def _pixels() -> int:
    text = os.environ.get(PIXELS_VARIABLE) or "2"
    if text not in map(str, PIXELS):
        raise BackendError(f"{PIXELS_VARIABLE}: expected one of {', '.join(map(str, PIXELS))}, found {text!r}")
    return int(text)


@contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder that this process removes in the end, but no process forked from it."""
    process = os.getpid()
    folder = tempfile.mkdtemp(prefix="fracbnn-simulated-")
    try:
        yield folder
    finally:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)
