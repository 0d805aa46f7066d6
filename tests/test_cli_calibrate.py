"""``fracbnn calibrate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run
from PIL import Image

from fracbnn_pynq import calibration, native
from fracbnn_pynq.calibration import Recipe
from fracbnn_pynq.calibration import run as calibration_run
from fracbnn_pynq.difference import load_difference
from fracbnn_pynq.model import random_model
from fracbnn_pynq.modelfile import load_model, save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels were not built")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(random_model(IMAGENET, 4), path)
    return path


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((30, 30, 1), np.uint8))).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_a_folder_of_pictures(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_run, "Recipe", lambda: Recipe(positions=4, kept=1, passes=1, mirror=False))
    folder = write_pictures(tmp_path / "pictures", 9)
    (folder / "broken.png").write_bytes(b"not a picture")
    out, small = tmp_path / "out.safetensors", tmp_path / "small.safetensors"
    result = run("calibrate", model, folder, "--out", out, "--difference", small, "--json", "--threads", 2)
    assert result.code == 0
    assert "left out: " in result.err
    assert "broken.png" in result.err
    data = json.loads(result.out)
    assert data["pictures"] == 8
    assert data["watched"] == 1
    assert data["results"]["after"]["divergence"] < data["results"]["before"]["divergence"]
    found = load_model(out)
    assert found.arithmetic == "imagenet-2021"
    again = load_difference(small).apply(load_model(model))
    assert all(np.array_equal(tensor, again.tensors()[name]) for name, tensor in found.tensors().items())
    assert out.with_suffix(".md").read_text().startswith("# Model card: `out`")
    assert not list(tmp_path.glob("*.calibration"))
    # A calibrated model is not calibrated again, and nothing else runs it in another arithmetic.
    again_result = run("calibrate", out, folder, "--out", tmp_path / "twice.safetensors")
    assert again_result.code == 2
    assert "made for imagenet-2021 already" in again_result.err
    wrong = run("classify", "--model", out, "--arithmetic", "faithful", folder / "0.png")
    assert wrong.code == 1
    assert "parameters are for the arithmetic imagenet-2021" in wrong.err
    assert run("classify", "--model", out, folder / "0.png").code == 0


def test_stopped(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate", stop)
    out = tmp_path / "out.safetensors"
    result = run("calibrate", model, write_pictures(tmp_path / "pictures", 8), "--out", out)
    assert result.code == 130
    assert "the same command goes on from here" in result.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "expected a picture file, or a folder"), (1, "expected 8 pictures at least, found 1")],
)
def test_too_few_pictures(run: Run, model: Path, tmp_path: Path, count: int, message: str) -> None:
    folder = write_pictures(tmp_path / "pictures", count)
    result = run("calibrate", model, folder, "--out", tmp_path / "out.safetensors")
    assert result.code == 2
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_pictures_that_show_nothing(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "black.npz", images=np.zeros((20, 224, 224, 3), np.uint8))
    result = run("calibrate", model, tmp_path / "black.npz", "--out", tmp_path / "out.safetensors")
    assert result.code == 2
    assert "expected 8 different pictures at least, found 1 among 20" in result.err


def test_only_broken_pictures(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no")
    result = run("calibrate", model, tmp_path / "a.png", "--out", tmp_path / "out.safetensors")
    assert result.code == 2
    assert "expected pictures, found none that can be read" in result.err
    (tmp_path / "a.npz").write_bytes(b"no")
    result = run("calibrate", model, tmp_path / "a.npz", "--out", tmp_path / "out.safetensors")
    assert result.code == 2
    assert "expected an .npz of plain arrays" in result.err


def test_what_it_is_not_for(run: Run, model: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 1)
    out = tmp_path / "out.safetensors"
    result = run("calibrate", "cifar10", folder, "--out", out)
    assert result.code == 2
    assert "expected a model of ImageNet" in result.err
    save_model(random_model(CIFAR10), tmp_path / "c.safetensors")
    result = run("calibrate", tmp_path / "c.safetensors", folder, "--out", out, "--arithmetic", "cifar10-2020")
    assert result.code == 1
    assert "expected imagenet-2021, which calibration is for, found 'cifar10-2020'" in result.err
    assert run("calibrate", model, folder, "--out", tmp_path / "out.bin").code == 2


def test_where_nothing_can_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 1)
    (tmp_path / "folder.safetensors").mkdir()
    result = run("calibrate", model, folder, "--out", tmp_path / "folder.safetensors")
    assert result.code == 2
    assert "cannot write" in result.err
    (tmp_path / "file").write_bytes(b"")
    result = run("calibrate", model, folder, "--out", tmp_path / "file" / "out.safetensors")
    assert result.code == 2
    assert "cannot write" in result.err
