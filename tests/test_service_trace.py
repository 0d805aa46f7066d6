"""Gate fractions over HTTP."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service import trace
from fracbnn_pynq.service.settings import Settings
from PIL import Image
from service_support import client_of

from fracbnn_pynq import Classifier
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import IMAGENET
from fracbnn_pynq.pictures import load


@pytest.fixture(scope="module")
def client(classifier):
    with client_of({"cifar10": classifier}, Settings(max_pixels=1_000_000)) as client:
        yield client


def test_the_fractions_are_those_of_the_reference_engine(client, classifier, cat):
    answer = client.post("/v1/trace", content=cat.read_bytes())
    assert answer.status_code == 200
    body = answer.json()
    engine = ReferenceBackend(classifier.model, classifier.arithmetic)
    _, layers = engine.logits(load(cat, classifier.network)[None], layers=True)
    expected = [{"name": layer.name, "gate_fraction": layer.gate_fraction} for layer in layers[1:]]
    assert body["layers"] == expected
    assert len(expected) == 18
    assert all(0 < layer["gate_fraction"] < 1 for layer in expected)
    assert (body["model"], body["arithmetic"]) == ("cifar10", "faithful")
    assert body["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "content", "status"),
    [("", b"no picture", 422), ("", b"", 400), ("?model=nothing", b"x", 404)],
)
def test_what_cannot_be_traced_is_refused_and_the_next_one_works(client, cat, query, content, status):
    answer = client.post(f"/v1/trace{query}", content=content)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert client.post("/v1/trace", content=cat.read_bytes()).status_code == 200


def test_one_picture_is_traced_at_a_time(client, cat, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    compute = trace._gate_fractions

    def slow(*arguments):
        begun.set()
        assert go_on.wait(20)
        return compute(*arguments)

    monkeypatch.setattr(trace, "_gate_fractions", slow)
    statuses = []
    first = threading.Thread(
        target=lambda: statuses.append(client.post("/v1/trace", content=cat.read_bytes()).status_code)
    )
    first.start()
    try:
        assert begun.wait(20)
        second = client.post("/v1/trace", content=cat.read_bytes())
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert client.post("/v1/classify", content=cat.read_bytes()).json()["label"] == "cat"
    finally:
        go_on.set()
        first.join(20)
    assert statuses == [200]


def test_imagenet_is_traced_too(cat):
    model = random_model(IMAGENET, seed=1)
    with Classifier(model, ReferenceBackend(model)) as large, client_of({"large": large}) as client:
        answer = client.post("/v1/trace", content=cat.read_bytes(), timeout=60)
        assert answer.status_code == 200, answer.text
        assert [layer["name"] for layer in answer.json()["layers"]] == [layer.name for layer in IMAGENET.layers]
        last = client.post("/v1/trace/layer?layer=block13.conv1x1", content=cat.read_bytes(), timeout=60)
        assert Image.open(io.BytesIO(last.content)).size == (2 * (8 * 8 - 1) + 4, 8 * 8 - 1)


def tile(picture, channel, size, *, gates):
    left = (8 * (size + 1) - 1 + 4) * gates + channel % 8 * (size + 1)
    top = channel // 8 * (size + 1)
    return picture[top : top + size, left : left + size]


@pytest.mark.parametrize("number", [0, 9, 17])
def test_a_layer_is_drawn(client, classifier, cat, number):
    engine = ReferenceBackend(classifier.model, classifier.arithmetic)
    _, layers = engine.logits(load(cat, classifier.network)[None], layers=True)
    layer = layers[number + 1]
    answer = client.post(f"/v1/trace/layer?layer={layer.name}", content=cat.read_bytes())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    size, channels = layer.output.shape[2:]
    least, most = layer.output.min(), layer.output.max()
    for channel in (0, 7, 8, channels - 1):
        gates = tile(picture, channel, size, gates=True)
        assert np.array_equal(gates == 255, layer.gate[0, :, :, channel])
        assert set(np.unique(gates)) <= {0, 255}
        shades = tile(picture, channel, size, gates=False)
        expected = (layer.output[0, :, :, channel] - least) / (most - least) * 255
        assert np.abs(shades - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("query", ["", "?layer=stem", "?layer=none"])
def test_layers_that_are_not_there(client, cat, query):
    answer = client.post(f"/v1/trace/layer{query}", content=cat.read_bytes())
    assert answer.status_code == 422
    assert "layer: expected one of layer1" in answer.json()["error"]


def test_it_is_described(client):
    described = client.get("/openapi.json").json()["paths"]["/v1/trace"]["post"]
    assert [parameter["name"] for parameter in described["parameters"]] == ["model"]
    assert "gate_fraction" in str(described["responses"]["200"])
