"""``fracbnn evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..classifier import Classifier
from ..datasets import open_source
from ..errors import SourceError
from ..evaluation import TOP, Accuracy, evaluate
from ..text import printable
from . import INPUT_AT_FAULT
from .options import echo, echo_json, echo_table, engine_options, examples, json_option


@click.command(
    epilog=examples(
        "fracbnn evaluate pictures/ --classes", "fracbnn evaluate cifar-10-batches-py/ --model cifar10-authors --json"
    )
)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@engine_options
@click.option("--classes", "by_class", is_flag=True, help="Of each class, too.")
@json_option
def command(data: tuple[Path, ...], by_class: bool, as_json: bool, **engine: Any) -> None:
    """Say how often a model is right about labelled pictures.

    DATA is a folder with one folder of pictures per class, a folder with CIFAR-10's own batch files, or an .npz; see
    docs/training.md. Pictures that cannot be read are named, counted and left out; exit status 2 then.
    """
    sources = [open_source(path) for path in data]
    with Classifier.load(**engine) as classifier:
        found = []
        for source in sources:
            with tqdm(
                total=len(source.labels), desc=printable(source.name), unit=" pictures", disable=None, leave=False
            ) as bar:
                found.append(evaluate(classifier, source, bar.update, _leave_out))
        about = {"network": classifier.network.name, "backend": classifier.backend, "arithmetic": classifier.arithmetic}
    if as_json:
        echo_json({**about, "results": [_facts(each) for each in found]})
    else:
        _echo(about, found, by_class)
    if any(each.unreadable for each in found):
        sys.exit(INPUT_AT_FAULT)


def _leave_out(error: SourceError) -> None:
    echo(f"error: {error}", err=True)


def _echo(about: dict[str, str], found: list[Accuracy], by_class: bool) -> None:
    echo(f"{about['network']}, {about['backend']}, {about['arithmetic']} arithmetic")
    head = ["DATA", "PICTURES", "UNREADABLE", "TOP-1", f"TOP-{TOP}", "STANDARD ERROR"]
    echo_table([head, *(_row(each) for each in found)])
    if by_class:
        for each in found:
            rows = [[name, str(count), f"{right / count:.1%}"] for name, (right, count) in each.by_class.items()]
            echo_table([[each.name, "PICTURES", "RIGHT"], *rows])


def _row(found: Accuracy) -> list[str]:
    shares = (f"{found.share:.2%}", f"{found.share_in_top:.2%}", f"{100 * found.standard_error:.2f} points")
    return [found.name, str(found.pictures), str(found.unreadable), *shares]


def _facts(found: Accuracy) -> dict[str, Any]:
    return {
        "data": found.name,
        "pictures": found.pictures,
        "unreadable": found.unreadable,
        "top1": found.share,
        f"top{TOP}": found.share_in_top,
        "standard_error": found.standard_error,
        "by_class": {name: {"right": right, "pictures": count} for name, (right, count) in found.by_class.items()},
    }
