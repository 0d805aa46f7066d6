"""``fracbnn bulk`` on clusters: every picture once with the bits of one classifier, whatever stops or dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_support import drawn, logits_of, named, write_folder, write_tar
from cli_support import Run

try:
    import distributed
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # also of a pyarrow that does not work with the NumPy here
    pytest.skip(f"the extra bulk is not installed: {error}", allow_module_level=True)

from fracbnn_pynq import extras
from fracbnn_pynq.bulk import cluster as clusters
from fracbnn_pynq.cli import bulk as command

COUNT = 60
MANY = 240
"""Pictures of a run that is to be stopped before its end, however late this process comes to do it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster that is there already: a scheduler, and a worker process without a board."""
    options: Any = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options, silence_logs=50) as made:
        yield made


@pytest.fixture
def address(cluster: Any) -> str:
    return str(cluster.scheduler_address)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar", named(COUNT))


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out).to_pylist()


@pytest.fixture
def long_archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "long.tar", named(MANY))


def check(out: Path, arithmetic: str = "auto", count: int = COUNT) -> None:
    """Whether a dataset has the drawn pictures, each once, and the bits of one classifier."""
    found = {row["name"]: row for row in rows(out)}
    assert len(rows(out)) == len(found) == count
    assert list(found) == list(named(count))
    assert not any(row["error"] for row in found.values())
    expected = logits_of(drawn(count), arithmetic)
    assert np.array_equal(np.array([row["logits"] for row in found.values()], np.float32), expected)
    assert [row["class_index"] for row in found.values()] == expected.argmax(axis=1).tolist()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_all_kinds_of_sources_on_this_machine(run: Run, tmp_path: Path):
    """The default: worker processes here. Four sources with the same pictures, of which some cannot be read."""
    pictures = {**dict(list(named(COUNT).items())[:20]), "bad.jpg": b"no picture"}
    tar = write_tar(tmp_path / "a.tar", pictures)
    packed = write_tar(tmp_path / "b.tgz", pictures, "w:gz")
    folder = write_folder(tmp_path / "photos", pictures)
    pq.write_table(pa.table({"image": list(pictures.values())}), tmp_path / "c.parquet")
    out = tmp_path / "labels.parquet"
    options = ("--out", out, "--partition", 8, "--logits", "--json")
    found = run("bulk", tar, packed, folder, tmp_path / "c.parquet", *options)
    assert found.code == 2
    (facts,) = found.documents
    assert (facts["pictures"], facts["errors"], facts["labelled_now"]) == (84, 4, 84)
    assert sum(worker["pictures"] for worker in facts["workers"]) == 84
    errors = found.err.splitlines()
    assert len(errors) == 4
    assert all("expected a picture in a format" in line and str(tmp_path) in line for line in errors)
    expected = logits_of(drawn(COUNT)[:20])
    table = rows(out)
    assert len(list(out.glob("part-*.parquet"))) == 11
    for source in (tar, packed, folder, tmp_path / "c.parquet"):
        own = [row for row in table if row["source"] == str(source)]
        good = [row["logits"] for row in own if row["error"] is None]
        assert (len(own), len(good)) == (21, 20)
        assert np.array_equal(np.array(good, np.float32), expected)
    assert sum(row["error"] is not None for row in table) == 4


@pytest.mark.parametrize("send", [False, True])
@pytest.mark.parametrize("partition", [7, 1000])
def test_results_do_not_depend_on_partitions_or_how_pictures_come(
    run: Run, archive: Path, tmp_path: Path, address: str, partition: int, send: bool
):
    out = tmp_path / "l.parquet"
    options = ("--scheduler", address, "--partition", partition, "--logits", *(["--send"] if send else []))
    found = run("bulk", archive, "--out", out, *options)
    assert (found.code, found.err) == (0, "")
    assert f"{COUNT} pictures, 0 of them unreadable; cifar10, cpu, faithful arithmetic" in found.out
    check(out)


def test_a_run_goes_on_where_it_was(run: Run, archive: Path, tmp_path: Path, address: str):
    out = tmp_path / "l.parquet"
    options = ("bulk", archive, "--out", out, "--scheduler", address, "--partition", 10, "--logits")
    assert run(*options).code == 0
    parts = sorted(out.glob("part-*.parquet"))
    for gone in parts[1:4]:
        gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts if path.exists()}
    (out / ".part-00001.parquet.abc").touch()
    found = run(*options, "--json")
    assert found.code == 0
    assert (found.documents[0]["pictures"], found.documents[0]["labelled_now"]) == (COUNT, 30)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    check(out)
    again = run(*options, "--json").documents[0]
    assert (again["pictures"], again["labelled_now"], again["workers"]) == (COUNT, 0, [])


def test_another_run_is_refused_and_nothing_changes(run: Run, archive: Path, tmp_path: Path, address: str):
    out = tmp_path / "l.parquet"
    options = ("bulk", archive, "--out", out, "--scheduler", address)
    assert run(*options).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for change, said in (
        (("--logits",), "with logits false, found true"),
        (("--partition", 3), "with partition 512, found 3"),
        (("--arithmetic", "cifar10-2021"), 'with arithmetic "faithful", found "cifar10-2021"'),
        ((tmp_path / "b.tar",), "with sources of 1, found 2"),
    ):
        write_tar(tmp_path / "b.tar", named(2))
        found = run(*options, *change)
        assert (found.code, found.out) == (2, "")
        assert found.err.startswith(f"error: {out}: expected the run that began it, {said}; give the same")
    write_tar(archive, named(COUNT - 1))
    assert "with sources" in run(*options).err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@contextlib.contextmanager
def killing(address: str, out: Path) -> Iterator[list[int]]:
    """Kills the cluster's worker while it has a task of a run to ``out``; gives the processes that were killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        with distributed.Client(address) as client:
            while not killed and not over.is_set():
                if any(client.processing().values()) and list(out.glob("part-*.parquet")):
                    killed.extend(client.run(os.getpid).values())
                    os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.001)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_a_worker_that_is_killed_while_it_works(run: Run, long_archive: Path, tmp_path: Path, address: str):
    """The nanny starts another one, which is given the settings and the task again."""
    out = tmp_path / "l.parquet"
    with killing(address, out) as killed:
        found = run("bulk", long_archive, "--out", out, "--scheduler", address, "--partition", 2, "--logits")
    assert (found.code, found.err) == (0, "")
    assert len(killed) == 1
    check(out, count=MANY)


def test_a_task_whose_workers_die(
    run: Run, long_archive: Path, tmp_path: Path, cluster: Any, address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    out = tmp_path / "l.parquet"
    options = ("bulk", long_archive, "--out", out, "--scheduler", address, "--partition", 2, "--logits")
    with killing(address, out) as killed:
        found = run(*options)
    assert (found.code, len(killed)) == (1, 1)
    assert re.match(
        rf"error: partition \d+ \({long_archive}: \d+.jpg to \d+.jpg\): every worker that tried it died", found.err
    )
    assert found.err.count("\n") == 1
    assert run(*options).code == 0
    check(out, count=MANY)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_completed(run: Run, tmp_path: Path, long_archive: Path, address: str, number: int, status: int):
    """As a terminal does it: the signal goes to the command and its workers."""
    out = tmp_path / "l.parquet"
    options = ["bulk", str(long_archive), "--out", str(out), "--partition", "1", "--logits"]
    words = [sys.executable, "-m", "fracbnn_pynq", *options, "--workers", "1"]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "part-00001.parquet").exists():
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, number)
    told, error = process.communicate(timeout=60)
    assert (process.returncode, told, error.strip()) == (status, "", "stopped" if status == 130 else "")
    assert 1 < len(list(out.glob("part-*.parquet"))) < MANY
    assert not list(out.glob(".part*"))
    assert run(*options, "--scheduler", address).code == 0
    check(out, count=MANY)


def test_two_simulated_boards(run: Run, archive: Path, tmp_path: Path):
    """Two processes, each with a board of its own and the resource that its tasks ask for."""
    pytest.importorskip("pynq", reason="the extra board is not installed")
    out = tmp_path / "l.parquet"
    engine = ("--backend", "overlay", "--board", "simulated", "--workers", 2)
    found = run("bulk", archive, "--out", out, "--partition", 4, "--logits", *engine, "--json")
    assert found.code == 0, found.err
    (facts,) = found.documents
    assert (facts["backend"], facts["arithmetic"]) == ("overlay", "cifar10-2020")
    assert len(facts["workers"]) == 2
    check(out, "cifar10-2020")
    # The same bits in the same arithmetic: another engine may complete the run.
    next(out.glob("part-00003.parquet")).unlink()
    assert run("bulk", archive, "--out", out, "--partition", 4, "--logits", "--arithmetic", "cifar10-2020").code == 0
    check(out, "cifar10-2020")


def test_a_cluster_without_a_board(
    run: Run, archive: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clusters, "WORKERS_S", 0.3)
    found = run("bulk", archive, "--out", tmp_path / "l", "--scheduler", address, "--backend", "overlay")
    assert found.code == 1
    assert found.err.startswith("error: cluster: expected a worker with a board (the resource board), found 1 workers")
    assert not (tmp_path / "l").exists()


def test_a_worker_that_does_not_see_the_sources(
    run: Run, archive: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fracbnn_pynq.bulk.sources.Source.identity", {"kind": "tar", "path": "a", "size": 1})
    found = run("bulk", archive, "--out", tmp_path / "l", "--scheduler", address)
    assert found.code == 2
    assert "expected" in found.err
    assert "of 1 bytes, found one of" in found.err
    assert "(--send)" in found.err


def test_no_scheduler_and_no_libraries(run: Run, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "CONNECT_S", 0.3)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        found = run("bulk", archive, "--out", tmp_path / "l", "--scheduler", address)
        assert found.code == 1
        assert found.err.startswith(f"error: scheduler: expected one at {address}, found none")
        assert found.err.count("\n") == 1
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    found = run("bulk", archive, "--out", tmp_path / "l")
    assert found.code == 1
    assert found.err.startswith(
        "error: fracbnn bulk: expected the packages of the extra bulk, found no distributed and no pyarrow"
    )
    assert extras.install_line("bulk") in found.err


def test_one_board_has_one_worker(run: Run, archive: Path, tmp_path: Path):
    found = run("bulk", archive, "--out", tmp_path / "l", "--backend", "overlay", "--board", "real", "--workers", 2)
    assert found.code == 1
    assert found.err == "error: --workers: expected 1, as this machine has one board, found 2\n"
    assert not (tmp_path / "l").exists()
