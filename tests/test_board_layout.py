"""Memory layouts: one-hot arrays prove every bit order, published buffers prove the whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fracbnn_pynq.board import layout
from fracbnn_pynq.errors import AcceleratorError, ModelError, PictureError
from fracbnn_pynq.networks import CIFAR10, IMAGENET, LAYER_PARAMETERS
from fracbnn_pynq.thermometer import levels, planes

CIFAR10_NAMES = [layer.name for layer in CIFAR10.layers]


def word(table: np.ndarray, index: int) -> int:
    return int.from_bytes(table[index].tobytes(), "little")


@pytest.fixture(scope="module")
def authors(shared: Path) -> dict[str, Any]:
    with np.load(shared / "golden" / "imagenet_authors_weights.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def buffers(authors: dict[str, Any]) -> layout.ImageNetBuffers:
    return layout.ImageNetBuffers(
        authors["packed.conv_weight_3x3_all_new"].reshape(-1, 64),
        authors["packed.conv_weight_1x1_all_new"].reshape(-1, 64),
        authors["packed.weights_all"].view("<i4").reshape(-1, 16),
    )


def blank_imagenet() -> layout.ImageNetWeights:
    def bits(layer: Any) -> np.ndarray:
        return np.zeros((layer.out_channels, layer.kernel, layer.kernel, layer.in_channels), np.uint8)

    layers = {layer.name: (bits(layer), np.zeros((8, layer.out_channels))) for layer in IMAGENET.layers}
    return layout.ImageNetWeights(bits(IMAGENET.stem), np.zeros((2, 32)), layers)


# Sizes


def test_sizes_follow_from_the_networks():
    weights = {1: 0, 3: IMAGENET.stem.out_channels * 9 * 96}
    for layer in IMAGENET.layers:
        weights[layer.kernel] += layer.out_channels * layer.in_channels * layer.kernel**2
    assert weights[3] == 512 * layout.IMAGENET_CONV3X3_WORDS
    assert weights[1] == 512 * layout.IMAGENET_CONV1X1_WORDS
    values = 2 * 32 + sum(8 * layer.out_channels for layer in IMAGENET.layers)
    assert values == 16 * layout.IMAGENET_PARAMETER_WORDS
    for name in ("CONV3X3", "CONV1X1", "PARAMETER", "SCRATCH"):
        words, size = getattr(layout, f"IMAGENET_{name}_WORDS"), getattr(layout, f"IMAGENET_{name}_BYTES")
        assert size == layout.WORD_BYTES * words
    assert np.prod(layout.CIFAR10_IMAGE_SHAPE) * 8 == layout.CIFAR10_IMAGE_BYTES
    assert np.prod(layout.IMAGENET_IMAGE_SHAPE) * 4 == layout.IMAGENET_IMAGE_BYTES
    assert np.prod(layout.CIFAR10_RESULT_SHAPE) * 4 == layout.CIFAR10_RESULT_BYTES


# Images


@pytest.mark.parametrize("value", range(256))
def test_every_value_sets_its_levels_from_the_right_end(value: int):
    level = int(levels(np.array(value, np.uint8)))
    cifar = np.zeros((32, 32, 3), np.uint8)
    cifar[5, 7, 1] = value
    expected = np.zeros((3, 32, 32), np.uint64)
    expected[1, 5, 7] = sum(1 << (63 - t) for t in range(level))
    np.testing.assert_array_equal(layout.pack_cifar10_image(cifar), expected)
    imagenet = np.zeros((224, 224, 3), np.uint8)
    imagenet[200, 7, 2] = value
    words = layout.pack_imagenet_image(imagenet)
    assert words[2, 200, 7] == sum(1 << t for t in range(level))
    assert np.count_nonzero(words) == (level > 0)


@given(hnp.arrays(np.uint8, (2, 32, 32, 3)))
def test_cifar10_round_trip(images: np.ndarray):
    words = layout.pack_cifar10_image(images)
    assert words.dtype == np.uint64
    assert words.flags.c_contiguous
    np.testing.assert_array_equal(words[1], layout.pack_cifar10_image(images[1]))
    np.testing.assert_array_equal(layout.unpack_cifar10_image(words), levels(images))
    np.testing.assert_array_equal(layout.cifar10_planes(words), planes(images))
    np.testing.assert_array_equal(layout.cifar10_planes(words[0]), planes(images)[0])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_imagenet_round_trip(seed: int):
    images = np.random.default_rng(seed).integers(0, 256, (2, 224, 224, 3), np.uint8)
    words = layout.pack_imagenet_image(images)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words[0], layout.pack_imagenet_image(images[0]))
    np.testing.assert_array_equal(layout.unpack_imagenet_image(words), levels(images))
    np.testing.assert_array_equal(layout.imagenet_planes(words[0]), planes(images[:1])[0])


def test_images_are_written_into_the_given_buffer():
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    memory = np.full((2, 3, 32, 32), 7, np.uint64)
    assert layout.pack_cifar10_image(image, memory[1]) is not None
    np.testing.assert_array_equal(memory[1], layout.pack_cifar10_image(image))
    assert np.all(memory[0] == 7)
    strided = np.zeros((3, 32, 64), np.uint64)
    layout.pack_cifar10_image(image[:, ::-1], strided[:, :, ::2])
    np.testing.assert_array_equal(strided[:, :, ::2], memory[1][:, :, ::-1])
    assert not strided[:, :, 1::2].any()


@pytest.mark.parametrize(
    ("pack", "image", "out"),
    [
        (layout.pack_cifar10_image, np.zeros((3, 32, 32), np.uint8), None),
        (layout.pack_cifar10_image, np.zeros((32, 32), np.uint8), None),
        (layout.pack_cifar10_image, np.zeros((32, 32, 3), np.int16), None),
        (layout.pack_cifar10_image, np.zeros((32, 32, 3), np.uint8), np.zeros((3, 32, 32), np.uint32)),
        (layout.pack_cifar10_image, np.zeros((2, 32, 32, 3), np.uint8), np.zeros((3, 32, 32), np.uint64)),
        (layout.pack_imagenet_image, np.zeros((32, 32, 3), np.uint8), None),
        (layout.pack_imagenet_image, np.zeros((224, 224, 3), np.uint8), np.zeros((3, 224, 224), np.uint64)),
    ],
)
def test_other_pictures_and_buffers_are_refused(pack: Any, image: np.ndarray, out: np.ndarray | None):
    with pytest.raises(PictureError, match=r"expected .* found"):
        pack(image, out)


@pytest.mark.parametrize("bad", [1 << 62, (1 << 63) | 1, 0b101 << 61, (1 << 64) - 1, 1])
def test_words_that_are_no_thermometer_code_are_refused(bad: int):
    words = np.zeros((3, 32, 32), np.uint64)
    words[2, 31, 30] = bad
    with pytest.raises(PictureError, match=rf"1 other words, first {bad:#x}"):
        layout.unpack_cifar10_image(words)


@pytest.mark.parametrize("bad", [2, 1 << 31, 0b1011, 0xFFFF_FFFE])
def test_imagenet_words_that_are_no_thermometer_code_are_refused(bad: int):
    words = np.ones((3, 224, 224), np.uint32)
    words[0, 1, 2:4] = bad
    with pytest.raises(PictureError, match=rf"2 other words, first {bad:#x}"):
        layout.unpack_imagenet_image(words)


@pytest.mark.parametrize("level", range(32))
def test_planes_of_single_bits(level: int):
    words = np.zeros((3, 32, 32), np.uint64)
    words[1, 3, 4] = 1 << (63 - level)
    found = layout.cifar10_planes(words)
    assert found.shape == (96, 32, 32)
    assert list(map(tuple, np.argwhere(found == 1))) == [(32 + level, 3, 4)]
    assert np.count_nonzero(found == -1) == found.size - 1
    large = np.zeros((3, 224, 224), np.uint32)
    large[2, 3, 223] = 1 << level
    assert list(map(tuple, np.argwhere(layout.imagenet_planes(large) == 1))) == [(64 + level, 3, 223)]


def test_planes_refuse_low_bits_and_other_types():
    words = np.zeros((3, 32, 32), np.uint64)
    words[0, 0, 0] = 1 << 31
    with pytest.raises(PictureError, match=r"31\.\.0"):
        layout.cifar10_planes(words)
    with pytest.raises(PictureError, match="found uint64"):
        layout.imagenet_planes(np.zeros((3, 224, 224), np.uint64))
    with pytest.raises(PictureError, match="found float64"):
        layout.cifar10_planes(np.zeros((3, 32, 32)))


def test_published_images(shared: Path, authors: dict[str, Any]):
    with np.load(shared / "golden" / "cifar10_csim_64.npz") as data:
        np.testing.assert_array_equal(layout.pack_cifar10_image(data["images"]), data["packed"])
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        np.testing.assert_array_equal(layout.pack_imagenet_image(data["images"]), data["image_thermo"])
    sample = authors["sample.image_thermo"]
    found = layout.unpack_imagenet_image(sample)
    colours = np.minimum(found.astype(int) * 8, 255).astype(np.uint8)
    np.testing.assert_array_equal(layout.pack_imagenet_image(colours), sample)


# Maps and result


def test_one_code_at_a_time():
    for channel, row, column in [(0, 0, 0), (1, 0, 0), (33, 2, 6), (1023, 6, 6), (510, 3, 4), (64, 5, 3)]:
        codes = np.zeros((1024, 7, 7), np.uint8)
        codes[channel, row, column] = 11
        words = layout.pack_imagenet_result(codes)
        index = channel // 32 * 14 + row * 2 + column // 4
        assert word(words, index) == 11 << (128 * (column % 4) + 4 * (channel % 32))
        assert np.count_nonzero(words) == 1
        np.testing.assert_array_equal(layout.unpack_imagenet_result(words), codes)


@pytest.mark.parametrize("size", [7, 14, 28, 4, 1])
def test_maps_of_other_sizes(size: int):
    codes = np.random.default_rng(size).integers(0, 16, (64, size, size), np.uint8)
    words = layout.pack_map(codes)
    assert words.shape == (layout.tile_address(0, 2, size), 64)
    np.testing.assert_array_equal(layout.unpack_map(words, size), codes)
    tile = words[layout.tile_address(0, 1, size) : layout.tile_address(0, 2, size)]
    np.testing.assert_array_equal(layout.unpack_map(tile, size), codes[32:])


def test_addresses():
    assert layout.tile_words(112) == 112 * 28
    assert layout.tile_words(7) == 14
    assert layout.tile_address(1, 0, 14) == 32 * 56
    assert layout.tile_address(1, 0, 7) == 448


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_stale_lanes_stay(seed: int):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (448, 64), np.uint8)
    codes = layout.unpack_imagenet_result(words)
    np.testing.assert_array_equal(layout.pack_imagenet_result(codes, words.copy()), words)
    clean = layout.pack_imagenet_result(codes).reshape(32, 7, 2, 4, 16)
    assert not clean[:, :, 1, 3].any()
    clean[:, :, 1, 3] = words.reshape(clean.shape)[:, :, 1, 3]
    np.testing.assert_array_equal(clean.reshape(448, 64), words)


def test_published_results(shared: Path, authors: dict[str, Any]):
    found = layout.unpack_imagenet_result(authors["sample.result_words"])
    np.testing.assert_array_equal(found, authors["sample.result_q4"])
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        for words, codes in zip(data["result_words"], data["result_q4"], strict=True):
            np.testing.assert_array_equal(layout.unpack_imagenet_result(words), codes)
            np.testing.assert_array_equal(layout.pack_imagenet_result(codes, words.copy()), words)


@pytest.mark.parametrize(
    "call",
    [
        lambda: layout.unpack_imagenet_result(np.zeros((447, 64), np.uint8)),
        lambda: layout.unpack_map(np.zeros((15, 64), np.uint8), 7),
        lambda: layout.unpack_map(np.zeros((14, 64), np.int8), 7),
        lambda: layout.unpack_map(np.zeros((28, 64), np.uint8)[::2], 7),
        lambda: layout.pack_imagenet_result(np.zeros((1024, 7, 8), np.uint8)),
        lambda: layout.pack_map(np.zeros((33, 7, 7), np.uint8)),
        lambda: layout.pack_map(np.full((32, 7, 7), 16, np.uint8)),
        lambda: layout.pack_map(np.zeros((32, 7, 7), np.uint8), np.zeros((28, 64), np.uint8)),
    ],
)
def test_other_maps_are_refused(call: Any):
    with pytest.raises(AcceleratorError, match=r"expected .* found"):
        call()


# Weights of the ImageNet core


def named(authors: dict[str, Any], name: str) -> np.ndarray:
    return authors[name].reshape(-1).astype(np.float64)


def test_published_imagenet_weights(authors: dict[str, Any], buffers: layout.ImageNetBuffers):
    found = layout.unpack_imagenet_weights(buffers)
    np.testing.assert_array_equal(found.stem_weight, authors["model.0.0.weight"].transpose(0, 2, 3, 1) > 0)
    np.testing.assert_array_equal(found.stem_bn, [named(authors, f"model.0.1.{part}") for part in ("weight", "bias")])
    assert list(found.layers) == [layer.name for layer in IMAGENET.layers]
    for block in range(1, 14):
        for half, (mine, theirs) in enumerate((("conv3x3", "conv3x3"), ("conv1x1", "pointwise")), start=1):
            bits, parameters = found.layers[f"block{block}.{mine}"]
            prefix = f"model.{block}."
            np.testing.assert_array_equal(bits, authors[f"{prefix}{theirs}.0.weight"].transpose(0, 2, 3, 1) > 0)
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
            expected = [named(authors, prefix + names[parameter]) for parameter in LAYER_PARAMETERS]
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
