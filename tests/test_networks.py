"""The two networks as data, against the figures of the paper and of the published cores."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.networks import CIFAR10, IMAGENET, MAX_CLASSES, NETWORKS, Network, get_network

BOTH = pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)

# (in, out, stride of the 3x3, map size after the block), as published with the ImageNet core
IMAGENET_BLOCKS = [
    (32, 64, 1, 112),
    (64, 128, 2, 56),
    (128, 128, 1, 56),
    (128, 256, 2, 28),
    (256, 256, 1, 28),
    (256, 512, 2, 14),
    *[(512, 512, 1, 14)] * 5,
    (512, 1024, 2, 7),
    (1024, 1024, 1, 7),
]


@BOTH
def test_each_layer_takes_what_the_one_before_gives(network: Network):
    channels, size = network.stem.out_channels, network.stem.out_size
    for layer in network.layers:
        assert (layer.in_channels, layer.in_size) == (channels, size)
        assert layer.out_channels in (channels, 2 * channels)
        assert layer.duplicates == (layer.out_channels == 2 * channels)
        channels, size = layer.out_channels, layer.out_size
    assert (network.features, network.pool_size) == (channels, size)


@BOTH
def test_channels_fill_whole_bytes_and_names_are_unique(network: Network):
    layers = (network.stem, *network.layers)
    assert all(layer.in_channels % 8 == 0 for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)


def test_cifar10_is_resnet20():
    assert (CIFAR10.image_size, CIFAR10.classes, CIFAR10.features, CIFAR10.pool_size) == (32, 10, 64, 8)
    assert len(CIFAR10.layers) == 18
    assert CIFAR10.shortcut_bits is None
    assert [layer.name for layer in CIFAR10.layers if layer.stride == 2] == ["layer2.0.conv1", "layer3.0.conv1"]
    assert [layer.name for layer in CIFAR10.layers if layer.duplicates] == ["layer2.0.conv1", "layer3.0.conv1"]
    # The released convolution table has 45 tiles of 16 output channels, three of them (one a colour) for the stem.
    tiles = 3 + sum(layer.out_channels // 16 for layer in CIFAR10.layers)
    assert tiles == 45


def test_imagenet_blocks():
    assert (IMAGENET.image_size, IMAGENET.classes, IMAGENET.features, IMAGENET.pool_size) == (224, 1000, 1024, 7)
    assert (IMAGENET.stem.out_channels, IMAGENET.stem.stride, IMAGENET.stem.out_size) == (32, 2, 112)
    assert IMAGENET.shortcut_bits == 4
    found = []
    for wide, point in zip(IMAGENET.layers[::2], IMAGENET.layers[1::2], strict=True):
        assert (wide.kernel, point.kernel, point.stride) == (3, 1, 1)
        assert wide.in_channels == wide.out_channels
        found.append((wide.in_channels, point.out_channels, wide.stride, point.out_size))
    assert found == IMAGENET_BLOCKS


def test_networks_by_name():
    assert [get_network(name) for name in ("cifar10", "imagenet")] == [CIFAR10, IMAGENET] == list(NETWORKS.values())
    with pytest.raises(ModelError, match="unknown network 'mnist': expected one of cifar10, imagenet"):
        get_network("mnist")


@BOTH
def test_other_numbers_of_classes(network: Network):
    assert network.with_classes(network.classes) is network
    for classes in (1, 3, 37, MAX_CLASSES):
        found = network.with_classes(classes)
        assert found.classes == classes
        assert found != network
        assert found.with_classes(network.classes) == network
        assert (found.name, found.title, found.stem, found.layers) == (
            network.name,
            network.title,
            network.stem,
            network.layers,
        )
    for classes in (0, -1, MAX_CLASSES + 1):
        with pytest.raises(ModelError, match=f"expected 1 to {MAX_CLASSES} classes, found {classes}"):
            network.with_classes(classes)


def test_networks_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        CIFAR10.classes = 11  # type: ignore[misc]
