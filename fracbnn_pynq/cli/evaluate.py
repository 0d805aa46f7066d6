"""``fracbnn evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..classifier import Classifier
from ..datasets import Source, open_source
from ..errors import SourceError
from ..evaluation import TOP, Accuracy, Repeats, evaluate
from ..text import printable
from . import FAILED, INPUT_AT_FAULT
from .options import echo, echo_json, echo_table, engine_options, examples, json_option
from .verifying import check_options, finish, verify_options

SHOWN = 10
"""Pictures that change between passes and are named; the others are counted."""


@click.command(
    epilog=examples(
        "fracbnn evaluate pictures/ --classes",
        "fracbnn evaluate cifar-10-batches-py/ --model cifar10-authors --json",
        "fracbnn evaluate pictures/ --backend overlay --verify 0.1 --repeat 3",
    )
)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@engine_options
@verify_options
@click.option("--classes", "by_class", is_flag=True, help="Of each class, too.")
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Passes over the pictures; says which of them have other results in a later one.",
)
@json_option
def command(
    data: tuple[Path, ...], by_class: bool, repeat: int, as_json: bool, verify_report: Path | None, **engine: Any
) -> None:
    """Say how often a model is right about labelled pictures.

    DATA is a folder with one folder of pictures per class, a folder with CIFAR-10's own batch files, or an .npz; see
    docs/training.md. Pictures that cannot be read are named, counted and left out; exit status 2 then. Exit status 1
    if a result changes between passes, or is not the one that the CPU computes.
    """
    check_options(engine["verify"], verify_report)
    sources = [open_source(path) for path in data]
    with Classifier.load(**engine) as classifier:
        found = [_passes(classifier, source, repeat) for source in sources]
        about: dict[str, Any] = {
            "network": classifier.network.name,
            "backend": classifier.backend,
            "arithmetic": classifier.arithmetic,
        }
        verified = finish(classifier, verify_report, say=not as_json)
    if as_json:
        if verified is not None:
            about["verification"] = verified
        echo_json({**about, "results": [_facts(*each, repeat) for each in found]})
    else:
        _echo(about, found, by_class, repeat)
    if any(each.unreadable for each, _ in found):
        sys.exit(INPUT_AT_FAULT)
    if any(repeats.logits for _, repeats in found) or (verified and verified["different"]):
        sys.exit(FAILED)


def _passes(classifier: Classifier, source: Source, repeat: int) -> tuple[Accuracy, Repeats]:
    """Accuracy in the first pass, and what the others change."""
    repeats = Repeats()
    results = []
    for number in range(repeat):
        name = printable(source.name) + (f", pass {number + 1} of {repeat}" if repeat > 1 else "")
        leave_out = _leave_out if number == 0 else lambda _: None  # they are named once
        with tqdm(total=len(source.labels), desc=name, unit=" pictures", disable=None, leave=False) as bar:
            results.append(evaluate(classifier, source, bar.update, leave_out, repeats.note))
    return results[0], repeats


def _leave_out(error: SourceError) -> None:
    echo(f"error: {error}", err=True)


def _echo(about: dict[str, Any], found: list[tuple[Accuracy, Repeats]], by_class: bool, repeat: int) -> None:
    echo(f"{about['network']}, {about['backend']}, {about['arithmetic']} arithmetic")
    head = ["DATA", "PICTURES", "UNREADABLE", "TOP-1", f"TOP-{TOP}", "STANDARD ERROR"]
    echo_table([head, *(_row(each) for each, _ in found)])
    if repeat > 1:
        for each, repeats in found:
            named = ", ".join(str(number) for number in sorted(repeats.logits)[:SHOWN])
            which = f": {named}{', ...' if len(repeats.logits) > SHOWN else ''}" if named else ""
            echo(
                f"{each.name}, {repeat} passes: {len(repeats.logits)} pictures whose logits change, "
                f"{len(repeats.labels)} whose label does{which}"
            )
    if by_class:
        for each, _ in found:
            rows = [[name, str(count), f"{right / count:.1%}"] for name, (right, count) in each.by_class.items()]
            echo_table([[each.name, "PICTURES", "RIGHT"], *rows])


def _row(found: Accuracy) -> list[str]:
    shares = (f"{found.share:.2%}", f"{found.share_in_top:.2%}", f"{100 * found.standard_error:.2f} points")
    return [found.name, str(found.pictures), str(found.unreadable), *shares]


def _facts(found: Accuracy, repeats: Repeats, repeat: int) -> dict[str, Any]:
    return {
        "data": found.name,
        "pictures": found.pictures,
        "unreadable": found.unreadable,
        "top1": found.share,
        f"top{TOP}": found.share_in_top,
        "standard_error": found.standard_error,
        "passes": repeat,
        "changing": {"logits": sorted(repeats.logits), "labels": sorted(repeats.labels)},
        "by_class": {name: {"right": right, "pictures": count} for name, (right, count) in found.by_class.items()},
    }
