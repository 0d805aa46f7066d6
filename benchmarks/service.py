"""Requests per second of the HTTP service, measured in turns with what it should be compared with.

``python benchmarks/service.py [--seconds 5] [--rounds 3] [--clients 16] [--json FILE]``; needs wrk (Debian: ``apt
install wrk``), and the packages of the extras service and bench and mosec for the peer (left out otherwise).

Tensors: binary batches of 32, against the rate of the same engine called in this process. Pictures: JPEG files on
connections that are kept alive. The peer is mosec with the usual int8 ResNet-20 in ONNX Runtime. All are measured once
in each round, so that a drift of the machine's speed hits all alike; figures are the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from speed import describe, machine

from fracbnn_pynq import Classifier

BATCH = 32
THUMBNAIL = (160, 120)
TENSORS = f"service, tensors, batch {BATCH}"
FULL = Path(__file__).resolve().parents[1] / "notebooks" / "pictures" / "cat.jpg"
WRK = """
wrk.method = "POST"
wrk.path = "{path}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Figures:
    """One measurement. Milliseconds, and processors busy in the server and in the client."""

    rate: float
    p50: float = 0.0
    p99: float = 0.0
    errors: int = 0
    server_cpu: float = 0.0
    client_cpu: float = 0.0


class Load:
    """wrk with one request; ``tree``: process id of the server, whose children belong to it."""

    def __init__(self, folder: Path, name: str, url: str, tree: int, body: bytes, headers: dict[str, str]) -> None:
        address, slash, path = url.removeprefix("http://").partition("/")
        self._url = f"http://{address}"
        self._tree = tree
        self._script = folder / f"{name}.lua"
        content = folder / f"{name}.body"
        content.write_bytes(body)
        lines = "\n".join(f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items())
        self._script.write_text(WRK.format(path=slash + path, body=content, headers=lines))

    def __call__(self, clients: int, seconds: float) -> Figures:
        """Keep ``clients`` connections busy for about ``seconds``."""
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s"]
        used, start = _cpu_of_tree(self._tree), _cpu_of_children()
        output = subprocess.run([*command, str(self._script), self._url], capture_output=True, text=True, check=True)
        client, server = _cpu_of_children() - start, _cpu_of_tree(self._tree) - used
        (line,) = (text for text in output.stdout.splitlines() if text.startswith("RESULT"))
        requests, duration, p50, p99, errors = (float(word) for word in line.split()[1:])
        lasted = duration / 1e6
        return Figures(requests / lasted, p50 / 1e3, p99 / 1e3, int(errors), server / lasted, client / lasted)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _cpu_of_tree(pid: int) -> float:
    """Seconds of processor time of a process and its living descendants."""
    parents: dict[int, int] = {}
    times: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
            times[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(times.get(member, 0) for member in tree) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(command: Sequence[str], port: int, path: str, log: Path) -> Iterator[int]:
    """Run a server until the block ends; gives its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(300):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                if b" 200 " in connection.recv(64):
                    yield process.pid
                    return
            time.sleep(0.1)
        raise SystemExit(f"{' '.join(command[:4])} did not start:\n{log.read_text()}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def thumbnail() -> bytes:
    """The photograph at a camera preview's size, JPEG."""
    target = io.BytesIO()
    with Image.open(FULL) as picture:
        picture.convert("RGB").resize(THUMBNAIL, Image.Resampling.LANCZOS).save(target, "JPEG", quality=85)
    return target.getvalue()


def tensor_request() -> tuple[bytes, dict[str, str]]:
    """Body and headers of a batch as binary tensor, which asks for logits in binary."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    tensor: dict[str, Any] = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": images.nbytes}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def in_process(threads: int | None, seconds: float) -> Figures:
    """Pictures per second of the engine itself, in batches."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    with Classifier.load("cifar10", backend="cpu", threads=threads) as classifier:
        classifier.logits(images)
        start, used, count = time.perf_counter(), time.process_time(), 0
        while (lasted := time.perf_counter() - start) < seconds:
            classifier.logits(images)
            count += BATCH
        return Figures(count / lasted, server_cpu=(time.process_time() - used) / lasted)


def loads(folder: Path, stack: contextlib.ExitStack) -> dict[str, Load]:
    """Start the servers; what is measured of each."""
    port, jpeg = free_port(), {"Content-Type": "image/jpeg"}
    program = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"]
    command = [*program, "serve", "--backend", "cpu", "--port", str(port)]
    tree = stack.enter_context(started(command, port, "/health/ready", folder / "service.log"))
    url = f"http://127.0.0.1:{port}"
    tensors, headers = tensor_request()
    small, full = thumbnail(), FULL.read_bytes()
    found = {
        TENSORS: Load(folder, "tensors", f"{url}/v2/models/cifar10/infer", tree, tensors, headers),
        f"service, JPEG {THUMBNAIL[0]}x{THUMBNAIL[1]}": Load(folder, "small", f"{url}/v1/classify", tree, small, jpeg),
        "service, full JPEG": Load(folder, "full", f"{url}/v1/classify", tree, full, jpeg),
    }
    if find_spec("mosec") and find_spec("onnxruntime"):
        port = free_port()
        script = str(Path(__file__).with_name("peer_service.py"))
        command = [sys.executable, script, "--port", str(port)]
        tree = stack.enter_context(started(command, port, "/metrics", folder / "peer.log"))
        url = f"http://127.0.0.1:{port}/inference"
        found[f"mosec, JPEG {THUMBNAIL[0]}x{THUMBNAIL[1]}"] = Load(folder, "peer_small", url, tree, small, jpeg)
        found["mosec, full JPEG"] = Load(folder, "peer_full", url, tree, full, jpeg)
    else:
        print("The peer is left out: it needs mosec and onnxruntime.", file=sys.stderr)
    return found


def median(rounds: list[Figures]) -> Figures:
    """The median of every figure; all errors."""
    columns = {name: [getattr(figures, name) for figures in rounds] for name in asdict(rounds[0])}
    middle = {name: statistics.median(values) for name, values in columns.items() if name != "errors"}
    return Figures(errors=sum(columns["errors"]), **middle)


def table(results: dict[str, Figures]) -> str:
    """One line for each."""
    lines = [f"{'':28}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'CPU server':>12}{'client':>8}"]
    for name, f in results.items():
        numbers = f"{f.rate:12.0f}{f.p50:9.1f}{f.p99:9.1f}{f.errors:8}{f.server_cpu:12.2f}{f.client_cpu:8.2f}"
        lines.append(f"{name:28}{numbers}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Requests per second of the HTTP service and of a peer.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--clients", type=int, default=16, help="connections with pictures (default 16)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt install wrk")
    about = machine()
    print(describe(about), flush=True)
    engine = "engine, in process, pictures"
    rounds: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        measured: dict[str, Callable[[int, float], Figures]] = {engine: lambda _, seconds: in_process(None, seconds)}
        measured |= loads(Path(name), stack)
        for title, measure in measured.items():
            if title != engine:
                measure(arguments.clients, 1.0)  # warms it up
        for _ in range(arguments.rounds):
            for title, measure in measured.items():
                clients = 2 if "tensors" in title else arguments.clients
                rounds.setdefault(title, []).append(measure(clients, arguments.seconds))
    results = {title: median(figures) for title, figures in rounds.items()}
    print(table(results))
    pairs = zip(rounds[TENSORS], rounds[engine], strict=True)
    share = statistics.median(BATCH * tensors.rate / alone.rate for tensors, alone in pairs)
    print(f"Tensors reach {share:.0%} of the rate in process. Load average at the end: {os.getloadavg()[0]:.2f}")
    if arguments.json:
        figures = {title: asdict(result) for title, result in results.items()}
        arguments.json.write_text(json.dumps({"machine": about, "tensors_share": share, "results": figures}, indent=2))


if __name__ == "__main__":
    main()
