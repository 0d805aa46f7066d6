"""The calibration as a whole, on a random network and few pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import BackendError, ModelError, PictureError, native
from fracbnn_pynq.arithmetic import IMAGENET_2021
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.calibration import Calibration, Recipe, calibrate, pipeline
from fracbnn_pynq.calibration.report import compare
from fracbnn_pynq.calibration.run import _split
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.modelfile import load_model, save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels were not built")

QUICK = Recipe(positions=6, kept=1, passes=1, mirror=False)


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(IMAGENET, 4)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Nine blurred noises of different colours, uint8 [9, 224, 224, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 14, 14, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))


@pytest.fixture(scope="module")
def found(model: Model, pictures: np.ndarray) -> Calibration:
    return calibrate(model, pictures, recipe=QUICK, threads=2)


@pytest.mark.slow
def test_a_random_model_comes_closer_to_its_float_network(found: Calibration, model: Model) -> None:
    rows = {row.name: row for row in found.report.rows}
    assert list(rows) == ["before", "after", "faithful"]
    assert rows["after"].divergence < rows["before"].divergence
    assert (found.report.pictures, found.report.watched) == (8, 1)
    assert [layer.name for layer in found.report.layers] == ["stem", *(layer.name for layer in IMAGENET.layers)]
    # The overlapped layer's losses are of two orders of channels, the others' cannot rise.
    assert all(layer.after <= layer.before for layer in found.report.layers)
    assert found.model.arithmetic == IMAGENET_2021.name
    assert "8 unlabelled pictures" in found.model.provenance["calibrated_on"]


@pytest.mark.slow
def test_the_difference_gives_the_same_model(found: Calibration, model: Model) -> None:
    applied = found.difference.apply(model)
    assert all(np.array_equal(tensor, applied.tensors()[name]) for name, tensor in found.model.tensors().items())
    assert applied.provenance == found.model.provenance


@pytest.mark.slow
def test_stopped_and_resumed_on_other_threads_it_gives_the_same_file(
    found: Calibration, model: Model, pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = iter(["block3.conv1x1", "block12.conv1x1"])
    fit_layer = pipeline.fit_layer
    stop = next(stops)

    def interrupted(work, layer):
        if layer.name == stop:
            raise KeyboardInterrupt
        return fit_layer(work, layer)

    monkeypatch.setattr(pipeline, "fit_layer", interrupted)
    folder = tmp_path / "state"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, pictures, recipe=QUICK, threads=1, folder=folder)
        stop = next(stops, "")
    again = calibrate(model, pictures, recipe=QUICK, threads=1, folder=folder)
    for name, which in (("a", found.model), ("b", again.model)):
        save_model(which, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [layer.after for layer in again.report.layers] == [layer.after for layer in found.report.layers]


@pytest.mark.slow
def test_it_is_for_one_arithmetic(found: Calibration, tmp_path: Path, pictures: np.ndarray) -> None:
    save_model(found.model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.arithmetic == IMAGENET_2021.name
    with pytest.raises(BackendError, match=r"parameters are for the arithmetic imagenet-2021; .* found 'faithful'"):
        CpuBackend(loaded)
    with pytest.raises(ModelError, match="made for imagenet-2021 already"):
        calibrate(loaded, pictures)


@pytest.mark.slow
def test_report(found: Calibration, tmp_path: Path) -> None:
    lines = "\n".join([*found.report.lines(), *found.report.layer_lines()])
    for text in ("fitted on 8 pictures", "faithful", "block13.conv1x1", "cost of the overlap"):
        assert text in lines
    data = found.report.data()
    assert data["results"]["after"]["divergence"] == found.report.rows[1].divergence
    card = found.report.card("mine", "imagenet-authors", tmp_path / "mine.png")
    assert card.startswith("# Model card: `mine`")
    assert "mine.png" in card
    pytest.importorskip("matplotlib")
    assert found.report.draw(tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_it_cannot_learn_from(model: Model, pictures: np.ndarray) -> None:
    with pytest.raises(PictureError, match="expected 8 pictures at least, found 1; 30 are enough"):
        calibrate(model, pictures[:1])
    with pytest.raises(PictureError, match="expected 8 pictures at least, found 0"):
        calibrate(model, pictures[:0])
    with pytest.raises(PictureError, match="expected 8 different pictures at least, found 1 among 20"):
        calibrate(model, np.zeros((20, 224, 224, 3), np.uint8))
    with pytest.raises(PictureError, match=r"expected pictures uint8 \[N, 224, 224, 3\]"):
        calibrate(model, pictures[:, :100])


def test_models_it_is_not_for(pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    with pytest.raises(ModelError, match=r"expected a model of ImageNet .*found one of CIFAR-10"):
        calibrate(random_model(CIFAR10), pictures)
    monkeypatch.setattr(native, "extension", None)
    with pytest.raises(BackendError, match="native kernels are missing"):
        calibrate(model, pictures)


@pytest.mark.parametrize("count", [8, 9, 30, 375])
def test_held_out_pictures_are_not_fitted_on(count: int) -> None:
    watched, used = _split(count, 0.1, 0)
    assert sorted([*watched, *used]) == list(range(count))
    assert len(watched) >= 1
    assert len(used) >= 7
    assert not np.array_equal(watched, _split(count, 0.1, 1)[0]) or count < 10


def test_comparison_with_the_float_network() -> None:
    wanted = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32))
    given = np.log(np.array([[0.5, 0.25, 0.25], [0.6, 0.2, 0.2]], np.float32))
    row = compare("x", given, wanted)
    assert row.agreement == 0.5
    assert row.divergence == pytest.approx((0.2 * np.log(1 / 3) + 0.6 * np.log(3)) / 2, abs=1e-6)
    assert compare("x", wanted, wanted).divergence == 0
