"""Many requests to the service on a simulated board that shows random faults, and what became of each.

``python benchmarks/soak.py [--requests 200000] [--seconds S] [--clients 8] [--seed 0] [--log FILE]``

Runs ``fracbnn serve`` on the simulated board and keeps connections to it busy: single pictures and batches, binary and
JSON, and malformed requests. An answer is right if its logits are those of the CPU engine in the core's arithmetic, bit
for bit; a malformed request must get a 4xx; everything else must be a 503 with an error. Ends with status 1 where an
answer is wrong, a request is stuck, memory grows by 5 % after the first 10,000 requests, or a fault that the reload
after it puts right keeps the service from being ready for more than a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fracbnn_pynq import Classifier

ARITHMETIC = "cifar10-2020"
"""What the published core computes."""
INFER = "/v2/models/cifar10/infer"
STUCK_AFTER_S = 40.0
"""More than the service's deadline and a core's timeout together."""
SETTLED_AFTER = 10_000
GROWTH_ALLOWED = 0.05
PAUSE_S = 0.1
PROGRESS = 10_000
RECOVERY_ALLOWED_S = 1.0

RUN_FAULTS = {  # a thousand runs
    "late:0.02": 1.0,
    "wrong-length": 0.1,
    "bus-error": 0.1,
    "power-cycle": 0.1,
    "overlay-replaced": 0.1,
    "hang": 0.02,
}
DOWNLOAD_FAULTS = {"wrong-clock": 100.0, "clock-stuck": 100.0}
STUCK_IN_A_ROW = 4
"""A clock is stuck at up to so many downloads one after the other, or more where two such rows meet: a board that is
broken for a while."""
MALFORMED = 0.05
BATCH, EVERY_NTH = 3, 8
"""Every eighth request with pictures has three of them, the others one."""


def expected_runs(requests: int) -> int:
    """How often the core will run."""
    return round(requests * (1 - MALFORMED) * (1 + (BATCH - 1) / EVERY_NTH))


def draw_faults(dice: random.Random, runs: int) -> str:
    """Faults by chance, as the simulated board reads them. The first download is spared.

    Memory is allocated only once, before the first request, so that its faults have no place here.
    """
    reloads = max(10, runs // 2500)  # about as many as there will be
    faults = []
    for rates, last in ((RUN_FAULTS, runs), (DOWNLOAD_FAULTS, reloads)):
        for name, rate in rates.items():
            kind, colon, value = name.partition(":")
            for _ in range(max(1, round(last * rate / 1000))):
                first = dice.randrange(2, last)
                row = dice.randint(1, STUCK_IN_A_ROW) if kind == "clock-stuck" else 1
                faults += [f"{kind}@{at}{colon}{value}" for at in range(first, first + row)]
    return ",".join(faults)


@dataclass(frozen=True)
class Request:
    """Bytes to send, and the logits that are right; ``None`` for a malformed request."""

    data: bytes
    logits: bytes | None


def make_requests(classifier: Classifier) -> tuple[list[Request], list[Request]]:
    """Requests with pictures, and malformed ones."""
    rng = np.random.default_rng(1)
    good = []
    for number in range(96):
        images = rng.integers(0, 256, (1 if number % EVERY_NTH else BATCH, 32, 32, 3), dtype=np.uint8)
        good.append(Request(_infer(images, binary=number % 6 != 0), classifier.logits(images).astype("<f4").tobytes()))
    images = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    whole = _infer(images, binary=True).partition(b"\r\n\r\n")[2]
    bodies = (b"", b"{", b"[]", whole[:-1], whole + b"x", b'{"inputs":[{"name":"images","shape":[1],"data":[1]}]}')
    bad = [Request(_post(INFER, body, len(body) // 2), None) for body in bodies]
    bad += [Request(_post(INFER, body), None) for body in bodies]
    bad.append(Request(_post("/v2/models/other/infer", whole), None))
    bad.append(Request(_post("/v1/classify", images.tobytes()), None))
    return good, bad


def _infer(images: np.ndarray, *, binary: bool) -> bytes:
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    if binary:
        tensor["parameters"] = {"binary_data_size": images.nbytes}
    else:
        tensor["data"] = images.ravel().tolist()
    text = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return _post(INFER, text + images.tobytes() if binary else text, len(text) if binary else None)


def _post(path: str, body: bytes, header: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    if header is not None:
        lines.append(f"Inference-Header-Content-Length: {header}")
    return "\r\n".join((*lines, "", "")).encode() + body


@dataclass
class Soak:
    """The requests so far. ``memory``: resident bytes of the service, every thousand requests."""

    port: int
    pid: int
    total: int
    end: float
    good: list[Request]
    bad: list[Request]
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    begin: float = field(default_factory=time.perf_counter)

    async def client(self, dice: random.Random) -> None:
        """One connection, which is renewed where it ends."""
        streams = None
        while self.sent < self.total and time.perf_counter() < self.end:
            self.sent += 1
            if self.sent % 1000 == 0:
                self.checkpoint()
            request = dice.choice(self.bad if dice.random() < MALFORMED else self.good)
            start = time.perf_counter()
            try:
                streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
                status, headers, body = await asyncio.wait_for(exchange(*streams, request.data), STUCK_AFTER_S)
            except (asyncio.TimeoutError, OSError, asyncio.IncompleteReadError) as error:
                self.count("stuck or cut off", f"{type(error).__name__} after {time.perf_counter() - start:.1f} s")
                streams = None
                await asyncio.sleep(PAUSE_S)
                continue
            self.slowest = max(self.slowest, time.perf_counter() - start)
            self.judge(request, status, headers, body)
            if status == 503:
                await asyncio.sleep(PAUSE_S)
            if b"connection: close" in headers.lower():
                streams[0].feed_eof()
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    def checkpoint(self) -> None:
        """Note the service's memory; now and then say how it goes."""
        self.memory.append((self.sent, resident(self.pid)))
        if self.sent % PROGRESS == 0:
            seconds = time.perf_counter() - self.begin
            counts = ", ".join(f"{outcome} {count}" for outcome, count in self.outcomes.most_common())
            print(f"{seconds:7.1f} s, {self.sent} sent, {self.memory[-1][1] / 1e6:.1f} MB: {counts}", flush=True)

    def judge(self, request: Request, status: int, headers: bytes, body: bytes) -> None:
        """Count an answer as what it is."""
        if status == 200 and request.logits is not None:
            length = re.search(rb"inference-header-content-length: *(\d+)", headers, re.IGNORECASE)
            right = length is not None and body[int(length[1]) :] == request.logits
            self.count("right" if right else "WRONG", "" if right else "other logits than the CPU engine's")
        elif status == 503 or (400 <= status < 500 and request.logits is None):
            said = json.loads(body).get("error")
            if said:
                self.count(f"refused, {status}" if request.logits is None else "unavailable, 503")
                if status == 503:
                    self.reasons[re.sub(r"\d+", "#", said)[:100]] += 1
            else:
                self.count("WRONG", f"{status} without an error: {body[:100]!r}")
        else:
            self.count("WRONG", f"{status}: {body[:100]!r}")

    def count(self, outcome: str, failure: str = "") -> None:
        """Count, and keep what must not be."""
        self.outcomes[outcome] += 1
        if failure:
            self.failures.append(f"request {self.sent}: {outcome}: {failure}")

    def growth(self) -> float:
        """Largest growth of memory after ``SETTLED_AFTER`` requests, or after a fifth of a short run."""
        settled = min(SETTLED_AFTER, self.total // 5)
        later = [size for sent, size in self.memory if sent >= settled]
        return max(later) / later[0] - 1 if later else 0.0


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer to a request."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(length[1]) if length else 0)
    return int(head.split(b" ", 2)[1]), head, body


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def service(faults: str, log: Path) -> Iterator[tuple[int, int]]:
    """Port and process id of a service on the simulated board."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"]
    command = ["serve", "--model", "cifar10", "--backend", "overlay", "--board", "simulated", "--port", str(port)]
    environment = {**os.environ, "FRACBNN_FAULTS": faults, "FRACBNN_SIM_LATENCY": "none"}
    with log.open("wb") as output:
        process = subprocess.Popen([*program, *command], env=environment, stderr=output)
    try:
        for _ in range(300):
            time.sleep(0.1)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit(f"the service did not start:\n{log.read_text()}")
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def report(soak: Soak, counters: str) -> bool:
    """Print what happened; whether it is what should have."""
    seconds = time.perf_counter() - soak.begin
    print(f"{soak.sent} requests in {seconds:.0f} s, {soak.sent / seconds:.0f}/s, slowest {soak.slowest:.2f} s")
    for outcome, count in soak.outcomes.most_common():
        print(f"  {outcome:24} {count}")
    for reason, count in soak.reasons.most_common():
        print(f"    {count:6} x {reason}")
    for failure in soak.failures[:20]:
        print(f"  {failure}")
    print(counters)
    growth = soak.growth()
    sizes = [f"{size / 1e6:.1f}" for _, size in soak.memory]
    print(f"memory, MB, each thousand requests: {' '.join(sizes[:: max(1, len(sizes) // 20)])}; growth {growth:.2%}")
    return not soak.failures and growth < GROWTH_ALLOWED and soak.outcomes["right"] > 0


def report_outages(log: Path) -> bool:
    """Print how long recoveries took and why reloads failed, by the service's log; whether none took too long."""
    begin, failed = 0.0, 0
    outages: dict[int, list[float]] = {}
    reasons: Counter[str] = Counter()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if "the engine failed" in line:
                begin, failed = _seconds(line), 0
            elif "the engine was reloaded" in line:
                outages.setdefault(failed, []).append(_seconds(line) - begin)
            elif why := re.search(r"reloading failed, next try in [\d.]+ s: (.*)", line):
                failed += 1
                reasons[re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", why[1])[:110]] += 1
    for count, times in sorted(outages.items()):
        print(
            f"  {len(times)} faults, {count} failed reloads after each: ready again after "
            f"{np.median(times):.3f} s (median), {max(times):.3f} s (longest)"
        )
    for reason, count in reasons.most_common(12):
        print(f"  {count} x reloading failed: {reason}")
    return max(outages.get(0, [0.0])) <= RECOVERY_ALLOWED_S


def _seconds(line: str) -> float:
    """When a line of the service's log was written."""
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


async def read_counters(port: int) -> str:
    """The service's own count of faults and reloads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, _, body = await exchange(reader, writer, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    writer.close()
    wanted = ("fracbnn_engine", "fracbnn_deadline", "fracbnn_http_responses{", "fracbnn_queue_depth{")
    return "\n".join(f"  {line}" for line in body.decode().splitlines() if line.startswith(wanted))


async def run(soak: Soak, clients: int, dice: random.Random) -> str:
    """Send all requests."""
    await asyncio.gather(*(soak.client(random.Random(dice.random())) for _ in range(clients)))
    return await read_counters(soak.port)


def main() -> None:
    """Soak and report."""
    parser = argparse.ArgumentParser(description="Many requests to the service on a simulated board with faults.")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end earlier, after so long")
    parser.add_argument("--clients", type=int, default=8, help="connections (default 8)")
    parser.add_argument("--log", type=Path, help="keep the service's log in this file")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and the order of requests (default 0)")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with Classifier.load("cifar10", backend="cpu", arithmetic=ARITHMETIC, threads=1) as classifier:
        good, bad = make_requests(classifier)
    with tempfile.TemporaryDirectory() as folder:
        log = arguments.log or Path(folder) / "service.log"
        with service(draw_faults(dice, expected_runs(arguments.requests)), log) as (port, pid):
            soak = Soak(port, pid, arguments.requests, time.perf_counter() + arguments.seconds, good, bad)
            counters = asyncio.run(run(soak, arguments.clients, dice))
            passed = report(soak, counters)
        recovered = report_outages(log)
    sys.exit(0 if passed and recovered else 1)


if __name__ == "__main__":
    main()
