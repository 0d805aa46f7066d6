"""Text and JSON that do nothing to a terminal, whatever files, headers and names hold.

Escape sequences can rewrite a screen, bidirectional controls can make a line read as another one, and a newline in a
file name is not the end of a line. Whatever this project writes for people or programs goes through here.
"""

from __future__ import annotations

import json
import logging
import math
import unicodedata
from typing import Any


def printable(text: object) -> str:
    """``text`` on one line: control, format (bidirectional and invisible) and unassigned characters, line separators
    and bytes that are no text become escapes as Python writes them; letters, marks and blanks of all scripts stay."""
    return "".join(_escaped(c) for c in str(text))


def is_printable(text: str) -> bool:
    """Whether :func:`printable` leaves ``text`` as it is."""
    return text.isprintable() or all(_harmless(c) for c in text)


def to_json(data: Any) -> str:
    """``data`` as one line of JSON (RFC 8259): characters as :func:`printable` leaves them, others as ``\\u`` escapes;
    numbers that JSON does not have (NaN, infinities) as null."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False)
    # Outside its strings JSON has ASCII only, and in them json.dumps has escaped quotes, backslashes and newlines.
    return "".join(c if _harmless(c) else json.dumps(c)[1:-1] for c in text)


class PrintableFormatter(logging.Formatter):
    """A log record's message on one line; a traceback follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))


def _harmless(character: str) -> bool:
    # isprintable() is false for blanks other than the space, which names of files do have.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character if _harmless(character) else character.encode("unicode_escape").decode("ascii")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
