"""Folders that killed processes left behind are removed, those in use are not."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from fracbnn_pynq.simulator import write_overlay
from fracbnn_pynq.simulator.leftovers import PREFIX, STARTING_S, FileLock, remove_leftovers


@pytest.fixture
def leave(tmp_path):
    """Make the folder of an overlay, last changed ``age`` seconds ago; returns its bitstream."""

    def make(name, age=2 * STARTING_S):
        bit = write_overlay(tmp_path / name, "cifar10")
        _age(bit.parent, age)
        return bit

    return make


def _age(folder, seconds):
    then = time.time() - seconds
    os.utime(folder, (then, then))


def test_what_nobody_uses_is_removed(leave, tmp_path):
    bit = leave(PREFIX + "abc")
    assert remove_leftovers(tmp_path) == [bit.parent]
    assert list(tmp_path.iterdir()) == []


def test_what_is_loaded_stays_until_it_is_released(leave, tmp_path):
    bit, other = leave(PREFIX + "abc"), leave(PREFIX + "def")
    first, second = FileLock(), FileLock()
    first.take(bit)
    second.take(bit)
    assert remove_leftovers(tmp_path) == [other.parent]
    assert bit.is_file()
    assert bit.with_suffix(".hwh").is_file()
    first.take(bit)
    second.release()
    second.release()
    assert remove_leftovers(tmp_path) == []
    first.release()
    assert remove_leftovers(tmp_path) == [bit.parent]


def test_what_may_belong_to_a_process_that_is_starting_stays(leave, tmp_path):
    leave(PREFIX + "abc", age=STARTING_S - 60)
    assert remove_leftovers(tmp_path) == []


def test_other_things_stay(leave, tmp_path):
    bit = leave("another")
    (tmp_path / (PREFIX + "file")).write_bytes(b"")
    (tmp_path / (PREFIX + "link")).symlink_to(bit.parent, target_is_directory=True)
    (tmp_path / (PREFIX + "mine")).mkdir()
    (tmp_path / (PREFIX + "mine") / "notes.txt").write_text("keep")
    for path in tmp_path.iterdir():
        then = time.time() - 2 * STARTING_S
        os.utime(path, (then, then), follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    assert remove_leftovers(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


SCRIPT = """
import sys, time
from fracbnn_pynq import Classifier
held = Classifier.load("cifar10", backend="overlay", board="simulated")
print("loaded", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="pynq is not installed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_board_removes_what_a_killed_process_left(number, tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout.readline() == "loaded\n"
            (folder,) = tmp_path.glob(PREFIX + "*")
            _age(folder, 2 * STARTING_S)
            assert remove_leftovers(tmp_path) == []
        finally:
            process.send_signal(number)
    command[2] = SCRIPT.replace("time.sleep(60)", "")
    again = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    assert list(tmp_path.glob(PREFIX + "*")) == []


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="pynq is not installed")
def test_a_command_that_is_terminated_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()", "bench", "--seconds", "60"]
    given = {**os.environ, "TMPDIR": str(tmp_path), "FRACBNN_BACKEND": "overlay", "FRACBNN_BOARD": "simulated"}
    with subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 30
        while not list(tmp_path.glob(f"{PREFIX}*/*.hwh")) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.glob(f"{PREFIX}*"))
        time.sleep(0.5)  # it is measuring by now
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
