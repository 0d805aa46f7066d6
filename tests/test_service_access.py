"""Browsers, proxies, other applications: under which names and paths the service answers, and to whom."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import uvicorn
from fastapi import FastAPI
from fracbnn_pynq.service.access import route_path
from fracbnn_pynq.service.application import create_app
from fracbnn_pynq.service.settings import Settings
from service_support import client_of, infer_body, random_images, running
from waiting_support import live_threads, until

from fracbnn_pynq.errors import BackendError


@contextlib.contextmanager
def by_uvicorn(app, **options):
    """An HTTP client of any application, run by uvicorn as it is until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


SITE = "https://friend.example"
INFER = "/v2/models/cifar10/infer"


@pytest.fixture(scope="module")
def client(classifier):
    with client_of({"cifar10": classifier}, Settings(allow_hosts=("board.example",))) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("192.168.1.9:81", True),
        ("[::1]:8000", True),
        ("board.example", True),
        ("board.example.:80", True),
        (socket.gethostname(), True),
        (f"{socket.gethostname()}.local:8000", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127", False),
        ("evil.example@localhost", False),
        ("localhost:x", False),
        ("[::1", False),
        ("1.2.3", False),
        ("", False),
    ],
)
def test_hosts(client, cat, host, allowed):
    for answer in (
        client.get("/v2", headers={"Host": host}),
        client.get("/", headers={"Host": host}),
        client.post("/v1/classify", content=cat.read_bytes(), headers={"Host": host}),
    ):
        assert answer.status_code == (200 if allowed else 403)
        assert allowed or "--allow-host" in answer.json()["error"]
    assert client.get("/health/ready", headers={"Host": host}).status_code == 200


def test_any_host_can_be_allowed(classifier):
    with client_of({"cifar10": classifier}, Settings(allow_hosts=("*",))) as client:
        assert client.get("/v2", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "OWN"}, True),
        ({"Origin": "OWN", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Origin": b"http://\xff\xfe"}, False),
        ({"Origin": "http://a:b:c@d"}, False),
    ],
)
def test_pages_of_other_sites_may_not_send(client, cat, headers, allowed):
    headers = {name: client.server.url if value == "OWN" else value for name, value in headers.items()}
    answer = client.post("/v1/classify", content=cat.read_bytes(), headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    assert set(answer.json()) == {"error"} or allowed
    assert client.get("/v2", headers=headers).status_code == 200  # which their pages cannot read


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Referer": "OWN/camera"}, 404),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Referer": "https://evil.example/page"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_watch(client, headers, status):
    headers = {name: value.replace("OWN", client.server.url) for name, value in headers.items()}
    assert client.get("/v1/stream.mjpg", headers=headers).status_code == status  # there is no camera


def test_with_a_token_no_page_needs_to_be_refused(classifier, cat):
    with client_of({"cifar10": classifier}, Settings(token="a-long-token")) as client:
        headers = {"Origin": SITE, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer a-long-token"}
        assert client.post("/v1/classify", content=cat.read_bytes(), headers=headers).status_code == 200


def test_sites_that_are_allowed(classifier, cat):
    with client_of({"cifar10": classifier}, Settings(cors_origins=(SITE,))) as client:
        asked = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "content-type, authorization, inference-header-content-length"
        preflight = client.options("/v1/classify", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == SITE
        assert "POST" in preflight.headers["access-control-allow-methods"]
        headers = {"Origin": SITE, "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/v1/classify", content=cat.read_bytes(), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == SITE
        assert "Origin" in answer.headers["vary"]
        refused = client.post("/v1/classify", content=b"x", headers=headers)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, SITE)
        other = {"Origin": "https://other.example"}
        assert client.post("/v1/classify", content=cat.read_bytes(), headers=other).status_code == 403
        assert client.options("/v1/classify", headers={**asked, **other}).status_code == 400


def test_without_allowed_sites_options_are_no_method(client):
    answer = client.options("/v1/classify", headers={"Origin": SITE, "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cors_origins", "friend.example"),
        ("cors_origins", "https://a/b"),
        ("allow_hosts", "http://a"),
        ("allow_hosts", "a:80"),
    ],
)
def test_settings_that_cannot_be_meant(name, value):
    with pytest.raises(BackendError, match=name):
        Settings(**{name: (value,)})


def test_every_get_has_a_head(client):
    paths = [path for path, verbs in client.get("/openapi.json").json()["paths"].items() if "get" in verbs]
    assert len(paths) > 15
    for path in [*paths, "/", "/docs", "/openapi.json", "/page/page.js"]:
        here = path.replace("{name}", "cifar10").replace("{version}", "1")
        full, head = client.get(here), client.head(here)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert head.headers["content-type"] == full.headers["content-type"]
        assert (
            abs(int(head.headers["content-length"]) - len(full.content)) <= 200
            if path == "/metrics"
            else (int(head.headers["content-length"]) == len(full.content))
        )
    assert client.head("/v1/classify").status_code == 405
    assert client.get("/v2").status_code == 200  # on the same connection


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [("/a/v2", "/a", "/v2"), ("/v2", "", "/v2"), ("/v2", "/a", "/v2"), ("/ab/v2", "/a", "/ab/v2"), ("/a/", "/a", "/")],
)
def test_paths_below_the_root(path, root, expected):
    assert route_path({"path": path, "root_path": root}) == expected
    assert route_path({"path": path}) == path


@pytest.mark.parametrize("root", ["/api", "/a/b"])
def test_below_a_proxys_path(classifier, root):
    app = create_app({"cifar10": classifier}, Settings(token="a-long-token"))
    with by_uvicorn(app, root_path=root) as client:  # the proxy takes its part of the path away
        for path in ("/health/live", "/v2/health/ready", "/", "/docs", "/page/page.js", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        assert client.get("/v2").status_code == 401
        assert client.get("/v2", headers={"Authorization": "Bearer a-long-token"}).status_code == 200
        assert client.head("/health/live").status_code == 200


def test_inside_another_application(classifier, cat):
    before = live_threads()
    app = create_app({"cifar10": classifier})

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        yield
        await app.state.inference.stop()

    other = FastAPI(lifespan=lifespan)
    other.mount("/cnn", app)
    with by_uvicorn(other) as client:
        for path in ("/cnn/v2", "/cnn/health/ready", "/cnn/", "/cnn/docs", "/cnn/openapi.json", "/cnn/metrics"):
            assert client.get(path).status_code == 200, path
        assert client.post("/cnn/v1/classify", content=cat.read_bytes()).json()["label"] == "cat"
        assert client.post(f"/cnn{INFER}", json=infer_body(random_images(1))).status_code == 200
        assert client.get("/cnn/nowhere").json()["error"]
        assert live_threads() - before
    until(lambda: live_threads() <= before)


def test_a_service_that_has_ended_does_not_begin_again(classifier):
    app = create_app({"cifar10": classifier})
    with by_uvicorn(app) as client:
        assert client.get("/health/ready").status_code == 200
    with by_uvicorn(app, lifespan="off") as client:
        assert client.get("/health/ready").status_code == 503


def test_answers_cannot_be_taken_for_something_else(client):
    for path in ("/", "/v2", "/metrics", "/nowhere", "/page/page.js"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/docs"):
        assert client.get(path).headers["x-frame-options"] == "DENY"


def exchange(server, request):
    """All that a server answers to these bytes until it closes the connection or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (b"GET http://localhost:8000/health/live HTTP/1.1\r\nHost: localhost\r\n" + CLOSE, 200, b'{"live":true}'),
        (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n" + CLOSE, 200, b"<!doctype html>"),
        (b"GET http://localhost?a HTTP/1.1\r\nHost: localhost\r\n" + CLOSE, 200, b"<!doctype html>"),
        (b"GET /health/live HTTP/1.0\r\n\r\n", 200, b'{"live":true}'),
        (b"GET /v2 HTTP/1.0\r\n\r\n", 200, b'"name":"fracbnn"'),
        (b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, b'"name":"fracbnn"'),
        (b"GET /v2 HTTP/1.1\r\nHost: a b\r\n" + CLOSE, 403, b"Host"),
        (b"NONSENSE\r\n\r\n", 400, b"malformed HTTP"),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, b"malformed"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, b"malformed"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n" + CLOSE, 404, b"nothing is at"),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, b"malformed"),
        (
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            b"chunked",
        ),
        (b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 400, b"malformed"),
        (
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
            400,
            b"malformed",
        ),
        (
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n"
            + CLOSE
            + b"x",
            422,
            b"expected a picture",
        ),
    ],
)
def test_http_in_unusual_forms(client, request_, status, said):
    answer = exchange(client.server, request_)
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert said in body
    if status >= 400:
        assert body.startswith(b'{"error":"')
        assert b"\r\nx-request-id: " in head
        assert b"\r\ncontent-type: application/json" in head


def test_nothing_is_asked_for_that_is_refused_anyway(client):
    head = b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
    assert exchange(client.server, head + CLOSE).startswith(b"HTTP/1.1 404 ")


def test_a_refused_body_is_read_on_so_that_the_answer_is_seen(client, classifier):
    with running({"cifar10": classifier}, Settings(max_body=100_000)) as server:
        for length in (b"Content-Length: 3000000", b"Transfer-Encoding: chunked"):
            body = b"x" * 3_000_000 if b"Length" in length else b"2dc6c0\r\n" + b"x" * 3_000_000 + b"\r\n0\r\n\r\n"
            head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"
            assert exchange(server, head + body).startswith(b"HTTP/1.1 413 ")
