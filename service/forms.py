"""Forms (multipart/form-data, RFC 7578) as clients send them, read by a streaming parser within limits."""

from __future__ import annotations

import base64
import binascii
import logging
import quopri
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from .errors import ServiceError, too_large

FORM = "multipart/form-data"
MAX_HEADERS = 4 << 10
"""Bytes of the headers of one part."""

_PIECE = 64 << 10
_AS_IT_IS = ("", "7bit", "8bit", "binary")

logging.getLogger("python_multipart.multipart").setLevel(logging.ERROR)  # refusals are logged with their request


@dataclass(frozen=True)
class Part:
    """One part of a form. ``field``: its name; ``file``: its file's name, ``None`` where it has none."""

    field: str
    file: str | None
    data: bytes


def parse_form(
    body: bytes, content_type: str, *, max_parts: int, check: Callable[[], None] = lambda: None
) -> list[Part]:
    """All parts of a form, in order; 400 for a damaged one and 413 for more than ``max_parts``.

    ``check`` is called now and then and may raise.
    """
    boundary = _parameter(content_type, "content-type", "boundary")
    if not boundary or len(boundary) > 200:
        raise ServiceError(400, f"Content-Type: expected {FORM} with a boundary, found {content_type[:100]!r}")
    delimiter = boundary.encode("latin-1", "replace")
    reader = _Reader(max_parts)
    begin = max(body.find(b"--" + delimiter), 0)  # RFC 2046: what stands before the first delimiter is left out
    try:
        parser = MultipartParser(delimiter, reader.callbacks())
        for start in range(begin, len(body), _PIECE):
            check()
            parser.write(body[start : start + _PIECE])
            if reader.ended:
                break
    except FormParserError as error:
        raise ServiceError(400, f"form: the body is damaged: {error}") from None
    if not reader.ended:
        raise ServiceError(400, "form: the body is damaged or cut off: its closing boundary is missing")
    return reader.parts


class _Reader:
    """Collects what the parser finds."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._size = 0
        self._data: list[bytes] = []

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_begin": lambda: self._headers.append((bytearray(), bytearray())),
            "on_header_field": lambda data, start, end: self._header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header(1, data[start:end]),
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            some = f"{self._max_parts} picture{'s' * (self._max_parts > 1)}"
            raise too_large(f"expected at most {some}, found {len(self.parts) + 1} or more parts of the form")
        self._headers, self._size, self._data = [], 0, []

    def _header(self, which: int, data: bytes) -> None:
        self._size += len(data) + 1
        if self._size > MAX_HEADERS:
            raise ServiceError(400, f"form: expected at most {MAX_HEADERS} bytes of headers in each part")
        self._headers[-1][which].extend(data)

    def _end(self) -> None:
        headers = {bytes(name).decode("latin-1").lower(): bytes(value) for name, value in self._headers}
        disposition = headers.get("content-disposition", b"").decode("utf-8", "replace")
        field = _parameter(disposition, "content-disposition", "name") or ""
        file = _parameter(disposition, "content-disposition", "filename")
        coding = headers.get("content-transfer-encoding", b"").decode("latin-1").strip().lower()
        data = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        self.parts.append(Part(field, file, _decoded(data, coding)))

    def _finish(self) -> None:
        self.ended = True


def _parameter(value: str, header: str, name: str) -> str | None:
    """A parameter of a header, quoted or not, in the plain form or in that of RFC 8187 (``name*=utf-8''...``)."""
    message = Message()
    message[header] = value.replace("\r", " ").replace("\n", " ")
    try:
        # The extended form comes first: it is the one that has all characters.
        found = message.get_param(name, header=header)
        return None if found is None else collapse_rfc2231_value(found).strip()
    except (LookupError, ValueError):  # an unknown character set, or numbers that are none
        return ""


def _decoded(data: bytes, coding: str) -> bytes:
    """A part's data; RFC 7578 has done away with other codings, but they are still sent."""
    if coding in _AS_IT_IS:
        return data
    if coding == "base64":
        try:
            return base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise ServiceError(400, f"form: expected base64 in a part that says so: {error}") from None
    if coding == "quoted-printable":
        return quopri.decodestring(data)
    raise ServiceError(400, f"form: Content-Transfer-Encoding: expected base64 or none, found {coding[:40]!r}")
