"""The service on a simulated board that shows faults: every answer is right or an honest 503."""

from __future__ import annotations

import importlib.util
import json
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
if importlib.util.find_spec("pynq") is None:
    pytest.skip("pynq is not installed: the simulated board is built on it", allow_module_level=True)

from fracbnn_pynq.service.settings import Settings
from service_support import client_of, infer_body, metric, random_images
from waiting_support import until

from fracbnn_pynq import Classifier, simulator

INFER = "/v2/models/cifar10/infer"


@pytest.fixture
def board(monkeypatch):
    """A classifier on a simulated board with the faults that are asked for."""
    simulator.import_pynq()
    opened = []

    def load(faults):
        monkeypatch.setenv("FRACBNN_FAULTS", faults)
        monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")
        opened.append(Classifier.load("cifar10", backend="overlay", board="simulated"))
        return opened[-1]

    yield load
    for classifier in opened:
        classifier.close()


def ready(client):
    end = time.monotonic() + 20
    while client.get("/health/ready").status_code != 200:
        assert client.get("/health/live").status_code == 200
        assert time.monotonic() < end, "the model did not recover"
        time.sleep(0.02)


def test_answers_are_right_or_honest_whatever_the_board_does(board):
    with Classifier.load("cifar10", backend="cpu", arithmetic="cifar10-2020") as reference:
        images = [random_images(1, seed=seed) for seed in range(12)]
        expected = [reference.logits(image).ravel().tolist() for image in images]
    classifier = board("overlay-replaced@4,power-cycle@8")
    failed = 0
    with client_of({"cifar10": classifier}, Settings(deadline=30)) as client:
        assert client.get("/v2/models/cifar10").json()["platform"] == "fracbnn_overlay"
        assert 'board="simulated"' in client.get("/metrics").text
        for image, logits in zip(images, expected, strict=True):
            answer = client.post(INFER, json=infer_body(image))
            if answer.status_code == 200:
                assert answer.json()["outputs"][0]["data"] == logits
            else:
                assert answer.status_code == 503
                assert answer.json()["error"]
                failed += 1
                ready(client)
        again = client.post(INFER, json=infer_body(np.concatenate(images[:3])))
        assert again.json()["outputs"][0]["data"] == [*expected[0], *expected[1], *expected[2]]
        assert metric(client, "fracbnn_engine_faults") == failed
        assert metric(client, "fracbnn_engine_reloads") == failed
    assert 1 <= failed <= 3


def test_a_reload_that_fails_is_repeated_soon(board):
    with Classifier.load("cifar10", backend="cpu", arithmetic="cifar10-2020") as reference:
        expected = reference.logits(random_images(1)).ravel().tolist()
    classifier = board("overlay-replaced@1,clock-stuck@2,clock-stuck@3")
    with client_of({"cifar10": classifier}) as client:
        client.post(INFER, json=infer_body(random_images(1)))
        assert client.post(INFER, json=infer_body(random_images(1))).status_code == 503
        start = time.monotonic()
        ready(client)
        assert time.monotonic() - start < 5
        assert metric(client, "fracbnn_engine_reloads_failed") == 2
        assert metric(client, "fracbnn_engine_reloads") == 1
        answer = client.post(INFER, json=infer_body(random_images(1)))
        assert answer.json()["outputs"][0]["data"] == expected


def verified(client, result):
    """A counter of the pictures that were computed again on the CPU."""
    wanted = f'fracbnn_verified_pictures{{model="cifar10",result="{result}"}} '
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return None


def test_what_a_core_gets_wrong_is_counted_and_reported(monkeypatch, tmp_path, cat):
    simulator.import_pynq()
    monkeypatch.setenv("FRACBNN_FAULTS", "flipped-bit@2:3")
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")
    settings = Settings(
        models=("cifar10",), backend="overlay", board="simulated", verify=1, verify_report=tmp_path / "report"
    )
    with client_of(settings) as client:
        assert verified(client, "checked") == 0
        for _ in range(3):
            assert client.post("/v1/classify", content=cat.read_bytes()).status_code == 200
        until(lambda: verified(client, "checked") == 3)
        assert verified(client, "different") == 1
        assert verified(client, "reproducible") == 0
        assert 'verified="1"' in client.get("/metrics").text
    report = json.loads((tmp_path / "report" / "cifar10" / "verification.json").read_text())
    assert [difference["number"] for difference in report["differences"]] == [1]
    assert (tmp_path / "report" / "cifar10" / "picture-1.png").is_file()


def test_without_it_there_are_no_such_metrics(board):
    with client_of({"cifar10": board("")}) as client:
        assert "fracbnn_verified_pictures" not in client.get("/metrics").text


def test_a_report_that_cannot_be_written_is_logged(monkeypatch, tmp_path, caplog):
    simulator.import_pynq()
    monkeypatch.setenv("FRACBNN_SIM_LATENCY", "none")
    folder = tmp_path / "nowhere" / "report"
    with client_of(Settings(models=("cifar10",), backend="overlay", board="simulated", verify=1, verify_report=folder)):
        pass
    assert "the report of --verify is lost: cannot make the folder" in caplog.text
