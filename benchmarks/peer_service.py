"""The peer of the HTTP service: mosec, with an int8 ResNet-20 in ONNX Runtime. ``python peer_service.py --port 8001``.

Decodes and resizes a picture by the same functions as the service, and answers with the best classes in JSON. One
worker process for each processor, each with one thread.
"""

from __future__ import annotations

import json
import os

import numpy as np
from mosec import Server, Worker
from peers import OnnxRuntimePeer

from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.pictures import load

TOP = 5


class ResNet20(Worker):  # type: ignore[misc]
    """From the bytes of a JPEG file to JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._peer = OnnxRuntimePeer("cifar10", 1, 1, "int8")

    def deserialize(self, data: bytes) -> np.ndarray:
        """uint8 [1, 32, 32, 3]."""
        return load(data, CIFAR10)[None]

    def forward(self, data: np.ndarray) -> dict[str, list[dict[str, float]]]:
        """The best classes with their probabilities."""
        (logits,) = self._peer.run(data)
        powers = np.exp(logits - logits.max())
        best = np.argsort(-powers, kind="stable")[:TOP]
        return {"top": [{"class": int(k), "probability": float(powers[k] / powers.sum())} for k in best]}

    def serialize(self, data: dict[str, list[dict[str, float]]]) -> bytes:
        """JSON."""
        return json.dumps(data).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(ResNet20, num=len(os.sched_getaffinity(0)))
    server.run()
