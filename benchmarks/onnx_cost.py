"""What exported models cost in ONNX Runtime: milliseconds a picture beside this package's CPU engine, in turns.

    python benchmarks/onnx_cost.py [MODEL ...] [--threads 1] [--rounds 9]

MODEL is a model's name or file; by default the bundled CIFAR-10 model and a random one of the ImageNet shape.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import onnxruntime

from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.exporters.faithful_graph import onnx_model
from fracbnn_pynq.model import random_model
from fracbnn_pynq.models import find_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    models = {name: find_model(name) for name in given.models}
    models = models or {"cifar10": find_model("cifar10"), "random ImageNet": random_model(IMAGENET)}
    print(f"onnxruntime {onnxruntime.__version__}, {given.threads} threads")
    for name, model in models.items():
        data = onnx_model(model).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = given.threads
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        engine = CpuBackend(model, threads=given.threads)
        count, size = (32 if model.network.name == CIFAR10.name else 1), model.network.image_size
        pictures = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        ways = {
            "ONNX Runtime": lambda run=session.run, x=pictures: run(None, {"pictures": x})[0],
            "CPU engine": lambda run=engine.logits, x=pictures: run(x),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        results = []
        for _ in range(given.rounds):
            for way, run in ways.items():
                begin = time.perf_counter()
                results.append(run())
                times[way].append((time.perf_counter() - begin) / count * 1e3)
        if not all(np.array_equal(result, results[0]) for result in results):
            sys.exit(f"{name}: expected equal logits, found different ones")
        shown = ", ".join(f"{way} {statistics.median(found):.2f} ms" for way, found in times.items())
        print(f"{name}, batches of {count}: {shown} a picture; the file has {len(data):,} bytes; logits equal")


if __name__ == "__main__":
    main()
