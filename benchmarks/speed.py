"""Time per picture of this package's CPU engine and of its 8-bit peers, measured in turns within one run.

``python benchmarks/speed.py [--network cifar10|imagenet|all] [--batch 32 1] [--threads 1 2] [--engine avx2 popcnt]``

Contenders run A B C A B C ..., so that a drift of the machine's speed or load hits all alike; the ratio between two
contenders is the median of their ratios within each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import roofline

from fracbnn_pynq.errors import FracBNNError
from fracbnn_pynq.extras import install_line
from fracbnn_pynq.networks import NETWORKS, GatedLayer, Network, Stem

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

PACKAGE = "fracbnn_pynq"
BUNDLED_MODELS = {"cifar10": "cifar10"}
"""Networks whose trained model comes with the package; the others run with random weights."""

GATE_FRACTION = 0.4
"""Part of the gated products that the trained networks compute: activations of 1.4 bits on average."""


@dataclass
class Contender:
    """Something that turns uint8 pictures [N, H, W, 3] into logits [N, classes], and its times so far.

    ``int8_peer``: whether it is one of the engines the others are compared with; ``own``: one of this package's.
    ``seconds``: per picture, one number
    a round.
    """

    name: str
    run: Run
    int8_peer: bool = False
    own: bool = False
    note: str = ""
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    network: str
    batch: int
    threads: int


def binary_macs(network: Network, gate_fraction: float) -> float:
    """Binary multiply-accumulates a picture: all of the most significant bits, the open gates' of the least."""

    def macs(layer: Stem | GatedLayer) -> int:
        return layer.out_size**2 * layer.kernel**2 * layer.in_channels * layer.out_channels

    return macs(network.stem) + (1 + gate_fraction) * sum(macs(layer) for layer in network.layers)


def package_contenders(setting: Setting, engines: list[str] | None) -> list[Contender]:
    """This package's CPU engine, with each of the kernels named; raises ImportError or FracBNNError where it cannot
    run."""
    from fracbnn_pynq.backends.cpu import CpuBackend
    from fracbnn_pynq.model import random_model
    from fracbnn_pynq.models import find_model

    bundled = BUNDLED_MODELS.get(setting.network)
    model = random_model(NETWORKS[setting.network], seed=0) if bundled is None else find_model(bundled)
    backends = [CpuBackend(model, threads=setting.threads, engine=engine) for engine in engines or [None]]
    return [Contender(f"{PACKAGE} {backend.engine}", backend.logits, own=True) for backend in backends]


def peer_contenders(setting: Setting, *, floats: bool) -> list[Contender]:
    """The peers, or none with a message where their packages are not installed."""
    try:
        from peers import PEER_NETWORKS, peers
    except ImportError as error:
        advice = f"Install them, in an environment without pynq: {install_line('bench')}"
        print(f"The peers are left out: {error}. {advice}", file=sys.stderr)
        return []
    contenders = []
    for peer in peers(setting.network, setting.batch, setting.threads, floats=floats):
        convolutions = ", ".join(f"{count} {kind}" for kind, count in peer.convolutions.items())
        note = f"{PEER_NETWORKS[setting.network]}, convolutions run: {convolutions}"
        contenders.append(Contender(peer.name, peer.run, peer.int8, note=note))
    return contenders


def measure(contenders: list[Contender], images: npt.NDArray[np.uint8], seconds: float, rounds: int) -> None:
    """Fill in ``seconds`` of every contender: ``rounds`` turns each, together about ``seconds`` of measured time."""
    for contender in contenders:
        contender.run(images)
        once = _time(contender, images)
        contender.repeats = max(1, round(seconds / rounds / once))
    for _ in range(rounds):
        for contender in contenders:
            contender.run(images)  # caches and threads as in the middle of a long run
            contender.seconds.append(_time(contender, images) / contender.repeats / len(images))


def _time(contender: Contender, images: npt.NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    for _ in range(contender.repeats):
        contender.run(images)
    return time.perf_counter() - start


def summarise(
    contenders: list[Contender], setting: Setting, macs: float, peak: roofline.Rate | None
) -> list[dict[str, Any]]:
    """One row a contender: milliseconds per picture and the comparisons."""
    int8_peers = [contender for contender in contenders if contender.int8_peer]
    best = min(int8_peers, key=lambda peer: statistics.median(peer.seconds), default=None)
    rows = []
    for contender in contenders:
        times = np.array(contender.seconds)
        low, median, high = np.percentile(times, (25, 50, 75))
        roof = peak.macs_per_second * setting.threads if contender.own and peak else None
        fraction = macs / median / roof if roof else None
        rows.append(
            {
                **dataclasses.asdict(setting),
                "contender": contender.name,
                "ms_per_picture": 1e3 * median,
                "ms_quartiles": [1e3 * low, 1e3 * high],
                "ms_best": 1e3 * times.min(),
                "pictures_per_second": 1 / median,
                "times_faster_than_best_int8_peer": float(np.median(np.array(best.seconds) / times)) if best else None,
                "roofline_fraction": fraction,
                "rounds": len(times),
                "pictures_per_round": contender.repeats * setting.batch,
                "note": contender.note,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of one setting as aligned plain text."""
    lines = [f"{'':<20}{'ms/picture':>11}{'quartiles':>18}{'best':>9}{'pictures/s':>12}{'x int8 peer':>13}  note"]
    for row in rows:
        low, high = row["ms_quartiles"]
        ratio = row["times_faster_than_best_int8_peer"]
        note = row["note"]
        if row["roofline_fraction"] is not None:
            note = f"{row['roofline_fraction']:.0%} of the popcount roofline"
        lines.append(
            f"{row['contender']:<20}{row['ms_per_picture']:>11.4f}{f'{low:.4f}-{high:.4f}':>18}{row['ms_best']:>9.4f}"
            f"{row['pictures_per_second']:>12.0f}{f'{ratio:.2f}' if ratio else '-':>13}  {note}"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {}
    for name in ("numpy", "onnx", "onnxruntime", "openvino"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    board = Path("/proc/device-tree/model")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return board.read_text(errors="replace").strip("\0\n") if board.exists() else platform.processor()


def describe(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['cpu']} ({about['architecture']}), {about['cores']} cores, load {about['load_average']}\n"
        f"{about['system']}, Python {about['python']}, {versions}"
    )


def roofline_rates() -> list[roofline.Rate]:
    try:
        return roofline.measure()
    except roofline.RooflineError as error:
        print(f"No roofline: {error}", file=sys.stderr)
        return []


def compare(setting: Setting, arguments: argparse.Namespace, peak: roofline.Rate | None) -> list[dict[str, Any]]:
    """Measure one setting and return its rows; without this package's engine, the peers alone."""
    network = NETWORKS[setting.network]
    shape = (setting.batch, network.image_size, network.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    contenders = peer_contenders(setting, floats=arguments.all)
    try:
        contenders[:0] = package_contenders(setting, arguments.engine)
    except (ImportError, FracBNNError) as error:
        print(f"{PACKAGE} is left out: {error}", file=sys.stderr)
    if not contenders:
        return []
    measure(contenders, images, arguments.seconds, arguments.rounds)
    return summarise(contenders, setting, binary_macs(network, arguments.gate_fraction), peak)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time per picture: this package's CPU engine and its 8-bit peers.")
    parser.add_argument("--network", choices=[*NETWORKS, "all"], default="all")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 1], help="pictures per call (default 32 1)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads per contender (default 1)")
    parser.add_argument("--engine", nargs="+", help="this package's kernels by name (default: the fastest here)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time per contender and setting")
    parser.add_argument("--rounds", type=int, default=15, help="turns of every contender (default 15)")
    parser.add_argument("--all", action="store_true", help="also the peers in float32")
    parser.add_argument("--gate-fraction", type=float, default=GATE_FRACTION, help="open gates, for the roofline only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    about = machine()
    print(describe(about))
    rates = roofline_rates()
    peak = roofline.best_direct(rates) if rates else None
    if peak:
        print(f"Popcount roofline of one core: {peak.macs_per_second / 1e9:.0f} G binary MAC/s ({peak.name})")
    rows = []
    for name in NETWORKS if arguments.network == "all" else [arguments.network]:
        macs = binary_macs(NETWORKS[name], arguments.gate_fraction)
        print(
            f"\n{NETWORKS[name].title}: {macs / 1e6:.1f} M binary MAC a picture ({arguments.gate_fraction:.0%} gated)"
        )
        for setting in (Setting(name, batch, threads) for threads in arguments.threads for batch in arguments.batch):
            print(f"\nbatch {setting.batch}, {setting.threads} thread(s)", flush=True)
            rows += (measured := compare(setting, arguments, peak))
            if measured:
                print(table(measured), flush=True)
    if not rows:
        sys.exit("Nothing could be measured: neither this package's engine nor a peer runs here.")
    if arguments.json:
        answer = {"machine": about, "roofline": [dataclasses.asdict(rate) for rate in rates], "results": rows}
        arguments.json.write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
