"""Open Inference Protocol v2: JSON, binary, and everything that is not quite either."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import time
import tracemalloc
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service.budget import PixelBudget
from fracbnn_pynq.service.errors import ServiceError
from fracbnn_pynq.service.media import PictureReader
from fracbnn_pynq.service.oip_binary import pack_bytes, unpack_bytes
from fracbnn_pynq.service.oip_request import parse
from fracbnn_pynq.service.settings import Settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_support import bytes_tensor, client_of, infer_body, random_images

from fracbnn_pynq.classifier import softmax
from fracbnn_pynq.networks import CIFAR10

INFER = "/v2/models/cifar10/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(classifier):
    with client_of({"cifar10": classifier}, Settings(max_batch=16, max_pixels=1_000_000)) as client:
        yield client


def outputs_of(answer):
    """Values by output name, from JSON and from binary data."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(LENGTH)
    document = json.loads(answer.content if length is None else answer.content[: int(length)])
    rest = b"" if length is None else answer.content[int(length) :]
    values = {}
    for tensor in document["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = tensor["data"]
        else:
            part, rest = rest[:size], rest[size:]
            if tensor["datatype"] == "BYTES":
                data = [x.decode() for x in unpack_bytes(memoryview(part), int(np.prod(tensor["shape"])), "")]
            else:
                data = np.frombuffer(part, "<f4")
        kind = {"FP32": np.float32, "BYTES": object}[tensor["datatype"]]
        values[tensor["name"]] = np.array(data, kind).reshape(tensor["shape"])
    assert not rest
    return document, values


@pytest.mark.parametrize("count", [1, 5, 16])
@pytest.mark.parametrize("nested", [False, True])
def test_json_gives_the_classifiers_logits(client, classifier, count, nested):
    images = random_images(count)
    body = infer_body(images, id="me")
    if nested:
        body["inputs"][0]["data"] = images.tolist()
    document, values = outputs_of(client.post(INFER, json=body))
    logits = classifier.logits(images)
    assert document["id"] == "me"
    assert (document["model_name"], document["model_version"]) == ("cifar10", "1")
    assert list(values) == ["logits", "probabilities", "labels"]
    assert np.array_equal(values["logits"], logits)
    assert np.array_equal(values["probabilities"], softmax(logits).astype(np.float32))
    assert list(values["labels"]) == [ranked[0][0] for ranked in classifier.rank(logits)]


@pytest.mark.parametrize("path", [INFER, "/v2/models/cifar10/versions/1/infer"])
def test_binary_gives_the_classifiers_logits(client, classifier, path):
    images = random_images(7)
    body, headers = infer_body(images, binary=True, parameters={"binary_data_output": True})
    answer = client.post(path, content=body, headers=headers)
    document, values = outputs_of(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "id" not in document
    assert np.array_equal(values["logits"], classifier.logits(images))
    assert list(values["labels"]) == [ranked[0][0] for ranked in classifier.rank(classifier.logits(images))]


def test_outputs_are_given_as_asked(client, classifier):
    images = random_images(3)
    outputs = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "logits", "parameters": {"classification": 2}},
    ]
    document, values = outputs_of(client.post(INFER, json=infer_body(images, outputs=outputs)))
    assert [tensor["name"] for tensor in document["outputs"]] == ["probabilities", "logits"]
    assert "data" not in document["outputs"][0]
    assert values["logits"].shape == (3, 2)
    logits = classifier.logits(images)
    for row, texts in zip(logits, values["logits"], strict=True):
        for text, index in zip(texts, np.argsort(-row, kind="stable"), strict=False):
            assert text == f"{row[index]:f}:{index}:{classifier.labels[index]}"


def test_encoded_pictures_as_base64_and_as_binary(client, classifier, cat):
    from fracbnn_pynq.pictures import load

    data = cat.read_bytes()
    expected = classifier.logits(load(cat, classifier.network)[None])
    tensor = {"name": "pictures", "datatype": "BYTES", "shape": [2]}
    body = {"inputs": [{**tensor, "data": [base64.b64encode(data).decode()] * 2}]}
    _, values = outputs_of(client.post(INFER, json=body))
    assert np.array_equal(values["logits"], np.repeat(expected, 2, axis=0))
    binary = bytes_tensor([data, data])
    text = json.dumps({"inputs": [{**tensor, "shape": [2, 1], "parameters": {"binary_data_size": len(binary)}}]})
    answer = client.post(INFER, content=text.encode() + binary, headers={LENGTH: str(len(text))})
    _, values = outputs_of(answer)
    assert np.array_equal(values["logits"], np.repeat(expected, 2, axis=0))


def test_metadata_and_readiness(client):
    server = client.get("/v2").json()
    assert server["name"] == "fracbnn"
    assert "binary_tensor_data" in server["extensions"]
    for path in ("/v2/models/cifar10", "/v2/models/cifar10/versions/1"):
        about = client.get(path).json()
        assert about["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
        assert about["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 10]}
        assert client.get(path + "/ready").json() == {"name": "cifar10", "ready": True}
    assert client.get("/v2/models").json() == {"models": ["cifar10"]}
    for path in ("/v2/models/other", "/v2/models/cifar10/versions/2", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404
        assert set(client.get(path).json()) == {"error"}


def changed(body, **more):
    body = copy.deepcopy(body)
    body["inputs"][0].update(more)
    return body


GOOD = infer_body(random_images(1))
PICTURES = {"name": "pictures", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "JSON object"),
        ({}, 400, "one input"),
        ({"inputs": []}, 400, "one input"),
        ({"inputs": [1]}, 400, "JSON object"),
        ({"inputs": GOOD["inputs"] * 2}, 400, "one input"),
        ({**GOOD, "id": 5}, 400, "id"),
        ({**GOOD, "parameters": []}, 400, "parameters"),
        ({**GOOD, "parameters": {"binary_data_output": 1}}, 400, "true or false"),
        ({**GOOD, "outputs": {}}, 400, "outputs"),
        ({**GOOD, "outputs": [{"name": "other"}]}, 400, "logits, probabilities, labels"),
        ({**GOOD, "outputs": [{"name": "logits"}] * 2}, 400, "once"),
        ({**GOOD, "outputs": [{"name": "labels", "parameters": {"classification": 2}}]}, 400, "classification"),
        ({**GOOD, "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, 400, "classification"),
        ({**GOOD, "outputs": [{"name": "logits", "parameters": {"shared_memory_region": "a"}}]}, 400, "shared memory"),
        ({**GOOD, "outputs": [{"name": "logits", "parameters": {"shared_memory_byte_size": 4}}]}, 400, "shared memory"),
        (changed(GOOD, parameters={"shared_memory_region": "a"}), 400, "shared memory"),
        ({**GOOD, "parameters": {"x": ["y" * 70_000]}}, 400, "at most 65536 bytes"),
        (changed(GOOD, data=[[[[1, 2, 3]] * 32] * 31]), 400, "nested as its shape"),
        (changed(GOOD, data=[[]] * 3072), 400, "nested as its shape"),
        ({"inputs": [{**PICTURES, "data": [["a", "b"]], "shape": [1, 1]}]}, 400, "1 base64 texts"),
        (changed(GOOD, name="other"), 400, "images and pictures"),
        (changed(GOOD, datatype="FP32"), 400, "UINT8"),
        (changed(GOOD, shape=[1, 32, 32]), 400, "[n, 32, 32, 3]"),
        (changed(GOOD, shape=[True, 32, 32, 3]), 400, "integer"),
        (changed(GOOD, shape=[0, 32, 32, 3]), 400, "integer from 1"),
        (changed(GOOD, shape=[2, 32, 32, 3]), 400, "6144 numbers"),
        (changed(GOOD, shape=[17, 32, 32, 3]), 413, "at most 16"),
        (changed(GOOD, data=[256] * 3072), 400, "0..255"),
        (changed(GOOD, data=[-1] * 3072), 400, "0..255"),
        (changed(GOOD, data=[10**400] * 3072), 400, "0..255"),
        (changed(GOOD, data=[1.0] * 3072), 400, "integers"),
        (changed(GOOD, data=[True] * 3072), 400, "integers"),
        (changed(GOOD, data=["1"] * 3072), 400, "integers"),
        (changed(GOOD, data=[[1, 2], 3]), 400, "nested as its shape"),
        (changed(GOOD, data=None), 400, "array"),
        (changed(GOOD, parameters={"binary_data_size": 3072}), 400, "after the JSON part"),
        ({"inputs": [{**PICTURES, "data": ["%%%"]}]}, 400, "base64"),
        ({"inputs": [{**PICTURES, "data": [7]}]}, 400, "base64"),
        ({"inputs": [{**PICTURES, "data": ["aGVsbG8="]}]}, 422, "picture 0"),
        ({"inputs": [{**PICTURES, "data": []}]}, 400, "1 base64 texts"),
        ({"inputs": [{**PICTURES, "shape": [1, 2], "data": []}]}, 400, "[n] or [n, 1]"),
    ],
)
def test_what_is_wrong_is_said(client, body, status, said):
    answer = client.post(INFER, json=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert said in answer.json()["error"]


@pytest.mark.parametrize("header", ["-1", "1e3", "abc", "", "99999999", "9" * 5000, "0x10", "1" * 18])
def test_lengths_that_cannot_be(client, header):
    body, _ = infer_body(random_images(1), binary=True)
    answer = client.post(INFER, content=body, headers={LENGTH: header})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b'{"inputs": NaN}', b"[" * 100_000, b"\xff\xfe", b"1" * 10_000])
def test_what_is_not_json(client, text):
    answer = client.post(INFER, content=text)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,32,32,3],"data":[%s]}]}'
        % (b"[]," * 2_500_000 + b"[]"),
        b'{"inputs":[%s]}' % (b"{}," * 2_500_000 + b"{}"),
        b'{"other":[%s]}' % (b"[]," * 2_500_000 + b"[]"),
        b'{"outputs":[%s]}' % (b"{}," * 2_500_000 + b"{}"),
        b'{"id":' + b"[" * 2_000_000,
        b'{"parameters":' + b'{"a":' * 1_000_000,
        b'{"id":"' + b"a" * 8_000_000 + b'"}',
        b"1" * 8_000_000,
    ],
)
def test_megabytes_of_json_are_refused_soon(text):
    begin = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError) as refused:
            parse(text, None, READER, CIFAR10, LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.status == 400
    assert peak < 32 << 20
    assert time.perf_counter() - begin < 1


def test_json_has_a_limit_of_its_own(classifier):
    images = random_images(4)
    body, headers = infer_body(images, binary=True)
    with client_of({"cifar10": classifier}, Settings(max_json=5_000)) as client:
        assert client.post(INFER, content=body, headers=headers).status_code == 200
        for content, more in (
            (json.dumps(infer_body(images)).encode(), {}),
            (gzip.compress(json.dumps(infer_body(images)).encode()), {"Content-Encoding": "gzip"}),
            (b" " * 9000 + body, {LENGTH: str(9000 + int(headers[LENGTH]))}),
        ):
            refused = client.post(INFER, content=content, headers=more)
            assert refused.status_code == 413
            assert "5000 bytes" in refused.json()["error"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests(client, classifier, coding, binary):
    images = random_images(3)
    body, headers = infer_body(images, binary=True) if binary else (json.dumps(infer_body(images)).encode(), {})
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    _, values = outputs_of(client.post(INFER, content=packed, headers={**headers, "Content-Encoding": coding}))
    assert np.array_equal(values["logits"], classifier.logits(images))


def test_statistics_count(classifier):
    with client_of({"cifar10": classifier, "other": classifier}) as client:
        before = time.time() * 1e3
        assert client.post(INFER, json=infer_body(random_images(5))).status_code == 200
        assert client.post(INFER, content=b"{").status_code == 400
        for path in ("/v2/models/cifar10/stats", "/v2/models/cifar10/versions/1/stats"):
            (stats,) = client.get(path).json()["model_stats"]
            assert (stats["name"], stats["version"]) == ("cifar10", "1")
            assert (stats["inference_count"], stats["execution_count"]) == (5, 1)
            assert before - 1 <= stats["last_inference"] <= time.time() * 1e3
            durations = stats["inference_stats"]
            assert [durations[name]["count"] for name in ("success", "fail", "queue", "cache_hit")] == [1, 1, 1, 0]
            assert 0 < durations["compute_infer"]["ns"] < durations["success"]["ns"] < 20e9
            assert durations["fail"]["ns"] > 0
        assert [stats["name"] for stats in client.get("/v2/models/stats").json()["model_stats"]] == ["cifar10", "other"]
        assert client.get("/v2/models/none/stats").status_code == 404


def test_the_index_of_models(client):
    entry = {"name": "cifar10", "version": "1", "state": "READY", "reason": ""}
    for body in (b"", b"{}", b'{"ready":true}', b'{"ready":false}'):
        assert client.post("/v2/repository/index", content=body).json() == [entry]
    for body in (b"{", b"[]", b'{"ready":1}', b"[" * 4000):
        assert client.post("/v2/repository/index", content=body).status_code == 400
    assert client.post("/v2/repository/index", content=b" " * 5000).status_code == 413


def test_the_configuration_of_a_model(client):
    about = client.get("/v2/models/cifar10/config").json()
    assert (about["name"], about["max_batch_size"]) == ("cifar10", 16)
    images, pictures = about["input"]
    assert images == {"name": "images", "data_type": "TYPE_UINT8", "dims": [32, 32, 3], "optional": True}
    assert (pictures["data_type"], pictures["dims"]) == ("TYPE_STRING", [1])
    assert about["output"][0] == {"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}


def test_types_that_are_not_understood(client):
    for headers in ({"Content-Type": "image/png"}, {"Content-Encoding": "br"}):
        assert client.post(INFER, content=b"{}", headers=headers).status_code == 415


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_bytes_tensors_come_back(elements):
    packed = pack_bytes(elements)
    assert packed == bytes_tensor(elements)
    if elements:
        assert unpack_bytes(memoryview(packed), len(elements), "x") == elements


@given(st.binary(max_size=60), st.integers(1, 6))
def test_damaged_bytes_tensors_are_refused_or_right(data, count):
    try:
        elements = unpack_bytes(memoryview(data), count, "x")
    except ServiceError as error:
        outcome = error.status
    else:
        outcome = pack_bytes(elements)
    assert outcome in (400, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LIMITS = Settings(max_batch=4, max_pixels=10_000)
READER = PictureReader(CIFAR10, LIMITS, PixelBudget(10_000))
FIELDS = ("name", "datatype", "shape", "data", "parameters")


@st.composite
def almost_right(draw):
    """A good body with some of its fields replaced by anything."""
    body = copy.deepcopy(GOOD) if draw(st.booleans()) else {"inputs": [{**PICTURES, "data": ["aGVsbG8="]}]}
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=3)):
        body["inputs"][0][field] = draw(JSON)
    for field in draw(st.lists(st.sampled_from(["id", "parameters", "outputs", "inputs"]), max_size=1)):
        body[field] = draw(JSON | st.lists(JSON, max_size=2))
    return body


@given(almost_right() | JSON, st.binary(max_size=40), st.none() | st.integers(-2, 60).map(str) | st.text(max_size=5))
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_malformed_bodies_are_refused_or_understood(body, extra, header):
    text = json.dumps(body).encode()
    if header == "0":
        header = str(len(text))
    try:
        images, request = parse(text + extra, header, READER, CIFAR10, LIMITS)
    except ServiceError as error:
        outcome = error.status
    else:
        outcome = images.dtype, images.shape[1:], len(request.outputs) > 0
    assert outcome in (400, 413, 422, (np.uint8, (32, 32, 3), True))


@given(almost_right(), st.binary(max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_malformed_requests_never_fail_the_service(client, body, extra):
    answer = client.post(INFER, content=json.dumps(body).encode() + extra)
    assert answer.status_code in (200, 400, 413, 422)
    assert ("error" in answer.json()) is (answer.status_code != 200)
