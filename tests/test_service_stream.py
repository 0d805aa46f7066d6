"""The service's own camera, as players, browsers and programs watch it: a camera made of paper, real clients."""

# ruff: noqa: E402 - what is imported late needs extras

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("wsproto")
cv2 = pytest.importorskip("cv2")
httpx = pytest.importorskip("httpx")
websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")

from fracbnn_pynq.service import broadcast, camera_session, live_camera
from fracbnn_pynq.service.settings import Settings
from service_support import client_of, wrapped
from waiting_support import live_threads, until

from fracbnn_pynq import Classifier, camera
from fracbnn_pynq.display import with_text

HEIGHT, WIDTH = 48, 64
PROTOCOL = "fracbnn.stream.v1"
TOKEN = "correct/horse+battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SOURCE = "/dev/null"
PATIENCE_S = 10


class Device:
    """A camera that can be unplugged. Its frames are all the same, ``period`` seconds apart."""

    def __init__(self, image, period=0.01):
        self.image = image
        self.period = period
        self.plugged = True
        self.opened = 0
        self.released = 0

    def capture(self, *_arguments):
        return Capture(self)


class Capture:
    """What cv2.VideoCapture does."""

    def __init__(self, device):
        self.device = device
        self.open = device.plugged
        device.opened += self.open

    def isOpened(self):
        return self.open

    def read(self):
        time.sleep(self.device.period)
        return (True, self.device.image.copy()) if self.device.plugged else (False, None)

    def get(self, _key):
        return 0.0

    def set(self, *_arguments):
        return True

    def release(self):
        self.device.released += self.open
        self.open = False


@pytest.fixture
def device(monkeypatch, cat):
    monkeypatch.setattr(camera, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(camera, "LONGEST_RETRY_S", 0.05)
    image = cv2.resize(cv2.imread(str(cat)), (WIDTH, HEIGHT))
    made = Device(image)
    monkeypatch.setattr(cv2, "VideoCapture", made.capture)
    return made


@pytest.fixture(scope="module")
def classifier():
    with Classifier.load("cifar10", backend="cpu", threads=1) as loaded:
        yield loaded


@contextlib.contextmanager
def serving(classifier, **options):
    settings = Settings(**{"camera": SOURCE, "camera_linger": 0.1, **options})
    with client_of({"cifar10": classifier}, settings) as client:
        client.camera = client.server.inference.camera
        yield client


@pytest.fixture
def client(device, classifier):
    with serving(classifier) as made:
        yield made


@contextlib.contextmanager
def watching(client, query="", protocols=(PROTOCOL,), **options):
    address = client.server.url.replace("http", "ws") + "/v1/stream" + query
    connection = websocket.create_connection(address, timeout=PATIENCE_S, subprotocols=list(protocols), **options)
    try:
        yield connection
    finally:
        connection.close()


def assert_refused(status, words, client, *arguments, **options):
    """The handshake is refused with a status and a reason; an old uvicorn can only say 403."""
    with pytest.raises(websocket.WebSocketBadStatusException) as caught, watching(client, *arguments, **options):
        pass
    if caught.value.resp_body or caught.value.status_code != 403:
        assert caught.value.status_code == status
        assert words in json.loads(caught.value.resp_body)["error"]


def message(connection, kind="frame"):
    """The next message of a kind, with its picture."""
    while True:
        text = connection.recv()
        assert isinstance(text, str)
        data = json.loads(text)
        picture = connection.recv() if data["picture"] else None
        assert picture is None or isinstance(picture, bytes)
        if data["type"] == kind:
            return data, picture


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def parts(answer):
    """The JPEG files of a Motion JPEG answer."""
    assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
    waiting = b""
    for chunk in answer.iter_raw():
        waiting += chunk
        while b"\r\n\r\n" in waiting:
            head, _, rest = waiting.partition(b"\r\n\r\n")
            boundary, *lines = head.split(b"\r\n")
            assert boundary == b"--frame"
            headers = dict(line.split(b": ") for line in lines)
            assert headers[b"Content-Type"] == b"image/jpeg"
            length = int(headers[b"Content-Length"])
            if len(rest) < length + 2:
                break
            assert rest[length : length + 2] == b"\r\n"
            yield rest[:length]
            waiting = rest[length + 2 :]


# --- what viewers get --------------------------------------------------------------------------------------------


def test_a_websocket_gets_the_labels_of_each_frame_and_then_its_picture(client, device, classifier):
    expected = classifier.classify(device.image, 5, bgr=True).top
    with watching(client) as connection:
        assert connection.getsubprotocol() == PROTOCOL
        first, _ = message(connection)
        for _ in range(50):
            last, picture = message(connection)
        assert [(entry["label"], entry["probability"]) for entry in last["top"]] == expected
        assert (last["label"], last["score"]) == expected[0]
        assert last["frame"] > first["frame"]
        assert last["time"] > first["time"]
        assert last["model"] == "cifar10"
        assert last["latency_ms"] >= last["timings_ms"]["infer"] > 0
        assert last["per_second"]["camera"] == pytest.approx(last["per_second"]["labels"], rel=0.3)
        assert 10 < last["per_second"]["camera"] <= 110
        assert picture.startswith(b"\xff\xd8")
        assert np.abs(decoded(picture).astype(int) - device.image).mean() < 6, "the frame as it came"
        about = client.get("/v1/camera").json()
        assert about == {
            "configured": True,
            "source": SOURCE,
            "model": "cifar10",
            "state": "live",
            "message": "frames come",
            "viewers": 1,
            "most_viewers": 8,
        }


def test_labels_alone_can_be_had(client, monkeypatch):
    monkeypatch.setattr(camera_session, "as_jpeg", lambda _: pytest.fail("nobody wants pictures"))
    monkeypatch.setattr(camera_session.CameraPublisher, "say", lambda *_: None)
    with watching(client, "?pictures=0", protocols=()) as connection:
        assert connection.getsubprotocol() is None
        for _ in range(3):
            data, picture = message(connection)
            assert (data["picture"], picture) == (False, None)


@pytest.mark.parametrize("value", ["2", "", "no", "1&pictures=0"])
def test_other_values_are_refused(client, value):
    assert_refused(422, "expected 0 or 1", client, f"?pictures={value}")


def test_motion_jpeg_has_the_label_drawn_on_it(client, device):
    device.image = cv2.resize(device.image, (640, 480))
    blurred = with_text(device.image, ["cat 99.9%", "99.9 frames/s, 9.9 ms"])
    with client.stream("GET", "/v1/stream.mjpg") as answer:
        assert answer.headers["cache-control"] == "no-store"
        pictures = parts(answer)
        for _ in range(20):
            picture = decoded(next(pictures)).astype(int)
    assert picture.shape == (480, 640, 3)
    text, rest = np.s_[:70, :300], np.s_[100:]
    assert np.abs(picture[rest] - device.image[rest]).mean() < 6
    assert np.abs(picture[text] - device.image[text]).mean() > 20
    assert np.abs(picture[text] - blurred[text]).mean() < np.abs(picture[text] - device.image[text]).mean()


def test_a_player_plays_it(client, device, monkeypatch):
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():
        pytest.skip("this OpenCV has no FFmpeg")
    with watching(client, "?pictures=0") as connection:
        message(connection)
        monkeypatch.undo()  # the paper camera is open: now the real OpenCV
        player = cv2.VideoCapture(client.server.url + "/v1/stream.mjpg", cv2.CAP_FFMPEG)
        try:
            shapes = [player.read()[1].shape for _ in range(5)]
        finally:
            player.release()
    assert shapes == [(HEIGHT, WIDTH, 3)] * 5


def test_frames_without_labels_say_why(device, classifier):
    def burnt():
        raise RuntimeError("burnt")

    broken, _ = wrapped(classifier, before=burnt)
    with serving(broken) as client, watching(client) as connection:
        for _ in range(3):
            data, picture = message(connection)
            assert "burnt" in data["error"]
            assert "label" not in data
            assert picture is not None
        assert client.get("/health/ready").status_code == 200


def test_a_video_is_played_again_and_again(classifier, tmp_path, cat):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write Motion JPEG")
    image = cv2.resize(cv2.imread(str(cat)), (WIDTH, HEIGHT))
    for _ in range(5):
        writer.write(image)
    writer.release()
    with serving(classifier, camera=str(path)) as client, watching(client) as connection:
        texts = [message(connection)[0]["frame"] for _ in range(20)]
        assert sorted(set(texts)) == [0, 1, 2, 3, 4]
        assert texts.count(0) >= 3


def test_a_single_picture_is_no_busy_loop(classifier, cat, monkeypatch):
    opened = []
    open_it = camera.Camera._open
    monkeypatch.setattr(camera.Camera, "_open", lambda self: opened.append(1) or open_it(self))
    with serving(classifier, camera=str(cat)) as client, watching(client) as connection:
        begin = time.monotonic()
        while time.monotonic() < begin + 0.5:
            assert message(connection)[0]["frame"] == 0
        assert len(opened) <= 0.5 / live_camera.SHORTEST_S + 3


# --- who may watch -----------------------------------------------------------------------------------------------


def test_without_a_camera_the_refusal_says_what_to_do(classifier):
    with client_of({"cifar10": classifier}) as client:
        assert client.get("/v1/camera").json() == {"configured": False}
        answer = client.get("/v1/stream.mjpg")
        assert answer.status_code == 404
        assert "fracbnn serve --camera 0" in answer.json()["error"]
        assert_refused(404, answer.json()["error"], client)
        assert "fracbnn_camera" not in client.get("/metrics").text


def test_a_client_that_asks_for_no_websocket_is_told(client):
    answer = client.get("/v1/stream")
    assert answer.status_code == 426
    assert "WebSocket" in answer.json()["error"]


def test_the_token_is_asked_for(device, classifier, caplog):
    def coded(token):
        return "fracbnn.token." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")

    with caplog.at_level(logging.DEBUG), serving(classifier, token=TOKEN) as client:
        for path in ("/v1/stream.mjpg", "/v1/camera", f"/v1/stream.mjpg?token={TOKEN}"):
            assert client.get(path).status_code == 401
        for protocols in ((), (PROTOCOL,), (PROTOCOL, coded("wrong")), (PROTOCOL, "fracbnn.token.")):
            assert_refused(401, "Bearer", client, protocols=protocols)
        assert_refused(401, "Bearer", client, header={"Authorization": "Bearer wrong"})
        assert_refused(401, "Bearer", client, f"?token={TOKEN}")
        assert device.opened == 0
        with client.stream("GET", "/v1/stream.mjpg", headers=BEARER) as answer:
            assert next(parts(answer))
        with watching(client, header=BEARER) as connection:
            assert message(connection)
        with watching(client, protocols=[PROTOCOL, coded(TOKEN)], origin="http://elsewhere") as connection:
            assert connection.getsubprotocol() == PROTOCOL
            assert message(connection)
    logged = "".join(record.getMessage() for record in caplog.records if record.name.startswith(("fracbnn", "uvicorn")))
    assert coded(TOKEN) not in logged


def test_pages_of_other_sites_may_not_watch(client):
    for origin in ("http://elsewhere", "null", f"{client.server.url}1", "http://127.0.0.1"):
        assert_refused(403, "Origin", client, origin=origin)
    with watching(client, origin=client.server.url) as connection:
        assert message(connection)


def test_there_are_so_many_places(device, classifier):
    with serving(classifier, viewers=2) as client, client.stream("GET", "/v1/stream.mjpg") as answer:
        pictures = parts(answer)
        assert next(pictures)
        with watching(client) as connection:
            message(connection)
            full = client.get("/v1/stream.mjpg")
            assert full.status_code == 503
            assert full.headers["retry-after"] == "1"
            assert "2 viewers" in full.json()["error"]
            assert_refused(503, full.json()["error"], client)
        until(lambda: len(client.camera.subscribers) == 1)
        with watching(client) as connection:
            assert message(connection)


# --- when the camera is open -------------------------------------------------------------------------------------


def test_the_camera_is_open_while_somebody_watches_and_a_little_longer(device, classifier):
    with serving(classifier, camera_linger=1.5) as client:
        time.sleep(0.1)
        assert device.opened == 0
        with watching(client) as connection:
            assert message(connection, "camera")[0]["state"] == "opening"
            message(connection)
        until(lambda: len(client.camera.subscribers) == 0)
        with watching(client) as connection:
            message(connection)
            assert (device.opened, device.released) == (1, 0), "who comes back soon finds it open"
            time.sleep(1.8)
            assert device.released == 0
        until(lambda: device.released == 1)
        assert client.get("/v1/camera").json()["state"] == "closed"
        with watching(client) as connection:
            message(connection)
        assert device.opened == 2
    assert device.released == 2


def test_the_camera_can_be_always_open(device, classifier):
    with serving(classifier, camera_always=True) as client:
        until(lambda: client.get("/v1/camera").json()["state"] == "live")
        with watching(client) as connection:
            message(connection)
        time.sleep(0.3)
        assert (device.opened, device.released) == (1, 0)
    assert device.released == 1


@pytest.mark.parametrize("unplugged_at_first", [False, True])
def test_viewers_are_told_when_the_camera_is_not_there(client, device, unplugged_at_first):
    device.plugged = not unplugged_at_first
    with watching(client) as connection, client.stream("GET", "/v1/stream.mjpg") as answer:
        pictures = parts(answer)
        for _ in range(2):
            if device.plugged:
                message(connection)
                next(pictures)
                device.plugged = False
            while (data := message(connection, "camera")[0])["state"] != "waiting":
                pass
            assert "no frames come" in data["message"]
            until(lambda: client.get("/v1/camera").json()["state"] == "waiting")
            with watching(client) as late:
                assert message(late, "camera")[0]["state"] == "waiting"
            with client.stream("GET", "/v1/stream.mjpg") as late:
                assert decoded(next(parts(late))) is not None
            device.plugged = True
            message(connection)
            until(lambda: client.get("/v1/camera").json()["state"] == "live")
        assert next(pictures)
    text = client.get("/metrics").text
    assert "fracbnn_camera_outages 2" in text
    assert client.get("/health/ready").status_code == 200


def test_a_camera_that_says_nothing_is_noticed(client, device, monkeypatch):
    monkeypatch.setattr(camera_session, "SILENT_S", 0.2)
    with watching(client) as connection:
        message(connection)
        device.period = 1.0
        while message(connection, "camera")[0]["state"] != "waiting":
            pass
        device.period = 0.01
        message(connection)


def test_an_exception_of_opencv_is_survived(client, device, monkeypatch, caplog):
    with watching(client) as connection:
        message(connection)
        monkeypatch.setattr(camera_session, "as_jpeg", lambda _: 1 / 0)
        until(lambda: "ZeroDivisionError" in caplog.text)
        monkeypatch.undo()
        monkeypatch.setattr(cv2, "VideoCapture", device.capture)
        message(connection)


# --- viewers that are slow, or leave -----------------------------------------------------------------------------


def raw_viewer(client, *, websocket_=False):
    """A socket that has asked for the stream, with little room for what it does not read."""
    viewer = socket.socket()
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    viewer.connect(("127.0.0.1", client.server.port))
    if websocket_:
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = base64.b64encode(bytes(16)).decode()
        head = f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n{upgrade}Sec-WebSocket-Key: {key}\r\n\r\n"
    else:
        head = "GET /v1/stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
    viewer.sendall(head.encode())
    return viewer


@pytest.mark.parametrize("kind", [False, True], ids=["mjpeg", "websocket"])
def test_a_slow_viewer_holds_up_nobody(client, device, kind):
    device.image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with watching(client, "?pictures=0") as quick, raw_viewer(client, websocket_=kind) as slow:
        until(lambda: len(client.camera.subscribers) == 2)
        until(lambda: client.camera.subscribers.dropped > 20)
        counted = [message(quick)[0] for _ in range(40)]
        frames = [data["frame"] for data in counted]
        assert frames == sorted(set(frames))
        assert counted[-1]["skipped"] <= 2
        assert counted[-1]["per_second"]["labels"] > 10
        dropped = client.camera.subscribers.dropped
        begin, got = time.monotonic(), 0
        while time.monotonic() < begin + 0.5:
            if select.select([slow], [], [], 0.05)[0]:
                got += len(slow.recv(1 << 16))
        assert got > 100_000, "and goes on when it reads again"
        assert client.camera.subscribers.dropped >= dropped
    assert f"viewer_frames_dropped {client.camera.subscribers.dropped}" in client.get("/metrics").text


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system's sockets cannot be told")
def test_a_viewer_that_was_slow_soon_sees_what_is_now(client, device):
    device.image = cv2.resize(device.image, (640, 480))
    little = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)
    with watching(client, sockopt=little) as connection:
        size = len(message(connection)[1])
        until(lambda: client.camera.subscribers.dropped > 100)
        now = client.camera._publisher.frames
        stale = 0
        while message(connection)[0]["frame"] < now - 20:
            stale += 1
        assert stale <= 300_000 // size, "less than the kernel would hold by itself, which is megabytes"


@pytest.mark.parametrize("kind", [False, True], ids=["mjpeg", "websocket"])
def test_a_viewer_that_takes_nothing_is_sent_away(client, device, monkeypatch, kind):
    monkeypatch.setattr(broadcast, "STALLED_S", 0.3)
    device.image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with raw_viewer(client, websocket_=kind):
        until(lambda: len(client.camera.subscribers) == 1)
        until(lambda: len(client.camera.subscribers) == 0)


@pytest.mark.parametrize("kind", [False, True], ids=["mjpeg", "websocket"])
def test_viewers_that_leave_in_the_middle_of_a_frame_leave_nothing_behind(client, device, kind):
    device.image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    with watching(client, "?pictures=0") as other:
        message(other)
        server = client.server
        until(lambda: len(server.server_state.tasks) == 1)
        before = live_threads()
        for attempt in range(12):
            viewer = raw_viewer(client, websocket_=kind)
            until(lambda: len(client.camera.subscribers) == 2)
            if attempt % 3:
                viewer.recv(3000)
            if attempt % 3 == 2:  # a reset, not an orderly end
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
            viewer.close()
            until(lambda: len(client.camera.subscribers) == 1)
        until(lambda: len(server.server_state.tasks) == 1 and len(server.server_state.connections) <= 2)
        until(lambda: live_threads() <= before)
        assert message(other)
    until(lambda: not server.server_state.tasks)


def test_a_viewer_that_talks_is_heard_out_and_not_answered(client):
    with watching(client) as connection:
        for _ in range(20):
            connection.send("hello")
            message(connection)
        connection.ping()
        assert message(connection)


# --- the end -----------------------------------------------------------------------------------------------------


def test_a_shutdown_tells_viewers(device, classifier):
    with (
        serving(classifier) as client,
        watching(client) as connection,
        client.stream("GET", "/v1/stream.mjpg") as answer,
    ):
        pictures = parts(answer)
        assert message(connection)
        assert next(pictures)
        client.server.handle_exit(15, None)
        begin = time.monotonic()
        assert list(pictures) is not None, "the answer has an end"
        while (frame := connection.recv_frame()).opcode != websocket.ABNF.OPCODE_CLOSE:
            pass
        assert int.from_bytes(frame.data[:2], "big") == 1012
        assert time.monotonic() - begin < 3
    assert device.released == device.opened == 1


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.mark.slow
def test_the_camera_command_serves_and_ends_on_sigterm_with_viewers(tmp_path, cat):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write Motion JPEG")
    for image in np.random.default_rng(0).integers(0, 256, (30, 480, 640, 3), dtype=np.uint8):
        writer.write(image)
    writer.release()
    port = free_port()
    command = [sys.executable, "-c", "from fracbnn_pynq.cli import main; main()", "camera", "--source", str(path)]
    command += ["--serve", f"127.0.0.1:{port}", "--backend", "cpu"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ})
        try:
            url = process.stdout.readline().split()[1]
            assert url == f"http://127.0.0.1:{port}/camera"
            assert "camera.js" in httpx.get(url).text
            base = url.removesuffix("/camera")
            end = time.monotonic() + PATIENCE_S
            while httpx.get(base + "/v1/camera").json()["state"] != "live":
                assert time.monotonic() < end, "always open"
                time.sleep(0.05)
            quick = websocket.create_connection(base.replace("http", "ws") + "/v1/stream", timeout=PATIENCE_S)
            json.loads(quick.recv())
            stalled = socket.create_connection(("127.0.0.1", port))
            stalled.sendall(b"GET /v1/stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(1)
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = process.wait(20)
            assert time.monotonic() - begin < 15
            quick.close()
            stalled.close()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert status == 0, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
