"""One process per board: a lock file, held as long as the accelerator is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from ..errors import BackendError

NAME = "fracbnn-board.lock"


def default_lock_path() -> Path:
    """``/run/lock/fracbnn-board.lock``, or in the folder for temporary files where there is no such folder."""
    folder = Path("/run/lock")
    return (folder if os.access(folder, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())) / NAME


class BoardLock:
    """Holds the lock file at ``path`` until :meth:`release`, or until the process ends, however it ends.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where another process, or this one, holds it, or where the file
    cannot be made. The file stays: removing it would let two processes hold locks of the same name.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else default_lock_path()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise BackendError(f"expected a lock file at {self.path}, found {error}; run as root") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(descriptor)
            os.close(descriptor)
            advice = (
                "close the classifier that uses it first"
                if holder == str(os.getpid())
                else "end that process, or wait until it is done"
            )
            raise BackendError(f"the board is in use by process {holder} ({self.path}): {advice}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others have the board. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return os.pread(descriptor, 32, 0).decode("ascii").strip() or "unknown"
    return "unknown"
