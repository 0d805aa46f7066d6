"""Clients that want to do harm, in a process of their own: ``python hostile.py KIND PORT CONNECTIONS SECONDS``.

They connect to 127.0.0.1 only and end by themselves.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator

POST = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"
BATCH = b"POST /v1/classify/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
INFER = b"POST /v2/models/cifar10/infer HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_PAUSE_S = 0.2
_OPENED_AT_ONCE = 100
_BODY = 31 << 20


def drip(first: bytes, then: bytes) -> Iterator[bytes]:
    """Something, and then a little of something else for ever."""
    yield first
    while True:
        yield b""
        yield then


def flood(first: bytes, piece: bytes) -> Iterator[bytes]:
    """Something, and then as much of something else as the service takes."""
    yield first
    while True:
        yield piece


def whole(head: bytes, body: bytes) -> Iterator[bytes]:
    """A request that is complete."""
    yield head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def one_bit_png(edge: int = 6300) -> bytes:
    """40 megapixels in 5 KB."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * (1 + (edge + 7) // 8)) for _ in range(edge)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    head = edge.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def repeated(piece: bytes, end: bytes = b"", size: int = _BODY) -> bytes:
    return piece * (size // len(piece)) + end


def huge_batch() -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + one_bit_png() + b"\r\n"
    return part * 250 + b"--b--\r\n"


def nested() -> bytes:
    data = repeated(b"[],", b"[]")
    return b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,32,32,3],"data":[' + data + b"]}]}"


def bomb() -> bytes:
    made = io.BytesIO()
    with gzip.open(made, "wb") as target:
        for _ in range(1000):
            target.write(bytes(1 << 20))
    return made.getvalue()


Kind = Callable[[], Iterator[bytes]]

IDLE: dict[str, Kind] = {
    "nothing": lambda: drip(b"", b""),
    "line breaks": lambda: drip(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n"),
    "half a head": lambda: drip(b"GET / HTTP/1.1\r\n", b"A: b\r\n"),
    "half a body": lambda: drip(POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 250_000, b"x"),
    "half a chunk": lambda: drip(POST + CHUNKED + b"ffff\r\n" + b"x" * 60_000, b"x"),
    "refused body": lambda: drip(b"POST /no HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n", b"x"),
    "trailers": lambda: flood(POST + CHUNKED + b"1\r\na\r\n0\r\n", b"a: " + b"b" * 4000 + b"\r\n"),
    "extensions": lambda: flood(POST + CHUNKED + b"1;", b"b" * 4000),
    "pipelined": lambda: flood(b"", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500),
    "no answer taken": lambda: flood(b"", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8),
}
"""For many connections; each is opened again when it is closed."""

HEAVY: dict[str, Kind] = {
    "tiny parts": lambda: whole(BATCH, repeated(b"\r\n--b\r\n\r\n", b"\r\n--b--")),
    "tiny files": lambda: whole(BATCH, repeated(b"\r\n--b\r\nA: b\r\n\r\nx", b"\r\n--b--")),
    "nested lists": lambda: whole(INFER, nested()),
    "nested lists, 8 MB": lambda: whole(INFER, b'{"a":[' + repeated(b"[],", b"[]", 7 << 20) + b"]}"),
    "numbers": lambda: whole(INFER, json.dumps({"inputs": [1] * 2_000_000}).encode()),
    "bomb": lambda: whole(POST + b"Content-Encoding: gzip\r\n", bomb()),
    "huge batch": lambda: whole(BATCH, huge_batch()),
    "too long": lambda: flood(POST + CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
}
"""For a few connections."""


class _Client:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.socket: socket.socket | None = None
        self.again = 0.0

    def open(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self.pieces = self.kind()
        self.left = memoryview(b"")

    @property
    def _open(self) -> socket.socket:
        assert self.socket is not None, "open() comes first"
        return self.socket

    def act(self) -> bool:
        """Send what can be sent; whether the connection is still there."""
        try:
            if self.kind is not IDLE["no answer taken"]:
                while self._open.recv(65536):
                    pass
                return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            while True:
                if not self.left:
                    piece = next(self.pieces, None)
                    if not piece:  # that was all, or a pause
                        return True
                    self.left = memoryview(piece)
                self.left = self.left[self._open.send(self.left) :]
        except BlockingIOError:
            return True
        except OSError:
            return False


def main(group: str, port: int, connections: int, seconds: float) -> None:
    """Attack with all kinds of a group in turn, or with the kind of that name."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 100), hard))
    groups = {"idle": IDLE, "heavy": HEAVY}
    kinds = list(groups[group].values()) if group in groups else [{**IDLE, **HEAVY}[group]]
    clients = [_Client(kinds[i % len(kinds)]) for i in range(connections)]
    end = time.monotonic() + seconds
    opened = 0
    while time.monotonic() < end:
        begin = time.monotonic()
        enough = opened + _OPENED_AT_ONCE
        for client in clients:
            if time.monotonic() > end:
                break
            if client.socket is None and client.again <= begin and opened < enough:
                client.open(port)
                opened += 1
            if client.socket is not None and not client.act():
                client.socket.close()
                client.socket, client.again = None, begin + 1
        time.sleep(max(0.0, _PAUSE_S - (time.monotonic() - begin)))
    print(opened, sum(client.socket is not None for client in clients))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
