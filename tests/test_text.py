"""Text for terminals and JSON: nothing in it moves a cursor, turns a line round or ends it."""

from __future__ import annotations

import json
import logging
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.text import PrintableFormatter, is_printable, printable, to_json

HARMFUL = {
    "escape sequence": "\x1b[2J",
    "C1 control": "\x9b2J",
    "delete": "\x7f",
    "newline": "\n",
    "return": "\r",
    "line separator": "\u2028",
    "right-to-left override": "\u202e",
    "isolate": "\u2067",
    "mark": "\u200f",
    "invisible": "\u200b",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
    "no text": "\udcff",
    "null": "\0",
}
HARMLESS = [
    "plain",
    "Grüße",
    "кот",
    "犬 inu",
    "חתול",
    "a,b",
    "no\u00a0break",
    "ideographic\u3000blank",
    "e\u0301",
    "🐈",
]


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_harmful_characters_become_escapes(text: str):
    shown = printable(f"a{text}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert not is_printable(text)
    escaped = to_json({text: text})
    assert escaped.isascii()
    assert escaped.isprintable()
    assert json.loads(escaped) == {text: text}


@pytest.mark.parametrize("text", HARMLESS)
def test_writing_of_all_scripts_stays(text: str):
    assert printable(text) == text
    assert is_printable(text)
    assert to_json([text]) == f'["{text}"]'


@given(st.text(st.characters(exclude_categories=())))
def test_any_text(text: str):
    shown = printable(text)
    allowed = {c for c in shown if unicodedata.category(c)[0] not in "CZ" or unicodedata.category(c) == "Zs"}
    assert set(shown) == allowed
    assert is_printable(shown)
    assert json.loads(to_json(text)) == text


@given(
    st.recursive(
        st.floats() | st.integers() | st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_is_always_valid(data: Any):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(to_json(data), parse_constant=refuse)


def test_numbers_that_json_lacks_are_null():
    assert to_json({"a": (float("nan"), [float("inf")]), "b": 1.5}) == '{"a": [null, [null]], "b": 1.5}'


def test_log_messages_stay_on_their_line():
    formatter = PrintableFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "picture %s", ("a\x1b[31m\nb",), None)
    assert formatter.format(record) == r"WARNING: picture a\x1b[31m\nb"
