"""The binary tensor extension of the Open Inference Protocol: bytes after the JSON part of a body.

BYTES tensors are elements one after the other, each as its length (uint32, little endian) and its bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

from .errors import ServiceError

HEADER = "Inference-Header-Content-Length"

_LENGTH = struct.Struct("<I")
_DIGITS = re.compile(r"[0-9]{1,18}")


def split(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the binary part of a body; ``header``: the value of :data:`HEADER`, ``None`` for all JSON."""
    if header is None:
        return body, memoryview(b"")
    text = header.strip()
    if not _DIGITS.fullmatch(text) or int(text) > len(body):
        raise ServiceError(400, f"{HEADER}: expected 0..{len(body)}, the length of the body, found {header[:40]!r}")
    return body[: int(text)], memoryview(body)[int(text) :]


def unpack_bytes(data: memoryview, count: int, what: str) -> list[bytes]:
    """The elements of a BYTES tensor; 400 unless they are ``count`` and fill ``data`` exactly."""
    elements: list[bytes] = []
    start = 0
    while start < len(data) and len(elements) < count:
        if start + _LENGTH.size > len(data):
            raise ServiceError(400, f"{what}: the binary data end inside the length of element {len(elements)}")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if length > len(data) - start:
            raise ServiceError(
                400, f"{what}: element {len(elements)} is {length} bytes long, {len(data) - start} are left"
            )
        elements.append(bytes(data[start : start + length]))
        start += length
    if len(elements) != count or start != len(data):
        raise ServiceError(
            400,
            f"{what}: expected {count} elements by its shape, found {len(elements)} and {len(data) - start} bytes more",
        )
    return elements


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """A BYTES tensor of these elements."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
