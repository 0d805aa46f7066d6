"""One process per board: a lock file, held as long as the accelerator is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import weakref
from pathlib import Path

from ..errors import BackendError

NAME = "fracbnn-board.lock"
_OWNER_ONLY = 0o600
_OTHERS = 0o077
_TRIES = 10


def default_lock_path() -> Path:
    """Root's is ``/run/fracbnn-board.lock``: only root can put anything there, so nobody else can hold or block it.

    Others have theirs in their own folder for such files (XDG_RUNTIME_DIR), else among the temporary files. pynq needs
    root, so they can have a simulated board only.
    """
    run = Path("/run")
    if os.geteuid() == 0 and run.is_dir():
        return run / NAME
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / NAME if own else Path(tempfile.gettempdir()) / f"{os.geteuid()}-{NAME}"


class BoardLock:
    """Holds the lock file at ``path`` until :meth:`release`, or until the process ends, however it ends.

    The file is this user's, and only this user can open it: who can open a file can lock it, and who has locked it
    keeps all others off the board. So what another user has put there (a file, a link to one, a pipe) is refused rather
    than waited for. The lock is the kernel's, not the file's being there: a file left behind blocks nobody. A process
    that is forked or started from this one does not hold it.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where another process, or this one, holds it, or where the file
    cannot be made. The file stays: removing it would let two processes hold locks of the same name.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else default_lock_path()
        self._descriptor: int | None = None
        for _ in range(_TRIES):
            descriptor = _open(self.path)
            try:
                _lock(descriptor, self.path)
                if _is_at(descriptor, self.path):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # somebody removed the file meanwhile, and the next one would make and lock another
        else:
            raise BackendError(
                f"expected a lock file at {self.path}, found that something keeps removing it",
                advice="end what cleans that folder, or give another lock file",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let others have the board. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_held: weakref.WeakSet[BoardLock] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked process must not keep a lock of which it knows nothing, when the one that has it is gone."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_after_fork)


def _open(path: Path) -> int:
    """An own, regular file at ``path``, made if there is none. Never waits: a pipe would, where nobody writes to it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, _OWNER_ONLY)
    except OSError as error:
        raise BackendError(
            f"expected a lock file of this user's at {path}, found {_whose(path)}{error.strerror}",
            advice="remove what is there, or run as its owner; a board needs root",
        ) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
        os.close(descriptor)
        raise BackendError(
            f"expected a lock file of this user's at {path}, found {_whose(path)}"
            "something that is shared with others or is no regular file",
            advice="remove what is there",
        )
    if status.st_mode & _OTHERS:
        os.fchmod(descriptor, _OWNER_ONLY)
    return descriptor


def _whose(path: Path) -> str:
    with contextlib.suppress(OSError):
        owner = path.lstat().st_uid
        return "" if owner == os.geteuid() else f"what belongs to user {owner}: "
    return ""


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        if holder == os.getpid():
            advice = "close the classifier that uses it first"
        else:
            advice = "end that process, or wait until it is done"
        who = "another process" if holder is None else f"process {holder}"
        raise BackendError(f"the board is in use by {who} ({path})", advice=advice) from None
    except OSError as error:
        raise BackendError(
            f"expected a file system with locks at {path}, found {error.strerror}", advice="give another lock file"
        ) from error


def _holder(descriptor: int) -> int | None:
    """The process that the file names; ``None`` where it names none that runs."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        number = int(os.pread(descriptor, 32, 0).decode("ascii"))
        if number > 0:
            os.kill(number, 0)
            return number
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False
