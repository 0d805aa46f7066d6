"""``--verify``: a share of an accelerator's results computed again on the CPU, for several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..classifier import Classifier
from .options import echo

Function = TypeVar("Function", bound=Callable[..., Any])


def verify_options(function: Function) -> Function:
    """--verify and --verify-report."""
    options = (
        click.option(
            "--verify",
            type=click.FloatRange(0, 1),
            default=0.0,
            metavar="SHARE",
            help="Compute this share of an accelerator's pictures on the CPU, too, and compare every bit: 0.01, or 1 "
            "for all.",
        ),
        click.option(
            "--verify-report",
            type=click.Path(path_type=Path, file_okay=False),
            metavar="DIR",
            help="With --verify: a folder for the pictures that differ, and what was found of each.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def check_options(verify: float, report: Path | None) -> None:
    """Raise a usage error for a report of nothing; make its folder now rather than fail after an hour."""
    if report is None:
        return
    if not verify:
        raise click.UsageError("--verify-report: expected --verify SHARE with it, found none")
    from ..backends.verified import make_report_folder  # noqa: PLC0415 - only where it is asked for

    make_report_folder(report)


def finish(classifier: Classifier, report: Path | None, *, say: bool) -> dict[str, int] | None:
    """Wait for what is still checked, write the report, ``say`` a line on stderr, and give the counts, or ``None``
    without --verify. Before the classifier is closed.
    """
    verification = classifier.verification
    if verification is None:
        return None
    verification.settle()
    if report is not None:
        verification.save(report)
    if say:
        echo(verification.summary(), err=True)
    return verification.counts()
