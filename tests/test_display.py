"""Text, windows, recordings."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fracbnn_pynq.display import CODECS, LONGEST_GAP_S, Recorder, Window, as_jpeg, overlay_lines, with_text
from fracbnn_pynq.errors import CameraError

cv2 = pytest.importorskip("cv2")

FPS = 20


def grey(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def played(path):
    """Grey values of all frames of a video, divided by 20."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while (step := capture.read())[0]:
        found.append(round(float(step[1].mean()) / 20))
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return found, fps


def record(path, frames):
    with Recorder(path, FPS) as recorder:
        for value, at in frames:
            recorder.write(grey(20 * value), at)
    return recorder


# --- recording ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [*CODECS, ".AVI"])
def test_a_recording_can_be_played_at_its_rate(tmp_path, ending):
    path = tmp_path / f"out{ending}"
    recorder = record(path, [(value, value / FPS) for value in range(10)])
    assert played(path) == (list(range(10)), FPS)
    assert recorder.frames == 10


def test_frames_stand_at_their_time(tmp_path):
    """Dropped frames are replaced by the one before, frames too many are left out, jitter does not add up."""
    path = tmp_path / "out.avi"
    record(path, [(0, 0.0), (1, 0.06), (4, 0.21), (5, 0.25), (6, 0.26), (7, 0.27), (8, 0.29)])
    assert played(path)[0] == [0, 1, 1, 1, 4, 5, 8]


def test_a_late_start_shows_the_first_frame_and_a_long_gap_is_cut(tmp_path):
    path = tmp_path / "out.avi"
    gap = LONGEST_GAP_S + 1000
    record(path, [(1, 0.1), (2, 0.15), (3, 0.15 + gap), (4, 0.2 + gap), (5, 0.3 + gap)])
    assert played(path)[0] == [1, 1, 1, 2, 3, 4, 4, 5]


def test_a_frame_of_another_size_is_resized(tmp_path):
    path = tmp_path / "out.avi"
    with Recorder(path, FPS) as recorder:
        recorder.write(grey(20), 0)
        recorder.write(grey(40, 96, 32), 1 / FPS)
    assert played(path)[0] == [1, 2]


def test_nothing_recorded_leaves_no_file(tmp_path):
    with Recorder(tmp_path / "out.mp4", FPS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_is_an_error(tmp_path):
    with pytest.raises(CameraError, match=r"ends in .avi, .mkv, .mov, .mp4"):
        Recorder(tmp_path / "out.gif", FPS)
    with pytest.raises(CameraError, match="existing folder"):
        Recorder(tmp_path / "none" / "out.mp4", FPS)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(CameraError, match="found a folder or a device"):
        Recorder(tmp_path / "folder.mp4", FPS)
    with pytest.raises(CameraError, match="OpenCV cannot"):
        record(tmp_path / f"{'x' * 300}.mp4", [(0, 0.0)])


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(480, 640), (48, 64), (1, 1), (12, 2000)])
def test_text_is_drawn_on_a_copy_at_the_top_left(shape):
    image = grey(120, *shape)
    marked = with_text(image, ["cat 97.3%", "60.0 frames/s"])
    assert marked.shape == image.shape
    assert (image == 120).all()
    assert marked[0, 0].tolist() == [40, 40, 40]
    if shape == (480, 640):
        assert marked.max() > 200
        assert (marked[200:] == 120).all()
        assert (marked[:, 500:] == 120).all()


def test_text_differs_by_what_it_says_and_knows_ascii_only():
    image = grey(120, 480, 640)
    assert (with_text(image, ["cat"]) != with_text(image, ["dog"])).any()
    assert (with_text(image, ["caf\u00e9"]) == with_text(image, ["caf?"])).all()
    assert (with_text(image, []) != image).sum() < image.size / 10


# --- window ------------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """OpenCV's windows, recorded: what they were called with, which key is pressed, whether they are visible."""
    calls, state = [], {"key": -1, "visible": 1.0}
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *arguments: calls.append("open"))
    monkeypatch.setattr(cv2, "imshow", lambda title, image: calls.append(title))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: state["key"])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *arguments: state["visible"])
    monkeypatch.setattr(cv2, "destroyWindow", lambda *arguments: calls.append("close"))
    return calls, state


def test_a_window_shows_until_the_person_has_had_enough(screen):
    calls, state = screen
    with Window("title") as window:
        assert window.show(grey(0))
        for key in (ord("x"), 0x100000 | ord("x")):
            state["key"] = key
            assert window.show(grey(0))
        for key in (ord("q"), 27, 0x100000 | ord("q")):
            state["key"] = key
            assert not window.show(grey(0))
        state.update(key=-1, visible=0.0)
        assert not window.show(grey(0))
    assert calls == ["open", *["title"] * 7, "close"]


def test_a_window_that_the_person_closed_can_be_closed(screen, monkeypatch):
    def gone(title):
        raise cv2.error("no such window")

    with Window("title") as window:
        assert window.show(grey(0))
        monkeypatch.setattr(cv2, "destroyWindow", gone)


def test_without_windows_the_error_says_what_to_do(monkeypatch):
    def headless(*arguments):
        raise cv2.error("not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", headless)
    with pytest.raises(CameraError, match="install opencv-python in place"):
        Window("title")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need no DISPLAY")
def test_without_a_screen_the_error_says_so(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(CameraError, match="neither DISPLAY nor WAYLAND_DISPLAY"):
        Window("title")


# --- for people far away -----------------------------------------------------------------------------------------


def test_a_frame_as_jpeg_is_nearly_the_frame():
    image = np.dstack([np.tile(np.arange(64, dtype=np.uint8), (48, 1))] * 3)
    data = as_jpeg(image)
    assert data.startswith(b"\xff\xd8")
    assert np.abs(cv2.imdecode(np.frombuffer(data, np.uint8), 1).astype(int) - image).max() <= 4
    assert len(as_jpeg(image, 10)) < len(data)


def test_the_text_has_labels_and_speed():
    assert overlay_lines([("cat", 0.9751), ("dog", 0.02)], 29.97, 3.14) == [
        "cat 97.5%",
        "dog 2.0%",
        "30.0 frames/s, 3.1 ms",
    ]
