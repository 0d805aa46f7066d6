"""``fracbnn bench``: how fast a model runs here."""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np

from ..board.power import PowerMeter
from ..classifier import Classifier
from .options import echo_json, echo_table, engine_options, json_option


@click.command()
@engine_options
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 32), show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="For each batch size.")
@json_option
def command(
    model: str | None,
    backend: str,
    board: str,
    arithmetic: str,
    threads: int | None,
    batch: tuple[int, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Measure how fast a model runs here, from uint8 pictures of the network's size to logits.

    An accelerator's stages are shown, too, and two rates that must not be mixed up: end to end, and of the core alone.
    """
    with Classifier.load(model, backend=backend, board=board, arithmetic=arithmetic, threads=threads) as classifier:
        rows = [measure(classifier, size, seconds) for size in batch]
        about = {
            "network": classifier.network.name,
            "backend": classifier.backend + (" (simulated)" if getattr(classifier.engine, "simulated", False) else ""),
            "engine": getattr(classifier.engine, "engine", None),
            "threads": getattr(classifier.engine, "threads", None),
            "arithmetic": classifier.arithmetic,
        }
    if as_json:
        echo_json({**about, "results": rows})
    else:
        _echo(about, rows)


def measure(classifier: Classifier, batch: int, seconds: float) -> dict[str, Any]:
    """Time batches of random pictures for about ``seconds``.

    Milliseconds per picture (median and best), pictures a second; for an accelerator its ``stages_ms`` (medians) and
    the core's own rate; joules a picture where the board has sensors.
    """
    size = classifier.network.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    classifier.logits(images)  # first use allocates
    times: list[float] = []
    stages: list[dict[str, float]] = []
    with PowerMeter() as power:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            classifier.logits(images)
            times.append((time.perf_counter() - start) * 1e3 / batch)
            stages.append(dict(getattr(classifier.engine, "timings", {})))
    median = float(np.median(times))
    result: dict[str, Any] = {
        "batch": batch,
        "median_ms": median,
        "best_ms": min(times),
        "pictures_per_s": 1e3 / median,
    }
    if stages[0]:
        result["stages_ms"] = {name: float(np.median([each[name] for each in stages])) for name in stages[0]}
        result["core_pictures_per_s"] = 1e3 / result["stages_ms"]["run"]
    joules = power.joules_per(batch * len(times))
    if joules is not None:
        result["joules_per_picture"] = joules
    return result


def _echo(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    click.echo(", ".join(f"{key} {value}" for key, value in about.items() if value is not None))
    header = ["BATCH", "ms/picture (median)", "best", "pictures/s, end to end"]
    lines = [
        [str(r["batch"]), f"{r['median_ms']:.4f}", f"{r['best_ms']:.4f}", f"{r['pictures_per_s']:.0f}"] for r in rows
    ]
    for extra, title, form in (
        ("core_pictures_per_s", "pictures/s, core alone", ".0f"),
        ("joules_per_picture", "J/picture", ".4f"),
    ):
        if extra in rows[0]:
            header.append(title)
            for line, row in zip(lines, rows, strict=True):
                line.append(format(row[extra], form))
    echo_table([header, *lines])
    if "stages_ms" in rows[0]:
        names = list(rows[0]["stages_ms"])
        click.echo("\nstages, ms/picture (median)")
        table = [[str(row["batch"]), *(f"{row['stages_ms'][name]:.4f}" for name in names)] for row in rows]
        echo_table([["BATCH", *names], *table])
