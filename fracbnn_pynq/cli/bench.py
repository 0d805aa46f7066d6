"""``fracbnn bench``: how fast a model runs here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..board.power import PowerMeter
from ..classifier import Classifier
from ..cpus import usable_cpus
from .options import echo, echo_json, echo_table, engine_options, examples, json_option
from .verifying import check_options, finish, verify_options


@click.command(
    epilog=examples("fracbnn bench --threads 1", "fracbnn bench --model cifar10-authors --batch 1 --batch 64 --json")
)
@engine_options
@verify_options
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 32),
    show_default=True,
    help="Pictures together. May be repeated.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Time for each batch size."
)
@json_option
def command(
    batch: tuple[int, ...],
    seconds: float,
    as_json: bool,
    verify_report: Path | None,
    **engine: Any,
) -> None:
    """Measure how fast a model runs here, from uint8 pictures of the network's size to logits.

    An accelerator's stages are shown, too, and two rates that must not be mixed up: end to end, and of the core alone.
    """
    check_options(engine["verify"], verify_report)
    with Classifier.load(**engine, verify_all=False) as classifier:
        rows = [measure(classifier, size, seconds) for size in batch]
        about: dict[str, Any] = {"network": classifier.network.name, **classifier.engine.describe()}
        if classifier.backend == "cpu":
            about["threads"] = engine["threads"] or usable_cpus()
        verified = finish(classifier, verify_report, say=not as_json)
    if verified is not None:
        about["verification"] = verified
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
            stages.append(dict(classifier.engine.timings))
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
    counted = classifier.engine.counters()
    if counted:
        result["cycles_per_picture"] = counted["cycles"] / counted["pictures"]
        result["waiting_cycles"] = {name: n for name, n in counted.items() if name not in ("pictures", "cycles")}
    joules = power.joules_per(batch * len(times))
    if joules is not None:
        result["joules_per_picture"] = joules
    return result


def _echo(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    echo(", ".join(f"{key} {value}" for key, value in about.items() if key != "verification"))
    header = ["BATCH", "ms/picture (median)", "best", "pictures/s, end to end"]
    lines = [
        [str(r["batch"]), f"{r['median_ms']:.4f}", f"{r['best_ms']:.4f}", f"{r['pictures_per_s']:.0f}"] for r in rows
    ]
    for extra, title, form in (
        ("core_pictures_per_s", "pictures/s, core alone", ".0f"),
        ("cycles_per_picture", "cycles/picture", ".0f"),
        ("joules_per_picture", "J/picture", ".4f"),
    ):
        if extra in rows[0]:
            header.append(title)
            for line, row in zip(lines, rows, strict=True):
                line.append(format(row[extra], form))
    echo_table([header, *lines])
    if "stages_ms" in rows[0]:
        names = list(rows[0]["stages_ms"])
        click.echo()
        echo("stages, ms/picture (median)")
        table = [[str(row["batch"]), *(f"{row['stages_ms'][name]:.4f}" for name in names)] for row in rows]
        echo_table([["BATCH", *names], *table])
