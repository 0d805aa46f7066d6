"""Files read whole within a limit, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from .errors import FracBNNError


def read_file(path: Path, limit: int, wrong: type[FracBNNError], what: str = "file") -> bytes:
    """All bytes of ``path``; ``wrong`` is raised if it is no file, cannot be read or has more than ``limit`` bytes.

    ``what`` names the file's kind in the message. Nothing is read of a device or a pipe, which might never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise wrong(f"{path}: expected a {what}, found a folder or a device")
        if status.st_size > limit:
            raise wrong(f"{path}: expected a {what} of at most {limit} bytes, found {status.st_size}")
        return path.read_bytes()
    except OSError as error:
        raise wrong(f"cannot read {what} {path}: {error.strerror}") from None


def write_file(path: Path, data: bytes, wrong: type[FracBNNError]) -> None:
    """Write a whole file or nothing: into a temporary neighbour, then renamed over ``path``; else raise ``wrong``."""
    try:
        if path.exists() and not path.is_file():
            raise wrong(f"cannot write {path}: expected a file or a free name, found a folder or a device")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise wrong(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave the new name with nothing in it
        # mkstemp makes files for the owner alone; give this one the permissions a plain open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise wrong(f"cannot write {path}: {error.strerror}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already, unless something went wrong
