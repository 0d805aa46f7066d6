"""Pictures of a source as tasks have them: a name, and where the encoded picture is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import PictureError
from ..files import open_regular

MAX_ENCODED = 256 << 20
"""Bytes of an encoded picture; larger ones become rows with an error, unread."""


@dataclass(frozen=True)
class File:
    """A picture in a file of its own."""

    path: str


@dataclass(frozen=True)
class Slice:
    """A picture in ``size`` bytes of a larger file."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Unreadable:
    """No picture, and why."""

    error: str


Place: TypeAlias = File | Slice | Unreadable | bytes


@dataclass(frozen=True)
class Item:
    """A picture: its ``name`` within ``source``, the size of its file in bytes, and where it is."""

    source: str
    name: str
    size: int
    place: Place


def checked(item: Item) -> Item:
    """The item, or the same one as an error where it is too large."""
    if item.size <= MAX_ENCODED or isinstance(item.place, Unreadable):
        return item
    error = f"expected a picture of at most {MAX_ENCODED} bytes, found {item.size}"
    return Item(item.source, item.name, 0, Unreadable(error))


def encoded(place: File | Slice) -> bytes:
    """The bytes at ``place``. Raises :class:`~fracbnn_pynq.errors.PictureError`."""
    offset, size = (place.offset, place.size) if isinstance(place, Slice) else (0, MAX_ENCODED)
    try:
        with open_regular(Path(place.path), PictureError, "picture") as stream:
            stream.seek(offset)
            data = stream.read(min(size, os.fstat(stream.fileno()).st_size))
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None
    if isinstance(place, Slice) and len(data) < size:
        raise PictureError(f"{place.path}: expected {size} bytes from {offset} on, found {len(data)}")
    return data


def brought(item: Item) -> Item:
    """The item with its bytes in place of where they are, for workers that do not see it."""
    if not isinstance(item.place, File | Slice):
        return item
    try:
        data = encoded(item.place)
    except PictureError as error:
        return Item(item.source, item.name, 0, Unreadable(str(error)))
    return Item(item.source, item.name, len(data), data)
