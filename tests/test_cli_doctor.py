"""``fracbnn doctor`` on this machine, and on machines that are made to look like others."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from fracbnn_pynq import native
from fracbnn_pynq.cli import COMMANDS, doctor, group, report
from fracbnn_pynq.doctor import environment
from fracbnn_pynq.doctor.checks import Check
from fracbnn_pynq.doctor.environment import Machine
from fracbnn_pynq.doctor.preflight import Group
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.extras import install_line
from fracbnn_pynq.models import MODELS

HAS_PYNQ = importlib.util.find_spec("pynq") is not None
HAS_MODEL = importlib.util.find_spec("fracbnn_pynq.weights") is not None and MODELS["cifar10"].available


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    monkeypatch.delenv("FRACBNN_BOARD", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def without_pynq(monkeypatch):
    monkeypatch.setattr(environment, "pynq_installed", lambda: False)
    monkeypatch.setattr(doctor, "pynq_installed", lambda: False)


@pytest.fixture
def with_pynq(monkeypatch):
    monkeypatch.setattr(environment, "pynq_check", lambda asked: Check("pynq", "ok", "3.0.1, tested"))
    monkeypatch.setattr("fracbnn_pynq.doctor.preflight.pynq_check", lambda asked: Check("pynq", "ok", "3.0.1"))
    monkeypatch.setattr(doctor, "pynq_installed", lambda: True)


def run(*arguments):
    return CliRunner().invoke(group, ["doctor", *arguments])


def test_a_laptop_without_pynq_gets_one_screen(without_pynq):
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) <= 30
    assert all(len(line) <= 110 for line in lines)
    assert lines[-1].startswith("Here: ")
    assert install_line("board") in lines[-1]
    assert "fracbnn overlays fetch cifar10" in result.output
    assert "49.0 %" in result.output
    assert "not built: fracbnn overlays build engine" in result.output
    if native.available():
        assert f"cpu ({next(iter(native.engines()))})" in lines[-1]


def test_words_not_colours_alone_say_the_status(without_pynq):
    result = CliRunner().invoke(group, ["doctor"], color=True)
    assert "\x1b[" in result.output
    plain = run().output
    assert "\x1b[" not in plain
    assert "+ ok " in plain
    assert "! warning " in plain


@pytest.mark.parametrize("board", ["real", "simulated"])
def test_a_board_that_was_asked_for_and_is_not_here_is_an_error(without_pynq, board):
    if Machine().is_board:
        pytest.skip("this is a board")
    result = run("--board", board)
    assert result.exit_code == 1
    assert "x error" in result.output
    assert "pynq" in result.output


def test_the_environment_can_ask_for_a_board(without_pynq, monkeypatch):
    monkeypatch.setenv("FRACBNN_BOARD", "simulated")
    result = run("--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["board"] == "simulated"
    monkeypatch.setenv("FRACBNN_BOARD", "mars")
    result = run()
    assert isinstance(result.exception, BackendError)
    assert "FRACBNN_BOARD" in str(result.exception)


def test_json(without_pynq):
    result = run("--json")
    data = json.loads(result.output)
    assert result.exit_code == 0
    assert data["ok"] is True
    assert data["board"] == "auto"
    assert data["summary"].startswith("Here: ")
    assert [entry["title"] for entry in data["groups"]] == ["This computer", "Board", "Overlays"]
    for entry in data["groups"]:
        for check in entry["checks"]:
            assert check.keys() == {"name", "status", "found", "advice"}
            assert check["status"] in ("ok", "warning", "error")
            assert check["found"]
            assert check["advice"]


def test_help_lists_the_command_without_importing_it():
    result = CliRunner().invoke(group, ["--help"])
    assert COMMANDS["doctor"][1] in result.output


# The simulated board --------------------------------------------------------------------------------------------------


class FakeClassifier:
    """Stands for Classifier where only what doctor makes of it matters."""

    network = SimpleNamespace(image_size=32, title="CIFAR-10")
    arithmetic = "cifar10-2020"
    labels = ("cat",)

    def __init__(self, backend, difference) -> None:
        self._value = difference if backend == "overlay" else 0.0
        self.engine = SimpleNamespace(timings={"encode": 0.01, "run": 0.35})

    def __enter__(self):
        return self

    def __exit__(self, *details) -> None:
        pass

    def classify(self, image):
        return SimpleNamespace(label="cat")

    def logits(self, images):
        return np.full((len(images), 1), self._value, np.float32)


def pretend(monkeypatch, difference):
    monkeypatch.setattr(
        doctor.Classifier, "load", lambda model, *, backend, **options: FakeClassifier(backend, difference)
    )


def test_a_simulated_board_that_computes_the_same_bits(with_pynq, monkeypatch):
    pretend(monkeypatch, 0.0)
    result = run("--board", "simulated")
    assert result.exit_code == 0, result.output
    assert "encode 0.010, run 0.350, whole call" in " ".join(result.output.split())
    assert result.output.splitlines()[-1].endswith("Overlay: works on the simulated board")


def test_other_bits_are_an_error(with_pynq, monkeypatch):
    pretend(monkeypatch, 0.5)
    result = run("--board", "simulated", "--json")
    data = json.loads(result.output)
    assert result.exit_code == 1
    assert data["ok"] is False
    assert data["summary"].endswith("not on the simulated board, because of same bits")


@pytest.mark.parametrize("error", [BackendError("expected a; found b; do c"), ImportError("no module")])
def test_a_simulated_board_that_does_not_start_is_an_error(with_pynq, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(doctor.Classifier, "load", fail)
    result = run("--board", "simulated")
    assert result.exit_code == 1
    assert "x error   picture" in result.output
    assert "because of picture" in result.output


@pytest.mark.skipif(not HAS_PYNQ, reason="pynq is not installed: the simulated board is built on it")
@pytest.mark.skipif(not HAS_MODEL, reason="the package is not installed, so its bundled model is not found")
def test_one_picture_on_the_real_simulated_board():
    result = run("--board", "simulated", "--json")
    data = json.loads(result.output)
    assert result.exit_code == 0, result.output
    assert data["groups"][-1]["title"] == "Simulated board"
    assert [check["name"] for check in data["groups"][-1]["checks"]] == ["overlay", "picture", "same bits"]
    assert data["summary"].endswith("works on the simulated board")


# The last line --------------------------------------------------------------------------------------------------------


def groups_of(*checks):
    return [Group("This computer", ()), Group("Board", checks)]


def board(tmp_path):
    (tmp_path / "sys/class/fpga_manager/fpga0").mkdir(parents=True)
    return Machine(root=tmp_path, environ={}, architecture="aarch64")


def test_the_summary_of_a_board(tmp_path):
    machine = board(tmp_path)
    fetched = Check("cifar10-overlay", "ok", "fetched")
    assert doctor.summary(groups_of(fetched), "auto", machine).endswith("Overlay: ready with cifar10-overlay")
    missing = Check("cifar10-overlay", "warning", "not fetched")
    assert "fracbnn overlays fetch" in doctor.summary(groups_of(missing), "auto", machine)
    broken = Check("root", "error", "user 1000")
    assert doctor.summary(groups_of(broken, fetched), "auto", machine).endswith("not yet, because of root")


def test_the_summary_of_a_laptop_with_pynq(with_pynq):
    laptop = Machine(architecture="x86_64")
    assert doctor.summary(groups_of(), "auto", laptop).endswith("needs a board; try --board simulated")


def test_the_summary_without_kernels(monkeypatch, without_pynq):
    monkeypatch.setattr(native, "extension", None)
    assert doctor.summary(groups_of(), "auto", Machine()).startswith("Here: reference (NumPy only, slow")


@pytest.mark.parametrize("columns", ["20", "60", "200"])
def test_long_texts_are_wrapped_and_nothing_is_lost(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    check = Check("a name", "error", "found " * 40, "do-not-break-this-word " * 10)
    report.echo_groups([Group("title", (check,))])
    text = capsys.readouterr().out
    assert text.count("found") == 40
    assert text.count("do-not-break-this-word") == 10
    assert max(map(len, text.splitlines())) <= max(60, min(120, int(columns)))
