"""Picture files by what people write on a command line: names, folders, patterns."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from .errors import PictureError
from .picturecontainers import NOT_READ, heif_is_installed

log = logging.getLogger(__name__)

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_STUBS = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognises but does not decode without help."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)")

_CLUTTER = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
)
"""What systems leave in folders, in lower case; hidden files and folders aside."""


@cache
def picture_suffixes() -> frozenset[str]:
    """File name endings, in lower case, that stand for pictures here: all that the installed Pillow decodes."""
    endings = Image.registered_extensions()
    refused = _STUBS | NOT_READ.keys()
    known = {ending for ending, form in endings.items() if form in Image.OPEN and form not in refused} | {".mpo"}
    return frozenset(known - HEIF_SUFFIXES | (HEIF_SUFFIXES if heif_is_installed() else frozenset()))


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was left by a system rather than put there by a person."""
    return name.startswith(".") or name.lower() in _CLUTTER


@dataclass
class LeftOut:
    """What of a folder is no picture: how many hidden files, linked folders, and others by their ending."""

    hidden: int = 0
    links: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def add(self, name: str) -> None:
        """Count a file."""
        if is_clutter(name):
            self.hidden += 1
        else:
            self.others[Path(name).suffix.lower() or "no ending"] += 1

    def report(self, folder: str) -> None:
        """Say it in a line of the log: a warning where a person may have expected one of them to be taken."""
        parts = [f"{count} {ending}" for ending, count in self.others.most_common(10)]
        parts += [
            f"{count} {what}" for count, what in ((self.hidden, "hidden"), (self.links, "linked folders")) if count
        ]
        total = self.others.total() + self.hidden + self.links
        hint = "; for HEIC: pip install pillow-heif" if HEIF_SUFFIXES & self.others.keys() else ""
        if total:
            level = logging.WARNING if self.others or self.links else logging.INFO
            log.log(level, "%s: %d left out, not pictures by name: %s%s", folder, total, ", ".join(parts), hint)


def find_pictures(patterns: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that ``patterns`` name, in their order, each once.

    A pattern is the name of a file (taken whatever its ending), of a folder (all files in it and below it that end
    in one of :func:`picture_suffixes`, sorted) or a glob pattern, where ``**`` stands for any depth of folders (the
    files it matches with such an ending, sorted). Folders and patterns leave out hidden files and what systems leave
    behind (``__MACOSX``, ``Thumbs.db``); how many files of a folder were left out, and why, is logged. Raises
    :class:`~fracbnn_pynq.errors.PictureError` for a pattern that gives no file.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    found: dict[str, Path] = {}
    for pattern in patterns:
        refuse_url(pattern)
        for path in _matches(Path(pattern)):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def refuse_url(name: str | os.PathLike[str]) -> None:
    """Raise :class:`~fracbnn_pynq.errors.PictureError` for an address that no file is called by."""
    found = _URL.match(os.fspath(name))
    if found and not os.path.exists(name):
        # As a Path it has lost one of its slashes.
        url = f"{found[1]}://{os.fspath(name)[found.end() :]}"
        raise PictureError(f"{url}: expected a file or a folder, found a URL", advice="download it, and name the file")


def pictures_below(folder: Path, left_out: LeftOut) -> list[Path]:
    """The picture files in ``folder`` and below it, sorted; the others are counted in ``left_out``.

    Raises :class:`~fracbnn_pynq.errors.PictureError` where there is none.
    """
    paths = sorted(walk_pictures(folder, left_out))
    if not paths:
        raise nothing_found(folder)
    return paths


def walk_pictures(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """The picture files in ``folder`` and below it, one by one: a folder's own in order, then those of the folders in
    it. The others are counted in ``left_out``."""
    for parent, folders, names in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        left_out.links += sum(not is_clutter(name) for name in linked)
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for name in sorted(names):
            if is_picture_name(name):
                yield Path(parent, name)
            else:
                left_out.add(name)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name, without its folders, is taken for a picture."""
    return not is_clutter(name) and Path(name).suffix.lower() in picture_suffixes()


def _matches(pattern: Path) -> list[Path]:
    # os.path's questions, as those of pathlib raise OSError for a name that is too long.
    if os.path.isdir(pattern):
        left_out = LeftOut()
        paths = pictures_below(pattern, left_out)
        left_out.report(str(pattern))
    elif os.path.exists(pattern) or not glob.has_magic(str(pattern)):
        paths = [pattern] if os.path.exists(pattern) else []
    else:
        hits = (Path(name) for name in glob.iglob(str(pattern), recursive=True))
        paths = sorted(path for path in hits if is_picture_name(path.name) and os.path.isfile(path))
    if not paths:
        raise nothing_found(pattern)
    return paths


def nothing_found(pattern: Path) -> PictureError:
    """The error for a name, a folder or a pattern that gives no picture."""
    if not os.path.lexists(pattern) and not glob.has_magic(str(pattern)):
        return PictureError(f"{str(pattern)!r}: expected a picture file, a folder or a pattern, found no such file")
    return PictureError(
        f"{str(pattern)!r}: expected a picture file, or a folder or a pattern with picture files (.jpg, .png and all "
        "others that Pillow reads), found none"
    )
