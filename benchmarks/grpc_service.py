"""Pictures per second of the service over gRPC and over HTTP, by Triton's clients for both, in turns.

``python benchmarks/grpc_service.py [--seconds 4] [--rounds 3] [--clients 2] [--batches 1 32] [--json FILE]``; needs the
extras service and grpc, and ``tritonclient[grpc,http]``.

One service speaks both. Each client is a process with one connection that sends raw CIFAR-10 pictures and waits for
the logits, as binary tensors. The clients share the machine with the service, so the rates say what both cost together;
what the service alone costs is its processor time, which is measured, too. Figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from speed import describe, machine

PROTOCOLS = ("http", "grpc")


def ask(protocol: str, port: int, batch: int, seconds: float, ready: Any, answered: Any) -> None:
    """Send batches for so long, once all clients are ready; tells how many pictures were answered."""
    if protocol == "grpc":
        import tritonclient.grpc as triton

        options: dict[str, Any] = {}
    else:
        import tritonclient.http as triton

        options = {"binary_data": True}
    images = np.random.default_rng(os.getpid()).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = triton.InferInput("images", list(images.shape), "UINT8")
        tensor.set_data_from_numpy(images, **options)
        outputs = [triton.InferRequestedOutput("logits", **options)]
        client.infer("cifar10", [tensor], outputs=outputs)
        ready.wait()
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            client.infer("cifar10", [tensor], outputs=outputs)
            count += batch
    answered.put(count)


def measure(protocol: str, port: int, batch: int, clients: int, seconds: float, server: int) -> tuple[float, float]:
    """Pictures a second, and microseconds of the server's processor time a picture."""
    context = multiprocessing.get_context("spawn")
    ready, answered = context.Barrier(clients + 1), context.Queue()
    working = [
        context.Process(target=ask, args=(protocol, port, batch, seconds, ready, answered)) for _ in range(clients)
    ]
    for process in working:
        process.start()
    ready.wait()
    begin = _processor_seconds(server)
    count = sum(answered.get() for _ in working)
    used = _processor_seconds(server) - begin
    for process in working:
        process.join()
    return count / seconds, used / count * 1e6


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def service() -> Iterator[tuple[int, dict[str, int]]]:
    """A service: its process, and its ports by protocol."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {"http": one.getsockname()[1], "grpc": two.getsockname()[1]}
    command = [
        sys.executable,
        "-m",
        "fracbnn_pynq",
        "serve",
        "--port",
        str(ports["http"]),
        "--grpc",
        str(ports["grpc"]),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            for port in ports.values():
                while True:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    if time.monotonic() > end or process.poll() is not None:
                        sys.exit("the service did not start")
                    time.sleep(0.05)
            yield process.pid, ports
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 32))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with service() as (process, ports):
        for _ in range(arguments.rounds):
            for batch in arguments.batches:
                for protocol in PROTOCOLS:
                    figures = measure(protocol, ports[protocol], batch, arguments.clients, arguments.seconds, process)
                    found.setdefault((batch, protocol), []).append(figures)
    about = machine()
    print(describe(about))
    print(f"{'batch':>5}  {'protocol':8}  {'pictures/s':>10}  {'us of the server a picture':>26}")
    rows = []
    for (batch, protocol), figures in sorted(found.items()):
        rate, used = (statistics.median(values) for values in zip(*figures, strict=True))
        rows.append({"batch": batch, "protocol": protocol, "rate": rate, "server_us": used})
        print(f"{batch:>5}  {protocol:8}  {rate:>10,.0f}  {used:>26,.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
