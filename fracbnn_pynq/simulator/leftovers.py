"""Folders of simulated overlays whose process ended without removing them, and how to tell them from those in use.

A process that is killed, or ended by SIGTERM where nothing handles that, leaves the folder of its overlay behind. What
it leaves no longer is a lock: the board holds one on the bitstream it has loaded, and the system drops it with the
process, however that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from pathlib import Path

PREFIX = "fracbnn-simulated-"
"""How the names of such folders begin, in the folder for temporary files."""
STARTING_S = 600.0
"""Younger folders are left alone: their process may not have loaded its bitstream yet."""


class FileLock:
    """A lock on one file at a time, shared with other boards that have loaded it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def take(self, path: Path) -> None:
        """Lock ``path`` instead of what was locked. Raises OSError where it cannot be opened."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a file system without locks; or it is just being looked at
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.release()  # the old one last: the same file is never without a lock
        self._descriptor = descriptor

    def release(self) -> None:
        """Lock nothing. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(folder: Path | None = None) -> list[Path]:
    """Remove folders of this user's ended processes from ``folder`` (``None``: that for temporary files).

    Only overlays are removed: a folder with anything else in it stays. Returns the folders removed.
    """
    here = folder or Path(tempfile.gettempdir())
    return [path for path in here.glob(f"{PREFIX}*") if _is_old(path) and _remove(path)]


def _is_old(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and time.time() - status.st_mtime > STARTING_S


def _remove(folder: Path) -> bool:
    """Remove a folder unless a bitstream in it is loaded; whether it is gone."""
    try:
        for bit in folder.glob("*.bit"):
            descriptor = os.open(bit, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                bit.unlink()
            finally:
                os.close(descriptor)
        for handoff in folder.glob("*.hwh"):
            handoff.unlink()
        folder.rmdir()
    except OSError:  # in use, of another kind, or another process was quicker
        return False
    return True
