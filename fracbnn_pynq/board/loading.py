"""Loading an overlay with pynq, from any thread and any working directory. Imports pynq.

pynq does two things that concern the thread it runs in. When it first looks for a device it asks for the thread's event
loop, which only the main thread has by itself; and from 3.1 on it writes ``loaded.xclbin`` into the working directory,
which may be read-only, or hold a file of that name. So pynq loads in a short-lived thread that has both of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pynq
from pynq.pl_server.device import Device

from ..errors import FracBNNError, OverlayError

log = logging.getLogger(__name__)

T = TypeVar("T")

_CLONE_FS = 0x200
"""Of unshare(2): from then on this thread's working directory is its own, and not that of the process."""


def load_overlay(bit: Path) -> Any:
    """pynq's overlay of a bitstream, loaded onto the active board.

    Raises :class:`~fracbnn_pynq.errors.OverlayError` where pynq cannot load it, whatever pynq raised.
    """
    path = os.path.abspath(bit)  # the thread that loads has another working directory
    return _explained(path, "loaded", lambda: pynq.Overlay(path))


def download(overlay: Any) -> None:
    """Load an overlay again; raises what :func:`load_overlay` does."""
    _explained(overlay.bitfile_name, "loaded again", overlay.download)


def _explained(path: str, done: str, load: Callable[[], T]) -> T:
    def work() -> T:
        _look_for_devices()
        return load()

    try:
        return _apart(work)
    except FracBNNError:
        raise
    except Exception as error:  # pynq lets many kinds through, among them NameError where parts of it are missing
        raise OverlayError(f"{path} could not be {done}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """pynq's own errors are sentences; others need their kind to be understood."""
    return str(error) if type(error) in (RuntimeError, OSError) else f"{type(error).__name__}: {error}"


def _look_for_devices() -> None:
    try:
        _ = Device.active_device
    except Exception:
        # pynq keeps the list of devices it had just begun, and would later say that there are none.
        with contextlib.suppress(AttributeError):
            del Device._devices
        raise


def _apart(work: Callable[[], T]) -> T:
    """The value or exception of ``work``, run in a thread with an event loop and a working directory of its own.

    It is waited for in any case: an overlay half loaded is worse than an interrupt that comes late.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with _event_loop(), _working_directory():
                results.append(work())
        except BaseException as error:  # handed to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="fracbnn loading", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        thread.join()
        raise
    if errors:
        raise errors.pop()
    return results.pop()


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()  # pynq's device remembers it and does not use it


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """A folder for temporary files as this thread's working directory, where the system allows threads to have one."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_FS):
        log.info("pynq loads in the working directory: unshare: %s", os.strerror(ctypes.get_errno()))
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fracbnn-loading-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir("/")
