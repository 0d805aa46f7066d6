"""``fracbnn classify``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..classifier import Classifier, Prediction
from ..errors import PictureError
from ..picturefiles import find_pictures
from ..pictures import load
from . import INPUT_AT_FAULT
from .options import echo, echo_json, engine_options, examples, json_option

BATCH = 32
STDIN = "-"


@click.command(
    epilog=examples(
        "fracbnn classify cat.jpg",
        "fracbnn classify holiday/ '*.png' --json",
        "fracbnn classify --model imagenet-authors --top 3 - < photo.jpg",
    )
)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@engine_options
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels a picture.")
@json_option
def command(
    pictures: tuple[str, ...],
    *,
    top: int,
    as_json: bool,
    **engine: Any,
) -> None:
    """Say what is on pictures: files, folders, globs, or - for standard input.

    With --json, one JSON object a line for each picture. Exit status 2 if any picture could not be read; the others
    are classified all the same.
    """
    names, failures = _expand(pictures)
    with Classifier.load(**engine) as classifier:
        failed = len(failures)
        for problem in failures:
            _report_failure(*problem, as_json)
        for name, result in _results(classifier, names, top):
            if isinstance(result, PictureError):
                failed += 1
                _report_failure(name, result, as_json)
            else:
                _report(classifier, name, result, as_json)
    if failed:
        sys.exit(INPUT_AT_FAULT)


def _expand(patterns: tuple[str, ...]) -> tuple[list[str], list[tuple[str, PictureError]]]:
    """Pictures meant by the arguments, in their order, and arguments that mean none. What is given twice is there
    twice, but for standard input, which can be read once."""
    names: list[str] = []
    failures = []
    for pattern in patterns:
        if pattern == STDIN:
            names += [] if STDIN in names else [STDIN]
            continue
        try:
            names += map(str, find_pictures([pattern]))
        except PictureError as error:
            failures.append((pattern, error))
    return names, failures


def _results(classifier: Classifier, names: list[str], top: int) -> Iterator[tuple[str, Prediction | PictureError]]:
    """Every picture's result or error, in order; pictures are classified in batches."""
    from tqdm import tqdm  # noqa: PLC0415 - one picture needs no bar

    hidden = len(names) < 2 or not sys.stderr.isatty()
    with tqdm(total=len(names), unit="picture", disable=hidden, leave=False) as bar:
        queue = iter(names)
        while chunk := list(islice(queue, BATCH)):
            loaded = [_load(classifier, name) for name in chunk]
            images = [image for image in loaded if not isinstance(image, PictureError)]
            ranked = iter(classifier.rank(classifier.logits(np.stack(images)), top) if images else [])
            for name, image in zip(chunk, loaded, strict=True):
                if isinstance(image, PictureError):
                    yield name, image
                else:
                    yield name, Prediction(next(ranked))
                bar.update()


def _load(classifier: Classifier, name: str) -> np.ndarray[Any, np.dtype[np.uint8]] | PictureError:
    try:
        source = sys.stdin.buffer if name == STDIN else Path(name)
        return load(source, classifier.network)
    except PictureError as error:
        return error


def _report(classifier: Classifier, name: str, result: Prediction, as_json: bool) -> None:
    if as_json:
        engine = {"backend": classifier.backend, "arithmetic": classifier.arithmetic}
        echo_json({"picture": name, **result.as_dict(), **engine})
        return
    first, *others = (f"{label} {probability:.1%}" for label, probability in result.top)
    echo(f"{name}: {first}" + (f"   ({', '.join(others)})" if others else ""))


def _report_failure(name: str, error: PictureError, as_json: bool) -> None:
    if as_json:
        echo_json({"picture": name, "error": str(error)})
    else:
        echo(f"error: {error}", err=True)
