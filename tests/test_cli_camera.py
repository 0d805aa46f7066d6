"""``fracbnn camera``: outputs, the report, signals."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fracbnn_pynq.classifier import Classifier
from fracbnn_pynq.cli import camera as cli_camera
from fracbnn_pynq.cli import group
from fracbnn_pynq.errors import PictureError
from fracbnn_pynq.models import MODELS

cv2 = pytest.importorskip("cv2")
if importlib.util.find_spec("fracbnn_pynq.weights") is None or not MODELS["cifar10"].available:
    pytest.skip("the package is not installed, so its bundled model is not found", allow_module_level=True)

FPS = 30
FRAMES = 12
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
COMMAND = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()", "camera"]


def write_video(path, images, fps=FPS):
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write Motion JPEG")
    for image in images:
        writer.write(image)
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    images = []
    while (step := capture.read())[0]:
        images.append(step[1])
    capture.release()
    return images


@pytest.fixture
def video(tmp_path, cat):
    """A cat that moves a little."""
    picture = np.asarray(Image.open(cat).convert("RGB").resize((160, 120)))[..., ::-1]
    return write_video(tmp_path / "video.avi", [np.roll(picture, shift, axis=1) for shift in range(FRAMES)])


@pytest.fixture
def long_video(tmp_path):
    return write_video(tmp_path / "long.avi", [np.full((48, 64, 3), value % 256, np.uint8) for value in range(900)])


def run(*arguments):
    return CliRunner().invoke(group, ["camera", *map(str, arguments)])


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_every_frame_of_a_file_has_the_label_that_classify_gives(video):
    result = run("--source", video, "--fast", "--jsonl", "-", "--top", 3, "--json")
    assert result.exit_code == 0, result.output
    found = lines(result.stdout)
    with Classifier.load("cifar10") as classifier:
        expected = [classifier.classify(image, 3, bgr=True) for image in read_video(video)]
    assert [line["label"] for line in found] == [prediction.label for prediction in expected]
    assert [[(t["label"], t["probability"]) for t in line["top"]] for line in found] == [p.top for p in expected]
    assert [line["frame"] for line in found] == list(range(FRAMES))
    assert found[0]["score"] == expected[0].score
    assert found[3]["time"] == 3 / FPS
    assert all(line["latency_ms"] > 0 for line in found)
    report = json.loads(result.stderr)
    assert (report["captured"], report["classified"], report["delivered"]) == (FRAMES,) * 3
    assert (report["dropped"], report["unfinished"], report["outages"]) == (0, 0, 0)
    assert (report["source"], report["stated_fps"], report["backend"]) == (str(video), FPS, "cpu")
    for stage in cli_camera.ORDER:
        times = report["milliseconds"][stage]
        assert 0 <= times["p50"] <= times["p99"] <= times["max"]
    inference = report["milliseconds"]["inference"]["mean"]
    assert report["milliseconds"]["reading"]["mean"] + report["milliseconds"]["network"]["mean"] <= inference


def test_the_report_is_text_on_stdout_and_headless_is_the_default(video):
    result = run("--source", video, "--fast")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0][0] == f"{video}:"
    assert ["captured", str(FRAMES)] in [row[:2] for row in rows]
    assert ["dropped", "0"] in rows
    assert ["MILLISECONDS", "mean", "p50", "p99", "max"] in rows
    assert [" ".join(row[:-4]) for row in rows[-len(cli_camera.ORDER) :]] == list(cli_camera.ORDER)
    assert re.search(r"^\S.* \d+\.\d%  capture ", result.stderr), "the labels, without a terminal, too"


def test_labels_are_said_once_where_they_are_written_as_json(video):
    assert run("--source", video, "--fast", "--json").stderr == ""
    assert "  capture " not in run("--source", video, "--fast", "--jsonl", "-").stderr


def test_a_file_at_its_own_rate_takes_its_own_time(video):
    before = time.perf_counter()
    result = run("--source", video, "--json")
    assert time.perf_counter() - before >= (FRAMES - 1) / FPS
    report = json.loads(result.stdout)
    assert report["captured"] == FRAMES == report["delivered"] + report["dropped"]


def test_a_recording_has_the_frames_with_their_labels_and_lines_go_to_a_file(video, tmp_path):
    out, jsonl = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    result = run("--source", video, "--fast", "--record", out, "--jsonl", jsonl)
    assert result.exit_code == 0, result.output
    assert len(lines(jsonl.read_text(encoding="utf-8"))) == FRAMES
    before, after = read_video(video), read_video(out)
    assert len(after) == FRAMES
    for plain, marked in zip(before, after, strict=True):
        top = np.abs(plain[:20, :40].astype(int) - marked[:20, :40]).mean()
        bottom = np.abs(plain[60:].astype(int) - marked[60:]).mean()
        assert top > 30 > 10 > bottom


def test_seconds_end_it_and_that_is_no_failure(long_video):
    result = run("--source", long_video, "--seconds", 0.3, "--json")
    assert result.exit_code == 0
    assert 0 < json.loads(result.stdout)["delivered"] < 20


def test_the_window_ends_it(video, monkeypatch):
    shown = []

    class Window:
        def __init__(self, title):
            shown.append(title)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            shown.append("closed")

        def show(self, image):
            shown.append(image.shape)
            return len(shown) < 4

    monkeypatch.setattr(cli_camera, "Window", Window)
    result = run("--source", video, "--fast", "--show", "--json")
    assert result.exit_code == 0, result.output
    assert shown == [f"fracbnn: {video}", *[(120, 160, 3)] * 3, "closed"]
    assert json.loads(result.stdout)["delivered"] == 3


# --- what does not work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--source", "no-such.mp4"], 2, "found no file of this name"),
        (["--source", "/dev/no-such-video"], 1, "is it plugged in"),
        (["--source", "VIDEO", "--width", "640"], 1, "of a camera only"),
        (["--source", "VIDEO", "--record", "out.gif"], 1, "ends in .avi"),
        (["--source", "VIDEO", "--record", "VIDEO"], 2, "expected another file than the source"),
        (["--source", "VIDEO", "--jsonl", "VIDEO"], 2, "expected another file than the source"),
        (["--source", "VIDEO", "--jsonl", "no/such/folder"], 1, "no/such/folder"),
        (["--source", "VIDEO", "--model", "no-such"], 2, "no-such"),
        (["--source", "VIDEO", "--seconds", "0"], 2, "--seconds"),
        (["--source", "VIDEO", "--show"], 1, "neither DISPLAY nor WAYLAND_DISPLAY"),
    ],
)
def test_errors_are_one_message_and_a_status(video, arguments, status, message):
    if "--show" in arguments and sys.platform != "linux":
        pytest.skip("other systems need no DISPLAY")
    before = video.read_bytes()
    arguments = [str(video) if argument == "VIDEO" else argument for argument in arguments]
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=ENVIRONMENT, cwd=video.parent, check=False
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert video.read_bytes() == before


def test_an_error_on_the_way_ends_it_but_the_recording_can_be_played(video, tmp_path, monkeypatch):
    classify = Classifier.classify
    calls = []

    def breaks(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 6:
            raise PictureError("broken on the way")
        return classify(self, *arguments, **options)

    monkeypatch.setattr(Classifier, "classify", breaks)
    out = tmp_path / "out.mp4"
    result = run("--source", video, "--fast", "--record", out)
    assert isinstance(result.exception, PictureError)
    assert len(read_video(out)) == 4, "one of the six calls is the warm-up, one fails"


def test_a_reader_that_goes_away_ends_it(long_video):
    with subprocess.Popen(
        [*COMMAND, "--source", str(long_video), "--jsonl", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(20) == 1
    assert "Traceback" not in errors


# --- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_a_signal_finishes_recording_and_report(long_video, tmp_path, number, status, ending):
    out = tmp_path / f"out{ending}"
    arguments = ["--source", str(long_video), "--record", str(out), "--jsonl", "-", "--json"]
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        first = [process.stdout.readline() for _ in range(10)]
        process.send_signal(number)
        before = time.perf_counter()
        rest, errors = process.communicate(timeout=20)
        assert time.perf_counter() - before < 5
    assert process.returncode == status, errors
    found = lines("".join(first) + rest)
    report = json.loads(errors)
    assert report["delivered"] == len(found) < 900
    images = read_video(out)
    assert len(images) == found[-1]["frame"] + 1
    assert images[0].shape == (48, 64, 3)


def test_a_second_signal_ends_it_at_once(long_video):
    """Nobody reads on, so that writing blocks and the first signal alone cannot end it."""
    read_end, write_end = os.pipe()
    with subprocess.Popen(
        [*COMMAND, "--source", str(long_video), "--fast", "--jsonl", "-", "--top", "10"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        os.close(write_end)
        assert os.read(read_end, 1) == b"{"
        time.sleep(1)  # enough to fill the pipe
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert b"Traceback" not in process.stderr.read()
    os.close(read_end)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored(video):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        interrupt = signal.getsignal(signal.SIGINT)
        assert run("--source", video, "--fast").exit_code == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_on_a_terminal_there_is_a_line_every_second(long_video):
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*COMMAND, "--source", str(long_video), "--seconds", "2.5"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=ENVIRONMENT,
        check=False,
    )
    os.close(theirs)
    text = os.read(ours, 10000).decode()
    os.close(ours)
    assert done.returncode == 0, text
    rows = text.splitlines()
    assert len(rows) == 2
    for row in rows:
        for part in ("%", "capture ", "infer ", "deliver ", "dropped ", "latency "):
            assert part in row
    rate = float(rows[1].split("capture ")[1].split("/s")[0])
    assert rate == pytest.approx(FPS, rel=0.3)


@pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="pynq is not installed")
def test_what_an_accelerator_says_of_frames_is_checked(video, monkeypatch, tmp_path):
    monkeypatch.setenv("FRACBNN_FAULTS", "flipped-bit@3")
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")
    folder = tmp_path / "report"
    overlay = ("--backend", "overlay", "--board", "simulated")
    result = run("--source", video, "--fast", *overlay, "--verify", "1", "--verify-report", folder, "--json")
    assert result.exit_code == 0, result.output
    found = lines(result.stdout)[-1]["verification"]
    assert found["checked"] + found["left_out"] == FRAMES + 1  # and the first use, of which no frame is
    assert found["different"] == 1
    assert (folder / "picture-2.png").is_file()
