"""Models by name, from files, and fetched from the authors' release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq.errors import DownloadError, ModelError
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.models import MODELS, find_model, get_published
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.published.catalog import get_weights
from fracbnn_pynq.published.models import fetch_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no model chosen by the environment."""
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FRACBNN_MODEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    save_model(random_model(CIFAR10, 8), path)
    return path


def described(model: Model) -> object:
    return model.provenance["description"]


def test_the_bundled_model_is_the_default():
    model = find_model()
    assert model.network is CIFAR10
    assert model.classes[3] == "cat"
    assert model.provenance["licence"] == "BSD-3-Clause"
    assert np.array_equal(find_model("cifar10").fc_weight, model.fc_weight)


def test_models_from_files(own: Path, monkeypatch: pytest.MonkeyPatch):
    assert described(find_model(own)) == described(find_model(str(own))) == "random numbers, seed 8"
    monkeypatch.chdir(own.parent)
    assert described(find_model("own.safetensors")) == "random numbers, seed 8"
    own.rename("bare")
    assert described(find_model("bare")) == "random numbers, seed 8"


def test_the_environment_names_the_default(own: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FRACBNN_MODEL", str(own))
    assert described(find_model()) == "random numbers, seed 8"
    assert find_model("cifar10").provenance["name"] == "cifar10"
    monkeypatch.setenv("FRACBNN_MODEL", "")
    assert find_model().provenance["name"] == "cifar10"
    monkeypatch.setenv("FRACBNN_MODEL", "nonsense")
    with pytest.raises(ModelError, match="unknown model 'nonsense'"):
        find_model()


def test_unknown_models(tmp_path: Path):
    names = "cifar10, cifar10-authors, imagenet-authors, imagenet-calibrated"
    with pytest.raises(ModelError, match=f"unknown model 'resnet': expected {names} or a path to a model file"):
        find_model("resnet")
    for name in ("resnet.safetensors", "./resnet", tmp_path / "resnet"):
        with pytest.raises(ModelError, match=r"cannot read model file .*: No such file"):
            find_model(name)
    with pytest.raises(ModelError, match="expected a model file, found a folder"):
        find_model(tmp_path)
    with pytest.raises(ModelError, match="unknown model 'x'"):
        fetch_model("x")


def test_a_model_that_was_not_fetched():
    with pytest.raises(ModelError, match="'imagenet-authors' has not been fetched yet: run 'fracbnn models fetch ima"):
        find_model("imagenet-authors")
    assert not get_published("imagenet-authors").available


@pytest.mark.parametrize("name", MODELS)
def test_cards(name: str):
    card = MODELS[name].card()
    assert name in card.splitlines()[0]
    assert re.search(r"\d\d\.\d+ %", card)


def test_the_bundled_model_needs_no_fetching(cache: Path):
    assert fetch_model("cifar10") == MODELS["cifar10"].path
    assert not cache.exists()


@pytest.fixture(scope="module")
def release(imagenet_release: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the authors' ImageNet release."""
    folder = tmp_path_factory.mktemp("release")
    by_size = {array.nbytes: array for array in imagenet_release.values()}
    for file in get_weights("imagenet-authors").files:
        assert file.size is not None
        (folder / file.name).write_bytes(by_size[file.size].tobytes())
    return folder


def test_fetching_converts_the_release_once(release: Path, cache: Path, imagenet_authors: Model):
    path = fetch_model("imagenet-authors", source=release, progress=False)
    assert path == cache / "models" / "imagenet-authors.safetensors" == MODELS["imagenet-authors"].path
    assert path.stat().st_size < 6_000_000
    model = find_model("imagenet-authors")
    assert model.network is IMAGENET
    expected = imagenet_authors.tensors()
    assert all(np.array_equal(array, expected[name]) for name, array in model.tensors().items())
    assert model.provenance["licence"] == "none stated by its authors"
    assert re.fullmatch(r"https://github\.com/\S+, commit [0-9a-f]{40}", model.provenance["source"])


def test_the_calibrated_model_is_made_from_the_fetched_one(release: Path, cache: Path, imagenet_authors: Model):
    with pytest.raises(
        ModelError, match="'imagenet-calibrated' has not been fetched yet: run 'fracbnn models fetch im"
    ):
        find_model("imagenet-calibrated")
    path = fetch_model("imagenet-calibrated", source=release, progress=False)
    assert path == MODELS["imagenet-authors"].path
    model = find_model("imagenet-calibrated")
    assert model.arithmetic == "imagenet-2021"
    assert model.provenance["name"] == "imagenet-calibrated"
    assert model.provenance["licence"] == "none stated by its authors"
    assert not np.array_equal(model.fc_weight, imagenet_authors.fc_weight)
    # The authors' own parameters stay what they are.
    assert np.array_equal(find_model("imagenet-authors").fc_weight, imagenet_authors.fc_weight)
    assert find_model("imagenet-authors").arithmetic is None


def test_a_release_that_is_not_the_published_one(release: Path, tmp_path: Path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in release.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "fc_bias_host.bin").write_bytes(bytes(4000))
    with pytest.raises(DownloadError, match=r"not the published fc_bias_host\.bin"):
        fetch_model("imagenet-authors", source=changed, progress=False)
    (changed / "fc_bias_host.bin").unlink()
    with pytest.raises(DownloadError, match=r"fc_bias_host\.bin"):
        fetch_model("imagenet-authors", source=changed, progress=False)
    assert not MODELS["imagenet-authors"].available
