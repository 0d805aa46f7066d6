"""``fracbnn reproduce``: the paper's figures, measured here as far as that can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from ..backends.reference import ReferenceBackend
from ..classifier import Classifier
from ..datasets import Source, open_source
from ..errors import BackendError, FracBNNError
from ..evaluation import evaluate
from ..files import write_stream
from ..model import Model
from ..models import MODELS
from ..networks import GatedLayer, Stem, operations, weight_bits
from ..paper import PAPER, SOURCE
from ..pictures import load
from .bench import measure
from .options import echo, echo_json, echo_table, examples, json_option

ENGINES = {
    "cifar10": (
        ("cifar10-authors", "faithful"),
        ("cifar10-authors", "cifar10-2020"),
        ("cifar10", "faithful"),
    ),
    "imagenet": (
        ("imagenet-authors", "faithful"),
        ("imagenet-calibrated", "imagenet-2021"),
        ("imagenet-authors", "imagenet-2021"),
    ),
}
"""Of each network, models with the arithmetics that matter: this project's, and the public bitstream's."""
GATED_PICTURES = {"cifar10": 100, "imagenet": 2}
"""Pictures whose gates are counted, by the slow reference engine."""
NO_DATA = "no data"


@dataclass(frozen=True)
class Row:
    """One model in one arithmetic on this machine's CPU; ``None`` where it could not be measured, which ``note`` says.

    ``open_gates``: share of the outputs that needed the low bit, weighted by their work; ``operations``: binary
    multiply-accumulates of a picture with these gates; ``weight_bits``: of all binary weights.
    """

    model: str
    arithmetic: str
    note: str = ""
    top1: float | None = None
    pictures: int = 0
    open_gates: float | None = None
    operations: float | None = None
    weight_bits: int | None = None
    latency_ms: float | None = None
    pictures_per_s: float | None = None


@click.command(
    epilog=examples(
        "fracbnn reproduce",
        "fracbnn reproduce --cifar10 cifar-10-batches-py/ --imagenet val/",
        "fracbnn reproduce --network cifar10 --picture figures.png --json",
    )
)
@click.option(
    "--network", "networks", type=click.Choice(list(ENGINES)), multiple=True, help="One network only.  [default: both]"
)
@click.option(
    "--cifar10",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="CIFAR-10's test pictures: its own files, a folder of classes, or an .npz; as 'fracbnn evaluate'.",
)
@click.option(
    "--imagenet",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="ImageNet pictures in a folder of classes with the names that 'fracbnn models card imagenet-authors' gives.",
)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Time for each speed.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU engine.  [default: all]")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it, too: .png, .svg."
)
@json_option
def command(
    networks: tuple[str, ...],
    cifar10: Path | None,
    imagenet: Path | None,
    seconds: float,
    threads: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the paper's figures here, beside the paper's own.

    Accuracy, share of open gates, operations, size and speed of the authors' networks and this project's, in the
    arithmetic that agrees with the float network and in the public bitstreams'. On this machine's CPU: for a board's
    speed there is 'fracbnn bench --backend overlay', and the paper's figures of it stand beside. Accuracy needs
    pictures that you have; models that have not been fetched are named.
    """
    data = {"cifar10": cifar10, "imagenet": imagenet}
    sources = {name: open_source(path) for name, path in data.items() if path is not None}
    found = {
        network: list(_rows(network, sources.get(network), seconds, threads)) for network in networks or tuple(ENGINES)
    }
    if picture is not None and not draw(found, picture):
        echo("no picture was drawn: Matplotlib is not installed (pip install matplotlib)", err=True)
    if as_json:
        echo_json({"paper": {"source": SOURCE, **{n: vars(PAPER[n]) for n in found}}, "here": _as_data(found)})
    else:
        _echo(found)


def _rows(network: str, source: Source | None, seconds: float, threads: int | None) -> Iterator[Row]:
    for name, arithmetic in ENGINES[network]:
        if not MODELS[name].available:
            needed = MODELS[name].base or name
            yield Row(name, arithmetic, f"not fetched: fracbnn models fetch {needed}")
            continue
        with Classifier.load(name, backend="cpu", arithmetic=arithmetic, threads=threads) as classifier:
            yield _row(classifier, name, arithmetic, source, seconds)


def _row(classifier: Classifier, name: str, arithmetic: str, source: Source | None, seconds: float) -> Row:
    layers: tuple[Stem | GatedLayer, ...] = (classifier.network.stem, *classifier.network.layers)
    dense = sum(map(operations, layers))
    gated = _gated(classifier.model, arithmetic, source)
    single, batch = measure(classifier, 1, seconds), measure(classifier, 32, seconds)
    top1, pictures, note = None, 0, NO_DATA
    if source is not None:
        try:
            with tqdm(total=len(source.labels), desc=f"{name}, {arithmetic}", disable=None, leave=False) as bar:
                accuracy = evaluate(classifier, source, bar.update, lambda _: None)
            top1, pictures, note = accuracy.share, accuracy.read, ""
        except FracBNNError as error:
            note = str(error)
    return Row(
        name,
        arithmetic,
        note,
        top1,
        pictures,
        gated / sum(map(operations, classifier.network.layers)),
        dense + gated,
        sum(map(weight_bits, layers)),
        single["median_ms"],
        batch["pictures_per_s"],
    )


def _gated(model: Model, arithmetic: str, source: Source | None) -> float:
    """Binary multiply-accumulates that open gates add to a picture, as a mean over some of ``source``, else over the
    sample pictures of this package."""
    network = model.network
    if source is None:
        samples = sorted(Path(str(resources.files("fracbnn_pynq.notebooks"))).glob("pictures/*.jpg"))
        images = [load(path, network) for path in samples]
    else:
        count = min(GATED_PICTURES[network.name], len(source.labels))
        chosen = np.linspace(0, len(source.labels) - 1, count).astype(int)
        images = [source.read(int(index), network) for index in chosen]
    _, traces = ReferenceBackend(model, arithmetic).logits(np.stack(images), layers=True)
    shares = {trace.name: trace.gate_fraction for trace in traces if trace.gate is not None}
    return sum(shares[layer.name] * operations(layer) for layer in network.layers)


def _as_data(found: dict[str, list[Row]]) -> dict[str, list[dict[str, Any]]]:
    return {network: [vars(row) for row in rows] for network, rows in found.items()}


def _echo(found: dict[str, list[Row]]) -> None:
    for network, rows in found.items():
        paper = PAPER[network]
        head = ["MODEL", "ARITHMETIC", "TOP-1", "GATES OPEN", "OPERATIONS", "WEIGHTS", "ONE PICTURE", "IN BATCHES", ""]
        printed = [
            f"the paper ({paper.watts:g} W)",
            "Ultra96-V2",
            f"{paper.top1:.1%}",
            "",
            "",
            "",
            f"{paper.latency_ms:g} ms",
            f"{paper.pictures_per_s:g}/s",
            SOURCE,
        ]
        echo(f"{network}, CPU of this machine")
        echo_table([head, printed, *(_cells(row) for row in rows)])
        echo("")


def _cells(row: Row) -> list[str]:
    if row.latency_ms is None or row.operations is None or row.weight_bits is None or row.open_gates is None:
        return [row.model, row.arithmetic, *[""] * 6, row.note]
    return [
        row.model,
        row.arithmetic,
        "" if row.top1 is None else f"{row.top1:.1%}",
        f"{row.open_gates:.0%}",
        f"{row.operations / 1e6:,.0f} M",
        f"{row.weight_bits / 8 / 1024:,.0f} KiB",
        f"{row.latency_ms:.3g} ms",
        f"{row.pictures_per_s:.0f}/s",
        row.note or f"{row.pictures} pictures",
    ]


def draw(found: dict[str, list[Row]], path: Path) -> bool:
    """Save a picture: accuracies, and pictures a second, beside the paper's; false where Matplotlib is not installed.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where it cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        return False
    figure = Figure(figsize=(10, 3.2 * len(found)), layout="constrained")
    for line, (network, rows) in zip(figure.subplots(len(found), 2, squeeze=False), found.items(), strict=True):
        paper = PAPER[network]
        measured = [row for row in rows if row.latency_ms is not None]
        names = ["paper, Ultra96-V2", *(f"{row.model}\n{row.arithmetic}" for row in measured)]
        colours = ["#77839a", *["#0b5cb8"] * len(measured)]
        accuracy = [100 * paper.top1, *(100 * (row.top1 or 0) for row in measured)]
        bars = line[0].barh(names, accuracy, color=colours)
        line[0].bar_label(bars, [f"{value:.1f}" if value else NO_DATA for value in accuracy], padding=2)
        line[0].set(title=f"{network}: top-1, %", xlim=(0, 110))
        speeds = [paper.pictures_per_s, *(row.pictures_per_s or 0 for row in measured)]
        bars = line[1].barh(names, speeds, color=colours)
        line[1].bar_label(bars, [f"{value:,.0f}" for value in speeds], padding=2)
        line[1].set(title="pictures a second, the others on this CPU", xlim=(0, 1.2 * max(speeds)), yticks=[])
        for axes in line:
            axes.invert_yaxis()
    with write_stream(path, BackendError) as stream:
        figure.savefig(stream, format=path.suffix.lstrip(".") or "png", dpi=120)
    return True
