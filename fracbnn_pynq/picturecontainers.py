"""What of a picture file its decoder gets to see, and how large the pictures in it are before any is decoded.

Metadata must not cost a picture: a PNG's text and profile chunks can unpack to any size, and a wrong checksum in one of
them spoils no pixel. Nor may a container hide a larger picture than its header tells of.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, BinaryIO

from PIL import Image

from .errors import PictureError

NOT_READ = {
    "EPS": "as it is a program that draws",
    "IPTC": "as it hides a picture of any size",
    "BLP": "as it hides a picture of any size",
}
"""Formats that Pillow knows and this package refuses, and why."""

_MAX_METADATA = 1 << 20
_ICONS = (b"\0\0\1\0", b"\0\0\2\0")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 254, 262, 322, 323
_WHITE_IS_ZERO = 0

CheckSize = Callable[[int, int], None]
"""Raises where a picture of this width and height is too large."""


def for_decoder(stream: BinaryIO) -> BinaryIO:
    """``stream``, which stands at its beginning, or of a PNG its pixels, transparency and orientation alone."""
    start = stream.read(len(_PNG))
    kept = list(_png_parts(stream)) if start == _PNG else None
    if kept is not None and None in kept:
        parts = [part for part in kept if part is not None]
        data = io.BytesIO()
        data.write(_PNG)
        for offset, length in parts:
            stream.seek(offset)
            data.write(stream.read(length))
        stream = data
    stream.seek(0)
    return stream


def _png_parts(stream: BinaryIO) -> Iterator[tuple[int, int] | None]:
    """Offset and length of each chunk that is kept, ``None`` for one that is left out; to the end of the picture."""
    seen: set[bytes] = set()
    while len(header := stream.read(8)) == 8:
        offset = stream.tell() - 8
        length, kind = struct.unpack(">I4s", header)
        if kind[0] & 0x20 and not _is_wanted(stream, length, kind, seen):
            yield None
        else:
            yield offset, length + 12
        if kind == b"IEND":
            return
        stream.seek(offset + length + 12)


def _is_wanted(stream: BinaryIO, length: int, kind: bytes, seen: set[bytes]) -> bool:
    """Whether an ancillary chunk says something about the pixels, and is sound; the first of its kind."""
    if kind not in (b"tRNS", b"eXIf", b"iTXt", b"zTXt") or length > _MAX_METADATA or kind in seen:
        return False
    data, check = stream.read(length), stream.read(4)
    if check != struct.pack(">I", zlib.crc32(kind + data)):
        return False
    if kind == b"iTXt":
        wanted = data.startswith(_XMP + b"\0")  # not compressed
    elif kind == b"zTXt":
        wanted = data.startswith(_RAW_EXIF) and _unpacks(data[len(_RAW_EXIF) + 1 :])
    else:
        wanted = True
    if wanted:
        seen.add(kind)
    return wanted


def _unpacks(data: bytes) -> bool:
    """Whether compressed data are sound and unpack to a bounded size."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(data, _MAX_METADATA)
    except zlib.error:
        return False
    return unpacker.eof


def enable_heif(start: bytes, name: str) -> None:
    """Where ``start`` is that of a HEIC or HEIF file, have pillow-heif read it.

    Raises :class:`~fracbnn_pynq.errors.PictureError` where that is not installed.
    """
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIF_BRANDS or "HEIF" in Image.OPEN:
        return
    if not heif_is_installed():
        raise PictureError(
            f"{name}: expected a picture in a format that Pillow reads, found HEIC (HEIF), as phones write it",
            advice="install what reads it: pip install pillow-heif",
        )
    from pillow_heif import register_heif_opener  # noqa: PLC0415 - optional

    register_heif_opener(thumbnails=False)


def heif_is_installed() -> bool:
    """Whether HEIC files can be read."""
    return find_spec("pillow_heif") is not None


def check_container(image: Image.Image, name: str, check_size: CheckSize) -> None:
    """Raise PictureError where decoding ``image`` would decode a larger picture, or give a mere thumbnail of it."""
    if image.format in NOT_READ:
        raise PictureError(f"{name}: {image.format} is not read, {NOT_READ[image.format]}", advice="convert it to PNG")
    if image.format == "TIFF":
        _check_tiff(image, name, check_size)


def check_icons(stream: BinaryIO, check_size: CheckSize) -> None:
    """Check the pictures in an icon before Pillow opens it, which would decode one; leave other files alone."""
    start = stream.read(4)
    sizes = _ico_sizes(stream) if start in _ICONS else _icns_sizes(stream) if start == b"icns" else ()
    for size in sizes:
        check_size(*size)
    stream.seek(0)


def _check_tiff(image: Image.Image, name: str, check_size: CheckSize) -> None:
    tags: Any = getattr(image, "tag_v2", {})
    width, length = (_number(tags.get(tag)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    if width and length:
        check_size(width, length)
    if _number(tags.get(_NEW_SUBFILE_TYPE)) & 1:
        raise PictureError(
            f"{name}: expected a picture, found a camera's raw file (DNG and others) whose readable part is a "
            f"thumbnail of {image.width}x{image.height}",
            advice="develop it, or save it as JPEG, PNG or TIFF",
        )


def white_is_zero(image: Image.Image) -> bool:
    """Whether a grey TIFF counts from white to black and Pillow leaves it so, which it does with 16 bits."""
    tags: Any = getattr(image, "tag_v2", {})
    # A number that is missing must not read as 0.
    return image.format == "TIFF" and image.mode.startswith("I") and tags.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO


def grey_bits(image: Image.Image) -> int:
    """Bits of a grey value in a PNG that has not been loaded yet, where they are fewer than 8; else 8."""
    tile = getattr(image, "tile", None)
    mode = tile[0][3] if image.format == "PNG" and tile else None
    return {"L;2": 2, "L;4": 4}.get(mode, 8) if isinstance(mode, str) else 8


def _number(value: Any) -> int:
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else 0


def _ico_sizes(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    stream.seek(0)
    header = stream.read(6)
    count = struct.unpack("<3H", header)[2] if len(header) == 6 else 0
    directory = stream.read(16 * count)
    for at in range(0, len(directory) - 15, 16):
        _, offset = struct.unpack_from("<II", directory, at + 8)
        stream.seek(offset)
        start = stream.read(24)
        if start.startswith(_PNG) and len(start) == 24:
            yield struct.unpack(">II", start[16:])
        elif len(start) >= 12:
            width, height = struct.unpack("<ii", start[4:12])
            yield abs(width), abs(height) // 2  # picture and mask, one above the other


def _icns_sizes(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    stream.seek(8)
    while len(header := stream.read(8)) == 8:
        length = struct.unpack(">I", header[4:])[0]
        begin = stream.tell()
        start = stream.read(24)
        if start.startswith(_PNG) and len(start) == 24:
            yield struct.unpack(">II", start[16:])
        elif start.startswith(_JPEG2000):
            stream.seek(begin)
            with Image.open(io.BytesIO(stream.read(max(length - 8, 0)))) as inner:
                yield inner.size
        if length < 8:
            return
        stream.seek(begin + length - 8)
