"""``fracbnn train``: from a folder of pictures to a model that classifies, through kills, stops and mistakes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import Run, status
from training_support import archive_of_pictures, folder_of_pictures

from fracbnn_pynq.extras import install_line
from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import load_model, save_model
from fracbnn_pynq.networks import CIFAR10

# Saves after every step, and takes long enough over each to be killed.
DRIVER = """
import sys, time
from fracbnn_pynq.cli import main
from fracbnn_pynq.training import run
run.CHECKPOINT_S = 0.0
step = run.TrainingRun._step
run.TrainingRun._step = lambda self: (step(self), time.sleep(0.1))
sys.argv = ["fracbnn", *sys.argv[1:]]
main()
"""
QUICK = ("--batch", "4", "--threads", "1", "--no-compile")


@pytest.fixture
def training() -> Iterator[Any]:
    """The module of training runs; the test is skipped where PyTorch is not installed."""
    torch = pytest.importorskip("torch")
    from fracbnn_pynq.training import run as module

    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def checkpoint(out: Path) -> Any:
    from fracbnn_pynq.training.checkpoint import load_checkpoint

    return load_checkpoint(Path(f"{out}.training") / "checkpoint.pt")


def tensors(state: Any) -> dict[str, Any]:
    """Every tensor of a checkpoint: the network's and the optimiser's."""
    found = dict(state["state_dict"])
    for index, entry in state["optimiser"]["state"].items():
        found |= {f"optimiser {index} {name}": value for name, value in entry.items()}
    return found


def assert_same(one: Path, other: Path) -> None:
    """The runs that made two models ended with the same numbers."""
    first, second = tensors(checkpoint(one)), tensors(checkpoint(other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.equal(second[name]), name
    models = [load_model(path).tensors() for path in (one, other)]
    for name, array in models[0].items():
        assert np.array_equal(array, models[1][name]), name


# Without PyTorch


@pytest.mark.parametrize("arguments", [("train", "--help"), ("train", "-h")])
def test_help_needs_no_pytorch(arguments: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes "import torch" fail
    found = run(*arguments)
    assert (found.code, found.err) == (0, "")
    for part in ("Usage: fracbnn train [OPTIONS] DATA", "--hours", "--epochs", "--teacher", "--restart", ".training"):
        assert part in found.out


def test_without_pytorch_one_line_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = run("train", tmp_path, "--out", tmp_path / "m.safetensors", "--epochs", 1)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: training needs PyTorch; install it with: {install_line('train')}. Without an ")
    assert "CPU build" in found.err
    assert len(found.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --hours or --epochs"),
        (("--hours", 1, "--epochs", 1), "give either --hours or --epochs"),
        (("--hours", 0), "Invalid value for '--hours'"),
        (("--epochs", -1), "Invalid value for '--epochs'"),
        (("--epochs", 1, "--batch", 1), "Invalid value for '--batch'"),
        (("--epochs", 1, "--network", "mnist"), "Invalid value for '--network'"),
        (("--epochs", 1, "--held-out", 0.9), "Invalid value for '--held-out'"),
        (("--epochs", 1, "--out", "m.pt"), "expected a name that ends in .safetensors, found 'm.pt'"),
    ],
)
def test_wrong_usage(arguments: tuple[object, ...], message: str, run: Run, tmp_path: Path):
    found = run("train", tmp_path, "--out", tmp_path / "m.safetensors", *arguments)
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert not list(tmp_path.iterdir())


# From pictures to a model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three colours, trained by the command from a folder of .png files."""
    pytest.importorskip("torch")
    base = tmp_path_factory.mktemp("trained")
    folder_of_pictures(base / "colours", 60)
    options = ("--batch", "8", "--rate", "0.01", "--held-out", "0.2", "--threads", "1", "--no-compile")
    with (base / "out.txt").open("w") as stream, contextlib.redirect_stdout(stream):
        code = status("train", base / "colours", "--out", base / "m.safetensors", "--epochs", 5, *options)
    assert code == 0
    return base / "m.safetensors"


def test_what_a_run_leaves_and_says(trained: Path):
    base = trained.parent
    out = (base / "out.txt").read_text()
    assert "accuracy on 12 pictures: " in out
    assert "same answer for " in out
    assert "gates open: " in out
    assert "warning: expected at least 200 steps, found a budget of 30; " in out
    if find_spec("matplotlib"):
        assert (base / "m.png").is_file()
    else:
        assert "no picture of the run: Matplotlib is not installed" in out
    assert out.endswith(f"{trained}: the model; m.md: its card\n")
    model = load_model(trained)
    assert model.classes == ("blue", "green", "red")
    assert model.network == CIFAR10.with_classes(3)
    assert model.provenance["trained_on"] == "colours, 48 pictures"
    assert model.provenance["accuracy"]["colours, 12 pictures, faithful"] > 0.9
    assert (base / "m.md").read_text().startswith("# Model card: `m`")
    left = base / "m.safetensors.training"
    assert (left / "checkpoint.pt").is_file()
    assert not list(left.glob("*.npy"))  # the decoded pictures


def test_the_model_classifies(trained: Path, run: Run, tmp_path: Path):
    folder_of_pictures(tmp_path, 6, seed=77)  # pictures that it has not seen
    files = sorted(tmp_path.rglob("*.png"))
    found = run("classify", "--model", trained, *files)
    assert found.code == 0
    lines = found.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(file) for file in files]
    right = [line.split(": ")[1].split()[0] == file.parent.name for line, file in zip(lines, files, strict=True)]
    assert sum(right) >= 5


def test_a_finished_run_is_exported_again(training: Any, trained: Path, run: Run, tmp_path: Path):
    base, before = trained.parent, trained.read_bytes()
    arguments = ("--epochs", 5, "--batch", 8, "--rate", 0.01, "--held-out", 0.2, "--threads", 1, "--no-compile")
    found = run("train", base / "colours", "--out", trained, *arguments)
    assert found.code == 0
    assert "going on at 100%" in found.err
    assert trained.read_bytes() == before


def test_training_on_from_a_model(training: Any, trained: Path, run: Run, tmp_path: Path):
    """From a checkpoint, with a test set of its own, for some hours."""
    folder_of_pictures(tmp_path / "test", 9, seed=5)
    out = tmp_path / "n.safetensors"
    initial = Path(f"{trained}.training") / "checkpoint.pt"
    options = ("--test", tmp_path / "test", "--initial", initial, "--hours", 1e-4, "--rate", 1e-5)
    found = run("train", trained.parent / "colours", "--out", out, *options, *QUICK)
    assert found.code == 0, found.err
    facts = load_model(out).provenance
    assert facts["trained_on"] == "colours, 60 pictures"
    assert facts["accuracy"]["test, 9 pictures, faithful"] > 0.8
    assert "started from checkpoint.pt" in facts["recipe"]
    assert "; binary weights; picture edge 32 from 0%;" in facts["recipe"]


def test_a_teacher(training: Any, trained: Path, run: Run, tmp_path: Path):
    from fracbnn_pynq import native

    if not native.available():
        pytest.skip("native kernels were not built")
    out = tmp_path / "n.safetensors"
    data, options = trained.parent / "colours", ("--epochs", 0.2, "--teacher-share", 0.75, *QUICK)
    assert run("train", data, "--out", out, "--teacher", trained, *options).code == 0
    assert "75% of the loss from the teacher m, temperature 3" in load_model(out).provenance["recipe"]
    save_model(random_model(CIFAR10), tmp_path / "ten.safetensors")
    found = run("train", data, "--out", tmp_path / "o.safetensors", "--teacher", tmp_path / "ten.safetensors", *options)
    assert found.code == 2
    assert "error: expected a teacher for 32-pixel pictures of blue, green, red, found one for 32-pixel" in found.err
    found = run("train", data, "--out", tmp_path / "o.safetensors", "--teacher", "mobilenet", *options)
    assert (found.code, found.err.splitlines()[-1][:33]) == (2, "error: unknown model 'mobilenet':")


# Kills, stops, other settings


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of_pictures(tmp_path_factory.mktemp("data") / "colours.npz", 18)


@pytest.fixture(scope="module")
def whole(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run of 12 steps that nothing interrupted."""
    pytest.importorskip("torch")
    out = tmp_path_factory.mktemp("whole") / "m.safetensors"
    assert status("train", archive, "--out", out, "--epochs", 3, *QUICK) == 0
    return out


def test_a_killed_run_goes_on_exactly(training: Any, archive: Path, whole: Path, run: Run, tmp_path: Path):
    out = tmp_path / "m.safetensors"
    arguments = ("train", archive, "--out", out, "--epochs", 3, *QUICK)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    saved = Path(f"{out}.training") / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not saved.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.8))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = checkpoint(out)["state"]["step"]
    assert 1 <= step <= 12
    assert not out.exists()
    found = run(*arguments)
    assert found.code == 0, found.err
    assert f"going on at {step / 12:.0%}" in found.err
    assert_same(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_exactly(
    number: signal.Signals,
    training: Any,
    archive: Path,
    whole: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    out = tmp_path / "m.safetensors"
    arguments = ("train", archive, "--out", out, "--epochs", 3, *QUICK)
    step = training.TrainingRun._step

    def signalled(self: Any) -> None:
        if self._state.step == 4:
            os.kill(os.getpid(), number)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingRun, "_step", signalled)
        found = run(*arguments)
    assert found.code == 130
    assert found.err.endswith("stopped; the same command goes on from here\n")
    assert checkpoint(out)["state"]["step"] == 5
    assert not out.exists()
    found = run(*arguments)
    assert found.code == 0
    assert "going on at 42%" in found.err
    assert "decoding" not in found.err
    assert_same(out, whole)


def test_other_settings_need_a_restart(training: Any, archive: Path, run: Run, tmp_path: Path):
    out = tmp_path / "m.safetensors"
    folder = Path(f"{out}.training")
    assert run("train", archive, "--out", out, "--epochs", 0.5, *QUICK).code == 0
    other = ("train", archive, "--out", out, "--epochs", 0.5, "--seed", 1, *QUICK)
    found = run(*other)
    assert found.code == 2
    assert found.err.splitlines()[-1].startswith(
        f"error: {folder / 'checkpoint.pt'}: this run was started with seed 0, not 1; "
    )
    (folder / "left over").write_text("x")
    found = run(*other, "--restart")
    assert (found.code, "going on" in found.err) == (0, False)
    assert checkpoint(out)["settings"]["seed"] == 1
    assert not (folder / "left over").exists()


# Mistakes


def test_mistakes_are_one_line(training: Any, archive: Path, run: Run, tmp_path: Path):
    out = tmp_path / "m.safetensors"
    two = archive_of_pictures(tmp_path / "two.npz", 4, classes=np.array(["a", "b", "c"]))
    (tmp_path / "file").write_text("no folder")
    for arguments, message in (
        (
            (tmp_path / "gone", "--out", out),
            "gone: expected a folder with one folder of pictures per class, or an .npz",
        ),
        ((archive, "--out", out, "--test", two), "expected pictures of red, green, blue; found a class "),
        ((archive, "--out", out, "--batch", 17), "expected at least 17 pictures (a batch) to train on"),
        ((archive, "--out", out, "--initial", tmp_path / "gone.npz", "--batch", 4), "cannot read "),
        ((archive, "--out", tmp_path / "file" / "m.safetensors"), "cannot make the folder "),
    ):
        found = run("train", *arguments, "--epochs", 1, "--no-compile", "--threads", 1)
        assert found.code == 2, arguments
        assert message in found.err
        assert found.err.splitlines()[-1].startswith("error: ")
    for device in ("quantum", "cuda:99"):
        found = run("train", archive, "--out", out, "--epochs", 1, "--device", device)
        assert found.code == 2
        assert f"--device: PyTorch cannot use '{device}' here (" in found.err
    assert not out.exists()


def test_options_reach_the_recipe(training: Any, archive: Path, run: Run, tmp_path: Path):
    out = tmp_path / "m.safetensors"
    options = ("--rate", 0.003, "--float-until", 0.5, "--gate-target", 1.5, "--gate-pull", 0.01, "--smoothing", 0.1)
    more = ("--zoom", 0.5, "--shift", 0.25, "--no-flip", "--temperature", 2, "--teacher-share", 0.25)
    assert run("train", archive, "--out", out, "--epochs", 0.25, *options, *more, *QUICK).code == 0
    recipe = checkpoint(out)["settings"]["recipe"]
    expected = {
        "batch": 4,
        "peak_rate": 0.003,
        "float_until": 0.5,
        "gate_target": 1.5,
        "gate_pull": 0.01,
        "smoothing": 0.1,
        "zoom": 0.5,
        "shift": 0.25,
        "flip": False,
        "temperature": 2,
        "teacher_share": 0.25,
    }
    assert {name: recipe[name] for name in expected} == expected
