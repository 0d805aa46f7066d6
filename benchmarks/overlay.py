"""What the driver costs the host: simulated boards whose cores compute nothing, so that only the driver is measured.

    python benchmarks/overlay.py [--pictures N] [--soak N]

Register accesses of the simulated board take several microseconds each, several times what they take on a board, and
are part of every number here; the processor is another than the board's. The last lines use cores that do compute.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from pathlib import Path

import numpy as np

from fracbnn_pynq import simulator
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network
from fracbnn_pynq.thermometer import planes

ROUNDS = 11
LOGITS = np.arange(10, dtype=np.float32)
CODES = np.zeros((1024, 7, 7), np.uint8)
NOTHING = {"cifar10": lambda words: LOGITS, "imagenet": lambda *weights: lambda words: CODES}


def open_backend(network: Network, latency: str, **options):
    """An overlay backend on a simulated board."""
    from fracbnn_pynq.selection import open_overlay

    return open_overlay(
        random_model(network), model_name=None, board="simulated", simulation={"latency": latency, **options}
    )


def pictures(network: Network, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, network.image_size, network.image_size, 3), np.uint8)


def host_cost(count: int) -> None:
    """Time of single-picture calls and its parts, with a core that takes no time."""
    with_core = open_backend(CIFAR10, "none", cifar10=NOTHING["cifar10"])
    images = pictures(CIFAR10, 64)
    totals, encodes = np.empty(count), np.empty(count)
    for i in range(100 + count):
        before = time.perf_counter()
        with_core.logits(images[i % 64][None])
        totals[i - 100] = time.perf_counter() - before
        encodes[i - 100] = with_core.timings["encode"] + with_core.timings["copy"]
    owner = np.median(totals) * 1e6
    print(f"whole call, one picture     median {owner:6.1f} us   p95 {np.percentile(totals, 95) * 1e6:6.1f} us")
    print(f"  encode + copy             median {np.median(encodes) * 1e3:6.1f} us   (includes two flushes)")
    batch = pictures(CIFAR10, 1000)
    runs = []
    for _ in range(max(1, count // 1000)):
        before = time.perf_counter()
        with_core.logits(batch)
        runs.append((time.perf_counter() - before) / len(batch))
    print(f"in a batch, per picture     median {np.median(runs) * 1e6:6.1f} us")
    print("  stages (us): " + ", ".join(f"{name} {ms * 1e3:.1f}" for name, ms in with_core.timings.items()))
    with_core.close()
    buffer = np.empty(layout.CIFAR10_IMAGE_SHAPE, np.uint64)
    begin = time.perf_counter()
    for image in batch:
        layout.pack_cifar10_image(image, buffer)
    print(f"encoding alone              mean   {(time.perf_counter() - begin) / len(batch) * 1e6:6.1f} us")
    begin = time.perf_counter()
    for image in batch[:50]:
        planes(image[None])
    print(f"  (as planes, for comparison       {(time.perf_counter() - begin) / 50 * 1e6:6.1f} us)")


def throughput(network: Network, count: int, label: str, **options) -> None:
    """Pictures per second with the published cores' latency, against the core's own rate: median and best of rounds.

    Other programs on the machine cost whole milliseconds when they take the processor away at the wrong moment.
    """
    backend = open_backend(network, "published", **options)
    images = pictures(network, count // ROUNDS)
    backend.logits(images[:20])
    rounds = []
    processor, begin = time.process_time(), time.perf_counter()
    for _ in range(ROUNDS):
        before = time.perf_counter()
        backend.logits(images)
        rounds.append((len(images) / (time.perf_counter() - before), backend.timings))
    busy = (time.process_time() - processor) / (time.perf_counter() - begin)
    own = backend.accelerator.clock_mhz * 1e6 / backend.accelerator.cycles
    rounds.sort(key=lambda entry: entry[0])
    median, best = rounds[ROUNDS // 2], rounds[-1]
    print(
        f"{network.name}, {label}: median {median[0]:.1f}, best {best[0]:.1f} pictures/s of the core's own {own:.1f} "
        f"({100 * median[0] / own:.1f} %, {100 * best[0] / own:.1f} %), processor {100 * busy:.0f} %"
    )
    print("  stages of the median round (us): " + ", ".join(f"{name} {ms * 1e3:.1f}" for name, ms in median[1].items()))
    backend.close()


def soak(count: int) -> None:
    """Memory and open files over many pictures."""
    backend = open_backend(CIFAR10, "none", cifar10=NOTHING["cifar10"])
    images = pictures(CIFAR10, 1000)

    def resident_kib() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    def state() -> str:
        gc.collect()
        return f"{resident_kib()} KiB resident, {len(os.listdir('/proc/self/fd'))} open files"

    backend.logits(images)
    print(f"before: {state()}")
    for _ in range(count // len(images)):
        backend.logits(images)
    print(f"after {count} pictures in batches: {state()}")
    for i in range(count // 10):
        backend.logits(images[i % 1000][None])
    print(f"after {count // 10} more in single calls: {state()}")
    backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--soak", type=int, default=100_000)
    arguments = parser.parse_args()
    simulator.import_pynq()
    host_cost(arguments.pictures)
    throughput(CIFAR10, arguments.pictures, "core without computation", cifar10=NOTHING["cifar10"])
    throughput(IMAGENET, 220, "core without computation", imagenet=NOTHING["imagenet"])
    throughput(CIFAR10, 2000, "core that computes in this process")
    throughput(IMAGENET, 55, "core that computes in this process")
    soak(arguments.soak)


if __name__ == "__main__":
    main()
