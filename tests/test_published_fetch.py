"""Fetching against a server on this machine that behaves as badly as networks do."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fracbnn_pynq.errors import DownloadError
from fracbnn_pynq.published import catalog, fetch

BITSTREAM = bytes(range(256)) * 300
HANDOFF = b"<EDKSYSTEM/>\n" * 700


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# As in the catalogue: of the bitstream only the git blob id is known, of the hand-off file everything.
ARTIFACT = catalog.Artifact(
    name="toy-overlay",
    title="Toy",
    network="cifar10",
    repository="someone/somewhere",
    commit="0" * 40,
    licence=None,
    files=(
        catalog.PublishedFile(role="bitstream", path="deploy/toy.bit", git_blob=git_blob(BITSTREAM)),
        catalog.PublishedFile(
            role="handoff",
            path="deploy/toy.hwh",
            git_blob=git_blob(HANDOFF),
            size=len(HANDOFF),
            sha256=hashlib.sha256(HANDOFF).hexdigest(),
        ),
    ),
    note="For tests.",
)
NAMES = {"bitstream": "toy.bit", "handoff": "toy.hwh"}
CONTENT = {"toy.bit": BITSTREAM, "toy.hwh": HANDOFF}

Answer = Callable[["Handler", bytes], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.halfway = threading.Event()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requests.append(self.path)
        answer = self.server.answers.get(name, good)
        with contextlib.suppress(ConnectionError):
            answer(self, CONTENT[name])

    def log_message(self, format: str, *args: Any) -> None:
        logging.getLogger("toy-server").debug(format, *args)

    def start(self, length: int | None, status: int = 200) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


def good(handler: Handler, content: bytes) -> None:
    handler.start(len(content))
    handler.wfile.write(content)


def no_length(handler: Handler, content: bytes) -> None:
    handler.start(None)
    handler.wfile.write(content)


def changed(handler: Handler, content: bytes) -> None:
    good(handler, content[:-1] + b"?")


def shorter(handler: Handler, content: bytes) -> None:
    good(handler, content[:-10])


def longer(handler: Handler, content: bytes) -> None:
    good(handler, content + b"?")


def truncated(handler: Handler, content: bytes) -> None:
    handler.start(len(content))
    handler.wfile.write(content[: len(content) // 2])


def dropped(handler: Handler, content: bytes) -> None:
    truncated(handler, content)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def absent(handler: Handler, content: bytes) -> None:
    handler.send_error(404)


def broken(handler: Handler, content: bytes) -> None:
    handler.send_error(503)


def silent(handler: Handler, content: bytes) -> None:
    handler.server.released.wait(30)


def stalled(handler: Handler, content: bytes) -> None:
    truncated(handler, content)
    handler.wfile.flush()
    handler.server.halfway.set()
    handler.server.released.wait(30)


def trickling(handler: Handler, content: bytes) -> None:
    handler.start(len(content))
    for start in range(0, len(content), 1024):
        handler.wfile.write(content[start : start + 1024])
        if handler.server.released.wait(0.05):
            return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def get(server: Server, cache: Path, **options: Any) -> dict[str, Path]:
    return fetch.fetch(ARTIFACT, cache=cache, base_url=server.url, progress=False, **options)


def states(cache: Path) -> list[str]:
    return [state for _, state in fetch.status(ARTIFACT, cache=cache)]


def check(paths: dict[str, Path], cache: Path) -> None:
    assert paths == {role: cache / "toy-overlay" / name for role, name in NAMES.items()}
    for path in paths.values():
        assert path.read_bytes() == CONTENT[path.name]
    assert sorted(path.name for path in (cache / "toy-overlay").iterdir()) == ["toy.bit", "toy.hwh"]
    assert states(cache) == ["ok", "ok"]


# Downloads


def test_files_are_fetched_once(server: Server, tmp_path: Path):
    assert states(tmp_path) == ["missing", "missing"]
    check(get(server, tmp_path), tmp_path)
    assert server.requests == [f"/someone/somewhere/{'0' * 40}/deploy/{name}" for name in NAMES.values()]
    check(get(server, tmp_path), tmp_path)
    assert len(server.requests) == 2
    assert fetch.locate(ARTIFACT, cache=tmp_path) == get(server, tmp_path)


def test_address_and_cache_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(catalog.DOWNLOAD_BASE_VARIABLE, server.url)
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "chosen"))
    check(fetch.fetch(ARTIFACT, progress=False), tmp_path / "chosen")


def test_default_cache_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(fetch.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_directory() == tmp_path / "fracbnn"
    assert fetch.cache_directory("~/here") == Path.home() / "here"


@pytest.mark.parametrize("answer", [good, no_length])
def test_progress_goes_to_stderr_only(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: Answer
):
    server.answers = dict.fromkeys(CONTENT, answer)
    fetch.fetch(ARTIFACT, cache=tmp_path / "pipe", base_url=server.url)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch.fetch(ARTIFACT, cache=tmp_path / "terminal", base_url=server.url)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "toy.bit" in printed.err
    assert "toy.hwh" in printed.err
    fetch.fetch(ARTIFACT, cache=tmp_path / "quiet", base_url=server.url, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_licence_is_told_with_every_download(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="fracbnn_pynq.published.fetch"):
        get(server, tmp_path)
    assert caplog.text.count("states no licence") == 2


@pytest.mark.parametrize("name", ["toy.bit", "toy.hwh"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (changed, r"not the published toy.*expected (SHA-256|git blob id) \w+, found \w+"),
        (shorter, r"not the published toy.*expected .* found"),
        (longer, r"not the published .*(larger|expected git blob id)"),
        (truncated, r"toy.* found"),
        (dropped, r"expected toy.* at http.*, found .*--from"),
        (absent, r"expected toy.* found 404.*--from"),
        (broken, r"expected toy.* found 503.*--from"),
        (silent, r"expected toy.* found .*timed out.*--from"),
        (stalled, r"expected toy.* found .*timed out.*--from"),
    ],
)
def test_failed_downloads(server: Server, tmp_path: Path, name: str, answer: Answer, message: str):
    server.answers[name] = answer
    start = time.monotonic()
    with pytest.raises(DownloadError, match=message):
        get(server, tmp_path, timeout=0.3)
    assert time.monotonic() - start < 5
    assert states(tmp_path) == (["missing", "missing"] if name == "toy.bit" else ["ok", "missing"])
    assert not list(tmp_path.rglob(".partial-*"))
    server.answers.clear()
    check(get(server, tmp_path), tmp_path)


def test_no_server(tmp_path: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="--from"):
            fetch.fetch(ARTIFACT, cache=tmp_path, base_url=f"http://127.0.0.1:{unused.getsockname()[1]}", timeout=2)


def test_the_deadline_ends_a_trickle(server: Server, tmp_path: Path):
    server.answers["toy.bit"] = trickling
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"within 0\.2 s"):
        get(server, tmp_path, deadline=0.2)
    assert time.monotonic() - start < 2
    assert states(tmp_path) == ["missing", "missing"]


def test_endless_files_are_not_stored(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch, "_LARGEST", len(BITSTREAM) - 1)
    with pytest.raises(DownloadError, match="larger"):
        get(server, tmp_path)
    assert states(tmp_path) == ["missing", "missing"]


# The cache


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"?" + content[1:], lambda _: b""])
@pytest.mark.parametrize("role", ["bitstream", "handoff"])
def test_damaged_files_are_fetched_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, role: str, damage: Callable[[bytes], bytes]
):
    paths = get(server, tmp_path)
    paths[role].write_bytes(damage(paths[role].read_bytes()))
    assert sorted(states(tmp_path)) == ["damaged", "ok"]
    with pytest.raises(DownloadError, match="damaged"):
        fetch.locate(ARTIFACT, cache=tmp_path)
    server.requests.clear()
    check(get(server, tmp_path), tmp_path)
    assert len(server.requests) == 1
    assert "damaged" in caplog.text


def test_a_damaged_file_stays_where_nothing_better_comes(server: Server, tmp_path: Path):
    path = get(server, tmp_path)["bitstream"]
    path.write_bytes(b"damaged")
    server.answers["toy.bit"] = changed
    with pytest.raises(DownloadError, match="git blob id"):
        get(server, tmp_path)
    assert path.read_bytes() == b"damaged"


def test_locate_fetches_nothing(tmp_path: Path):
    with pytest.raises(DownloadError, match=r"toy\.bit is missing; fetch toy-overlay first"):
        fetch.locate(ARTIFACT, cache=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"writable cache folder.*FRACBNN_CACHE"):
        get(server, tmp_path / "file")
    assert states(tmp_path / "file") == ["missing", "missing"]
    assert not server.requests


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_cache(server: Server, tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DownloadError, match=r"writable cache folder.*FRACBNN_CACHE"):
            get(server, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_cache_that_refuses_new_files(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    paths = get(server, tmp_path)
    monkeypatch.setattr(fetch.tempfile, "TemporaryDirectory", refuse)
    check(get(server, tmp_path), tmp_path)
    paths["handoff"].unlink()
    with pytest.raises(DownloadError, match=r"Permission denied.*FRACBNN_CACHE"):
        get(server, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path):
    with open("/dev/full", "wb", buffering=0) as full:
        writer = fetch._BoundedWriter(full, ARTIFACT.files[0], "http://x.example/toy.bit", 10)
        with pytest.raises(DownloadError, match=r"No space left.*FRACBNN_CACHE"):
            writer.write(b"content")


def test_a_folder_in_the_place_of_a_file(server: Server, tmp_path: Path):
    (tmp_path / "toy-overlay" / "toy.bit").mkdir(parents=True)
    assert states(tmp_path) == ["damaged", "missing"]
    with pytest.raises(DownloadError, match=r"expected to store .*toy\.bit"):
        get(server, tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("role", ["bitstream", "handoff"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(server: Server, tmp_path: Path, role: str):
    paths = get(server, tmp_path)
    paths[role].unlink()
    os.mkfifo(paths[role])
    assert sorted(states(tmp_path)) == ["damaged", "ok"]
    check(get(server, tmp_path), tmp_path)


def fetch_in_another_process(url: str, cache: Path, results: Any) -> None:
    paths = fetch.fetch(ARTIFACT, cache=cache, base_url=url, progress=False)
    results.put(sorted(path.read_bytes() == CONTENT[path.name] for path in paths.values()))


def test_two_processes_at_once(server: Server, tmp_path: Path):
    both = threading.Barrier(2)

    def together(handler: Handler, content: bytes) -> None:
        both.wait(30)
        good(handler, content)

    server.answers = dict.fromkeys(CONTENT, together)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    arguments = (server.url, tmp_path, results)
    processes = [spawn.Process(target=fetch_in_another_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [[True, True]] * 2
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(server.requests) == 4
    check(fetch.locate(ARTIFACT, cache=tmp_path), tmp_path)


def test_a_killed_fetch_leaves_nothing_that_matters(server: Server, tmp_path: Path):
    server.answers["toy.bit"] = stalled
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()  # named, because the child needs it alive until it has started
    process = spawn.Process(target=fetch_in_another_process, args=(server.url, tmp_path, results))
    process.start()
    assert server.halfway.wait(60)
    process.kill()
    process.join(60)
    assert states(tmp_path) == ["missing", "missing"]
    (left,) = (tmp_path / "toy-overlay").iterdir()
    server.answers.clear()
    get(server, tmp_path)
    assert left.exists(), "another process may still be at work there"
    os.utime(left, (0, 0))
    (tmp_path / "toy-overlay" / "toy.hwh").unlink()
    check(get(server, tmp_path), tmp_path)


# Files the user brings


@pytest.mark.parametrize("place", ["{name}", "deploy/{name}", "toy-overlay/{name}"])
def test_from_a_folder(tmp_path: Path, place: str):
    source = tmp_path / "source"
    for name, content in CONTENT.items():
        path = source / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    check(fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=source), tmp_path / "cache")


@pytest.mark.parametrize("name", ["toy.bit", "renamed.bin"])
def test_from_a_file_and_its_neighbours(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(BITSTREAM)
    with pytest.raises(DownloadError, match=rf"expected toy\.hwh in {tmp_path}.*https://raw"):
        fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=tmp_path / name)
    assert states(tmp_path / "cache") == ["ok", "missing"]
    (tmp_path / "toy.hwh").write_bytes(HANDOFF)
    check(fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=tmp_path / name), tmp_path / "cache")


def test_wrong_files_are_not_taken(tmp_path: Path):
    for name in CONTENT:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(DownloadError, match=r"toy\.bit is not the published toy\.bit: expected git blob id"):
        fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=tmp_path)
    with pytest.raises(DownloadError, match="found nothing at"):
        fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=tmp_path / "nowhere")
    assert states(tmp_path / "cache") == ["missing", "missing"]


def test_a_copy_that_goes_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(fetch.shutil, "copyfile", lambda _, target: target.write_bytes(b"half"))
    with pytest.raises(DownloadError, match=r"the copy of .*toy\.bit is not the published toy\.bit"):
        fetch.fetch(ARTIFACT, cache=tmp_path / "cache", source=tmp_path)
    assert states(tmp_path / "cache") == ["missing", "missing"]


def test_a_source_means_no_network(server: Server, tmp_path: Path):
    with pytest.raises(DownloadError, match="no such file"):
        get(server, tmp_path / "cache", source=tmp_path)
    assert not server.requests


def test_published_handoff_files(shared: Path, tmp_path: Path):
    for overlay in catalog.OVERLAYS:
        handoff = overlay.file("handoff")
        # Both ways of verification, on files of which both identities are published.
        for name, file in (("sha", handoff), ("blob", dataclasses.replace(handoff, sha256=None, size=None))):
            artifact = dataclasses.replace(overlay, files=(file,))
            paths = fetch.fetch(artifact, cache=tmp_path / name, source=shared / "golden")
            assert paths["handoff"].read_bytes() == (shared / "golden" / handoff.name).read_bytes()


def test_git_blob_id_of_a_known_file(tmp_path: Path):
    # `git hash-object` of this content; the id appears in git's own book.
    blob = catalog.PublishedFile(role="text", path="test.txt", git_blob="d670460b4b4aece5915caf5c68d12f560a9fe3e4")
    artifact = dataclasses.replace(ARTIFACT, files=(blob,))
    (tmp_path / "test.txt").write_bytes(b"test content\n")
    assert fetch.fetch(artifact, cache=tmp_path / "cache", source=tmp_path)


# Words and imports


def test_licence_notices():
    for artifact in catalog.ARTIFACTS:
        notice = fetch.licence_notice(artifact)
        assert f"https://github.com/{artifact.repository}" in notice
        assert artifact.name in notice
        assert (artifact.licence or "states no licence") in notice


def test_names_are_accepted_and_unknown_ones_refused(tmp_path: Path):
    found = fetch.status("imagenet-weights", cache=tmp_path)
    assert [(file.role, state) for file, state in found] == [
        (file.role, "missing") for file in catalog.IMAGENET_WEIGHTS.files
    ]
    for call in (fetch.fetch, fetch.status, fetch.locate):
        with pytest.raises(DownloadError, match="'unknown'"):
            call("unknown", cache=tmp_path)


def test_importing_is_cheap():
    code = "import sys, fracbnn_pynq.published.fetch; print({'pooch', 'requests', 'tqdm', 'pynq'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
