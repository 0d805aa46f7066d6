"""OpenCV where it is needed, quiet, and without waiting for it for ever. The only module that imports ``cv2``."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import CameraError
from .extras import install_line

Result = TypeVar("Result")

Image = npt.NDArray[np.uint8]
"""A picture as OpenCV has them: uint8 [H, W, 3], BGR."""

POLL_S = 0.05
LOG_LEVEL_SILENT = 0
"""OpenCV's number for it."""

_QUIET = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
"""Read by OpenCV when it is loaded: its FFmpeg writes to stderr what exceptions here say. A user's own values stay."""


def opencv() -> Any:
    """The module ``cv2``. Raises CameraError where it is not installed, or does not work here."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import cv2  # noqa: PLC0415 - large, and not part of the base installation
    except ImportError as error:
        raise CameraError(
            f"expected OpenCV for cameras and videos, found none ({error})", advice=_opencv_advice(error)
        ) from error
    return cv2


def _opencv_advice(error: ImportError) -> str:
    headless = f"install the extra camera-headless: {install_line('camera-headless')}"
    if ".so" in str(error):  # libGL.so.1 and others of a desktop, which opencv-python wants and a server has not
        return f"OpenCV is installed, but not what its windows need: pip uninstall opencv-python, and {headless}"
    if platform.machine() == "aarch64":
        return f"on a PYNQ image use its own (apt-get install python3-opencv); elsewhere {headless}"
    return f"install the extra camera: {install_line('camera')}; without a screen {headless}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV from writing to stderr what the caller is about to say in an exception."""
    set_level = _log_level_setter()
    before = set_level(LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        set_level(before)


def _log_level_setter() -> Callable[[int], int]:
    """OpenCV's function that sets its log level and returns the one before: builds have it in different places."""
    cv2 = opencv()
    places: tuple[Any, ...] = (cv2, getattr(getattr(cv2, "utils", None), "logging", None))
    setters = [place.setLogLevel for place in places if hasattr(place, "setLogLevel")]
    return setters[0] if setters else lambda level: level  # left out of some builds


def unless_stopped(
    work: Callable[[], Result], stopped: threading.Event, discard: Callable[[Result], object]
) -> Result | None:
    """What ``work`` gives or raises, done in a thread of its own; ``None`` where ``stopped`` is set before it is done.

    A device that does not answer, or a pipe without a writer, keeps OpenCV waiting in C, where no signal is handled:
    here the caller waits in Python, and leaves the thread behind. ``discard`` gets what comes after all.
    """
    done = threading.Event()
    lock = threading.Lock()
    outcome: list[Any] = []
    left = False

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as caught:
            result, error = None, caught
        with lock:
            outcome.extend((result, error))
            late = left
        done.set()
        if late and error is None and result is not None:
            discard(result)

    threading.Thread(target=run, name="fracbnn-open", daemon=True).start()
    try:
        while not done.wait(POLL_S) and not stopped.is_set():
            pass
    finally:
        with lock:
            left = not outcome
    if left:
        return None
    result, error = outcome
    if error is not None:
        raise error
    return result
