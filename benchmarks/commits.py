"""Two commits' CPU engines, measured in turns: is the new one faster, and is anything slower?

``python benchmarks/commits.py [BASE [NEW]] [--network cifar10|imagenet|all] [--batch 32 1] [--engine avx2]``

Each commit is built in a directory of its own and runs in a process of its own, as the two packages have one name. The
processes wait for their turns, base new new base ..., so that a drift of the machine's speed or load hits both alike.
The ratio is the median of the rounds' ratios; both must give the same logits.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

WORKER = """
import hashlib, sys, time
import numpy as np
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import NETWORKS
network, batch, threads, engine = NETWORKS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
backend = CpuBackend(random_model(network, 0), threads=threads, engine=engine)
shape = (batch, network.image_size, network.image_size, 3)
images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
print(backend.engine, hashlib.sha256(backend.logits(images).tobytes()).hexdigest(), flush=True)
for line in sys.stdin:
    backend.logits(images)  # caches and threads as in the middle of a long run
    start = time.perf_counter()
    for _ in range(int(line)):
        backend.logits(images)
    print((time.perf_counter() - start) / int(line) / batch, flush=True)
"""


class Worker:
    """One commit's engine in a process of its own; ``engine`` and ``digest`` are its name and its logits' hash."""

    def __init__(self, package: Path, network: str, batch: int, threads: int, engine: str) -> None:
        command = [sys.executable, "-c", WORKER, network, str(batch), str(threads), engine]
        environment = {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            command,
            cwd=package,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.engine, self.digest = self._read().split()
        self.seconds: list[float] = []

    def run(self, repeats: int) -> float:
        """Seconds a picture over ``repeats`` calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("A commit's process ended, see above.")
        return line


def build(commit: str, target: Path) -> Path:
    """Install ``commit`` into ``target``, without what it depends on."""
    source = target.with_suffix(".source")
    source.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


@contextmanager
def workers(packages: list[Path], *setting: str | int) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        for package in packages:
            network, batch, threads, engine = setting
            started.append(Worker(package, str(network), int(batch), int(threads), str(engine)))
        yield started
    finally:
        for worker in started:
            worker.close()


def compare(packages: list[Path], setting: tuple[str, int, int, str], seconds: float, rounds: int) -> str:
    """One line: medians, their ratio, quartiles of the rounds' ratios."""
    with workers(packages, *setting) as (base, new):
        batch = setting[1]
        repeats = max(1, round(seconds / rounds / (base.run(1) * batch)))
        for turn in range(rounds):
            for worker in (base, new) if turn % 2 else (new, base):
                worker.seconds.append(worker.run(repeats))
        ratios = [before / after for before, after in zip(base.seconds, new.seconds, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        engines = base.engine if base.engine == new.engine else f"{base.engine}, {new.engine}"
        same = "same logits" if base.digest == new.digest else "LOGITS DIFFER"
        old_ms, new_ms = (1e3 * statistics.median(worker.seconds) for worker in (base, new))
    return f"{old_ms:>9.4f}{new_ms:>9.4f}{ratio:>8.3f} ({low:.3f}-{high:.3f})  {engines}, {same}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time per picture of two commits' CPU engines, in turns.")
    parser.add_argument("base", nargs="?", default="HEAD~1", help="commit to compare with (default HEAD~1)")
    parser.add_argument("new", nargs="?", default="HEAD", help="commit to compare (default HEAD)")
    parser.add_argument("--network", choices=["cifar10", "imagenet", "all"], default="all")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 1], help="pictures per call (default 32 1)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads (default 1)")
    parser.add_argument("--engine", default="", help="kernels to force (default: each commit's choice)")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time per commit and setting")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default 15)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    networks = ["cifar10", "imagenet"] if arguments.network == "all" else [arguments.network]
    with tempfile.TemporaryDirectory() as folder:
        packages = [build(arguments.base, Path(folder, "base")), build(arguments.new, Path(folder, "new"))]
        print(f"{'ms/picture':<32}{arguments.base[:8]:>9}{arguments.new[:8]:>9}{'ratio':>8} (quartiles)")
        for network in networks:
            for threads in arguments.threads:
                for batch in arguments.batch:
                    setting = (network, batch, threads, arguments.engine)
                    line = compare(packages, setting, arguments.seconds, arguments.rounds)
                    print(f"{f'{network}, batch {batch}, {threads} thread(s)':<32}{line}", flush=True)


if __name__ == "__main__":
    main()
