"""Differences: made, applied, saved, read, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fracbnn_pynq.calibration.permute import choose
from fracbnn_pynq.difference import METADATA, Difference, difference, fingerprint, load_difference, save_difference
from fracbnn_pynq.draft import Draft
from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.networks import IMAGENET


@pytest.fixture(scope="module")
def base() -> Model:
    return random_model(IMAGENET, 1)


@pytest.fixture(scope="module")
def given(base: Model) -> Difference:
    return changed(base)[0]


def changed(base: Model, *, permuted: bool = True) -> tuple[Difference, Model]:
    """Some difference, and the model it stands for."""
    random = np.random.default_rng(0)
    draft = Draft.of(base)
    orders = choose(random.random(512)) if permuted else None
    if orders is not None:
        draft.permute(orders)
    for layer in draft.layers.values():
        layer.bits.reshape(-1)[random.integers(0, layer.bits.size, 50)] ^= 1
        layer.raw = random.integers(-8192, 8192, layer.raw.shape)
    draft.stem_raw = random.integers(-8192, 8192, draft.stem_raw.shape)
    affine = random.integers(-(1 << 18), 1 << 18, (2, 1024)).astype(np.int32)
    draft.fold(affine)
    model = replace(draft.model({"note": "x"}), arithmetic="imagenet-2021")
    return difference(base, draft, orders, affine, {"note": "x"}), model


def same(a: Model, b: Model) -> bool:
    return all(np.array_equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())


@pytest.mark.parametrize("permuted", [True, False])
def test_a_difference_gives_the_calibrated_model(base: Model, tmp_path: Path, permuted: bool) -> None:
    given, expected = changed(base, permuted=permuted)
    save_difference(given, tmp_path / "d.safetensors")
    found = load_difference(tmp_path / "d.safetensors").apply(base)
    assert same(found, expected)
    assert found.arithmetic == "imagenet-2021"
    assert found.provenance == {**base.provenance, "note": "x"}
    assert found.classes == base.classes


def test_a_difference_is_small_and_holds_no_weights(given: Difference, tmp_path: Path) -> None:
    save_difference(given, tmp_path / "d.safetensors")
    tensors = load_file(tmp_path / "d.safetensors")
    assert (tmp_path / "d.safetensors").stat().st_size < 300_000
    assert {name.rpartition(".")[2] for name in tensors} == {"raw", "flips", "affine", "order"}


def test_a_difference_is_for_one_model(given: Difference, base: Model) -> None:
    with pytest.raises(ModelError, match=f"expected the model with the fingerprint {fingerprint(base)}"):
        given.apply(random_model(IMAGENET, 2))


def test_saving_twice_gives_the_same_bytes(given: Difference, base: Model, tmp_path: Path) -> None:
    for name, each in (("a", given), ("b", changed(base)[0])):
        save_difference(each, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def damage(path: Path, how: str) -> None:
    """Change the file in a way that its checksum does not see: whoever made it meant it."""
    tensors = load_file(path)
    given = load_difference(path)
    if how == "order":
        tensors["order"] = tensors["order"][::-1].copy()
    elif how == "order of other values":
        tensors["order"] = np.full(512, 300, np.int16)
    elif how == "flips beyond the end":
        tensors["block1.conv3x3.flips"] = np.array([32 * 9 * 32], np.uint32)
    elif how == "flips twice":
        tensors["block1.conv3x3.flips"] = np.array([5, 5], np.uint32)
    elif how == "type":
        tensors["affine"] = tensors["affine"].astype(np.float32)
    elif how == "shape":
        tensors["stem.raw"] = tensors["stem.raw"][:1].copy()
    elif how == "missing":
        del tensors["block13.conv1x1.raw"]
    elif how == "more":
        tensors["more"] = tensors["affine"]
    save_difference(replace(given, tensors=tensors), path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("order", "repeated channels"),
        ("order of other values", "repeated channels"),
        ("flips beyond the end", "below 9216"),
        ("flips twice", "ascending"),
        ("type", "affine.*found float32"),
        ("shape", r"stem\.raw"),
        ("missing", r"block13\.conv1x1\.raw"),
        ("more", "'more'"),
    ],
)
def test_what_cannot_be_applied_is_refused(given: Difference, tmp_path: Path, how: str, message: str) -> None:
    path = tmp_path / "d.safetensors"
    save_difference(given, path)
    damage(path, how)
    with pytest.raises(ModelError, match=message):
        load_difference(path)


def test_damaged_files_are_refused(given: Difference, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_difference(given, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="checksum"):
        load_difference(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="expected a calibration, found something else"):
        load_difference(path)
    save_file({"x": np.zeros(1)}, path)
    with pytest.raises(ModelError, match="expected a calibration, found something else"):
        load_difference(path)
    save_file(
        {"x": np.zeros(1)},
        path,
        {METADATA: json.dumps({"version": 9, "checksum": "", "base": "", "arithmetic": "", "provenance": {}})},
    )
    with pytest.raises(ModelError, match="expected version 1, found 9"):
        load_difference(path)
    with pytest.raises(ModelError, match="cannot read calibration"):
        load_difference(tmp_path / "none")
