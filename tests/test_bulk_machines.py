"""``fracbnn bulk`` on several machines: network namespaces, between which there is a network and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bulk_support import drawn, logits_of, named, write_tar
from waiting_support import until

try:
    import distributed  # noqa: F401
    import pyarrow.parquet as pq
except ImportError as error:  # also of a pyarrow that does not work with the NumPy here
    pytest.skip(f"the extra bulk is not installed: {error}", allow_module_level=True)

COUNT = 64
MACHINES = ("scheduler", "one", "two")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, str]]:
    """Three network namespaces on one bridge; their addresses by name. They see no other network, not even this one."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces need root, and the command ip")
    mark = f"fb{os.getpid()}"
    switch = f"{mark}-net"
    names = {name: f"{mark}-{name}" for name in MACHINES}
    with contextlib.ExitStack() as made:
        try:
            for space in (switch, *names.values()):
                ip("netns", "add", space)
                made.callback(subprocess.run, ["ip", "netns", "delete", space], check=False)
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
            for number, space in enumerate(names.values(), start=1):
                ip("-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "net", "netns", space)
                ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
                ip("-n", space, "address", "add", f"10.77.0.{number}/24", "dev", "net")
                for link in ("net", "lo"):
                    ip("-n", space, "link", "set", link, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield names


@contextlib.contextmanager
def started(space: str, *words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = ["ip", "netns", "exec", space, sys.executable, "-m", *words]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("send", [[], ["--send"]], ids=["files-seen-by-all", "sent"])
def test_a_scheduler_and_two_workers_on_machines_of_their_own(
    machines: dict[str, str], tmp_path: Path, send: list[str]
) -> None:
    archive, out = write_tar(tmp_path / "a.tar", named(COUNT)), tmp_path / "labels.parquet"
    address = "tcp://10.77.0.1:8786"
    with contextlib.ExitStack() as running:
        scheduler = ("distributed.cli.dask_scheduler", "--host", "10.77.0.1", "--port", "8786", "--no-dashboard")
        log = tmp_path / "scheduler.log"
        running.enter_context(started(machines["scheduler"], *scheduler, log=log))
        until(lambda: address in log.read_text(), 60)
        for number, name in enumerate(("one", "two"), start=2):
            worker = ("distributed.cli.dask_worker", address, "--host", f"10.77.0.{number}", "--nthreads", "1")
            options = ("--no-dashboard", "--local-directory", str(tmp_path / name), "--name", name)
            log = tmp_path / f"{name}.log"
            running.enter_context(started(machines[name], *worker, *options, log=log))
            until(lambda log=log: "Registered to" in log.read_text(), 60)
        command = [
            sys.executable,
            "-m",
            "fracbnn_pynq",
            "bulk",
            str(archive),
            "--out",
            str(out),
            "--scheduler",
            address,
        ]
        done = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                machines["scheduler"],
                *command,
                "--out",
                str(out),
                "--logits",
                "--partition",
                "4",
                "--json",
                *send,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert {worker["worker"] for worker in json.loads(done.stdout)["workers"]} == {"one", "two"}
    table = pq.read_table(out)
    assert table["name"].to_pylist() == list(named(COUNT))
    assert np.array_equal(np.array(table["logits"].to_pylist(), np.float32), logits_of(drawn(COUNT)))
