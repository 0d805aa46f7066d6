"""Compressed request bodies: ``Content-Encoding`` of gzip or deflate (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from .errors import ServiceError, too_large

CODINGS = ("gzip", "x-gzip", "deflate")
MAX_MEMBERS = 64
"""Compressed files one after the other in a gzip body."""
_PIECE = 64 << 10
_MOST_AT_ONCE = 1 << 20
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


def coding_of(header: str | None) -> str | None:
    """The coding of a body by its header; ``None`` where it is sent as it is. 415 for what is not understood."""
    coding = (header or "").strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in CODINGS:
        raise ServiceError(
            415,
            f"Content-Encoding: expected gzip, deflate or none, found {coding[:40]!r}",
            headers={"Accept-Encoding": "gzip, deflate, identity"},
        )
    return coding


def unpacked(body: bytes, coding: str | None, limit: int, check: Callable[[], None] = lambda: None) -> bytes:
    """The body before it was compressed, of at most ``limit`` bytes, else 413; 400 for damaged data.

    ``check`` is called now and then and may raise. A gzip body may have several members; deflate is zlib's format, and
    the bare one that some clients send in its place.
    """
    if coding is None:
        return body
    window = _RAW if coding == "deflate" and not _looks_like_zlib(body) else _ZLIB_OR_GZIP
    parts: list[bytes] = []
    size = position = members = 0
    try:
        while position < len(body):
            members += 1
            if members > (1 if coding == "deflate" else MAX_MEMBERS):
                raise ServiceError(400, f"the {coding} body is followed by {len(body) - position} other bytes")
            decoder = zlib.decompressobj(window)
            while not decoder.eof:
                check()
                given = body[position : position + _PIECE]
                # One byte beyond the limit is enough to know.
                part = decoder.decompress(given, min(_MOST_AT_ONCE, limit - size + 1))
                taken = len(given) - len(decoder.unconsumed_tail) - len(decoder.unused_data)
                position += taken
                size += len(part)
                parts.append(part)
                if size > limit:
                    raise too_large(f"body: expected at most {limit} bytes when unpacked, found more")
                if not part and not taken and not decoder.eof:
                    raise ServiceError(400, f"the {coding} body is cut off")
    except zlib.error as error:
        raise ServiceError(400, f"the body is not {coding}: {error}") from None
    return b"".join(parts)


def _looks_like_zlib(body: bytes) -> bool:
    """RFC 1950: method 8, and the first two bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
