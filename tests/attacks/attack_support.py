"""A real service under attack: its memory, its log, and whether it answers others meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOSTILE = Path(__file__).with_name("hostile.py")


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Service:
    """``fracbnn serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def resident(self) -> float:
        """Megabytes of memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the service has ended")

    def ask(
        self, method: str = "GET", path: str = "/health/live", body: bytes | None = None, timeout: float = 20.0
    ) -> tuple[int, float]:
        """Status and seconds."""
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - begin
        finally:
            connection.close()


@contextlib.contextmanager
def serving(folder: Path, *options: str, descriptors: int | None = None) -> Iterator[Service]:
    """A service until the block ends; ``descriptors``: how many files it may have open at most."""

    port = free_port()
    start = "from fracbnn_pynq.cli.serve import command; command()"
    if descriptors is not None:
        limits = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors})); "
        start = limits + start
    command = [sys.executable, "-c", start, "--backend", "cpu", "--port", str(port), *options]
    log = folder / "log"
    with log.open("wb") as target:
        process = subprocess.Popen(command, stderr=target)
    service = Service(process, port, log)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                if service.ask()[0] == 200:
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, "the service did not start"
            time.sleep(0.05)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


class Probe:
    """Asks again and again how the service is, as a load balancer does, and now and then for a picture's label."""

    def __init__(self, service: Service, picture: bytes) -> None:
        self.slowest = 0.0
        self.slowest_picture = 0.0
        self.late = 0.0
        """Seconds by which this thread itself woke too late, at most: how busy the machine is with other things."""
        self.peak = 0.0
        self.problems: list[tuple[str, int | str]] = []
        self.asked = 0
        self._service = service
        self._picture = picture
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=watch) for watch in (self._health, self._pictures, self._memory)]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(30)

    def _health(self) -> None:
        while True:
            begin = time.monotonic()
            if self._ends.wait(0.1):
                return
            self.late = max(self.late, time.monotonic() - begin - 0.1)
            self.slowest = max(self.slowest, self._ask("GET", "/health/live", None, (200,)))
            self.asked += 1

    def _pictures(self) -> None:
        while not self._ends.wait(0.3):
            seconds = self._ask("POST", "/v1/classify", self._picture, (200, 503))
            self.slowest_picture = max(self.slowest_picture, seconds)

    def _memory(self) -> None:
        while not self._ends.wait(0.02):
            self.peak = max(self.peak, self._service.resident())

    def _ask(self, method: str, path: str, body: bytes | None, expected: tuple[int, ...]) -> float:
        begin = time.monotonic()
        try:
            status, _ = self._service.ask(method, path, body)
            if status not in expected:
                self.problems.append((path, status))
        except OSError as error:
            self.problems.append((path, repr(error)))
        return time.monotonic() - begin


@contextlib.contextmanager
def hostile(kind: str, service: Service, connections: int, seconds: float) -> Iterator[Any]:
    """Hostile clients until the block ends, but for so many seconds at most."""
    command = [sys.executable, str(HOSTILE), kind, str(service.port), str(connections), str(seconds)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
