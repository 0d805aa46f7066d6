"""Does a model keep up with a camera? A synthetic source of 640x480 BGR frames at a fixed rate, through the pipeline.

    python benchmarks/camera.py [--fps 60] [--seconds 20] [--model cifar10] [--backend cpu] [--receiver RECEIVER]

Frame n is due at n / fps after the start and is handed out then, whether anybody is ready or not; it is a copy, as a
camera's driver makes one. Exit status 1 if frames were lost in a rate below 99 % of the source's, or if the latency
from hand-out to delivery has a p99 of 50 ms or more.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fracbnn_pynq import Classifier
from fracbnn_pynq.camera import Frame
from fracbnn_pynq.display import Recorder, with_text
from fracbnn_pynq.stagetimes import Histogram
from fracbnn_pynq.streaming import Pipeline

HEIGHT, WIDTH = 480, 640
P99_LIMIT_MS = 50
SHARE_KEPT = 0.99


class Source:
    """Frames by the clock."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.late = Histogram()
        self._images = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._stopping = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        begin = time.perf_counter()
        index = 0
        while True:
            due = begin + index / self.fps
            wait = due - time.perf_counter()
            if wait > 0 and self._stopping.wait(wait):
                return
            image = self._images[index % len(self._images)].copy()
            self.late.add(time.perf_counter() - due)
            yield Frame(image, index, index / self.fps)
            index += 1

    def stop(self) -> None:
        """End the frames."""
        self._stopping.set()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--receiver", choices=("none", "text", "record"), default="none", help="what delivery does")
    arguments = parser.parse_args()

    parts = {"reading": Histogram(), "network": Histogram()}
    source = Source(arguments.fps)
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "out.mp4", arguments.fps) as recorder,
        Classifier.load(arguments.model, backend=arguments.backend, threads=arguments.threads) as classifier,
    ):

        def receive(delivery):
            parts["reading"].add(delivery.result.timings["read"] / 1e3)
            parts["network"].add(delivery.result.timings["infer"] / 1e3)
            if arguments.receiver != "none":
                marked = with_text(delivery.frame.image, [delivery.result.label])
                if arguments.receiver == "record":
                    recorder.write(marked, delivery.frame.time)

        classifier.classify(np.zeros((HEIGHT, WIDTH, 3), np.uint8), bgr=True)
        pipeline = Pipeline(source, lambda f: classifier.classify(f.image, bgr=True), interrupt=source.stop)
        processor = time.process_time()
        clock = time.perf_counter()
        statistics = pipeline.run(receive, seconds=arguments.seconds)
        clock = time.perf_counter() - clock
        processor = time.process_time() - processor
        about = f"{classifier.network.name} on {classifier.backend}, arithmetic {classifier.arithmetic}"
    print(f"{about}; {os.cpu_count()} processors; receiver: {arguments.receiver}; {clock:.1f} s")
    print(f"load average {os.getloadavg()[0]:.2f}; this process used {100 * processor / clock:.0f} % of a processor")
    data = statistics.as_data()
    for name, rate in data["per_second"].items():
        print(f"{name:12} {data[name]:6}  {rate:8.2f}/s")
    print(f"{'dropped':12} {data['dropped']:6}")
    print(f"{'unfinished':12} {data['unfinished']:6}")
    print(f"{'milliseconds':20}" + "".join(f"{name:>9}" for name in ("mean", "p50", "p99", "max")))
    extra = {name: histogram.as_data() for name, histogram in {**parts, "source late by": source.late}.items()}
    for name, times in {**data["milliseconds"], **extra}.items():
        print(f"{name:20}" + "".join(f"{value:9.3f}" for value in times.values()))
    kept = data["per_second"]["delivered"] >= SHARE_KEPT * arguments.fps
    quick = data["milliseconds"]["end to end"]["p99"] < P99_LIMIT_MS
    print(f"keeps {arguments.fps:g} frames/s: {kept}; p99 end to end below {P99_LIMIT_MS} ms: {quick}")
    sys.exit(0 if kept and quick else 1)


if __name__ == "__main__":
    main()
