"""Pictures in, labels out, over HTTP."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service.settings import Settings
from PIL import Image
from service_support import client_of, random_images

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def client(classifier):
    settings = Settings(max_body=1 << 20, max_pixels=1_000_000, max_batch=4)
    with client_of({"cifar10": classifier, "again": classifier}, settings) as client:
        yield client


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def test_a_raw_picture_gives_the_classifiers_labels(client, classifier, cat):
    answer = client.post("/v1/classify", content=cat.read_bytes(), headers=JPEG)
    assert answer.status_code == 200
    body = answer.json()
    expected = classifier.classify(cat)
    assert [(entry["label"], entry["probability"]) for entry in body["top"]] == expected.top
    assert (body["label"], body["score"]) == expected.top[0]
    assert (body["model"], body["backend"], body["arithmetic"]) == ("cifar10", "cpu", "faithful")
    assert body["request_id"] == answer.headers["x-request-id"]
    times = body["timings_ms"]
    assert set(times) == {"read", "queue", "infer", "total"}
    assert 0 < times["infer"] < times["total"]


def test_a_form_gives_the_same_as_a_raw_picture(client, cat):
    raw = client.post("/v1/classify?top=2&model=again", content=cat.read_bytes()).json()
    form = client.post("/v1/classify?top=2&model=again", files={"file": cat.read_bytes()}, data={"note": "x"}).json()
    assert raw["model"] == "again"
    assert len(raw["top"]) == 2
    assert form["top"] == raw["top"]


def test_a_batch_answers_every_file_in_its_place(client, classifier):
    images = random_images(2)
    files = [("file", ("a.png", encoded(images[0]))), ("file", ("b.txt", b"text")), ("file", ("c", encoded(images[1])))]
    answer = client.post("/v1/classify/batch", files=files)
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert [entry["file"] for entry in (first, second, third)] == ["a.png", "b.txt", "c"]
    assert "label" not in second
    assert "expected a picture" in second["error"]
    expected = classifier.rank(classifier.logits(images))
    for entry, ranked in zip((first, third), expected, strict=True):
        assert [(best["label"], best["probability"]) for best in entry["top"]] == ranked


def test_a_batch_without_any_picture_is_refused(client):
    answer = client.post("/v1/classify/batch", files=[("file", ("a", b"text")), ("file", ("b", b"more"))])
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "said"),
    [
        ("GET", "/nowhere", {}, 404, "/nowhere"),
        ("GET", "/v1/classify/", {}, 404, "/v1/classify/"),
        ("GET", "/v1/classify", {}, 405, "GET"),
        ("POST", "/v1/classify?model=other", {"content": b"x"}, 404, "cifar10, again"),
        ("POST", "/v1/classify?top=0", {"content": b"x"}, 422, "top"),
        ("POST", "/v1/classify?top=many", {"content": b"x"}, 422, "top"),
        ("POST", "/v1/classify", {"content": b"text"}, 422, "expected a picture"),
        ("POST", "/v1/classify", {"content": b""}, 400, "none"),
        ("POST", "/v1/classify", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
        ("POST", "/v1/classify", {"data": {"a": "b"}}, 415, "urlencoded"),
        ("POST", "/v1/classify", {"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 400, "gzip"),
        ("POST", "/v1/classify", {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415, "gzip, deflate"),
        ("POST", "/v1/classify", {"files": [("file", b"a"), ("file", b"b")]}, 413, "at most 1 picture, found 2"),
        ("POST", "/v1/classify/batch", {"files": [("file", b"a")] * 5}, 413, "at most 4 pictures, found 5"),
        ("POST", "/v1/classify", {"content": b"x" * ((1 << 20) + 1)}, 413, "bytes"),
    ],
)
def test_refusals_have_one_shape(client, method, path, options, status, said):
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert answer.headers["x-request-id"]


def test_a_chunked_body_over_the_limit_is_cut_off(client):
    def endless():
        for _ in range(1000):
            yield b"x" * 65536

    answer = client.post("/v1/classify", content=endless())
    assert answer.status_code == 413
    assert "at least" in answer.json()["error"]
    assert answer.headers["connection"] == "close"


def png_header(width, height):
    """A PNG whose header promises a size that is not there."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(1001, 1000), (20_000, 20_000), (1 << 30, 1 << 30)])
def test_pictures_of_too_many_pixels_are_refused_undecoded(client, size):
    answer = client.post("/v1/classify", content=png_header(*size))
    assert answer.status_code == 413
    assert "1000000 pixels" in answer.json()["error"]


def test_a_compressed_bomb_within_the_pixel_limit_is_just_a_picture(client):
    assert client.post("/v1/classify", content=encoded(np.zeros((1000, 1000, 3), np.uint8))).status_code == 200


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_cut_off_pictures_are_refused(client, cat, cut):
    data = cat.read_bytes()
    answer = client.post("/v1/classify", content=data[: int(len(data) * cut)])
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("has space", False)]
)
def test_request_ids_come_back_or_are_made(client, given, kept):
    made = client.get("/health/live", headers={"X-Request-ID": given}).headers["x-request-id"]
    assert (made == given) is kept
    assert made


def test_health_metrics_and_documents(client):
    for path in ("/health/live", "/v2/health/live"):
        assert client.get(path).json() == {"live": True}
    for path in ("/health/ready", "/v2/health/ready"):
        assert client.get(path).json() == {"ready": True}
    paths = client.get("/openapi.json").json()["paths"]
    form = paths["/v1/classify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"] == {"type": "string", "format": "binary"}
    assert set(paths["/v1/classify"]["post"]["responses"]) >= {"200", "400", "413", "415", "422", "503"}
    assert client.get("/docs").status_code == 200


def test_with_a_token_only_health_is_open(classifier, tmp_path):
    with client_of({"cifar10": classifier}, Settings(token="a-long-token")) as client:
        assert client.get("/health/ready").status_code == 200
        for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a-long-token"}):
            answer = client.get("/v2", headers=sent)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert set(answer.json()) == {"error"}
        assert client.get("/v2", headers={"Authorization": "bearer a-long-token"}).status_code == 200
