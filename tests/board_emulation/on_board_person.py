"""What a person types on a board, from doctor to a camera's labels."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from PIL import Image

from fracbnn_pynq.classes import CIFAR10_CLASSES

OVERLAY = ("--backend", "overlay", "--model", "cifar10-authors")
PICTURES = Path(__file__).resolve().parents[2] / "notebooks/pictures"


@dataclass(frozen=True)
class Known:
    """A golden picture in a file, and what the core takes it for."""

    path: Path
    label: str
    probability: float


@pytest.fixture(scope="session")
def known(golden, tmp_path_factory) -> Known:
    """Of the golden pictures the one the core is surest of."""
    logits = golden["logits"].astype(np.float64)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    surest = int(scores.max(axis=1).argmax())
    path = tmp_path_factory.mktemp("pictures") / "known.png"
    Image.fromarray(golden["images"][surest]).save(path)
    return Known(path, CIFAR10_CLASSES[int(scores[surest].argmax())], float(scores[surest].max()))


def test_doctor():
    found = run("fracbnn", "doctor", "--board", "real")
    assert "x error" not in found.stdout
    assert found.stdout.splitlines()[-1].endswith("Overlay: ready with cifar10-overlay, imagenet-overlay")


def test_the_overlays_are_as_published():
    assert run("fracbnn", "overlays", "fetch", "cifar10", "--from", "/run/published").stdout.splitlines() == [
        "/run/cache/cifar10-overlay/FracNet_T_0.bit",
        "/run/cache/cifar10-overlay/FracNet_T_0.hwh",
    ]


def test_classify(known):
    found = json.loads(run("fracbnn", "classify", *OVERLAY, "--json", known.path).stdout)
    label, score = found["top"][0]["label"], found["top"][0]["probability"]
    assert label == known.label
    assert score == pytest.approx(known.probability, abs=1e-6)


def test_the_board_is_used_without_being_asked_for(known):
    found = run("fracbnn", "-v", "classify", "--model", "cifar10-authors", known.path)
    assert "this is a board and the overlay for this model has been fetched" in found.stderr
    assert f": {known.label} " in found.stdout


def test_classify_imagenet():
    picture = next(PICTURES.glob("*.jpg"))
    found = run("fracbnn", "classify", "--backend", "overlay", "--model", "imagenet-authors", picture)
    cpu = run("fracbnn", "classify", "--model", "imagenet-authors", "--arithmetic", "imagenet-2021", picture)
    assert found.stdout == cpu.stdout


def test_bench():
    found = json.loads(run("fracbnn", "bench", *OVERLAY, "--seconds", "0.3", "--json").stdout)
    assert found["board"] == "real"


def test_serve(known):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["fracbnn", "serve", *OVERLAY, "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        try:
            wait_until_ready(address, service)
            for _ in range(3):
                request = urllib.request.Request(
                    f"{address}/v1/classify", known.path.read_bytes(), {"Content-Type": "image/png"}
                )
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert json.load(answer)["top"][0]["label"] == known.label
        finally:
            service.send_signal(signal.SIGTERM)
            said = service.stderr.read()
    assert service.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), said
    assert "Traceback" not in said


def wait_until_ready(address, service):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert service.poll() is None, service.stderr.read()
        try:
            urllib.request.urlopen(f"{address}/v2/health/ready", timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the service did not become ready")


def test_camera(known, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="a video needs OpenCV")
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 30, (320, 320))
    frame = np.asarray(Image.open(known.path).resize((320, 320), Image.Resampling.NEAREST))[..., ::-1]
    for _ in range(20):
        writer.write(np.ascontiguousarray(frame))
    writer.release()
    found = run("fracbnn", "camera", "--source", video, *OVERLAY, "--fast", "--jsonl", "-")
    labels = [json.loads(line)["top"][0]["label"] for line in found.stdout.splitlines()]
    assert labels == [known.label] * 20
