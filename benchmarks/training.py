"""What a training step costs: milliseconds a picture in each precision, as written and compiled, in turn.

    python benchmarks/training.py [--compile] [--threads 1] [--rounds 9]

Each way takes the same steps of the CIFAR-10 network on random pictures, one step of each in every round, so that
what else the machine does hits all of them. Compiling takes a minute or two for each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.training.devices import PRECISIONS, describe_device
from fracbnn_pynq.training.network import build_network

BATCH = 64


def step(precision: str, compiled: bool) -> Callable[[], None]:
    """A training step that starts from the same parameters and pictures every time this is called."""
    torch.manual_seed(0)
    module = build_network(CIFAR10).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    pictures = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (BATCH,))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = module(pictures).float()
        return functional.cross_entropy(logits, labels)

    of = torch.compile(loss, dynamic=False) if compiled else loss

    def take() -> None:
        optimiser.zero_grad(set_to_none=True)
        of().backward()
        optimiser.step()

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="the compiled step as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{describe_device(torch.device('cpu'))}; PyTorch {torch.__version__}; batch {BATCH}")
    ways = {
        f"{precision}{', compiled' if compiled else ''}": step(precision, compiled)
        for compiled in ((False, True) if options.compile else (False,))
        for precision in PRECISIONS
    }
    for name, take in ways.items():
        begin = time.perf_counter()
        take()
        print(f"{name}: first step {time.perf_counter() - begin:.1f} s", flush=True)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, take in ways.items():
            begin = time.perf_counter()
            take()
            found[name].append((time.perf_counter() - begin) / BATCH * 1e3)
    for name, times in found.items():
        print(f"{name}: {statistics.median(times):.2f} ms a picture (best {min(times):.2f})")


if __name__ == "__main__":
    main()
