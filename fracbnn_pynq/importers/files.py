"""Reading the files an importer is given."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import SourceError


def read_source(path: Path, limit: int) -> bytes:
    """All bytes of ``path``; :class:`~fracbnn_pynq.errors.SourceError` if it cannot be read or exceeds ``limit``."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{path}: expected a file, found a folder or a device")
        if status.st_size > limit:
            raise SourceError(f"{path}: expected at most {limit} bytes, found {status.st_size}")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
