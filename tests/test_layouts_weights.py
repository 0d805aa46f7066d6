"""Memory layouts of weights: one-hot arrays prove every bit order, published buffers prove the whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.layouts import weights as layout
from fracbnn_pynq.model import LayerParameters, Model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, LAYER_PARAMETERS

CIFAR10_NAMES = [layer.name for layer in CIFAR10.layers]


def word(table: np.ndarray, index: int) -> int:
    return int.from_bytes(table[index].tobytes(), "little")


@pytest.fixture(scope="module")
def buffers(imagenet_release: Mapping[str, np.ndarray]) -> layout.ImageNetBuffers:
    return layout.ImageNetBuffers(
        imagenet_release["packed.conv_weight_3x3_all_new"].reshape(-1, 64),
        imagenet_release["packed.conv_weight_1x1_all_new"].reshape(-1, 64),
        imagenet_release["packed.weights_all"].view("<i4").reshape(-1, 16),
    )


def blank_imagenet() -> layout.ImageNetWeights:
    def bits(layer: Any) -> np.ndarray:
        return np.zeros((layer.out_channels, layer.kernel, layer.kernel, layer.in_channels), np.uint8)

    layers = {layer.name: (bits(layer), np.zeros((8, layer.out_channels))) for layer in IMAGENET.layers}
    return layout.ImageNetWeights(bits(IMAGENET.stem), np.zeros((2, 32)), layers)


# Weights of the ImageNet core


def named(imagenet_release: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return imagenet_release[name].reshape(-1).astype(np.float64)


def test_published_imagenet_weights(imagenet_release: Mapping[str, np.ndarray], buffers: layout.ImageNetBuffers):
    found = layout.unpack_imagenet_weights(buffers)
    np.testing.assert_array_equal(found.stem_weight, imagenet_release["model.0.0.weight"].transpose(0, 2, 3, 1) > 0)
    np.testing.assert_array_equal(
        found.stem_bn, [named(imagenet_release, f"model.0.1.{part}") for part in ("weight", "bias")]
    )
    assert list(found.layers) == [layer.name for layer in IMAGENET.layers]
    for block in range(1, 14):
        for half, (mine, theirs) in enumerate((("conv3x3", "conv3x3"), ("conv1x1", "pointwise")), start=1):
            bits, parameters = found.layers[f"block{block}.{mine}"]
            prefix = f"model.{block}."
            np.testing.assert_array_equal(
                bits, imagenet_release[f"{prefix}{theirs}.0.weight"].transpose(0, 2, 3, 1) > 0
            )
            names = {
                "threshold": f"{theirs}.0.threshold",
                "bn1_weight": f"{theirs}.1.weight",
                "bn1_bias": f"{theirs}.1.bias",
                "shift_x": f"rprelu{half}.shift_x.bias",
                "slope": f"rprelu{half}.prelu.weight",
                "shift_y": f"rprelu{half}.shift_y.bias",
                "bn2_weight": f"shiftbn{half}.weight",
                "bn2_bias": f"shiftbn{half}.bias",
            }
            expected = [named(imagenet_release, prefix + names[parameter]) for parameter in LAYER_PARAMETERS]
            np.testing.assert_array_equal(parameters, expected)
    again = layout.pack_imagenet_weights(*found)
    for one, other in zip(again, buffers, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("layer", "index", "first_word", "kernel"),
    [
        ("stem", (5, 1, 2, 64 + 17), 0, 3),
        ("block1.conv3x3", (31, 2, 0, 30), 54, 3),
        ("block2.conv3x3", (49, 0, 1, 33), 54 + 18, 3),
        ("block13.conv3x3", (1023, 2, 2, 1023), 49_104 - 1024 * 1024 * 9 // 512, 3),
        ("block1.conv1x1", (63, 0, 0, 1), 0, 1),
        ("block2.conv1x1", (100, 0, 0, 40), 4, 1),
        ("block13.conv1x1", (515, 0, 0, 999), 6_132 - 1024 * 1024 // 512, 1),
    ],
)
def test_one_weight_bit(layer: str, index: tuple[int, ...], first_word: int, kernel: int):
    model = blank_imagenet()
    bits = model.stem_weight if layer == "stem" else model.layers[layer][0]
    bits[index] = 1
    packed = layout.pack_imagenet_weights(*model)
    words, empty = (packed.conv3x3, packed.conv1x1) if kernel == 3 else (packed.conv1x1, packed.conv3x3)
    out, row, column, channel = index
    inputs = bits.shape[-1] // 32
    tap = row * kernel + column
    position = first_word + ((out // 32 * inputs + channel // 32) * 2 + out % 32 // 16) * kernel**2 + tap
    assert word(words, position) == 1 << (32 * (out % 16) + channel % 32)
    assert np.count_nonzero(words) == 1
    assert not empty.any()


# First word of every array of block 2 (64 and 128 channels), after the stem's 4 words and block 1's 16 * (2 + 4) / 2.
BLOCK2 = 4 + 8 * (2 + 4)


@pytest.mark.parametrize(
    ("layer", "parameter", "first_word"),
    [
        ("stem", 0, 0),
        ("stem", 1, 2),
        ("block2.conv3x3", "threshold", BLOCK2),
        ("block2.conv3x3", "bn1_weight", BLOCK2 + 4),
        ("block2.conv3x3", "bn1_bias", BLOCK2 + 8),
        ("block2.conv1x1", "threshold", BLOCK2 + 12),
        ("block2.conv1x1", "bn1_weight", BLOCK2 + 20),
        ("block2.conv1x1", "bn1_bias", BLOCK2 + 28),
        ("block2.conv3x3", "shift_x", BLOCK2 + 36),
        ("block2.conv3x3", "shift_y", BLOCK2 + 40),
        ("block2.conv3x3", "slope", BLOCK2 + 44),
        ("block2.conv1x1", "shift_x", BLOCK2 + 48),
        ("block2.conv1x1", "shift_y", BLOCK2 + 56),
        ("block2.conv1x1", "slope", BLOCK2 + 64),
        ("block2.conv3x3", "bn2_weight", BLOCK2 + 72),
        ("block2.conv3x3", "bn2_bias", BLOCK2 + 76),
        ("block2.conv1x1", "bn2_weight", BLOCK2 + 80),
        ("block2.conv1x1", "bn2_bias", BLOCK2 + 88),
        ("block13.conv1x1", "bn2_bias", 5_460 - 64),
    ],
)
def test_one_parameter(layer: str, parameter: str | int, first_word: int):
    model = blank_imagenet()
    array = model.stem_bn if layer == "stem" else model.layers[layer][1]
    row = parameter if isinstance(parameter, int) else LAYER_PARAMETERS.index(parameter)
    array[row, 21] = -1.5
    buffers = layout.pack_imagenet_weights(*model)
    packed = buffers.parameters
    assert list(map(tuple, np.argwhere(packed))) == [(first_word + 1, 5)]
    assert packed[first_word + 1, 5] == -3 << 25
    unpacked = layout.unpack_imagenet_weights(buffers)
    np.testing.assert_array_equal(unpacked.stem_bn if layer == "stem" else unpacked.layers[layer][1], array)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_imagenet_buffers_round_trip(seed: int):
    rng = np.random.default_rng(seed)
    packed = layout.ImageNetBuffers(
        rng.integers(0, 256, (49_104, 64), np.uint8),
        rng.integers(0, 256, (6_132, 64), np.uint8),
        rng.integers(-(2**31), 2**31, (5_460, 16), np.int32),
    )
    for one, other in zip(layout.pack_imagenet_weights(*layout.unpack_imagenet_weights(packed)), packed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parameter_rounding_and_saturation(caplog: pytest.LogCaptureFixture):
    step = 2.0**-26
    values = np.array([0, step, -step, 1.5 * step, 2.5 * step, -31.5, 32 - step])
    expected = [0, 1, -1, 2, 2, -(63 << 25), 2**31 - 1]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(layout.imagenet_parameter_raw(values), expected)
        assert not caplog.records
        np.testing.assert_array_equal(layout.imagenet_parameter_raw(np.array([40.0, -40])), [2**31 - 1, -(2**31)])
    assert "2 parameters lie outside" in caplog.text
    for bad in (np.nan, np.inf):
        with pytest.raises(ModelError, match="finite"):
            layout.imagenet_parameter_raw(np.array([bad]))


def test_imagenet_arrays_that_do_not_fit_are_refused(buffers: layout.ImageNetBuffers):
    model = blank_imagenet()
    signs = np.where(model.stem_weight > 0, 1, -1)
    for stem in (signs.astype(np.int8), np.full_like(model.stem_weight, 255), model.stem_weight[:, :, :, :32]):
        with pytest.raises(ModelError, match="stem: expected"):
            layout.pack_imagenet_weights(stem, model.stem_bn, model.layers)
    with pytest.raises(ModelError, match="stem batch norm: expected"):
        layout.pack_imagenet_weights(model.stem_weight, model.stem_bn[:, :16], model.layers)
    layers = dict(model.layers)
    layers["block3.conv1x1"] = (layers["block3.conv1x1"][0], np.zeros((7, 128)))
    with pytest.raises(ModelError, match=r"block3\.conv1x1 parameters: expected"):
        layout.pack_imagenet_weights(model.stem_weight, model.stem_bn, layers)
    del layers["block3.conv1x1"]
    with pytest.raises(ModelError, match=r"block3\.conv1x1 is missing"):
        layout.pack_imagenet_weights(model.stem_weight, model.stem_bn, layers)
    for field, wrong in (("conv3x3", "3x3"), ("conv1x1", "1x1"), ("parameters", "1-D")):
        with pytest.raises(ModelError, match=wrong):
            layout.unpack_imagenet_weights(buffers._replace(**{field: getattr(buffers, field)[1:]}))


def test_models_are_packed(buffers: layout.ImageNetBuffers):
    weights = layout.unpack_imagenet_weights(buffers)

    def packed(bits: np.ndarray) -> np.ndarray:
        return np.packbits(bits, axis=-1, bitorder="little")

    layers = {name: LayerParameters(packed(bits), values) for name, (bits, values) in weights.layers.items()}
    fc = np.zeros((1000, 1024)), np.zeros(1000)
    classes = tuple(f"class {i}" for i in range(1000))
    model = Model(IMAGENET, packed(weights.stem_weight), weights.stem_bn, layers, *fc, classes)
    for one, other in zip(layout.pack_model(model), buffers, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ModelError, match=f"expected a model of ImageNet .*, found one of {CIFAR10.name.upper()[:5]}"):
        layout.pack_model(SimpleNamespace(network=CIFAR10))


# Table of the CIFAR-10 core


@pytest.mark.parametrize(("tile", "file"), [(16, "cifar10_upstream_weights"), (8, "cifar10_prebuilt_weights")])
def test_published_cifar10_tables(shared: Path, tile: int, file: str):
    with np.load(shared / "golden" / f"{file}.npz") as data:
        table = data["packed.conv_weight_all"]
        stem, layers = layout.unpack_cifar10_weights(table, tile)
        np.testing.assert_array_equal(stem, data["conv1.weight"].transpose(0, 2, 3, 1) > 0)
        assert list(layers) == CIFAR10_NAMES
        for name, bits in layers.items():
            np.testing.assert_array_equal(bits, data[f"{name}.weight"].transpose(0, 2, 3, 1) > 0)
    again = layout.pack_cifar10_weights(stem, layers, tile)
    assert again.dtype == np.uint64
    np.testing.assert_array_equal(again, table)


@pytest.mark.parametrize(
    ("tile", "layer", "index", "position"),
    [
        (16, "stem", (9, 0, 2, 32 + 5), (1, 9)),
        (8, "stem", (9, 0, 2, 32 + 5), (4, 1)),
        (16, "layer1.2.conv2", (3, 2, 1, 15), (8, 3)),
        (8, "layer1.2.conv2", (8, 2, 1, 0), (17, 0)),
        (16, "layer2.0.conv1", (17, 1, 1, 12), (10, 1)),
        (8, "layer3.2.conv2", (63, 0, 0, 63), (89, 7)),
        (16, "layer3.2.conv2", (63, 0, 0, 63), (44, 15)),
    ],
)
def test_one_bit_of_the_table(tile: int, layer: str, index: tuple[int, ...], position: tuple[int, int]):
    layers = {item.name: np.zeros((item.out_channels, 3, 3, item.in_channels), bool) for item in CIFAR10.layers}
    stem = np.zeros((16, 3, 3, 96), bool)
    (stem if layer == "stem" else layers[layer])[index] = True
    table = layout.pack_cifar10_weights(stem, layers, tile)
    assert table.shape == (720 // tile, tile, 3, 3)
    assert list(map(tuple, np.argwhere(table))) == [(*position, *index[1:3])]
    channel = index[3] % 32 if layer == "stem" else index[3]
    assert table.max() == 1 << (63 - channel)


def test_tables_that_do_not_fit_are_refused():
    table = np.zeros((45, 16, 3, 3), np.uint64)
    with pytest.raises(ModelError, match="found 5"):
        layout.unpack_cifar10_weights(table, 5)
    with pytest.raises(ModelError, match="convolution table: expected uint64"):
        layout.unpack_cifar10_weights(table, 8)
    table[4, 0, 0, 0] = 1 << 47
    with pytest.raises(ModelError, match=r"layer1\.0\.conv2: expected only the 16 highest bits"):
        layout.unpack_cifar10_weights(table)
