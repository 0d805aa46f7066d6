"""Inputs that are nearly right, thousands a second: what reads them either understands them or says what is wrong.

Each runs for ``FRACBNN_FUZZ_SECONDS`` (1 in the suite; ``python -m pytest tests/attacks/test_fuzz.py`` with 1000 and
more is what to run before a release), from a seed that a failure names.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import socket
import time
import zlib

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from fracbnn_pynq.service.budget import PixelBudget
from fracbnn_pynq.service.compression import unpacked
from fracbnn_pynq.service.errors import ServiceError
from fracbnn_pynq.service.forms import parse_form
from fracbnn_pynq.service.media import PictureReader
from fracbnn_pynq.service.oip_request import parse
from fracbnn_pynq.service.settings import Settings
from service_support import bytes_tensor, infer_body, random_images, running

from fracbnn_pynq.networks import CIFAR10

SECONDS = float(os.environ.get("FRACBNN_FUZZ_SECONDS", "1"))
SEED = int(os.environ.get("FRACBNN_FUZZ_SEED", "0"))
SLOWEST_S = 2.0
LIMITS = Settings(max_batch=4, max_pixels=10_000, max_json=100_000, max_body=200_000)
REFUSALS = (400, 413, 415, 422)

pytestmark = pytest.mark.timeout(60 + 2 * SECONDS)

WORDS = [b"\r\n", b"--b", b"--b--", b"\r\n--b\r\n", b":", b";", b'"', b"=", b"filename", b"name=", b"filename*=utf-8''"]
WORDS += [b"[", b"]", b"{", b"}", b",", b"null", b"true", b"-1", b"256", b"1e9", b'"data":', b'"shape":[', b"\\u0000"]
WORDS += [
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\n",
    b"Content-Length: 5\r\n",
    b"chunked",
    b"0\r\n\r\n",
]
WORDS += [b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n"]


def mutated(chance, data, others):
    """The data with a few changes, as fuzzers make them."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        length = min(chance.choice((1, 2, 8, 100)), len(data) - place)
        change = chance.randrange(7)
        if change == 0 and length:
            data[place] = chance.randrange(256)
        elif change == 1:
            del data[place : place + length]
        elif change == 2:
            data[place:place] = chance.choice(WORDS)
        elif change == 3:
            data[place:place] = data[place : place + length] * chance.choice((1, 3, 50))
        elif change == 4:
            data[place : place + length] = bytes(chance.randrange(256) for _ in range(length))
        elif change == 5:
            other = chance.choice(others)
            data[place:] = other[chance.randrange(len(other) + 1) :]
        else:
            del data[place:]
    return bytes(data[:50_000])


def fuzz(examples, read):
    """Call ``read`` with the examples, which it must understand, and then with changed ones for some time."""
    chance = random.Random(SEED)
    for example in examples:
        read(example)
    found = list(examples)
    count = understood = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = mutated(chance, chance.choice(found), examples)
        begin = time.monotonic()
        status = 200
        try:
            read(data)
        except ServiceError as error:
            status = error.status
        except Exception as error:
            raise AssertionError(f"seed {SEED}, input {count}: {data!r}") from error
        assert status in (200, *REFUSALS), data
        if status == 200:
            understood += 1
            if len(found) < 1000:
                found.append(data)
        assert time.monotonic() - begin < SLOWEST_S, data
        count += 1
    print(f"\n{count} inputs, {understood} of them understood")
    assert count > 50 * min(SECONDS, 1)


def test_forms():
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    other = b"--b\r\nContent-Disposition: form-data; name=f; filename*=utf-8''%E7%8C%AB.jpg\r\n\r\n"
    coded = b"--b\r\ncontent-disposition: form-data\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
    end = b"\r\n--b--\r\n"
    examples = [head + b"data" + end, head + b"\r\n" + head + b"x" * 300 + b"\r\n" + other + end, coded + other + end]

    def read(data):
        parts = parse_form(data, "multipart/form-data; boundary=b", max_parts=20)
        assert all(isinstance(part.data, bytes) and isinstance(part.field, str) for part in parts)
        assert sum(len(part.data) for part in parts) <= len(data)

    fuzz(examples, read)


def test_types_of_forms():
    examples = [b"multipart/form-data; boundary=b", b'multipart/form-data; charset=utf-8; boundary="b"']

    def read(data):
        parse_form(b"--b\r\n\r\nx\r\n--b--\r\n", data.decode("latin-1"), max_parts=2)

    fuzz(examples, read)


def oip(binary):
    def read(data):
        header = None
        if binary:
            length, _, data = data.partition(b"|")
            header = length.decode("latin-1")
        images, request = parse(data, header, PictureReader(CIFAR10, LIMITS, PixelBudget(9)), CIFAR10, LIMITS)
        assert images.shape[1:] == (32, 32, 3)
        assert request.outputs

    return read


def test_json_requests():
    body = infer_body(random_images(1) // 100, id="one", outputs=[{"name": "logits"}])
    nested = infer_body(random_images(1))
    nested["inputs"][0]["data"] = (random_images(1) // 100).tolist()
    fuzz([json.dumps(document).encode() for document in (body, nested)], oip(binary=False))


def test_binary_requests(cat):
    body, headers = infer_body(random_images(1), binary=True, parameters={"binary_data_output": True})
    (length,) = headers.values()
    pictures = bytes_tensor([PNG])
    tensor = {"name": "pictures", "datatype": "BYTES", "shape": [1]}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(pictures)}}]}).encode()
    fuzz([length.encode() + b"|" + body, b"%d|" % len(text) + text + pictures], oip(binary=True))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bodies(coding):
    data = bytes(range(256)) * 20
    pack = gzip.compress if coding == "gzip" else zlib.compress

    def read(body):
        assert len(unpacked(body, coding, 10_000)) <= 10_000

    fuzz([pack(data), pack(b""), pack(b"x")], read)


def test_http(classifier, cat):
    """Bytes on connections: no answer is a 500, the service stays, and no connection or place is left over."""
    end = b"Connection: close\r\n\r\n"
    host = b"Host: localhost\r\n"
    form = b"--b\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nx\r\n--b--\r\n"
    infer = json.dumps(infer_body(random_images(1))).encode()
    classify, typed = b"POST /v1/classify HTTP/1.1\r\n", b"Content-Type: multipart/form-data; boundary=b\r\n"
    length = b"Content-Length: %d\r\n"
    examples = [
        b"GET /v2 HTTP/1.1\r\n" + host + end,
        b"GET http://localhost/health/live HTTP/1.0\r\n" + host + end,
        classify + host + length % len(PNG) + end + PNG,
        classify
        + host
        + b"Transfer-Encoding: chunked\r\n"
        + end
        + b"%x\r\n" % len(PNG)
        + PNG
        + b"\r\n0\r\na: b\r\n\r\n",
        b"POST /v1/classify/batch?top=2 HTTP/1.1\r\n" + host + typed + length % len(form) + end + form,
        b"POST /v2/models/cifar10/infer HTTP/1.1\r\n" + host + length % len(infer) + end + infer,
        b"OPTIONS /v1/classify HTTP/1.1\r\nOrigin: http://x\r\n" + host + end,
    ]
    with running({"cifar10": classifier}, Settings(max_body=100_000, body_timeout=1)) as server:

        def read(data):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", server.port), timeout=2) as sender,
            ):
                sender.sendall(data)
                sender.shutdown(socket.SHUT_WR)
                while sender.recv(65536):
                    pass

        fuzz(examples, read)
        statuses = server.inference.http.by_status
        assert not [status for status in statuses if status >= 500 and status not in (501, 503)], statuses
        deadline = time.monotonic() + 15
        while server.inference.workers["cifar10"].admitted or server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)
