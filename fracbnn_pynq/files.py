"""Files read whole within a limit, and written whole or not at all; where fetched ones are kept."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import FracBNNError

CACHE_VARIABLE = "FRACBNN_CACHE"


def cache_directory(cache: Path | str | None = None) -> Path:
    """Where fetched files are kept: ``cache``, else FRACBNN_CACHE, else the system's folder for caches."""
    chosen = cache or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch  # noqa: PLC0415 - needed only here; its import is slow on the board

    return Path(pooch.os_cache("fracbnn"))


def read_file(path: Path, limit: int, wrong: type[FracBNNError], what: str = "file") -> bytes:
    """All bytes of ``path``; ``wrong`` is raised if it is no file, cannot be read or has more than ``limit`` bytes.

    ``what`` names the file's kind in the message. Nothing is read of a device or a pipe, which might never end.
    """
    with open_regular(path, wrong, what) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise wrong(f"{path}: expected a {what} of at most {limit} bytes, found {size}")
        try:
            data = stream.read(limit + 1)
        except OSError as error:
            raise wrong(f"cannot read {what} {path}: {error.strerror}") from None
    if len(data) > limit:  # it grows, or its system does not know its size
        raise wrong(f"{path}: expected a {what} of at most {limit} bytes, found more")
    return data


def open_regular(path: Path, wrong: type[FracBNNError], what: str = "file") -> BinaryIO:
    """Open a file for reading; ``wrong`` is raised where it cannot be opened, or is a folder, a device or a pipe."""
    try:
        # Not blocking, or opening a pipe would wait for its writer; the check is of what has been opened.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise wrong(f"cannot read {what} {path}: {error.strerror}") from None
    except ValueError:  # a zero byte
        raise wrong(f"cannot read {what} {str(path)!r}: no file can have this name") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise wrong(f"{path}: expected a {what}, found a folder or a device")
    return open(descriptor, "rb")


class LineFile:
    """A text file of whole lines, each written at once: a context manager. Raises ``wrong``.

    Where a line cannot be written, the part of it that was is taken away again.
    """

    def __init__(self, path: Path, wrong: type[FracBNNError]) -> None:
        self._path, self._wrong = path, wrong
        try:
            self._stream = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise wrong(f"cannot write {path}: {error.strerror}") from None

    def write(self, line: str) -> None:
        """Write ``line`` and its end."""
        rest = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        written = 0
        try:
            while written < len(rest):
                written += self._stream.write(rest[written:]) or 0
        except OSError as error:
            with suppress(OSError):  # a device or a pipe keeps what it has
                self._stream.truncate(self._stream.seek(-written, os.SEEK_CUR))
            raise self._wrong(f"cannot write {self._path}: {error.strerror}") from None

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def write_file(path: Path, data: bytes, wrong: type[FracBNNError]) -> None:
    """Write a whole file or nothing: into a temporary neighbour, then renamed over ``path``; else raise ``wrong``."""
    with write_stream(path, wrong) as stream:
        stream.write(data)


@contextmanager
def write_stream(path: Path, wrong: type[FracBNNError]) -> Iterator[BinaryIO]:
    """A stream of which a whole file is made, or nothing where the block ends with an exception; see write_file.

    ``wrong`` is raised, too, for an OSError of the block that names no file, such as the stream's on a full disk.
    """
    try:
        if path.exists() and not path.is_file():
            raise wrong(f"cannot write {path}: expected a file or a free name, found a folder or a device")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise wrong(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave the new name with nothing in it
        # mkstemp makes files for the owner alone; give this one the permissions a plain open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and error.filename != temporary:
            raise
        raise wrong(f"cannot write {path}: {error.strerror}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already, unless something went wrong
