"""Options that several subcommands share, and their output helpers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ..arithmetic import ARITHMETICS
from ..selection import BACKENDS, BOARDS, OVERLAY_CHOICES
from ..text import printable, to_json

Function = TypeVar("Function", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """The end of a command's help: lines that can be typed, as click shows them without wrapping."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What computes: overlay (a board, real or simulated), cpu (native kernels), reference (NumPy); auto: the best "
    "that works here.",
)
board_option = click.option(
    "--board",
    type=click.Choice(BOARDS),
    default="auto",
    show_default=True,
    help="The board that the overlay runs on; auto: a real one where this machine is one.",
)
arithmetic_option = click.option(
    "--arithmetic",
    type=click.Choice(["auto", *ARITHMETICS]),
    default="auto",
    show_default=True,
    help="How sums are rounded: as the float network (faithful), as a published core, or in float; auto: the engine's.",
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU engine. [default: all]")


overlay_option = click.option(
    "--overlay",
    type=click.Choice(OVERLAY_CHOICES),
    default="auto",
    show_default=True,
    help="The overlay on a board; engine is this project's own accelerator.",
)


def engine_options(function: Function) -> Function:
    """--model, --backend, --board, --overlay, --arithmetic, --threads."""
    options = (
        click.option("--model", help="A model's name (see 'fracbnn models') or file. [default: cifar10]"),
        backend_option,
        board_option,
        overlay_option,
        arithmetic_option,
        threads_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def echo(text: object, *, err: bool = False) -> None:
    """One line of text on stdout or stderr; what it holds of others' names and files cannot move the cursor."""
    click.echo(printable(text), err=err)


def echo_json(data: Any) -> None:
    """One JSON document on one line of stdout."""
    click.echo(to_json(data))


def echo_table(rows: Iterable[Iterable[str]]) -> None:
    """Rows of text in aligned columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
