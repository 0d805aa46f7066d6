"""A service on a real port for tests, and engines that misbehave as told."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from fracbnn_pynq.service.application import create_app
from fracbnn_pynq.service.server import Server
from fracbnn_pynq.service.settings import Settings

from fracbnn_pynq.backends import Backend
from fracbnn_pynq.classifier import Classifier

Models = Mapping[str, Classifier] | Settings
Images = npt.NDArray[np.uint8]


class ServedServer(Server):
    """A server that knows where it is reached."""

    port: int
    url: str


class ServedClient(httpx.Client):
    """A client that knows the server it talks to."""

    server: ServedServer


@contextlib.contextmanager
def running(models: Models, settings: Settings | None = None, port: int = 0) -> Iterator[ServedServer]:
    """Serve until the block ends; gives the server, with its ``url``."""
    server = ServedServer(create_app(models, settings), port=port, log_level="error")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        server.port = port
        server.url = f"http://127.0.0.1:{port}"
        yield server
    finally:
        if not server.inference.draining:
            server.handle_exit(15, None)
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def client_of(models: Models, settings: Settings | None = None) -> Iterator[ServedClient]:
    """An HTTP client of a service that runs until the block ends."""
    with running(models, settings) as server, ServedClient(base_url=server.url, timeout=20) as client:
        client.server = server
        yield client


class Engine:
    """Around a real engine: ``before`` is called first and may wait or raise."""

    def __init__(self, engine: Backend, before: Callable[[], object] = lambda: None, name: str | None = None) -> None:
        self.engine = engine
        self.before = before
        self.name = name or engine.name
        self.network = engine.network
        self.arithmetic = engine.arithmetic
        self.batches: list[int] = []

    @property
    def timings(self) -> Mapping[str, float]:
        return self.engine.timings

    def counters(self) -> Mapping[str, int]:
        return self.engine.counters()

    def describe(self) -> dict[str, str]:
        return {**self.engine.describe(), "backend": self.name}

    def logits(self, images: Images) -> npt.NDArray[np.float32]:
        self.batches.append(len(images))
        self.before()
        return self.engine.logits(images)

    def close(self) -> None:
        pass


class ReloadableEngine(Engine):
    """An engine whose ``reload`` is counted and fails as often as ``reload_failures`` says."""

    reloads = 0
    reload_failures = 0

    def reload(self) -> None:
        self.reloads += 1
        if self.reloads <= self.reload_failures:
            raise RuntimeError("still broken")


def wrapped(classifier: Classifier, kind: type[Engine] = Engine, **options: Any) -> tuple[Classifier, Any]:
    """A classifier of the same model whose engine is a ``kind`` around the classifier's."""
    engine = kind(classifier.engine, **options)
    return Classifier(classifier.model, engine), engine


def random_images(count: int, size: int = 32, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def infer_body(images: Images, *, binary: bool = False, **more: Any) -> Any:
    """A request for ``images``: JSON, or (body, headers) with binary data."""
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    if not binary:
        return {"inputs": [{**tensor, "data": images.ravel().tolist()}], **more}
    import json

    tensor["parameters"] = {"binary_data_size": images.nbytes}
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def bytes_tensor(elements: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def metric(client: httpx.Client, name: str, model: str = "cifar10") -> float:
    """The value of one of a model's metrics."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f'{name}{{model="{model}"'):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")
