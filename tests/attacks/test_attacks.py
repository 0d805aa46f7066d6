"""Attacks on a real service: it goes on answering within a second, and its memory has a ceiling.

``FRACBNN_ATTACK_SECONDS`` makes them longer than the suite's few seconds, and a thousand connections are then of each
kind alone, too; ``FRACBNN_ATTACK_RUNS`` makes the shutdowns more.
"""

from __future__ import annotations

import collections
import http.client
import os
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from attack_support import Probe, hostile, serving
from hostile import HEAVY, IDLE

SECONDS = float(os.environ.get("FRACBNN_ATTACK_SECONDS", "4"))
LONG = "FRACBNN_ATTACK_SECONDS" in os.environ
RUNS = int(os.environ.get("FRACBNN_ATTACK_RUNS", "2"))
MOST_GROWTH_MB = 150
WITHIN_S = 1.0
SEVERAL = 10
"""An answer takes several threads' turns, each of which may come as late as the probe's own on a busy machine."""

pytestmark = pytest.mark.timeout(120 + 10 * SECONDS + 10 * RUNS)


def report(what, probe, before):
    pictures = f"pictures {probe.slowest_picture:.3f} s, late {probe.late:.3f} s"
    slowest = f"health {probe.slowest:.3f} s at most of {probe.asked}, {pictures}"
    print(f"\n{what}: {probe.peak - before:.0f} MB more, {slowest}")


def check(service, probe, before):
    assert not probe.problems, probe.problems[:5]
    assert probe.asked > SECONDS
    assert probe.slowest < WITHIN_S + SEVERAL * probe.late
    assert probe.peak - before < MOST_GROWTH_MB
    assert "Traceback" not in service.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["idle", *(IDLE if LONG else ())])
def test_a_thousand_hostile_connections(tmp_path, cat, kind):
    with serving(tmp_path, "--log-format", "json") as service:
        assert service.ask("POST", "/v1/classify", cat.read_bytes())[0] == 200
        before = service.resident()
        with hostile(kind, service, 1000, 4 * SECONDS), Probe(service, cat.read_bytes()) as probe:
            time.sleep(2 * SECONDS)
        report(f"1000 connections, {kind}", probe, before)
        check(service, probe, before)
        assert service.ask("POST", "/v1/classify", cat.read_bytes())[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEAVY)
def test_heavy_requests(tmp_path, cat, kind):
    with serving(tmp_path) as service:
        assert service.ask("POST", "/v1/classify", cat.read_bytes())[0] == 200
        before = service.resident()
        with hostile(kind, service, 4, 4 * SECONDS), Probe(service, cat.read_bytes()) as probe:
            time.sleep(SECONDS)
        report(kind, probe, before)
        check(service, probe, before)


def test_few_descriptors_do_not_blind_it(tmp_path, cat):
    with serving(tmp_path, descriptors=256) as service:
        with hostile("line breaks", service, 330, 20), Probe(service, cat.read_bytes()) as probe:
            time.sleep(4)
        assert not probe.problems, probe.problems[:5]
        assert probe.slowest < WITHIN_S + SEVERAL * probe.late
    assert len(service.log.read_text().splitlines()) < 3000


class Steady:
    """A client that sends one picture after the other over a connection that it keeps as long as it may."""

    def __init__(self, port, picture):
        self.outcomes = collections.Counter()
        self._port = port
        self._picture = picture
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self):
        self._ends.set()
        self._thread.join(30)

    def _run(self):
        connection = None
        new = True
        while not self._ends.is_set():
            if connection is None:
                new = True
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                try:
                    connection.connect()
                except OSError:
                    connection = None
                    self._ends.wait(0.05)
                    continue
            try:
                connection.request("POST", "/v1/classify", self._picture)
                answer = connection.getresponse()
                answer.read()
                self.outcomes[answer.status] += 1
                new = False
                if answer.will_close:
                    connection.close()
                    connection = None
            except OSError as error:
                if not new:  # the kernel resets connections that it made and nobody has accepted yet: these are refused
                    self.outcomes[type(error).__name__] += 1
                connection.close()
                connection = None
            except http.client.HTTPException as error:
                self.outcomes[type(error).__name__] += 1
                connection.close()
                connection = None


@pytest.mark.parametrize("run", range(RUNS))
def test_a_shutdown_loses_no_request(tmp_path, cat, run):
    with serving(tmp_path) as service:
        clients = [Steady(service.port, cat.read_bytes()) for _ in range(12)]
        time.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert service.process.wait(20) == 0
        assert time.monotonic() - begin < 5
        for client in clients:
            client.end()
    outcomes = sum((client.outcomes for client in clients), collections.Counter())
    assert set(outcomes) == {200}, outcomes
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", service.port))
