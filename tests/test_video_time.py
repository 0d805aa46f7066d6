"""Videos whose frames come when they come, and sources that never answer."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fracbnn_pynq import opencv as library
from fracbnn_pynq.camera import Camera
from fracbnn_pynq.display import Recorder
from fracbnn_pynq.errors import CameraError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")


def grey(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


class Timed:
    """A capture whose frames have the given times in milliseconds, as cv2.VideoCapture states them."""

    def __init__(self, times: list[float], fps: float = 30.0) -> None:
        self._times, self._fps, self._at = times, fps, -1

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        self._at += 1
        return (True, grey(self._at)) if self._at < len(self._times) else (False, None)

    def get(self, key: int) -> float:
        if key == cv2.CAP_PROP_POS_MSEC:
            return self._times[self._at]
        return self._fps if key == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Times of the frames of a video that states the given milliseconds."""
    (tmp_path / "x.mkv").touch()

    def of(stated: list[float], fps: float = 30.0, **options: Any) -> list[float]:
        monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Timed(stated, fps))
        with Camera(tmp_path / "x.mkv", **{"fast": True, **options}) as source:
            return [frame.time for frame in source]

    return of


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([0, 33, 66, 1066, 1100], [0, 0.033, 0.066, 1.066, 1.1]),  # a pause
        ([0, 10_000, 20_000], [0, 10, 20]),  # a time lapse
        ([500, 533], [0.5, 0.533]),  # a late start
        ([0, 0, 0], [0, 0.1, 0.2]),  # no time stamps
        ([0, 100, 50, 60, 400], [0, 0.1, 0.2, 0.3, 0.4]),  # not in order
        ([float("nan"), 100, float("inf"), 250], [0, 0.1, 0.2, 0.25]),
        ([-1e18, -5], [0, 0.1]),
    ],
)
def test_the_time_is_the_position_in_the_video(times: Any, stated: list[float], expected: list[float]):
    assert times(stated, fps=10.0) == pytest.approx(expected)


def test_a_time_lapses_rate_is_believed(times: Any, tmp_path: Path):
    times([0, 10_000])
    (tmp_path / "x.mkv").touch()
    with Camera(tmp_path / "x.mkv") as source:
        assert source.fps == 30
    assert times([0, 0], fps=0.1) == pytest.approx([0, 10])


def test_playback_keeps_the_pauses(times: Any):
    begin = time.perf_counter()
    assert times([0, 100, 600, 700], fast=False) == pytest.approx([0, 0.1, 0.6, 0.7])
    assert 0.65 < time.perf_counter() - begin < 2


def test_a_video_of_a_variable_rate(tmp_path: Path, shared: Path):
    for name in ("vfr.mkv", "vfr.mp4"):
        path = shared / "cases" / "files" / name
        if not path.exists():
            pytest.skip("the video is not here: it lies in ../shared beside the checkout and is not part of it")
        with Camera(path, fast=True) as source:
            found = [frame.time for frame in source]
        assert found == pytest.approx([0, 0.033, 0.067, 0.1, 1.1, 2.1, 3.1, 3.133, 3.167, 3.2], abs=2e-3)


@pytest.mark.parametrize("ending", [".avi", ".mkv", ".mp4"])
def test_a_recording_keeps_the_pauses(ending: str, tmp_path: Path):
    path = tmp_path / f"x{ending}"
    with Recorder(path, 10.0, longest_gap=60) as recorder:
        for value, at in ((0, 0.0), (40, 0.1), (80, 5.0), (120, 5.1)):
            recorder.write(grey(value), at)
    with Camera(path, fast=True) as source:
        shown = [(frame.time, round(float(frame.image.mean()) / 40)) for frame in source]
    assert [index / 10 for index in range(52)] == pytest.approx([at for at, _ in shown])
    assert [(value, len(list(group))) for value, group in itertools.groupby(value for _, value in shown)] == [
        (0, 1),
        (1, 49),
        (2, 1),
        (3, 1),
    ]


def test_nonsense_times_do_not_fill_the_disk(tmp_path: Path):
    with Recorder(tmp_path / "x.avi", 10.0, longest_gap=60) as recorder:
        recorder.write(grey(0), 0)
        recorder.write(grey(1), 1e12)
    assert recorder.frames == 2


# Recordings that fail


def test_an_encoder_that_writes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Nothing:
        def __init__(self, path: str, *_: object) -> None:
            Path(path).touch()

        def isOpened(self) -> bool:
            return True

        def write(self, _: object) -> None:
            pass

        release = isOpened

    monkeypatch.setattr(cv2, "VideoWriter", Nothing)
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *_: 0, raising=False)
    recorder = Recorder(tmp_path / "x.avi", 10.0)
    recorder.write(grey(0), 0)
    with pytest.raises(CameraError, match=r"expected a recording of 1 frames, found one that does not hold them"):
        recorder.close()
    recorder.close()


@pytest.mark.parametrize("ending", [".avi", ".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("frames", [1, 2, 5, 100])
def test_a_good_recording_is_good(ending: str, frames: int, tmp_path: Path):
    for fps in (0.1, 7.5, 29.97, 240.0):
        with Recorder(tmp_path / f"x{ending}", fps, longest_gap=1e9) as recorder:
            for index in range(frames):
                recorder.write(grey(index), index / fps)
        assert recorder.frames == frames


LIMITED = """
import resource, sys
import numpy as np
from fracbnn_pynq.display import Recorder
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
rng = np.random.default_rng(0)
with Recorder(sys.argv[1], 30.0) as recorder:
    for index in range(100):
        recorder.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), index / 30)
"""


@pytest.mark.parametrize("ending", [".avi", ".mkv", ".mp4"])
def test_a_file_that_may_not_grow_is_an_error(ending: str, tmp_path: Path):
    """As on a full disk, without one."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / f"x{ending}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CameraError: " in done.stderr
    assert "expected a recording of 100 frames, found one that does not hold them" in done.stderr


def test_what_went_wrong_first_is_what_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    def fail() -> None:
        with Recorder(tmp_path / "x.avi", 10.0) as recorder:
            recorder.write(grey(0), 0)
            recorder.frames = 10_000
            raise ZeroDivisionError

    caplog.set_level(logging.INFO)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert "expected a recording of 10000 frames" in caplog.text


# Sources that never answer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("writer", [False, True])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_pipe_that_gives_nothing_ends_with_a_signal(writer: bool, number: int, status: int, tmp_path: Path):
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR) if writer else None
    command = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()", "camera", "--source", str(pipe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        begin = time.perf_counter()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        took = time.perf_counter() - begin
    assert (process.returncode, took < 5) == (status, True)
    assert "Traceback" not in err
    if held is not None:
        os.close(held)


def test_a_source_that_hangs_while_it_is_read_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    answer = threading.Event()

    class Hanging(Timed):
        def read(self) -> tuple[bool, Any]:
            answer.wait(30)
            return False, None

    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Hanging([]))
    (tmp_path / "x.mkv").touch()
    source = Camera(tmp_path / "x.mkv")
    thread = threading.Thread(target=lambda: list(source), daemon=True)
    thread.start()
    time.sleep(0.1)
    begin = time.perf_counter()
    source.close()
    assert time.perf_counter() - begin < 3
    assert "does not answer and is left behind" in caplog.text
    answer.set()
    thread.join(5)
    assert not thread.is_alive()


def test_what_comes_too_late_is_given_back():
    stopped, go, given_back = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        go.wait(10)
        return "late"

    threading.Timer(0.1, stopped.set).start()
    assert library.unless_stopped(work, stopped, lambda late: given_back.set()) is None
    go.set()
    assert given_back.wait(5)


def test_what_is_raised_in_the_other_thread_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        library.unless_stopped(lambda: 1 // 0, threading.Event(), print)
    assert library.unless_stopped(lambda: 3, threading.Event(), print) == 3


# Stderr


@pytest.mark.parametrize("name", ["junk.mp4", "junk.mkv", "cut.avi"])
def test_opencv_writes_nothing_to_stderr(name: str, tmp_path: Path):
    path = tmp_path / name
    if name == "cut.avi":
        with Recorder(path, 10.0) as recorder:
            for index in range(20):
                recorder.write(grey(index), index / 10)
        path.write_bytes(path.read_bytes()[:3000] + b"junk" * 1000)
    else:
        path.write_bytes(b"\0\0\0\x18ftypmp42" + b"moov" * 1000)
    script = (
        f"from fracbnn_pynq.camera import Camera\ntry:\n list(Camera({str(path)!r}, fast=True))\n"
        "except ValueError as error:\n print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_users_own_level_stays():
    script = "import os; from fracbnn_pynq.opencv import opencv; opencv(); print(os.environ['OPENCV_FFMPEG_LOGLEVEL'])"
    for own, expected in ({}, "-8"), ({"OPENCV_FFMPEG_LOGLEVEL": "32"}, "32"):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, **own}
        )
        assert done.stdout.strip() == expected
