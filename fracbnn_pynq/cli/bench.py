"""``fracbnn bench``: how fast a model runs here."""

from __future__ import annotations

import time

import click
import numpy as np

from ..classifier import Classifier
from .options import echo_json, echo_table, engine_options, json_option


@click.command()
@engine_options
@click.option("--batch", type=click.IntRange(min=1), multiple=True, default=(1, 32), show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="For each batch size.")
@json_option
def command(
    *,
    model: str | None,
    backend: str,
    board: str,
    arithmetic: str,
    threads: int | None,
    batch: tuple[int, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Measure how fast a model runs here: uint8 pictures of the network's size to logits."""
    with Classifier.load(model, backend=backend, board=board, arithmetic=arithmetic, threads=threads) as classifier:
        rows = [measure(classifier, size, seconds) for size in batch]
        about = {
            "network": classifier.network.name,
            "backend": classifier.backend,
            "engine": getattr(classifier.engine, "engine", None),
            "threads": getattr(classifier.engine, "threads", 1),
            "arithmetic": classifier.arithmetic,
        }
    if as_json:
        echo_json({**about, "results": rows})
        return
    click.echo(", ".join(f"{key} {value}" for key, value in about.items() if value is not None))
    header = ["BATCH", "ms/picture (median)", "best", "pictures/s (median)"]
    lines = [
        [str(r["batch"]), f"{r['median_ms']:.4f}", f"{r['best_ms']:.4f}", f"{r['pictures_per_s']:.0f}"] for r in rows
    ]
    echo_table([header, *lines])


def measure(classifier: Classifier, batch: int, seconds: float) -> dict[str, float]:
    """Time batches of random pictures for about ``seconds``; milliseconds per picture."""
    size = classifier.network.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    classifier.logits(images)  # first use allocates
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        classifier.logits(images)
        times.append((time.perf_counter() - start) * 1e3 / batch)
    median = float(np.median(times))
    return {"batch": batch, "median_ms": median, "best_ms": min(times), "pictures_per_s": 1e3 / median}
