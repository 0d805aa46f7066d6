"""The members of a tar archive one after the other, from a stream, with nothing extracted and nothing kept.

Python's own ``tarfile`` keeps all members and reads a long name or an extended header of whatever size the archive
says, which a few kilobytes of gzip can make gigabytes. Here both have limits. Formats: ustar, GNU and pax.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .items import MAX_ENCODED

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20
"""Bytes of a long name or an extended header."""
_GZIP_MAGIC = b"\x1f\x8b"
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_WITHOUT_DATA = frozenset(_KINDS) - {tarfile.GNUTYPE_SPARSE} | {tarfile.DIRTYPE}
_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})


class DamagedArchiveError(Exception):
    """The archive cannot be read on from here."""


@dataclass(frozen=True)
class Member:
    """A member: ``offset`` of its data in the unpacked archive, and ``refused``: what it is instead of a regular file.

    ``data`` is ``None`` where the archive can be read at ``offset`` again, and where the member is refused or larger
    than a picture may be.
    """

    name: str
    offset: int
    size: int
    refused: str | None = None
    data: bytes | None = None


class TarStream:
    """An archive's members, read forward only. ``packed``: by gzip; its members come with their data."""

    def __init__(self, stream: BinaryIO) -> None:
        start = stream.read(len(_GZIP_MAGIC))
        stream.seek(0)
        self.packed = start == _GZIP_MAGIC
        self._length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        self._stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=stream, mode="rb") if self.packed else stream
        self._at = 0

    def members(self) -> Iterator[Member]:
        """All members but folders. Raises :class:`DamagedArchiveError` where the archive is cut short or is none."""
        long_name: str | None = None
        extended: dict[str, str] = {}
        while (head := self._header()) is not None:
            try:
                info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
            except (tarfile.TarError, ValueError) as error:
                raise DamagedArchiveError(f"expected a tar header at byte {self._at - _BLOCK}, found {error}") from None
            size = info.size
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._small(size).rstrip(b"\0").decode("utf-8", "surrogateescape")
                long_name = text if info.type == tarfile.GNUTYPE_LONGNAME else long_name
                continue
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extended = _pax(self._small(size))
                continue
            if info.type == tarfile.XGLTYPE:  # for all that follow: owners, comments; no names
                self._small(size)
                continue
            name = extended.get("path") or long_name or info.name
            sparse = any(key.startswith("GNU.sparse.") for key in extended)
            size = 0 if info.type in _WITHOUT_DATA else _number(extended.get("size"), size)
            long_name, extended = None, {}
            if info.type == tarfile.GNUTYPE_SPARSE:
                self._sparse_map(head)
            if size < 0:
                raise DamagedArchiveError(f"expected a member's size, found {size}")
            refused = "a sparse file" if sparse else _refused(info.type)
            end = self._at + -(-size // _BLOCK) * _BLOCK
            if info.type != tarfile.DIRTYPE:
                yield self._member(name, size, refused)
            self._skip(end - self._at)

    def _member(self, name: str, size: int, refused: str | None) -> Member:
        at = self._at
        if not self.packed and at + size > self._length:
            raise DamagedArchiveError(f"expected {size} bytes of {name}, found {max(0, self._length - at)}")
        wanted = self.packed and refused is None and size <= MAX_ENCODED
        return Member(name, at, size, refused, self._read(size, name) if wanted else None)

    def _header(self) -> bytes | None:
        """The next header; ``None`` at the end, a block of zeros.

        Others take a missing one for an end, too, but a file that was copied in part often ends between two members.
        """
        head = self._some(_BLOCK)
        if len(head) < _BLOCK:
            raise DamagedArchiveError(
                f"expected a member or the archive's end, {_BLOCK} bytes, found {len(head)}: the archive is cut short"
            )
        return head if any(head) else None

    def _small(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise DamagedArchiveError(f"expected a header of at most {_MAX_HEADER} bytes, found {size}")
        return self._read(-(-size // _BLOCK) * _BLOCK, "a header")[:size]

    def _sparse_map(self, head: bytes) -> None:
        more = head[482]  # "isextended" of GNU's old format; then byte 504 of each further block
        while more:
            more = self._read(_BLOCK, "a sparse file's map")[504]

    def _skip(self, count: int) -> None:
        if not self.packed:
            self._at = self._stream.seek(self._at + count)
            return
        while count:
            count -= len(self._read(min(count, _CHUNK), "a member"))

    def _read(self, size: int, what: str) -> bytes:
        data = self._some(size)
        if len(data) < size:
            raise DamagedArchiveError(f"expected {size} bytes of {what}, found {len(data)}: the archive is cut short")
        return data

    def _some(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DamagedArchiveError(f"cannot be unpacked from byte {self._at} on: {error}") from None
        self._at += len(data)
        return data


def _refused(kind: bytes) -> str | None:
    # Members of a kind that nobody knows are regular files, by POSIX.
    return None if kind in _REGULAR else _KINDS.get(kind)


def _pax(data: bytes) -> dict[str, str]:
    """An extended header's records, each ``length key=value`` and a newline."""
    found = {}
    while data:
        length, blank, _ = data.partition(b" ")
        size = int(length) if length.isdigit() and len(length) < 8 else 0
        record, data = data[len(length) + 1 : size], data[size:]
        key, equals, value = record.partition(b"=")
        if not (blank and equals and value.endswith(b"\n")):
            raise DamagedArchiveError("expected an extended header's records, found something else")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
    return found


def _number(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DamagedArchiveError(f"expected a member's size, found {text!r:.40}")
    return int(text)
