"""Options that several subcommands share, and their output helpers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ..arithmetic import ARITHMETICS
from ..backends.select import BACKENDS, BOARDS

Function = TypeVar("Function", bound=Callable[..., Any])


def engine_options(function: Function) -> Function:
    """--model, --backend, --board, --arithmetic, --threads."""
    options = (
        click.option("--model", help="A model's name (see 'fracbnn models') or file. [default: cifar10]"),
        click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True),
        click.option("--board", type=click.Choice(BOARDS), default="auto", show_default=True),
        click.option("--arithmetic", type=click.Choice(["auto", *ARITHMETICS]), default="auto", show_default=True),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU engine. [default: all]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def echo_json(data: Any) -> None:
    """One JSON document on one line of stdout."""
    text = json.dumps(data, ensure_ascii=False)
    # The bytes of a file name that are not text, Python's lone surrogates, stay escapes: \udcff.
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def echo_table(rows: Iterable[Iterable[str]]) -> None:
    """Rows of text in aligned columns."""
    cells = [[_on_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _on_one_line(text: str) -> str:
    """Text of a model file's maker, with characters that could move the cursor shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
