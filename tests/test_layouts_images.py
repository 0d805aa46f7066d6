"""Memory layouts: one-hot arrays prove every bit order, published buffers prove the whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fracbnn_pynq import native
from fracbnn_pynq.errors import AcceleratorError, PictureError
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.networks import IMAGENET
from fracbnn_pynq.thermometer import levels, planes


def word(table: np.ndarray, index: int) -> int:
    return int.from_bytes(table[index].tobytes(), "little")


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


NETWORKS = {
    "cifar10": (layout.pack_cifar10_image, layout.CIFAR10_IMAGE_SHAPE, np.uint64),
    "imagenet": (layout.pack_imagenet_image, layout.IMAGENET_IMAGE_SHAPE, np.uint32),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["native", "numpy"])
@pytest.mark.parametrize("network", NETWORKS)
def test_pictures_are_encoded_into_an_accelerators_buffers(monkeypatch, network: str, compiled: bool):
    if not compiled:
        monkeypatch.setattr(native, "extension", None)
    elif not native.available():
        pytest.skip("native kernels were not built")
    pack, shape, dtype = NETWORKS[network]
    images = np.random.default_rng(2).integers(0, 256, (3, *shape[1:], 3), np.uint8)
    memory = np.full((4, *shape), 7, dtype)
    encoder = layout.ImageEncoder([memory[1], memory[2]])
    for pictures in (images, images[:, :, ::-1], images.transpose(0, 2, 1, 3)):  # as they come, or strided
        encoder.take(pictures)
        for slot, index in ((0, 2), (1, 0), (0, 1)):
            encoder.encode(slot, index)
            np.testing.assert_array_equal(memory[slot + 1], pack(pictures[index]))
        with pytest.raises(IndexError):
            encoder.encode(2, 0)
        with pytest.raises(IndexError):
            encoder.encode(0, 3)
    assert np.all(memory[[0, 3]] == 7)
    with pytest.raises(PictureError, match="expected uint8"):
        encoder.take(images[:, :5])


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


def test_published_images(shared: Path, imagenet_release: Mapping[str, np.ndarray]):
    with np.load(shared / "golden" / "cifar10_csim_64.npz") as data:
        np.testing.assert_array_equal(layout.pack_cifar10_image(data["images"]), data["packed"])
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        np.testing.assert_array_equal(layout.pack_imagenet_image(data["images"]), data["image_thermo"])
    sample = imagenet_release["sample.image_thermo"]
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


def test_published_results(shared: Path, imagenet_release: Mapping[str, np.ndarray]):
    found = layout.unpack_imagenet_result(imagenet_release["sample.result_words"])
    np.testing.assert_array_equal(found, imagenet_release["sample.result_q4"])
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
