"""Forms as clients really send them, and as nobody should."""

# ruff: noqa: E402 - what is imported late needs the service's extra

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import time
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from fracbnn_pynq.service.compression import MAX_MEMBERS, coding_of, unpacked
from fracbnn_pynq.service.errors import ServiceError
from fracbnn_pynq.service.forms import MAX_HEADERS, parse_form
from fracbnn_pynq.service.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from service_support import client_of

TYPE = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def client(classifier):
    with client_of({"cifar10": classifier}, Settings(max_body=1 << 20, max_batch=8)) as client:
        yield client


def form(*parts, boundary=b"b"):
    """A body of parts, each (lines of headers, data)."""
    written = [b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, b"\r\n".join(lines), data) for lines, data in parts]
    return b"".join(written) + b"--%s--\r\n" % boundary


def said(*parameters):
    return [b"Content-Disposition: form-data; " + b"; ".join(parameters)]


def parsed(body, kind=TYPE, max_parts=100):
    return parse_form(body, kind, max_parts=max_parts)


@given(st.lists(st.tuples(st.text("abc.-_ é猫", max_size=9), st.binary(max_size=80)), min_size=1, max_size=4))
def test_forms_come_back(files):
    request = httpx.Request("POST", "http://x", files=[("file", (name.strip() or "x", data)) for name, data in files])
    found = parsed(request.read(), request.headers["content-type"])
    assert [part.data for part in found] == [data for _, data in files]
    assert [part.file for part in found] == [name.strip() or "x" for name, _ in files]
    assert {part.field for part in found} == {"file"}


@given(st.binary(max_size=200), st.booleans())
def test_damaged_forms_are_refused_or_read(data, framed):
    body = b"--b\r\n" + data + b"\r\n--b--\r\n" if framed else data
    try:
        parts = parsed(body)
    except ServiceError as error:
        right = error.status == 400
    else:
        right = all(part.data in body for part in parts)
    assert right


@pytest.mark.parametrize(
    ("parameters", "field", "file"),
    [
        ([b'name="f"', b'filename="a.jpg"'], "f", "a.jpg"),
        ([b"name=f", b"filename=a.jpg"], "f", "a.jpg"),
        ([b"name=f", b"filename=a.jpg", b"filename*=utf-8''a.jpg"], "f", "a.jpg"),  # .NET
        ([b'name="f"', b"filename*=utf-8''%E7%8C%AB.jpg"], "f", "猫.jpg"),
        ([b'name = "f"', b'filename = "a b.jpg"'], "f", "a b.jpg"),
        ([b'FILENAME="a.jpg"', b'Name="f"'], "f", "a.jpg"),
        ([b'name="f"', rb'filename="a\"b.jpg"'], "f", 'a"b.jpg'),
        ([b'name="f"', b'filename="a;b=c.jpg"'], "f", "a;b=c.jpg"),
        ([b'name="f"', 'filename="é.jpg"'.encode()], "f", "é.jpg"),
        ([b'name="f"', b'filename=""'], "f", ""),
        ([b'name="f"'], "f", None),
        ([b"filename*=no-such-charset''%ff"], "", "ÿ"),
        ([b"filename*=utf-8"], "", ""),
        ([], "", None),
    ],
)
def test_names_in_every_form(parameters, field, file):
    (part,) = parsed(form((said(*parameters), b"data")))
    assert (part.field, part.data) == (field, b"data")
    assert part.file == file or (file == "" and part.file in ("", "utf-8"))


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('multipart/form-data; boundary="b c"', b"b c"),
        ("multipart/form-data; Boundary = b", b"b"),
        (f"multipart/form-data; boundary={'-' * 60}{'b' * 90}", b"-" * 60 + b"b" * 90),
        ("multipart/form-data; charset=utf-8; boundary=b", b"b"),
    ],
)
def test_boundaries(kind, boundary):
    (part,) = parsed(form((said(b'name="f"'), b"da--ta"), boundary=boundary), kind)
    assert part.data == b"da--ta"


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; b"])
def test_a_boundary_is_needed(kind):
    with pytest.raises(ServiceError, match="boundary"):
        parsed(form((said(b'name="f"'), b"data")), kind)


def test_parts_that_are_encoded():
    data = bytes(range(256)) * 9
    lines = [*said(b'name="f"', b'filename="a"'), b"Content-Transfer-Encoding: Base64"]
    (part,) = parsed(form((lines, base64.encodebytes(data))))
    assert part.data == data
    (part,) = parsed(form(([*said(b'name="f"'), b"Content-Transfer-Encoding: quoted-printable"], b"a=3Db")))
    assert part.data == b"a=b"
    for coding, sent in ((b"base64", b"%%%"), (b"x-uuencode", b"x")):
        with pytest.raises(ServiceError, match="base64"):
            parsed(form(([*said(b'name="f"'), b"Content-Transfer-Encoding: " + coding], sent)))


def test_what_stands_around_the_parts_is_left_out():
    (part,) = parsed(b"This is a form.\r\n" + form((said(b'name="f"'), b"data")) + b"epilogue")
    assert part.data == b"data"


@pytest.mark.parametrize("cut", [5, 30, 60])
def test_cut_off_forms_are_refused(cut):
    with pytest.raises(ServiceError, match="form: ") as refused:
        parsed(form((said(b'name="f"', b'filename="a.jpg"'), b"data" * 5))[:cut])
    assert refused.value.status == 400


def test_parts_and_their_headers_are_limited():
    body = form(*[(said(b'name="f"'), b"")] * 5)
    assert len(parsed(body, max_parts=5)) == 5
    with pytest.raises(ServiceError, match="at most 4 pictures, found 5") as refused:
        parsed(body, max_parts=4)
    assert refused.value.status == 413
    for headers in ([b"X: " + b"x" * MAX_HEADERS], [b"X%d: y" % i for i in range(MAX_HEADERS // 4)], [b"x" * 9000]):
        with pytest.raises(ServiceError) as refused:
            parsed(form((headers, b"data")))
        assert refused.value.status == 400


@pytest.mark.parametrize(
    "part", [b"\r\n--b\r\n\r\n", b"\r\n--b\r\nA: b\r\n\r\nx", b"\r\n", b"\r\n--b", b"--b\r\n", b";"]
)
def test_megabytes_of_nothing_end_soon(part):
    body = part * ((8 << 20) // len(part)) + b"\r\n--b--\r\n"
    start = time.perf_counter()
    with contextlib.suppress(ServiceError):
        assert parsed(body, max_parts=256) == []
    assert time.perf_counter() - start < 2


def test_a_form_is_left_off_when_nobody_waits():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise ServiceError(499, "gone")

    with pytest.raises(ServiceError, match="gone"):
        parse_form(form((said(b'name="f"'), b"x" * 1_000_000)), TYPE, max_parts=1, check=check)


def test_every_part_has_its_place_in_the_answer(client, classifier, cat):
    photo = cat.read_bytes()
    body = form(
        (said(b'name="f"', b'filename="a.jpg"'), photo),
        (said(b'name="f"', b"filename*=utf-8''%E7%8C%AB.jpg"), photo),
        (said(b"name=note"), b"a text"),
        (said(b"name=file", b"filename=d.jpg"), photo),
        ([*said(b'name="f"', b'filename="e.jpg"'), b"Content-Transfer-Encoding: base64"], base64.encodebytes(photo)),
        ([b"X: y"], photo),
        (said(b'name="empty"', b'filename=""'), b""),
    )
    answer = client.post("/v1/classify/batch?top=1", content=body, headers={"Content-Type": TYPE})
    results = answer.json()["results"]
    assert [result["file"] for result in results] == ["a.jpg", "猫.jpg", "note", "d.jpg", "e.jpg", "", ""]
    assert [result.get("label") for result in results] == ["cat", "cat", None, "cat", "cat", "cat", None]
    assert all(("error" in result) is (result.get("label") is None) for result in results)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([said(b"name=file", b"filename=a.jpg")], 200),
        ([said(b"name=note"), said(b'name="x"', b'filename="a.jpg"')], 200),
        ([said(b"name=note"), said(b"name=file")], 200),
        ([said(b"name=anything")], 200),
        ([said(b"name=one"), said(b"name=two")], 413),
        ([said(b"filename=a"), said(b"filename=b")], 413),
        ([said(b"name=a")] * 18, 413),
    ],
)
def test_one_picture_of_a_form(client, cat, parts, status):
    body = form(*((lines, b"text" if b"note" in lines[0] else cat.read_bytes()[:50_000]) for lines in parts))
    if status == 200:
        body = form(*((lines, b"text" if b"note" in lines[0] else cat.read_bytes()) for lines in parts))
    answer = client.post("/v1/classify", content=body, headers={"Content-Type": TYPE})
    assert answer.status_code == status
    assert ("label" in answer.json()) is (status == 200)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "video/mp4", "IMAGE/PNG", None])
def test_a_picture_is_one_whatever_its_type_says(client, cat, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    assert client.post("/v1/classify", content=cat.read_bytes(), headers=headers).json()["label"] == "cat"
    assert client.post("/v1/classify/batch", content=cat.read_bytes(), headers=headers).status_code == 200


def compressions():
    def raw(data):
        made = zlib.compressobj(wbits=-15)
        return made.compress(data) + made.flush()

    two = lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])  # noqa: E731
    return [("gzip", gzip.compress), ("x-gzip", two), ("deflate", zlib.compress), ("Deflate", raw), ("identity", bytes)]


@pytest.mark.parametrize(("coding", "pack"), compressions())
def test_compressed_bodies(client, cat, coding, pack):
    photo = cat.read_bytes()
    headers = {"Content-Encoding": coding}
    assert client.post("/v1/classify", content=pack(photo), headers=headers).json()["label"] == "cat"
    headers["Content-Type"] = TYPE
    body = form((said(b'name="f"', b'filename="a"'), photo))
    assert client.post("/v1/classify/batch", content=pack(body), headers=headers).json()["results"][0]["label"] == "cat"
    assert unpacked(pack(photo), coding_of(coding), len(photo)) == photo
    if coding != "identity":
        with pytest.raises(ServiceError, match="when unpacked") as refused:
            unpacked(pack(photo), coding_of(coding), len(photo) - 1)
        assert refused.value.status == 413


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_bombs_are_refused(client, pack):
    bomb = pack(bytes(100 << 20))
    coding = "gzip" if pack is gzip.compress else "deflate"
    start = time.perf_counter()
    answer = client.post("/v1/classify", content=bomb, headers={"Content-Encoding": coding})
    assert (answer.status_code, "unpacked" in answer.json()["error"]) == (413, True)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b"x" * 1000)[:-3]),
        ("gzip", gzip.compress(b"x") + b"garbage"),
        ("gzip", gzip.compress(b"x") * (MAX_MEMBERS + 1)),
        ("deflate", b"no deflate"),
        ("deflate", zlib.compress(b"x" * 1000)[:-5]),
        ("deflate", zlib.compress(b"x") + b"garbage"),
    ],
    ids=["no gzip", "gzip cut", "gzip and more", "many members", "no deflate", "deflate cut", "deflate and more"],
)
def test_damaged_compression_is_refused(coding, body):
    with pytest.raises(ServiceError) as refused:
        unpacked(body, coding, 1 << 20)
    assert refused.value.status == 400


def test_other_codings_are_named(client):
    answer = client.post("/v1/classify", content=b"x", headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_whatever_claims_to_be_compressed(data, coding):
    for body in (data, gzip.compress(data)[: len(data)], zlib.compress(data) + data[:1]):
        try:
            found = len(unpacked(body, coding, 1000))
        except ServiceError as error:
            found = error.status
        assert found <= 1000


def test_pixels_of_a_request_are_limited(classifier):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1200, 1000, 3), np.uint8)).save(buffer, "PNG")
    files = [("file", ("a.png", buffer.getvalue()))]
    with client_of({"cifar10": classifier}, Settings(max_request_pixels=5_000_000)) as client:
        assert client.post("/v1/classify/batch", files=files * 4).status_code == 200
        refused = client.post("/v1/classify/batch", files=files * 5)
        assert (refused.status_code, "5000000 pixels together" in refused.json()["error"]) == (413, True)
