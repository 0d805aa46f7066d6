"""``fracbnn reproduce``: the paper's figures beside what is measured here."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
from PIL import Image

from fracbnn_pynq import Classifier, paper
from fracbnn_pynq.cli import reproduce
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, operations, weight_bits

if importlib.util.find_spec("fracbnn_pynq.weights") is None:
    pytest.skip("the package is not installed, so its bundled model is not found", allow_module_level=True)

FAST = ("--network", "cifar10", "--seconds", "0.1")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FRACBNN_CACHE", str(folder))
    return folder


@pytest.fixture
def labelled(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    with Classifier.load("cifar10", backend="cpu") as classifier:
        labels = classifier.logits(images).argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % 10
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=labels)
    return path


def test_sizes_and_operations_are_the_papers():
    def total(of, network):
        return sum(map(of, (network.stem, *network.layers)))

    assert total(weight_bits, CIFAR10) == 281_088
    assert total(weight_bits, IMAGENET) == 28_280_832
    assert math.isclose(total(operations, CIFAR10), 54.3e6, rel_tol=1e-3)
    assert math.isclose(total(operations, IMAGENET), 5.16e9, rel_tol=1e-2)
    assert set(paper.PAPER) == set(reproduce.ENGINES) == {"cifar10", "imagenet"}


def test_without_data_the_rest_is_measured(run):
    result = run("reproduce", *FAST)
    assert result.code == 0, result.err
    assert "the paper (4.1 W)" in result.out
    assert "89.1%" in result.out
    assert result.out.count("not fetched: fracbnn models fetch cifar10-authors") == 2
    (own,) = (line for line in result.out.splitlines() if line.startswith("cifar10 "))
    assert reproduce.NO_DATA in own
    assert "34 KiB" in own


def test_with_data(run, labelled, cache, cifar10_authors):
    (cache / "models").mkdir(parents=True)
    save_model(cifar10_authors, cache / "models" / "cifar10-authors.safetensors")
    result = run("reproduce", *FAST, "--cifar10", labelled, "--threads", 1, "--json")
    assert result.code == 0, result.err
    (data,) = result.documents
    assert data["paper"]["cifar10"]["top1"] == 0.891
    first, second, own = data["here"]["cifar10"]
    assert own["model"] == "cifar10"
    assert math.isclose(own["top1"], 20 / 30)
    assert own["pictures"] == 30
    assert 0.3 < own["open_gates"] < 0.8
    assert own["operations"] == pytest.approx(54_263_808 + own["open_gates"] * 40_108_032)
    assert (first["arithmetic"], second["arithmetic"]) == ("faithful", "cifar10-2020")
    assert all(row["latency_ms"] > 0 and row["pictures_per_s"] > 0 for row in (first, second, own))


def test_data_of_another_kind_cost_the_accuracy_alone(run, tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros((3, 32, 32, 3), np.uint8), labels=np.arange(3), classes=["ant", "bee", "wasp"])
    result = run("reproduce", *FAST, "--cifar10", path)
    assert result.code == 0, result.err
    assert "found a class 'ant'" in result.out


def test_the_picture(run, tmp_path, capsys):
    if importlib.util.find_spec("matplotlib") is None:
        result = run("reproduce", *FAST, "--picture", tmp_path / "figures.png")
        assert "Matplotlib is not installed" in result.err
        return
    result = run("reproduce", *FAST, "--picture", tmp_path / "figures.png")
    assert result.code == 0, result.err
    with Image.open(tmp_path / "figures.png") as picture:
        assert picture.size[0] == 1200
    with pytest.raises(BackendError, match="cannot write"):
        reproduce.draw({"cifar10": [reproduce.Row("a", "b")]}, tmp_path / "nowhere" / "figures.png")
