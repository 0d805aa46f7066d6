"""What each step of the calibration wins: the table and the plot of docs/calibration.md.

    python benchmarks/calibration.py imagenet-authors PICTURES CHECK.npz [--pictures 60] [--plot docs/calibration.png]

PICTURES: what to calibrate with. CHECK: an .npz with ``jpeg``, ``offsets`` and ``class_index``, other pictures. A
minute or two a row on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.calibration import Recipe, calibrate
from fracbnn_pynq.calibration.engine import LayerEngine
from fracbnn_pynq.calibration.pictures import read_pictures
from fracbnn_pynq.calibration.report import compare
from fracbnn_pynq.calibration.samples import sample_positions
from fracbnn_pynq.calibration.teacher import observe
from fracbnn_pynq.cpus import usable_cpus
from fracbnn_pynq.draft import Draft
from fracbnn_pynq.models import find_model
from fracbnn_pynq.npz import read_npz

OFF = {"mirror": True, "fit": False, "fit_last": False, "recentre": False, "permute": False, "repair": False}
STEPS = (
    ("classifier only", {}),
    ("+ the last map's range", {"fit_last": True}),
    ("+ all parameters fitted", {"fit": True}),
    ("+ sums recentred", {"recentre": True}),
    ("+ overwritten channels chosen", {"permute": True}),
    ("+ their weights rewired", {"repair": True, "repair_from": 1}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("check", type=Path)
    parser.add_argument("--pictures", dest="count", type=int, default=60, help="how many to calibrate with")
    parser.add_argument("--calibrated", type=Path, help="a calibrated model to measure as well")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()

    model = find_model(given.model)
    used, _ = read_pictures([given.pictures], model.network)
    used = used[np.unique(np.linspace(0, len(used) - 1, given.count).round().astype(int))]
    images, _ = read_pictures([given.check], model.network)
    truth = read_npz(given.check, 1 << 30)["class_index"]
    draft = Draft.of(model)
    with LayerEngine(usable_cpus()) as engine:
        wanted = observe(engine, draft, images, sample_positions(draft.network, len(images), 1, 0)).logits

    rows = []

    def measure(name: str, logits: np.ndarray) -> None:
        top = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        row = compare(name, logits, wanted)
        right = (top == truth[:, None]).astype(float)
        rows.append((name, right[:, 0].mean(), right.sum(axis=1).mean(), row.agreement, row.divergence))
        print(
            f"| {name} | {rows[-1][1]:.1%} | {rows[-1][2]:.1%} | {row.agreement:.1%} | {row.divergence:.3f} |",
            flush=True,
        )

    print(f"{len(used)} pictures to calibrate with, {len(images)} others to measure on")
    print("| | top-1 | top-5 | same first label as float | divergence |\n|---|---|---|---|---|")
    measure("the authors' parameters", CpuBackend(model, "imagenet-2021").logits(images))
    settings = dict(OFF)
    for name, change in STEPS:
        settings |= change
        start = time.monotonic()
        found = calibrate(model, used, held_out=0, recipe=Recipe(**settings))
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
        measure(name, CpuBackend(found.model, "imagenet-2021").logits(images))
    if given.calibrated:
        measure(given.calibrated.stem, CpuBackend(find_model(given.calibrated), "imagenet-2021").logits(images))
    measure("`faithful`, on a CPU", CpuBackend(model).logits(images))
    measure("float", wanted)
    if given.plot:
        draw(rows, given.plot)


def draw(rows: list[tuple[str, float, float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows))[::-1]
    axes.barh(places + 0.2, [100 * row[1] for row in rows], 0.4, label="top-1")
    axes.barh(places - 0.2, [100 * row[3] for row in rows], 0.4, label="same first label as float")
    axes.set_yticks(places, [row[0].replace("`", "") for row in rows])
    axes.set(xlabel="per cent", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
