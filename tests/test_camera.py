"""Video files that OpenCV wrote, a network stream that comes and goes, and a camera made of paper."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from waiting_support import live_threads

from fracbnn_pynq import camera, opencv
from fracbnn_pynq.camera import Camera, CameraError, Frame
from fracbnn_pynq.errors import FracBNNError, PictureError
from fracbnn_pynq.streaming import Pipeline

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2")


@pytest.fixture
def video(cv2, tmp_path):
    """A video of 30 frames/s: frame i has the grey value 8 i."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write Motion JPEG")
    for index in range(20):
        writer.write(np.full((HEIGHT, WIDTH, 3), 8 * index, np.uint8))
    writer.release()
    return path


class PaperCapture:
    """What cv2.VideoCapture does, for a camera that gives what ``script`` says: an image, False, or an exception."""

    def __init__(self, script, properties=None):
        self.script = script
        self.properties = properties or {}
        self.released = False

    def isOpened(self):
        return self.script is not None

    def read(self):
        step = self.script.pop(0) if self.script else False
        if isinstance(step, Exception):
            raise step
        return (False, None) if step is False else (True, step)

    def get(self, key):
        return self.properties.get(key, 0.0)

    def set(self, key, value):
        self.properties.setdefault(key, float(value))
        return True

    def release(self):
        self.released = True


@pytest.fixture
def paper(cv2, monkeypatch):
    """Puts paper captures in place of OpenCV's, one at each opening: the list to fill, the list of those opened."""
    monkeypatch.setattr(camera, "FIRST_RETRY_S", 0.001)
    waiting, opened = [], []

    def capture(*arguments):
        opened.append(waiting.pop(0) if waiting else PaperCapture(None))
        opened[-1].arguments = arguments
        return opened[-1]

    monkeypatch.setattr(cv2, "VideoCapture", capture)
    return waiting, opened


def grey(value):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def values(frames):
    return [round(float(frame.image.mean()) / 8) for frame in frames]


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_fast_gives_every_frame_once_with_its_time(video):
    with Camera(video, fast=True) as source:
        assert (source.live, source.fps, source.size) == (False, 30.0, (WIDTH, HEIGHT))
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert values(frames) == list(range(20))
    assert [frame.time for frame in frames] == [index / 30 for index in range(20)]
    assert {(frame.image.shape, frame.image.dtype) for frame in frames} == {((HEIGHT, WIDTH, 3), np.dtype(np.uint8))}
    assert source.size == (0, 0)


def test_a_file_comes_at_its_own_rate(video):
    with Camera(video) as source:
        before = time.perf_counter()
        late = [time.perf_counter() - before - frame.time for frame in source]
    assert min(late) >= 0, "no frame comes before its time"
    assert 19 / 30 <= time.perf_counter() - before < 5


def test_after_a_suspension_a_file_goes_on_at_its_own_rate(video, monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr(camera.time, "perf_counter", lambda: clock["now"])
    with Camera(video) as source:
        waits = []

        def wait(seconds):
            waits.append(seconds)
            clock["now"] += seconds

        monkeypatch.setattr(source._stopping, "wait", wait)
        for frame in source:
            if frame.index == 9:
                clock["now"] += 3600
    assert len(waits) == 18, "the first frame and the one after the suspension do not wait"
    assert max(waits) == pytest.approx(1 / 30)


def test_a_waiting_file_can_be_stopped(video):
    with Camera(video) as source:
        threading.Timer(0.1, source.stop).start()
        assert 1 <= len(list(source)) < 20


def test_a_file_through_a_pipeline(video):
    seen = []
    with Camera(video, fast=True) as source:
        Pipeline(source, lambda frame: frame.index, drop=False, interrupt=source.stop).run(seen.append)
    assert [delivery.result for delivery in seen] == list(range(20))


@pytest.mark.parametrize(
    ("content", "found"), [(None, "no file of this name"), (b"", "cannot open"), (b"no video" * 99, "cannot open")]
)
def test_a_file_that_is_no_video_is_a_picture_error(cv2, tmp_path, capfd, content, found):
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PictureError, match=found) as caught:
        Camera(path)
    assert str(path) in str(caught.value)
    assert "WARN" not in capfd.readouterr().err, "OpenCV's own complaints are kept back"


def test_a_video_without_frames_is_an_error(paper, tmp_path):
    waiting, _ = paper
    waiting.append(PaperCapture([]))
    path = tmp_path / "empty.avi"
    path.touch()
    with Camera(path) as source, pytest.raises(PictureError, match="no frame in it"):
        list(source)


# --- cameras -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "name"), [(3, 3, "camera 3"), ("3", 3, "camera 3"), ("/dev/null", "/dev/null", "/dev/null")]
)
def test_a_camera_is_a_number_or_a_device_and_live(paper, source, target, name):
    waiting, opened = paper
    waiting.append(PaperCapture([grey(0)]))
    with Camera(source) as found:
        assert (found.live, found.name) == (True, name)
        assert opened[0].arguments == (target,)
    assert opened[0].released


def test_no_camera_is_an_error(paper):
    with pytest.raises(CameraError, match=r"camera 7: expected a source of frames, found none .*plugged in"):
        Camera(7)
    with pytest.raises(CameraError, match="is the address right"):
        Camera("rtsp://127.0.0.1:9/none")
    with pytest.raises(CameraError, match="/dev/no-such-video"):
        Camera("/dev/no-such-video")


def test_a_password_is_in_no_message(paper):
    with pytest.raises(CameraError, match="rtsp://host:554/a@b: ") as caught:
        Camera("rtsp://user:pass@word@host:554/a@b")
    assert "pass" not in str(caught.value)


def test_opencv_itself_is_silent_where_there_is_no_camera_and_then_as_before(cv2, capfd):
    set_level = opencv._log_level_setter()
    before = set_level(3)
    try:
        with pytest.raises(CameraError):
            Camera(987)
        assert capfd.readouterr() == ("", "")
        assert set_level(before) == 3
    finally:
        set_level(before)


def test_what_is_asked_of_a_camera_is_set_and_a_refusal_is_said(cv2, paper, caplog):
    waiting, opened = paper
    waiting.append(PaperCapture([grey(0)], {cv2.CAP_PROP_FPS: 30.0}))
    with caplog.at_level(logging.WARNING), Camera(0, width=640, height=480, fps=60, fourcc="MJPG") as source:
        assert source.size == (640, 480)
        assert source.fps == 30
    assert opened[0].properties[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter_fourcc(*"MJPG")
    assert [record.message for record in caplog.records] == ["camera 0: asked for fps 60, it gives 30"]


@pytest.mark.parametrize("stated", [0.0, -1.0, float("nan"), float("inf"), 90000.0])
def test_nonsense_for_a_rate_is_replaced(cv2, paper, stated):
    paper[0].append(PaperCapture([grey(0)], {cv2.CAP_PROP_FPS: stated}))
    with Camera(0) as source:
        assert source.fps == camera.ASSUMED_FPS


@pytest.mark.parametrize("request_", [{"width": 640}, {"height": 480}, {"fps": 30.0}, {"fourcc": "MJPG"}])
def test_only_cameras_can_be_asked(cv2, request_):
    for source in ("clip.mp4", "rtsp://host/stream"):
        with pytest.raises(CameraError, match="of a camera only"):
            Camera(source, **request_)


@pytest.mark.parametrize("fourcc", ["", "MJP", "MJPEG", "MJP\u00c9"])
def test_a_fourcc_has_four_characters(cv2, fourcc):
    with pytest.raises(CameraError, match="four ASCII characters"):
        Camera(0, fourcc=fourcc)


def test_a_camera_that_disappears_is_opened_again_and_both_are_said_once(cv2, paper, caplog):
    waiting, opened = paper
    waiting += [
        PaperCapture([grey(0), grey(8), False]),
        PaperCapture(None),
        PaperCapture([False]),  # opens, but gives no frame
        PaperCapture([grey(16), cv2.error("unplugged")]),
        PaperCapture([grey(24)]),
    ]
    seen = []
    with caplog.at_level(logging.WARNING), Camera(0) as source:
        for frame in source:
            seen.append(frame)
            if len(seen) == 4:
                source.stop()
    assert values(seen) == [0, 1, 2, 3]
    assert [frame.index for frame in seen] == [0, 1, 2, 3]
    assert [frame.time for frame in seen] == sorted(frame.time for frame in seen)
    assert source.outages == 2
    messages = [record.message.split(" after")[0].split(";")[0] for record in caplog.records]
    assert messages == ["camera 0: no more frames", "camera 0: back"] * 2
    assert all(capture.released for capture in opened)


def test_a_camera_that_is_not_there_yet_is_waited_for(paper, caplog):
    waiting, opened = paper
    waiting += [PaperCapture(None), PaperCapture(None), PaperCapture([grey(8)])]
    with caplog.at_level(logging.WARNING), Camera(0, wait=True) as source:
        assert (source.live, source.lost, opened) == (True, False, [])
        frames = iter(source)
        assert values([next(frames)]) == [1]
        assert (len(opened), source.outages, source.lost) == (3, 1, False)
        source.stop()
        assert list(frames) == []
    messages = [record.message.split(" after")[0].split(";")[0] for record in caplog.records]
    assert messages == ["camera 0: no frames", "camera 0: back"]


def test_only_a_live_source_is_waited_for(cv2, tmp_path, video):
    with pytest.raises(PictureError, match="no file of this name"):
        Camera(tmp_path / "no-such.mp4", wait=True)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(PictureError, match="cannot open"):
        list(Camera(tmp_path / "empty.mp4", wait=True))
    with pytest.raises(CameraError, match="of a camera only"):
        Camera(video, wait=True, width=640)
    with Camera(video, wait=True, fast=True) as source:
        assert values(source) == list(range(20))
        assert source.fps == 30


def test_opening_again_is_tried_less_and_less_often(paper, monkeypatch):
    monkeypatch.setattr(camera, "FIRST_RETRY_S", 0.5)
    paper[0].append(PaperCapture([grey(0)]))
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return len(waits) == 7

    with Camera(0) as source:
        monkeypatch.setattr(source._stopping, "wait", wait)
        assert len(list(source)) == 1
    assert waits == [0.5, 1, 2, 4, 5, 5, 5]


def test_waiting_for_a_camera_ends_with_the_pipeline(paper, monkeypatch):
    monkeypatch.setattr(camera, "FIRST_RETRY_S", 3600)
    paper[0].append(PaperCapture([grey(0)]))
    threads_before = live_threads("fracbnn-")
    with Camera(0) as source:
        pipeline = Pipeline(source, lambda frame: frame.index, interrupt=source.stop)
        before = time.perf_counter()
        statistics = pipeline.run(lambda _: None, seconds=0.1)
    assert statistics.delivered.count == 1
    assert time.perf_counter() - before < 10
    assert live_threads("fracbnn-") <= threads_before


# --- network -----------------------------------------------------------------------------------------------------


class StreamHandler(BaseHTTPRequestHandler):
    """Motion JPEG; after ``server.frames_left`` frames the connection breaks, and while it is 0 all are refused."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.server.frames_left <= 0:
            self.send_error(503)
            self.server.refused += 1
            self.server.frames_left = 15 if self.server.refused > 1 else 0
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(self.server.jpeg)
        while self.server.frames_left > 0:
            self.server.frames_left -= 1
            try:
                self.wfile.write(head + self.server.jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.005)


@pytest.fixture
def stream(cv2):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StreamHandler)
    server.jpeg = cv2.imencode(".jpg", grey(80))[1].tobytes()
    server.frames_left, server.refused = 15, 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.frames_left = 0
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_network_stream_that_breaks_off_is_opened_again(cv2, stream, monkeypatch, caplog):
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        pytest.skip("this OpenCV has no FFmpeg")
    monkeypatch.setattr(camera, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(camera, "LONGEST_RETRY_S", 0.05)
    seen = []
    with caplog.at_level(logging.WARNING), Camera(f"http://127.0.0.1:{stream.server_port}/stream") as source:
        assert source.live
        for frame in source:
            seen.append(frame)
            if source.outages and len(seen) >= 18:
                break
    assert set(values(seen)) == {10}
    assert stream.refused >= 2
    assert source.outages == 1
    assert len(caplog.records) == 2


# --- without OpenCV ----------------------------------------------------------------------------------------------


def test_opencv_is_imported_only_when_it_is_used():
    code = (
        "import sys, fracbnn_pynq.camera, fracbnn_pynq.display, fracbnn_pynq.streaming, fracbnn_pynq.cli.camera;"
        "assert 'cv2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CameraError, match=r"none \(.*\); install the extra camera: pip install") as caught:
        Camera(0)
    assert isinstance(caught.value, FracBNNError)


def test_where_opencv_lacks_libraries_of_a_desktop_the_error_names_the_other_build(monkeypatch):
    class Broken:
        @staticmethod
        def find_spec(name, *_):
            if name == "cv2":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    expected = r"libGL.so.1.*pip uninstall opencv-python, and install the extra camera-headless: pip install '?opencv-p"
    with pytest.raises(CameraError, match=expected):
        Camera(0)


def test_a_boards_own_opencv_is_preferred(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(CameraError, match="on a PYNQ image use its own"):
        Camera(0)


def test_a_frame_cannot_be_changed():
    frame = Frame(grey(0), 0, 0.0)
    with pytest.raises(AttributeError):
        frame.index = 1
