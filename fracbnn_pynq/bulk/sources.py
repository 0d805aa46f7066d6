"""What is to be labelled: folders, single pictures, tar archives and Parquet files, as pictures one by one.

A source lists the same pictures in the same order each time, or says that it has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import PictureError, SourceError
from ..files import open_regular
from ..picturefiles import LeftOut, is_clutter, is_picture_name, nothing_found, refuse_url, walk_pictures
from .items import File, Item, Slice, Unreadable, checked
from .parquets import ParquetPictures
from .tars import DamagedArchiveError, Member, TarStream

log = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIX = ".parquet"


class Source:
    """Pictures at ``path``, which is also what rows call it. ``count``: how many, where that is known beforehand.

    ``path`` is taken from the current folder, and found again from another one.
    """

    kind = "picture"
    count: int | None = 1

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = Path(os.path.abspath(path))
        self._identity = self._read_identity()

    @property
    def identity(self) -> dict[str, Any]:
        """What would be another one if the pictures were: JSON."""
        return {"kind": self.kind, "path": self.name, **self._identity}

    def items(self) -> Iterator[Item]:
        """Every picture, in the same order each time."""
        yield from map(checked, self._items())

    def check_unchanged(self) -> None:
        """Raise :class:`~fracbnn_pynq.errors.SourceError` where the source has changed since it was opened."""
        if self._read_identity() != self._identity:
            raise SourceError(
                f"{self.name}: changed while it was read", advice="label what is there now into another --out"
            )

    def _read_identity(self) -> dict[str, Any]:
        with open_regular(self.path, PictureError, "picture") as stream:
            status = os.fstat(stream.fileno())
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _items(self) -> Iterator[Item]:
        yield Item(self.name, self.name, self._identity["size"], File(str(self.path)))


class FolderSource(Source):
    """The pictures in a folder and below it."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.count = self._identity["pictures"]
        if not self.count:
            raise nothing_found(path)

    def _read_identity(self) -> dict[str, Any]:
        digest, count, left_out = hashlib.sha256(), 0, LeftOut()
        for name, path in self._paths(left_out):
            status = _status(path)
            about = (0, 0) if status is None else (status.st_size, status.st_mtime_ns)
            digest.update(repr((os.fsencode(name), *about)).encode())
            count += 1
        if not hasattr(self, "_identity"):
            left_out.report(self.name)
        return {"pictures": count, "digest": digest.hexdigest()}

    def _items(self) -> Iterator[Item]:
        for name, path in self._paths(LeftOut()):
            status = _status(path)
            yield Item(self.name, name, status.st_size if status else 0, File(str(path)))

    def _paths(self, left_out: LeftOut) -> Iterator[tuple[str, Path]]:
        """Names as somebody who knows the source's name would write them, and absolute paths."""
        for path in walk_pictures(self.path, left_out):
            yield os.path.join(self.name, path.relative_to(self.path)), path


class TarSource(Source):
    """The pictures in a tar archive, plain or packed by gzip."""

    kind = "tar"
    count = None

    def _items(self) -> Iterator[Item]:
        others = seen = 0
        with open_regular(self.path, SourceError, "tar archive") as stream:
            try:
                for member in TarStream(stream).members():
                    seen += 1
                    if _is_picture(member.name):
                        yield self._item(member)
                    else:
                        others += 1
            except DamagedArchiveError as error:
                text = f"after {seen} members: {error}"
                yield Item(self.name, f"member {seen}", 0, Unreadable(text))
        if others:
            log.info("%s: %d members left out, not pictures by name", self.name, others)

    def _item(self, member: Member) -> Item:
        if member.refused is not None:
            text = f"expected a regular file, found {member.refused}"
            return Item(self.name, member.name, 0, Unreadable(text))
        place = Slice(str(self.path), member.offset, member.size) if member.data is None else member.data
        return Item(self.name, member.name, member.size, place)


class ParquetSource(Source):
    """The pictures in a column of a Parquet file."""

    kind = "parquet"

    def __init__(self, path: Path, column: str | None) -> None:
        super().__init__(path)
        self._pictures = ParquetPictures(self.path, column)
        self._identity["column"] = self._pictures.column
        self.count = self._pictures.rows

    def check_unchanged(self) -> None:
        if {**self._read_identity(), "column": self._pictures.column} != self._identity:
            raise SourceError(f"{self.name}: changed while it was read", advice="label it into another --out")

    def _items(self) -> Iterator[Item]:
        return self._pictures.items(self.name)


def open_sources(paths: Iterable[str | os.PathLike[str]], column: str | None = None) -> list[Source]:
    """The sources that ``paths`` name, in their order, each once. ``column``: of Parquet files.

    Raises :class:`~fracbnn_pynq.errors.PictureError` or :class:`~fracbnn_pynq.errors.SourceError` for what is not
    there, and for a source that lies in another one: its pictures would be there twice.
    """
    found: dict[str, Source] = {}
    for path in paths:
        refuse_url(path)
        where = os.path.abspath(path)
        if where not in found:
            found[where] = _open(Path(path), column)
    folders = [where for where, source in found.items() if isinstance(source, FolderSource)]
    for where, source in found.items():
        outer = next((each for each in folders if where.startswith(os.path.join(each, ""))), None)
        if outer is not None and source.kind in ("folder", "picture"):
            raise PictureError(f"{source.name}: it lies in {found[outer].name}, which is given, too: leave one out")
    return list(found.values())


def _open(path: Path, column: str | None) -> Source:
    if os.path.isdir(path):
        return FolderSource(path)
    if not os.path.lexists(path):
        raise nothing_found(path)
    if path.name.lower().endswith(TAR_SUFFIXES):
        return TarSource(path)
    if path.name.lower().endswith(PARQUET_SUFFIX):
        return ParquetSource(path, column)
    return Source(path)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # a link to nothing, or gone: a row with an error
        return None


def _is_picture(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and is_picture_name(parts[-1]) and not any(is_clutter(part) for part in parts if part != "..")
