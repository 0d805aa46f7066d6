"""Reading the files an importer is given."""

from __future__ import annotations

from pathlib import Path

from ..errors import SourceError


def read_source(path: Path, limit: int) -> bytes:
    """All bytes of ``path``; :class:`~fracbnn_pynq.errors.SourceError` if it cannot be read or exceeds ``limit``."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise SourceError(f"{path}: expected at most {limit} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None
