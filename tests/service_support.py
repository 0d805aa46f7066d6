"""A service on a real port for tests, and engines that misbehave as told."""

from __future__ import annotations

import contextlib
import struct
import threading
import time

import httpx
import numpy as np
from fracbnn_pynq.service.application import create_app
from fracbnn_pynq.service.server import Server

from fracbnn_pynq.classifier import Classifier


@contextlib.contextmanager
def running(models, settings=None, port=0):
    """Serve until the block ends; gives the server, with its ``url``."""
    server = Server(create_app(models, settings), port=port, log_level="error")
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
        if not server.hub.draining:
            server.handle_exit(15, None)
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def client_of(models, settings=None):
    """An HTTP client of a service that runs until the block ends."""
    with running(models, settings) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        client.server = server
        yield client


class Engine:
    """Around a real engine: ``before`` is called first and may wait or raise."""

    def __init__(self, engine, before=lambda: None, name=None):
        self.engine = engine
        self.before = before
        self.name = name or engine.name
        self.network = engine.network
        self.arithmetic = engine.arithmetic
        self.batches = []

    def logits(self, images):
        self.batches.append(len(images))
        self.before()
        return self.engine.logits(images)

    def close(self):
        pass


class ReloadableEngine(Engine):
    """An engine whose ``reload`` is counted and fails as often as ``reload_failures`` says."""

    reloads = 0
    reload_failures = 0

    def reload(self):
        self.reloads += 1
        if self.reloads <= self.reload_failures:
            raise RuntimeError("still broken")


def wrapped(classifier, kind=Engine, **options):
    """A classifier of the same model whose engine is a ``kind`` around the classifier's."""
    engine = kind(classifier.engine, **options)
    return Classifier(classifier.model, engine), engine


def random_images(count, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def infer_body(images, *, binary=False, **more):
    """A request for ``images``: JSON, or (body, headers) with binary data."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    if not binary:
        return {"inputs": [{**tensor, "data": images.ravel().tolist()}], **more}
    import json

    tensor["parameters"] = {"binary_data_size": images.nbytes}
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def bytes_tensor(elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def metric(client, name, model="cifar10"):
    """The value of one of a model's metrics."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f'{name}{{model="{model}"'):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")
