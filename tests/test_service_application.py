"""The routes of the busiest handlers, which come first: that they make no difference."""

from __future__ import annotations

import json
from collections import Counter

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service import application
from fracbnn_pynq.service.application import create_app
from fracbnn_pynq.service.settings import Settings
from service_support import client_of, infer_body, metric, random_images
from waiting_support import until

from fracbnn_pynq import Classifier

INFER = json.dumps(infer_body(random_images(2), id="one")).encode()
REQUESTS = [
    ("/v1/classify", "PICTURE", {}),
    ("/v1/classify?top=0", "PICTURE", {}),
    ("/v1/classify?model=none", "PICTURE", {}),
    ("/v1/classify", "PICTURE", {"Content-Type": "text/plain"}),
    ("/v1/classify", b"no picture", {"Content-Type": "text/plain"}),
    ("/v1/classify", b"no picture", {}),
    ("/v1/classify", b"", {}),
    ("/v1/classify", b"x" * 2_000_000, {}),
    ("/v1/classify", "PICTURE", {"Authorization": "Bearer wrong"}),
    ("/v2/models/cifar10/infer", INFER, {}),
    ("/v2/models/cifar10/versions/1/infer", INFER, {}),
    ("/v2/models/cifar10/versions/2/infer", INFER, {}),
    ("/v2/models/none/infer", INFER, {}),
    ("/v2/models/a%2Fb/infer", INFER, {}),
    ("/v2/models/cifar10/infer", b"{", {}),
]
SETTINGS = Settings(max_body=1 << 20, token="a-long-token")


@pytest.fixture(scope="module")
def classifier():
    with Classifier.load("cifar10", backend="cpu", threads=1) as loaded:
        yield loaded


def test_what_comes_first_is_described(classifier):
    described = create_app({"cifar10": classifier}).openapi()["paths"]
    for path in ("/v1/classify", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        assert "post" in described[path]


def answers(classifier, cat):
    """Status, content type and body of each request, without what differs from time to time, and what was counted."""
    found = []
    with client_of({"cifar10": classifier}, SETTINGS) as client:
        client.headers["Authorization"] = "Bearer a-long-token"
        for path, body, headers in REQUESTS:
            content = cat.read_bytes() if body == "PICTURE" else body
            answer = client.post(path, content=content, headers={"X-Request-ID": "same", **headers})
            document = answer.json()
            document.pop("timings_ms", None)
            kept = [answer.headers.get(name) for name in ("content-type", "x-request-id", "www-authenticate")]
            found.append((path, answer.status_code, kept, document))
        counted = [metric(client, f"nv_inference_request_{name}") for name in ("success", "failure")]
        refused = Counter(status for _, status, *_ in found if status != 200)
        counts = client.server.inference.http.by_status
        # A client may have its answer before the service is done with what it did not read of a body.
        until(lambda: {status: n for status, n in counts.items() if status != 200} == refused)
    return found, counted


def test_it_makes_no_difference(classifier, cat, monkeypatch):
    short = answers(classifier, cat)
    assert {status for _, status, *_ in short[0]} == {200, 400, 401, 404, 413, 415, 422}
    monkeypatch.setattr(application, "BUSIEST", [])
    assert answers(classifier, cat) == short
