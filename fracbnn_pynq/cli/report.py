"""Checks as text and as JSON."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from ..doctor.checks import Check
from ..doctor.preflight import Group
from ..text import printable
from .options import echo

_SYMBOLS = {"ok": "+", "warning": "!", "error": "x"}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_NAME_WIDTH = 17
_NARROWEST, _WIDEST = 60, 120


def echo_groups(groups: Iterable[Group]) -> None:
    """Print checks, grouped: symbol and word, name, what was found; below it what to do, unless all is well."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    for group in groups:
        echo(group.title)
        for check in group.checks:
            _echo_check(check, width)


def as_data(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """Checks as what JSON can say."""
    return [{"title": group.title, "checks": [asdict(check) for check in group.checks]} for group in groups]


def has_error(groups: Iterable[Group]) -> bool:
    """Whether any check found an error."""
    return any(check.status == "error" for group in groups for check in group.checks)


def _echo_check(check: Check, width: int) -> None:
    word = f"{_SYMBOLS[check.status]} {check.status}".ljust(9)
    indent = " " * (2 + 9 + 1 + _NAME_WIDTH + 1)
    wrap = textwrap.TextWrapper(width - len(indent), break_on_hyphens=False, break_long_words=False)
    lines = wrap.wrap(printable(check.found)) or [""]
    click.echo(
        f"  {click.style(word, fg=_COLOURS[check.status])} {printable(check.name).ljust(_NAME_WIDTH)} {lines[0]}"
    )
    if check.status != "ok":
        wrap.subsequent_indent = "   "
        lines += wrap.wrap(f"-> {printable(check.advice)}")
    for line in lines[1:]:
        echo(indent + line)
