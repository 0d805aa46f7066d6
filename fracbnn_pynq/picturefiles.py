"""Picture files by what people write on a command line: names, folders, patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import PictureError

_PICTURE_ENDINGS = "avif bmp dib gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
PICTURE_SUFFIXES = frozenset("." + ending for ending in _PICTURE_ENDINGS.split())
"""File name endings that :func:`find_pictures` takes for pictures, in lower case."""


def find_pictures(patterns: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that ``patterns`` name, in their order, each once.

    A pattern is the name of a file (taken whatever its ending), of a folder (all files in it and below it that end
    in one of :data:`PICTURE_SUFFIXES`, sorted) or a glob pattern, where ``**`` stands for any depth of folders (the
    files it matches with such an ending, sorted). Folders and patterns leave out hidden files. Raises
    :class:`~fracbnn_pynq.errors.PictureError` for a pattern that gives no file.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in _matches(Path(pattern)):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _matches(pattern: Path) -> list[Path]:
    if pattern.is_dir():
        paths = sorted(_below(pattern))
    elif pattern.exists() or not glob.has_magic(str(pattern)):
        paths = [pattern] if pattern.exists() else []
    else:
        hits = (Path(name) for name in glob.iglob(str(pattern), recursive=True))
        paths = sorted(path for path in hits if _has_picture_suffix(path) and path.is_file())
    if not paths:
        raise PictureError(
            f"{str(pattern)!r}: expected a picture file, or a folder or a pattern with picture files "
            f"({', '.join(sorted(PICTURE_SUFFIXES))}), found none"
        )
    return paths


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            path for name in names if not name.startswith(".") and _has_picture_suffix(path := Path(parent, name))
        )


def _has_picture_suffix(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES
