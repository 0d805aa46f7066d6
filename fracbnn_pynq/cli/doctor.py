"""``fracbnn doctor``: what works here, and what a board would need."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import click
import numpy as np

from .. import native
from ..board.clock import read_pl_clock_mhz
from ..classifier import Classifier
from ..doctor.checks import Check, isolated
from ..doctor.environment import Machine, pynq_installed
from ..doctor.preflight import Group, full_report
from ..errors import UnknownNameError
from ..extras import install_line
from ..models import DEFAULT_MODEL
from ..published import engine as engine_overlay
from ..published.catalog import OVERLAYS
from ..selection import BOARD_VARIABLE, BOARDS
from . import FAILED
from .options import echo, echo_json, examples, json_option
from .report import as_data, echo_groups, has_error

SIMULATED = "Simulated board"


@click.command(epilog=examples("fracbnn doctor", "fracbnn doctor --board simulated --json"))
@click.option(
    "--board",
    type=click.Choice(BOARDS),
    default="auto",
    show_default=True,
    help="The board you want: whatever it lacks is an error; simulated runs a picture on it.",
)
@json_option
def command(board: str, as_json: bool) -> None:
    """Say what works here, and what a board would need.

    Nothing is loaded onto a real board. Exit status 1 if the board asked for cannot be used.
    """
    asked = _asked(board)
    groups = full_report(asked, read_clock_mhz=read_pl_clock_mhz)
    if asked == "simulated" and pynq_installed():
        groups.append(Group(SIMULATED, tuple(isolated("picture", run_simulated, unexpected="error"))))
    failed = asked != "auto" and has_error(groups)
    sentence = summary(groups, asked, Machine())
    if as_json:
        echo_json({"ok": not failed, "board": asked, "summary": sentence, "groups": as_data(groups)})
    else:
        echo_groups(groups)
        echo(sentence)
    if failed:
        sys.exit(FAILED)


def _asked(board: str) -> str:
    chosen = os.environ.get(BOARD_VARIABLE) or board if board == "auto" else board
    if chosen not in BOARDS:
        raise UnknownNameError(f"{BOARD_VARIABLE}: expected one of {', '.join(BOARDS)}, found {chosen!r}")
    return chosen


def run_simulated() -> Iterator[Check]:
    """Open the simulated board, run one picture on it and on the CPU in the same arithmetic, and compare."""
    start = time.perf_counter()
    with Classifier.load(DEFAULT_MODEL, backend="overlay", board="simulated") as board:
        opened = (time.perf_counter() - start) * 1e3
        yield Check("overlay", "ok", f"loaded in {opened:.0f} ms: {board.network.title}, arithmetic {board.arithmetic}")
        size = board.network.image_size
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        label = board.classify(image).label  # the first run prepares the core's model, the second is timed
        start = time.perf_counter()
        logits = board.logits(image[None])
        stages = {**board.engine.timings, "whole call": (time.perf_counter() - start) * 1e3}
        shown = ", ".join(f"{stage} {ms:.3f}" for stage, ms in stages.items())
        yield Check("picture", "ok", f"noise taken for {label!r}; stages in ms: {shown}")
        with Classifier.load(DEFAULT_MODEL, backend="cpu", arithmetic=board.arithmetic) as engine:
            equal = np.array_equal(logits, engine.logits(image[None]))
    if equal:
        yield Check("same bits", "ok", "the logits equal those of the CPU")
    else:
        yield Check("same bits", "error", "the logits differ from those of the CPU", "reinstall this package")


def summary(groups: list[Group], asked: str, machine: Machine) -> str:
    """One line: which engines work here, and what the overlay needs if it does not."""
    engines = list(native.engines())
    here = f"cpu ({engines[0]})" if engines else "reference (NumPy only, slow: the native kernels were not built)"
    return f"Here: {here}. Overlay: {_overlay(groups, asked, machine)}"


def _overlay(groups: list[Group], asked: str, machine: Machine) -> str:
    wrong = [check.name for group in groups[1:] for check in group.checks if check.status == "error"]
    if asked == "simulated":
        ran = any(group.title == SIMULATED for group in groups) and not wrong
        return "works on the simulated board" if ran else f"not on the simulated board, because of {_names(wrong)}"
    if machine.is_board and not wrong:
        overlays = {overlay.name for overlay in OVERLAYS} | ({engine_overlay.NAME} if engine_overlay.built() else set())
        fetched = [c.name for group in groups for c in group.checks if c.name in overlays and c.status == "ok"]
        return f"ready with {', '.join(fetched)}" if fetched else "fetch one: fracbnn overlays fetch cifar10"
    if machine.is_board:
        return f"not yet, because of {_names(wrong)}"
    if pynq_installed():
        return "needs a board; try --board simulated"
    return f"needs a board, or pynq for a simulated one: {install_line('board')}"


def _names(wrong: list[str]) -> str:
    return ", ".join(wrong) or "what is said above"
