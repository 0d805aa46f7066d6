"""Connections that say nothing, too much or nonsense: each of them ends, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from fracbnn_pynq.service import connections, protocol
from fracbnn_pynq.service.connections import FEWEST, Registry, most_connections
from fracbnn_pynq.service.server import _Handler
from fracbnn_pynq.service.settings import Settings
from service_support import client_of, infer_body, random_images
from waiting_support import until

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def hasty():
    """Limits of time so short that a test can wait for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "SEND_TIMEOUT_S", "LINGER_S"):
            patch.setattr(protocol, name, 0.3)
        yield


@pytest.fixture(scope="module")
def client(classifier, hasty):
    with client_of({"cifar10": classifier}, Settings(body_timeout=0.3)) as client:
        yield client


def connect(client):
    return socket.create_connection(("127.0.0.1", client.server.port), timeout=5)


def rest_of(connection):
    """What comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"", b"\r\n"),
        (b"", b"G"),
        (b"", b"GET / HTTP/1.1\r\nHo"),
        (GET, b""),
        (GET, b"\r\n"),
        (GET, b"\r\n" * 1000),
        (GET, b"G"),
        (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b"a"),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b"a"),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"", POST + b"Content-Length: 1000\r\n\r\na"),
        (b"", POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: "),
        (b"", POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 20),
        (b"", b"POST /v1/trace HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na"),
    ],
)
def test_every_state_ends(client, first, then):
    with connect(client) as connection:
        if first:
            connection.sendall(first)
            assert connection.recv(65536).startswith(b"HTTP/1.1 ")
        begin = time.monotonic()
        connection.sendall(then)
        rest_of(connection)
        assert 0.1 < time.monotonic() - begin < 3
    until(lambda: not any(of.transport.is_closing() for of in client.server.server_state.connections))


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/v2/models/cifar10/infer", "/nothing"])
def test_a_refused_body_is_not_asked_for(client, caplog, path):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(client) as connection:
        connection.sendall(head.encode() + b"no length\r\n")
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"100 Continue" not in answer
    until(lambda: not any(of.transport.is_closing() for of in client.server.server_state.connections))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_byte_now_and_then_does_not_help(client):
    with connect(client) as connection:
        connection.sendall(GET)
        assert connection.recv(65536)
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 3:
                connection.sendall(b"\r\n")
                time.sleep(0.05)
        assert time.monotonic() - begin < 2


def test_a_client_that_takes_no_answer_is_sent_away(client):
    body, headers = infer_body(random_images(200), binary=True)
    head = "POST /v2/models/cifar10/infer HTTP/1.1\r\nHost: localhost\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        connection.connect(("127.0.0.1", client.server.port))
        sent = 0
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 10:
                with contextlib.suppress(TimeoutError):
                    sent += connection.send(request)
        assert time.monotonic() - begin < 9
        assert sent


@pytest.mark.parametrize(
    ("name", "sent", "piece"),
    [
        ("trailers", POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a: " + b"b" * 4000 + b"\r\n"),
        ("one trailer", POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\na: ", b"b" * 4000),
        ("extensions", POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"b" * 4000),
        ("target", b"GET /", b"b" * 4000),
        ("headers", b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 700),
        ("requests", GET * 2, GET * 100),
    ],
)
def test_what_has_no_end_is_ended(client, name, sent, piece):
    with connect(client) as connection:
        connection.sendall(sent)
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 8:
                connection.sendall(piece)
        assert time.monotonic() - begin < 4  # it takes the rest for a moment, so that the answer is seen
        assert all(len(seen.headers or ()) < 1000 for seen in list(client.server.server_state.connections))
    assert client.get("/health/live").status_code == 200


def test_a_connection_is_refused_once(client, caplog):
    """Malformed and too long at once."""
    with caplog.at_level(logging.INFO), connect(client) as connection:
        connection.sendall(b"\0" * 200_000)
        answer = rest_of(connection)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len([record for record in caplog.records if "a connection is closed" in record.getMessage()]) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_too_many_requests_ahead_end_in_silence(client, caplog):
    """Answers that have begun are not mixed with the refusal, and nothing is written after the end."""
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            with connect(client) as connection:
                connection.sendall(request)
                connection.sendall(request * 100)
                rest_of(connection)
        assert client.get("/health/live").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record for record in caplog.records if "ahead of their answers" in record.getMessage()]


def test_headers_after_a_body_are_none_of_the_next_request(client, classifier):
    chunked = b"POST /health/live HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(client) as connection:
        connection.sendall(chunked + b"1\r\na\r\n0\r\nX-Request-ID: smuggled\r\n\r\n" + GET)
        time.sleep(0.1)
        answers = connection.recv(65536)
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"smuggled" not in answers


def test_the_longest_waiting_connection_gives_way(classifier):
    with client_of({"cifar10": classifier}, Settings(connections=FEWEST)) as client:
        assert client.server.registry.limit == FEWEST
        held = [connect(client) for _ in range(FEWEST)]
        try:
            for connection in held:
                connection.sendall(b"GET")
            for _ in range(5):
                with connect(client) as connection:
                    connection.sendall(GET)
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert client.server.registry.abandoned >= 1
            assert rest_of(held[0]) == b""
        finally:
            for connection in held:
                connection.close()


class Connection:
    def __init__(self):
        self.abandoned = False

    def abandon(self):
        self.abandoned = True


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one, as the registry sees them."""
    now = [100.0]
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_who_gives_way(clock):
    registry = Registry(3)
    waiting, sending, served, new = (Connection() for _ in range(4))
    for connection in (waiting, sending, served):
        assert registry.admit(connection)
        registry.idle(connection)
    registry.receiving(sending)
    registry.busy(served)
    clock[0] += 1
    assert registry.admit(new)
    assert (waiting.abandoned, sending.abandoned, served.abandoned) == (True, False, False)
    registry.busy(new)
    another = Connection()
    assert registry.admit(another)
    assert sending.abandoned
    registry.busy(another)
    assert not registry.admit(Connection())
    assert registry.refused == 1
    registry.forget(served)
    registry.idle(served)  # it is none of them any more
    assert len(registry) == 2
    assert registry.admit(Connection())


def test_who_has_just_connected_does_not_give_way_to_those_who_send_for_ever(clock):
    registry = Registry(3)
    slow, slower, new = (Connection() for _ in range(3))
    for connection in (slower, slow):
        assert registry.admit(connection)
        registry.idle(connection)
        registry.receiving(connection)
    assert registry.admit(new)
    registry.idle(new)
    clock[0] += 0.5
    registry.idle(new)  # still, and not anew
    assert registry.admit(Connection())
    assert (slower.abandoned, slow.abandoned, new.abandoned) == (True, False, False)
    clock[0] += 0.5
    assert registry.admit(Connection())
    assert (slow.abandoned, new.abandoned) == (False, True)


def test_where_all_have_just_connected_the_first_gives_way(clock):
    registry = Registry(2)
    first, second = Connection(), Connection()
    for connection in (first, second):
        assert registry.admit(connection)
        registry.idle(connection)
    assert registry.admit(Connection())
    assert (first.abandoned, second.abandoned) == (True, False)


def test_connections_fit_into_the_descriptors(monkeypatch):
    limits = [(300, 400)]
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert most_connections(100) == 100
    assert most_connections(1000) == 400 - connections.RESERVED_DESCRIPTORS
    assert limits[-1] == (400, 400)
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (20, 20))
    assert most_connections(1000) == FEWEST


def test_failures_to_accept_are_said_once_in_a_while(caplog):
    async def fail():
        asyncio.get_running_loop().set_exception_handler(_Handler())
        for _ in range(1000):
            context = {"message": "socket.accept() out of system resource", "exception": OSError(24, "too many")}
            asyncio.get_running_loop().call_exception_handler(context)
        asyncio.get_running_loop().call_exception_handler({"message": "something else"})

    with caplog.at_level(logging.ERROR):
        asyncio.run(fail())
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "cannot be accepted" in text]) == 1
    assert len([text for text in said if "something else" in text]) == 1


def test_answers_say_that_the_connection_ends_once_a_shutdown_has_begun(classifier):
    with client_of({"cifar10": classifier}, Settings(drain=0.5)) as client:
        assert "connection" not in client.get("/health/live").headers
        client.server.handle_exit(15, None)
        assert client.get("/health/live").headers["connection"] == "close"
        assert client.get("/v2").headers["connection"] == "close"
