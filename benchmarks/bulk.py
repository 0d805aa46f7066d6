"""Many drawn pictures labelled by ``fracbnn bulk`` while a worker is killed: everything once, equal bits, flat memory.

    python benchmarks/bulk.py [--pictures 100000] [--folder DIR]

Half of the pictures, small JPEGs, are in a tar archive, half in a Parquet file. The command runs with two workers, of
which one is killed in the middle (dask starts another in its place). Then every row is compared with one classifier
that reads the same bytes without dask, and each worker's rate with the rate of that classifier's logits alone.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fracbnn_pynq import Classifier
from fracbnn_pynq.pictures import load

BATCH = 32
WORKERS = 2
AT_ONCE = 2000


def drawn(first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Pictures ``first`` to ``last``, each another one, with its name."""
    for number in range(first, last):
        rng = np.random.default_rng(number)
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((48, 40)).save(stream, "JPEG")
        yield f"{number:07d}.jpg", stream.getvalue()


def draw(folder: Path, count: int) -> tuple[Path, Path]:
    """A tar archive and a Parquet file with the pictures."""
    tar, table = folder / "half.tar", folder / "half.parquet"
    with tarfile.open(tar, "w") as archive:
        for name, data in drawn(0, count // 2):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.members = []  # it keeps them all
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    with pq.ParquetWriter(table, schema) as writer:
        for first in range(count // 2, count, AT_ONCE):
            rows = [{"bytes": data, "path": name} for name, data in drawn(first, min(first + AT_ONCE, count))]
            writer.write_table(pa.table({"image": rows}, schema=schema))
    return tar, table


def children(process: int) -> list[int]:
    """Worker processes of the command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            about = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(about[1]) == process and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def resident(process: int) -> float:
    """MB in memory."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(sources: tuple[Path, ...], out: Path, count: int) -> tuple[dict, list[float]]:
    """The command, with a worker killed when half of the partitions are there; its result and its memory over time."""
    words = ["bulk", *map(str, sources), "--out", str(out), "--workers", str(WORKERS), "--logits", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "fracbnn_pynq", *words], stdout=subprocess.PIPE, text=True)
    memory, killed = [], None
    while process.poll() is None:
        done = len(list(out.glob("part-*.parquet"))) if out.is_dir() else 0
        if done:
            memory.append(resident(process.pid))
        if killed is None and done * 512 >= count // 2:
            killed = children(process.pid)[0]
            os.kill(killed, signal.SIGKILL)
            print(f"killed a worker after {done} partitions")
        time.sleep(0.1)
    assert process.stdout is not None
    told = process.stdout.read()
    assert process.returncode == 0, process.returncode
    assert killed is not None
    return json.loads(told), memory


def check(out: Path, count: int) -> None:
    """Every picture once, and the bits of one classifier."""
    seen = 0
    with Classifier.load("cifar10", backend="cpu") as classifier:
        for path in sorted(out.glob("part-*.parquet")):
            table = pq.read_table(path)
            pictures = list(drawn(seen, seen + len(table)))
            assert table["name"].to_pylist() == [name for name, _ in pictures], path
            logits = classifier.logits(np.stack([load(data, classifier.network) for _, data in pictures]))
            found = np.array(table["logits"].to_pylist(), np.float32)
            assert found.tobytes() == logits.tobytes(), path
            assert table["class_index"].to_pylist() == logits.argmax(axis=1).tolist(), path
            assert table["error"].null_count == len(table), path
            seen += len(table)
    assert seen == count, seen


def beside() -> tuple[float, float]:
    """As :func:`alone`, the mean of as many processes at once as there are workers, so that cores are as busy."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(abs, range(100))  # all have started
        found = [task.get() for task in [pool.apply_async(alone) for _ in range(WORKERS)]]
    logits, both = np.mean(found, axis=0)
    return float(logits), float(both)


def alone() -> tuple[float, float]:
    """Pictures per second of one thread: the logits alone, and decoding, too."""
    encoded = [data for _, data in drawn(0, 2048)]
    with Classifier.load("cifar10", backend="cpu", threads=1) as classifier:
        images = np.stack([load(data, classifier.network) for data in encoded])
        classifier.logits(images[:BATCH])
        start = time.perf_counter()
        for first in range(0, len(images), BATCH):
            classifier.logits(images[first : first + BATCH])
        middle = time.perf_counter()
        for first in range(0, len(images), BATCH):
            classifier.logits(np.stack([load(d, classifier.network) for d in encoded[first : first + BATCH]]))
        end = time.perf_counter()
    return len(images) / (middle - start), len(images) / (end - middle)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the pictures and labels lie meanwhile")
    options = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        sources = draw(folder, options.pictures)
        print(f"{options.pictures} pictures drawn in {time.perf_counter() - start:.0f} s")
        out = folder / "labels.parquet"
        found, memory = run(sources, out, options.pictures)
        print(
            f"{found['pictures']} pictures, {found['errors']} errors, {found['partitions']} partitions in "
            f"{found['seconds']:.1f} s: {found['pictures_per_s']:.0f} pictures/s"
        )
        fifth = max(1, len(memory) // 5)
        print(
            f"the client's memory, MB: {np.mean(memory[:fifth]):.0f} in the first fifth of the time, "
            f"{np.mean(memory[-fifth:]):.0f} in the last, {max(memory):.0f} at most"
        )
        logits, both = beside()
        print(
            f"{WORKERS} processes without dask, each: {logits:.0f} pictures/s for the logits alone, "
            f"{both:.0f} with decoding"
        )
        for worker in found["workers"]:
            engine = worker["pictures_per_s"] / worker["engine_share"]
            print(
                f"worker {worker['worker']}: {worker['pictures']} pictures, {worker['pictures_per_s']:.0f} pictures/s; "
                f"decoding excluded {engine:.0f}, {engine / logits:.0%} of the logits alone"
            )
        check(out, options.pictures)
        print("every picture once, every bit equal")


if __name__ == "__main__":
    main()
