"""Full disks, names that are too long, files that never end: one line, an exit status, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import Run
from training_support import archive_of_pictures

from fracbnn_pynq.datasets import decode, open_source
from fracbnn_pynq.errors import ModelError, PictureError, SourceError
from fracbnn_pynq.files import LineFile, open_regular, read_file, write_file, write_stream
from fracbnn_pynq.networks import CIFAR10

COMMAND = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()"]
SMALL = 64 << 10


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        pytest.skip("a small file system cannot be made here: that needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def little() -> Iterator[None]:
    """Files of this process may not grow beyond 64 kB, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


# A full disk


def test_decoding_to_a_full_disk(small: Path, tmp_path: Path):
    """It was a mapping into memory once, where a full disk ended the process with SIGBUS."""
    source = open_source(archive_of_pictures(tmp_path / "m.npz", 64))
    with pytest.raises(SourceError, match=r"cannot write .*train\.npy: No space left on device"):
        decode(source, CIFAR10, small / "train.npy", progress=False)
    assert list(small.iterdir()) == []


def test_decoding_where_files_may_not_grow(tmp_path: Path):
    source = open_source(archive_of_pictures(tmp_path / "m.npz", 15))
    more = open_source(archive_of_pictures(tmp_path / "m.npz", 30))
    (tmp_path / "out").mkdir()
    with little():
        assert len(decode(source, CIFAR10, tmp_path / "out" / "a.npy", progress=False)) == 15
    with little(), pytest.raises(SourceError, match=r"cannot write .*b\.npy: File too large"):
        decode(more, CIFAR10, tmp_path / "out" / "b.npy", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy", "a.source"]


def test_training_on_a_full_disk(small: Path, tmp_path: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    data = archive_of_pictures(tmp_path / "m.npz", 64)
    done = command("train", data, "--out", small / "m.safetensors", "--epochs", 1, "--no-compile")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: cannot write ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def write_lines(path: Path, line: str) -> None:
    with LineFile(path, SourceError) as lines:
        for _ in range(1000):
            lines.write(line)


def test_lines_to_a_full_disk(small: Path):
    path = small / "x.jsonl"
    line = json.dumps({"x": "y" * 1000})
    with pytest.raises(SourceError, match="No space left on device"):
        write_lines(path, line)
    kept = path.read_text().splitlines()
    assert len(kept) > 50
    assert set(kept) == {line}


def test_lines_where_files_may_not_grow(tmp_path: Path):
    with little(), pytest.raises(SourceError, match="File too large"):
        write_lines(tmp_path / "x", "y" * 999)
    assert (tmp_path / "x").read_text() == ("y" * 999 + "\n") * 65


@pytest.mark.parametrize("content", [b"old", None])
def test_whole_files_on_a_full_disk(small: Path, content: bytes | None):
    path = small / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot write .* No space left on device"):
        write_file(path, bytes(2 * SMALL), ModelError)
    assert [found.read_bytes() for found in small.iterdir()] == ([] if content is None else [content])


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path):
    def write() -> None:
        with write_stream(tmp_path / "a", SourceError):
            (tmp_path / "gone").read_bytes()

    with pytest.raises(FileNotFoundError, match="gone"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_camera_command_on_a_full_disk(small: Path, tmp_path: Path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    writer = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (320, 240))
    rng = np.random.default_rng(0)
    for _ in range(40):
        writer.write(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    writer.release()
    arguments = "camera", "--source", tmp_path / "x.avi", "--fast"
    for ending in (".avi", ".mkv", ".mp4"):
        done = command(*arguments, "--record", small / f"out{ending}")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "out" in done.stderr
        (small / f"out{ending}").unlink(missing_ok=True)
    (small / "filler").write_bytes(bytes(SMALL - 8192))
    done = command(*arguments, "--jsonl", small / "out.jsonl", "--top", 10)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "out.jsonl: No space left on device" in done.stderr
    assert all(json.loads(line)["label"] for line in (small / "out.jsonl").read_text().splitlines())
    if Path("/dev/full").exists():
        done = command(*arguments, "--jsonl", "/dev/full")
        assert (done.returncode, done.stderr) == (1, "error: cannot write /dev/full: No space left on device\n")


def test_lines_of_an_earlier_run_stay_where_there_is_no_source(tmp_path: Path, run: Run):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    (tmp_path / "x.jsonl").write_text("precious")
    assert run("camera", "--source", tmp_path / "typo.mp4", "--jsonl", tmp_path / "x.jsonl").code == 2
    assert (tmp_path / "x.jsonl").read_text() == "precious"


# Names


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", LONG],
        ["classify", f"{LONG}.png"],
        ["classify", "--model", LONG, "x.png"],
        ["models", "show", LONG],
        ["models", "show", f"{LONG}.safetensors"],
        ["models", "fetch", LONG],
        ["models", "card", LONG],
        ["evaluate", LONG],
        ["evaluate", f"{LONG}.npz"],
        ["import", LONG, "--network", "cifar10", "--out", "x.safetensors"],
        ["import", f"{LONG}.npz", "--network", "cifar10", "--out", "x.safetensors"],
        ["import", "x.h", "--network", "cifar10", "--out", "x.safetensors", "--classes", LONG],
        ["camera", "--source", LONG],
        ["camera", "--source", f"{LONG}.mp4"],
        ["camera", "--source", "/dev/null", "--jsonl", LONG],
        ["overlays", "fetch", LONG],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_names_of_three_hundred_characters(arguments: list[str], run: Run):
    result = run(*arguments)
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: ")


def test_long_names_of_what_is_written(tmp_path: Path, run: Run):
    for name in (LONG, f"{LONG}.safetensors", "no/such/folder.safetensors"):
        with pytest.raises(ModelError, match="cannot write"):
            write_file(tmp_path / name, b"x", ModelError)
        with pytest.raises(SourceError, match="cannot write"):
            LineFile(tmp_path / name, SourceError)
    assert list(tmp_path.iterdir()) == []


def test_missing_folders_are_not_made(tmp_path: Path, run: Run):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    data = archive_of_pictures(tmp_path / "m.npz", 6)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = run("train", data, "--out", tmp_path / "typo" / "deep" / "m.safetensors", "--epochs", 1)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "cannot make the folder" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# Files that are none, or never end


@pytest.fixture(params=["folder", "pipe", "device", "endless"])
def odd(request: Any, tmp_path: Path) -> Path:
    path = tmp_path / "odd"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if request.param == "endless" else "/dev/null")
    return path


@pytest.mark.timeout(60)
def test_only_regular_files_are_read(odd: Path, run: Run):
    with pytest.raises(SourceError, match="expected a thing, found a folder or a device"):
        open_regular(odd, SourceError, "thing")
    for ending in ("", ".safetensors", ".npz", ".pt", ".h", ".bin", ".hwh", ".bit", ".jpg"):
        named = odd.with_name(f"odd{ending}")
        if not named.exists():
            named.symlink_to(odd)
    commands: list[tuple[object, ...]] = [
        ("models", "show", odd),
        ("models", "show", f"{odd}.safetensors"),
        ("classify", "--model", f"{odd}.safetensors", "x.jpg"),
        ("import", f"{odd}.npz", "--network", "cifar10", "--out", "x"),
        ("import", f"{odd}.pt", "--network", "cifar10", "--out", "x"),
        ("import", f"{odd}.safetensors", "--network", "cifar10", "--out", "x"),
        ("import", f"{odd}.h", "--network", "cifar10", "--out", "x"),
        ("import", f"{odd}.bin", f"{odd}.bin", "--network", "imagenet", "--out", "x"),
        ("import", f"{odd}.npz", "--network", "cifar10", "--out", "x", "--classes", odd),
        ("evaluate", f"{odd}.npz"),
    ]
    if not odd.is_dir():
        commands.append(("classify", f"{odd}.jpg"))
    for arguments in commands:
        result = run(*arguments)
        assert (arguments, result.code, result.err.count("\n")) == (arguments, 2, 1)


def test_files_are_read_up_to_their_limit(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    assert read_file(path, 100, SourceError) == bytes(100)
    with pytest.raises(SourceError, match="expected a file of at most 99 bytes, found 100"):
        read_file(path, 99, SourceError)
    with pytest.raises(SourceError, match="no file can have this name"):
        read_file(tmp_path / "a\0b", 99, SourceError)
    unsized = Path("/proc/self/maps")  # whose size reads as 0
    if unsized.exists():
        with pytest.raises(SourceError, match="expected a file of at most 10 bytes, found more"):
            read_file(unsized, 10, SourceError)


@pytest.mark.timeout(60)
def test_overlay_files_that_are_none(odd: Path):
    from fracbnn_pynq.doctor.files import check_before_start

    for ending in (".bit", ".hwh"):
        odd.with_suffix(ending).symlink_to(odd)
    checks = check_before_start(odd.with_suffix(".bit"), odd.with_suffix(".hwh"), board_part=None)
    assert {check.name for check in checks if check.status == "error"} >= {"bitstream", "hand-off file"}


def test_standard_input_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch):
    from fracbnn_pynq import pictures

    monkeypatch.setattr(pictures, "MAX_STREAM_SIZE", 1 << 20)
    with open("/dev/zero", "rb") as endless, pytest.raises(PictureError, match="at most 1048576 bytes"):
        pictures.read_picture(endless)
