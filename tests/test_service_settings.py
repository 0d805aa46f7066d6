"""Settings, logs, metrics' text, and ``fracbnn serve``."""

# ruff: noqa: E402 - what is imported late needs the service's extra

from __future__ import annotations

import asyncio
import io
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

import click
from click.testing import CliRunner
from fracbnn_pynq.service import inference
from fracbnn_pynq.service.logs import REQUEST_ID, JsonFormatter, LineHandler, TextFormatter
from fracbnn_pynq.service.metrics import ModelCounters, family, model_families
from fracbnn_pynq.service.settings import Settings, read_token, served_models
from service_support import client_of

from fracbnn_pynq import Classifier
from fracbnn_pynq.board import power
from fracbnn_pynq.board.power import OUTPUT_RAILS
from fracbnn_pynq.cli import camera as cli_camera
from fracbnn_pynq.cli import group
from fracbnn_pynq.cli import serve as cli_serve
from fracbnn_pynq.cli.serve import _name_to_open, _only_this_machine, command, listening_address
from fracbnn_pynq.errors import BackendError, ModelError


def test_settings_come_from_the_environment(tmp_path):
    token = tmp_path / "token"
    token.write_text("a-long-token\n")
    found = Settings.from_environment(
        {
            "FRACBNN_SERVICE_MODELS": "cifar10, other=some.safetensors",
            "FRACBNN_SERVICE_QUEUE": "5",
            "FRACBNN_SERVICE_DEADLINE": "2.5",
            "FRACBNN_SERVICE_MAX_BODY": "1.5",
            "FRACBNN_SERVICE_MAX_JSON": "0.5",
            "FRACBNN_SERVICE_ALLOW_HOSTS": "a.example, b.example",
            "FRACBNN_SERVICE_CORS_ORIGINS": "https://c.example",
            "FRACBNN_SERVICE_CONNECTIONS": "99",
            "FRACBNN_SERVICE_BACKEND": "cpu",
            "FRACBNN_SERVICE_CAMERA": "rtsp://host/stream",
            "FRACBNN_SERVICE_CAMERA_WIDTH": "640",
            "FRACBNN_SERVICE_CAMERA_FPS": "29.5",
            "FRACBNN_SERVICE_CAMERA_FOURCC": "MJPG",
            "FRACBNN_SERVICE_CAMERA_ALWAYS": "1",
            "FRACBNN_SERVICE_CAMERA_LINGER": "2",
            "FRACBNN_SERVICE_VIEWERS": "3",
            "FRACBNN_SERVICE_TOKEN_FILE": str(token),
        }
    )
    expected = Settings(
        models=("cifar10", "other=some.safetensors"),
        queue=5,
        deadline=2.5,
        max_body=3 << 19,
        max_json=1 << 19,
        allow_hosts=("a.example", "b.example"),
        cors_origins=("https://c.example",),
        connections=99,
        backend="cpu",
        camera="rtsp://host/stream",
        camera_width=640,
        camera_fps=29.5,
        camera_fourcc="MJPG",
        camera_always=True,
        camera_linger=2.0,
        viewers=3,
        token="a-long-token",
    )
    assert found == expected
    assert Settings.from_environment({}) == Settings()


def test_lines_of_an_event_loop_are_written_together_and_warnings_at_once():
    written = []
    stream = io.StringIO()
    stream.write = written.append
    handler = LineHandler(stream)
    logger = logging.Logger("a")
    logger.addHandler(handler)

    async def talk():
        logger.info("one")
        logger.info("two")
        assert written == []
        await asyncio.sleep(0.05)
        assert written == ["one\ntwo\n"]
        logger.info("three")
        logger.warning("four")
        assert written[1:] == ["three\nfour\n"]
        logger.info("five")

    asyncio.run(talk())
    assert len(written) == 2
    handler.flush()  # as logging.shutdown does at the end
    logger.info("six")  # outside an event loop
    asyncio.run(talk_again(logger))
    assert written[2:] == ["five\n", "six\n", "seven\n"]


async def talk_again(logger):
    logger.info("seven")
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUE", "many"),
        ("QUEUE", "0"),
        ("DEADLINE", "0"),
        ("DRAIN", "-1"),
        ("CAMERA_ALWAYS", "yes"),
        ("CAMERA_LINGER", "-1"),
        ("VIEWERS", "0"),
        ("MAX_HELD", "1"),
        ("DECODE_PIXELS", "0"),
        ("CORS_ORIGINS", "no-scheme"),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(BackendError, match=name.lower() + "|" + name):
        Settings.from_environment({"FRACBNN_SERVICE_" + name: value})


def test_models_are_served_under_their_names():
    assert served_models(("cifar10", "a/b.safetensors", "c=/d/e")) == {
        "cifar10": "cifar10",
        "b": "a/b.safetensors",
        "c": "/d/e",
    }
    with pytest.raises(ModelError, match="twice"):
        served_models(("cifar10", "cifar10"))
    with pytest.raises(ModelError, match="NAME=FILE"):
        served_models(("not here.safetensors",))


@pytest.mark.parametrize("text", ["", "short", "two words here", "nön-ascii-token"])
def test_tokens_that_are_none(tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(BackendError, match="token file"):
        read_token(path)


def test_a_token_is_read_of_small_regular_files_only(tmp_path):
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    large.write_bytes(b"x" * 5000)
    for path, said in ((fifo, "device"), (large, "at most 4096"), (tmp_path, "folder"), (Path("/dev/zero"), "device")):
        with pytest.raises(BackendError, match=said):
            read_token(path)


def test_options_become_settings(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(cli_serve, "serve", lambda values, **options: calls.append(values))
    token = tmp_path / "token"
    token.write_text("a-long-token")
    given = ["--max-json", "2", "--max-held", "64", "--allow-host", "a.example", "--allow-host", "b.example"]
    given += ["--cors-origin", "https://c.example", "--connections", "50", "--decode-pixels", "7"]
    assert CliRunner().invoke(command, [*given, "--token-file", str(token)]).exit_code == 0
    settings = Settings(**calls.pop())
    assert (settings.max_json, settings.max_held, settings.connections) == (2 << 20, 64 << 20, 50)
    assert settings.allow_hosts == ("a.example", "b.example")
    assert (settings.cors_origins, settings.decode_pixels) == (("https://c.example",), 7)
    assert settings.token == "a-long-token"


@pytest.mark.parametrize(("host", "names"), [("127.0.0.1", ()), ("board.example", ("board.example",)), ("::", ())])
def test_the_name_to_listen_on_is_one_of_the_service(monkeypatch, host, names):
    made = []
    monkeypatch.setattr(cli_serve, "_service", lambda _: SimpleNamespace(Settings=lambda **values: made.append(values)))
    monkeypatch.setattr(cli_serve, "_check_free", lambda host, port: None)  # not a name of this machine
    with pytest.raises(AttributeError):  # nothing but the settings is there
        cli_serve.serve({}, host=host, port=0)
    assert made[0]["allow_hosts"] == names


def test_log_lines_name_their_request():
    record = logging.LogRecord("here", logging.INFO, __file__, 1, "said %s", ("this",), None)
    record.fields = {"status": 200}
    mark = REQUEST_ID.set("the-id")
    try:
        line = json.loads(JsonFormatter().format(record))
        assert (line["request_id"], line["message"], line["status"]) == ("the-id", "said this", 200)
        assert "[the-id] said this" in TextFormatter().format(record)
    finally:
        REQUEST_ID.reset(mark)


def test_metrics_are_prometheus_text():
    counters = ModelCounters()
    counters.add(success=2, infer_us=1.5)
    lines = list(model_families({"m": counters}, "1"))
    assert 'nv_inference_request_success{model="m",version="1"} 2' in lines
    assert "# TYPE nv_inference_request_success counter" in lines
    assert 'nv_inference_compute_infer_duration_us{model="m",version="1"} 1.5' in lines
    assert list(family("a", "gauge", "b", [({"x": 'q"\\\n'}, 1.0)]))[-1] == 'a{x="q\\"\\\\\\n"} 1'
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families("\n".join(lines) + "\n"))
    assert {metric.type for metric in families} == {"counter"}


def rails(watts):
    """As pynq finds them on an Ultra96-V2."""
    sensors = {name: SimpleNamespace(value=watts) for name in OUTPUT_RAILS}
    return {name: SimpleNamespace(power=power, voltage=None, current=None) for name, power in sensors.items()}


def test_energy_is_counted_where_there_are_sensors(monkeypatch):
    monkeypatch.setattr(inference, "_POWER_INTERVAL_S", 0.01)
    monkeypatch.setattr(power, "find_rails", lambda: rails(0.25))
    watts = 0.25 * len(OUTPUT_RAILS)
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}) as client:
        joules = []
        for _ in range(3):
            time.sleep(0.1)
            text = client.get("/metrics").text
            assert f"fracbnn_power_watts {watts:.17g}" in text.splitlines()
            assert "# TYPE fracbnn_energy_joules counter" in text
            assert "the outputs of the board's regulators" in text
            joules += [
                float(line.split()[1]) for line in text.splitlines() if line.startswith("fracbnn_energy_joules ")
            ]
    assert all(0.03 * watts < after - before < 1 * watts for before, after in itertools.pairwise(joules))


@pytest.mark.parametrize("found", [{}, {"INT": SimpleNamespace(power=SimpleNamespace(value=1.0))}])
def test_unknown_energy_is_not_given(monkeypatch, found):
    monkeypatch.setattr(power, "find_rails", lambda: found)
    with Classifier.load("cifar10", backend="cpu") as loaded, client_of({"cifar10": loaded}) as client:
        text = client.get("/metrics").text
    assert "joules" not in text
    assert "watts" not in text
    assert "nv_inference_count" in text


def test_workers_are_refused_with_an_explanation():
    result = CliRunner().invoke(command, ["--workers", "4"])
    assert result.exit_code == 2
    assert "one owner" in result.output


def test_a_certificate_needs_its_key(tmp_path):
    (tmp_path / "c.pem").write_text("x")
    result = CliRunner().invoke(command, ["--ssl-certfile", str(tmp_path / "c.pem")])
    assert result.exit_code == 2
    assert "both" in result.output


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.y", False)]
)
def test_hosts_of_this_machine(host, expected):
    assert _only_this_machine(host) is expected


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:8000", "::1", 8000), ("board.local:0", "board.local", 0)],
)
def test_addresses_to_listen_on(text, host, port):
    assert listening_address(text) == {"host": host, "port": port}


@pytest.mark.parametrize("text", ["", "8000", ":8000", "host:", "host:70000", "host:x", "::1:8000", "a b:1:2"])
def test_addresses_that_are_none(text):
    with pytest.raises(click.UsageError, match="HOST:PORT"):
        listening_address(text)


@pytest.mark.parametrize(
    ("host", "name"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("board.local", "board.local")]
)
def test_a_name_to_open(host, name):
    assert _name_to_open(host) == name
    for everywhere in ("0.0.0.0", "::"):
        assert _name_to_open(everywhere) not in ("0.0.0.0", "::", "")


@pytest.mark.parametrize(
    "options", [["--show"], ["--jsonl", "-"], ["--seconds", "1"], ["--json"], ["--top", "2"], ["--fast"]]
)
def test_the_camera_command_serves_and_does_nothing_else(options):
    result = CliRunner().invoke(group, ["camera", "--serve", "127.0.0.1:0", *options])
    assert result.exit_code == 2
    assert f"found {options[0]}" in result.output


def test_the_camera_commands_options_become_settings(monkeypatch):
    calls = []
    monkeypatch.setattr(cli_camera, "serve", lambda values, **options: calls.append((values, options)))
    given = [
        "--source",
        "/dev/video7",
        "--width",
        "640",
        "--fourcc",
        "MJPG",
        "--model",
        "m.safetensors",
        "--threads",
        "2",
    ]
    for serve, port in ((["--serve"], 8000), (["--serve", "127.0.0.1:81"], 81)):
        assert CliRunner().invoke(group, ["camera", *given, *serve]).exit_code == 0
        values, options = calls.pop()
        settings = Settings(**values)
        assert settings == Settings(
            camera="/dev/video7",
            camera_width=640,
            camera_fourcc="MJPG",
            camera_always=True,
            models=("m.safetensors",),
            threads=2,
        )
        assert options == {"host": "127.0.0.1", "port": port}


def test_a_camera_that_can_never_be_opened_ends_it_at_once(tmp_path):
    pytest.importorskip("cv2")
    for source, options, expected in (
        (str(tmp_path / "none.mp4"), [], "no file of this name"),
        ("rtsp://host/", ["--camera-width", "640"], "of a camera only"),
    ):
        result = CliRunner().invoke(command, ["--backend", "cpu", "--camera", source, *options])
        assert expected in str(result.exception)


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.mark.parametrize("how", ["serve", "uvicorn"])
def test_a_service_starts_answers_and_ends_on_sigterm(how, cat, tmp_path):
    port = free_port()
    serve = "from fracbnn_pynq.cli.serve import command; command()"
    options = ["--port", str(port), "--log-format", "json", "--backend", "cpu"]
    start = {
        "serve": [sys.executable, "-c", serve, *options],
        "uvicorn": [sys.executable, "-m", "uvicorn", "fracbnn_pynq.service:app", "--port", str(port)],
    }[how]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(start, stderr=log, env={**os.environ, "FRACBNN_BACKEND": "cpu"})
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + 30
            while True:
                try:
                    assert httpx.get(url + "/health/ready").status_code == 200
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < end
                    time.sleep(0.05)
            answer = httpx.post(url + "/v1/classify", content=cat.read_bytes(), headers={"X-Request-ID": "mine"})
            assert answer.json()["label"] == "cat"
            process.send_signal(signal.SIGTERM)
            status = process.wait(15)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = log.read().splitlines()
    assert status == (0 if how == "serve" else -signal.SIGTERM)
    if how == "serve":
        said = [json.loads(line) for line in lines]
        (access,) = [line for line in said if line["request_id"] == "mine"]
        assert (access["path"], access["status"], access["method"]) == ("/v1/classify", 200, "POST")


def test_the_haproxy_example_is_valid():
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    example = Path(__file__).resolve().parents[1] / "service" / "deploy" / "haproxy.cfg"
    checked = subprocess.run([haproxy, "-c", "-f", str(example)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower()
