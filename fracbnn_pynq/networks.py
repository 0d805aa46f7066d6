"""The two FracBNN networks as data: layers, shapes, strides. No arithmetic.

Both are a *stem* (a binary convolution over the 96 thermometer planes, batch norm, nothing gated), a row of *gated
layers* that all have the same form, and a classifier (average over the last map, fully connected layer). A gated
layer computes, per output channel::

    M, L  = binary convolutions of the most and least significant activation bits with the 1-bit weights
    v     = 2/3 M + (1/3 L if 2/3 M > threshold else 0)             precision gating
    u     = v * bn1_weight + bn1_bias + shift_x
    y     = (u if u >= 0 else slope * u) + shift_y                   RPReLU
    out   = (y + shortcut) * bn2_weight + bn2_bias

The shortcut is the layer's input map: averaged over 2x2 where the layer has stride 2, its channels repeated
(``[x, x]``) where the layer doubles them.

Source: Zhang et al., "FracBNN: Accurate and FPGA-Efficient Binary Neural Networks with Fractional Activations",
arXiv 2012.12206, and the authors' released models.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .errors import ModelError, PictureError

THERMOMETER_LEVELS = 32
"""Planes per colour of the thermometer code."""

INPUT_PLANES = 3 * THERMOMETER_LEVELS

MAX_CLASSES = 65536

LAYER_PARAMETERS = (
    "threshold",
    "bn1_weight",
    "bn1_bias",
    "shift_x",
    "slope",
    "shift_y",
    "bn2_weight",
    "bn2_bias",
)
"""The per-channel parameters of a gated layer, in the order in which the layer uses them."""


@dataclass(frozen=True)
class Stem:
    """The first layer: 3x3 binary convolution of the thermometer planes, then batch norm.

    ``in_size`` and ``out_size`` are the edges of the square maps before and after it.
    """

    out_channels: int
    in_size: int
    stride: int
    in_channels: int = INPUT_PLANES
    kernel: int = 3
    name: str = "stem"

    @property
    def out_size(self) -> int:
        return self.in_size // self.stride


@dataclass(frozen=True)
class GatedLayer:
    """One precision-gated binary convolution with what follows it up to the second batch norm."""

    name: str
    in_channels: int
    out_channels: int
    in_size: int
    kernel: int = 3
    stride: int = 1

    @property
    def out_size(self) -> int:
        return self.in_size // self.stride

    @property
    def duplicates(self) -> bool:
        """Whether the shortcut's channels are repeated to fill twice as many."""
        return self.out_channels == 2 * self.in_channels


def weight_bits(layer: Stem | GatedLayer) -> int:
    """Binary weights of a layer."""
    return layer.kernel**2 * layer.in_channels * layer.out_channels


def operations(layer: Stem | GatedLayer) -> int:
    """Binary multiply-accumulates of a layer for a picture; in a gated one those of the high bits alone, to which open
    gates add as many again at most."""
    return layer.out_size**2 * weight_bits(layer)


@dataclass(frozen=True)
class Network:
    """One FracBNN network.

    ``shortcut_bits`` is the width of the code in which maps travel between layers (4 for ImageNet), or ``None``
    where they travel as wide fixed-point numbers (CIFAR-10).
    """

    name: str
    title: str
    stem: Stem
    layers: tuple[GatedLayer, ...]
    classes: int
    shortcut_bits: int | None

    def check_images(self, images: npt.NDArray[np.uint8]) -> None:
        """Raise :class:`~fracbnn_pynq.errors.PictureError` unless ``images`` is uint8 [N, S, S, 3] at this network's
        size."""
        size = self.image_size
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise PictureError(f"expected a uint8 array [N, {size}, {size}, 3] for {self.title}, found {found}")

    def with_classes(self, classes: int) -> Network:
        """The same network for another number of classes; raises :class:`~fracbnn_pynq.errors.ModelError` below 1."""
        if not 1 <= classes <= MAX_CLASSES:
            raise ModelError(f"expected 1 to {MAX_CLASSES} classes, found {classes}")
        return self if classes == self.classes else replace(self, classes=classes)

    @property
    def image_size(self) -> int:
        """Edge of the square input picture, in pixels."""
        return self.stem.in_size

    @property
    def features(self) -> int:
        """Channels of the last map, the inputs of the fully connected layer."""
        return self.layers[-1].out_channels

    @property
    def pool_size(self) -> int:
        """Edge of the last map, over which the classifier averages."""
        return self.layers[-1].out_size


def _cifar10() -> Network:
    layers = []
    channels, size = 16, 32
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(3):
            stride = 2 if stage > 1 and block == 0 else 1
            layers.append(GatedLayer(f"layer{stage}.{block}.conv1", channels, width, size, stride=stride))
            size //= stride
            channels = width
            layers.append(GatedLayer(f"layer{stage}.{block}.conv2", width, width, size))
    return Network("cifar10", "CIFAR-10 (ResNet-20 shape)", Stem(16, 32, 1), tuple(layers), 10, None)


def _imagenet() -> Network:
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strided = {2, 4, 6, 12}
    layers = []
    size = 112
    for block, (inner, outer) in enumerate(itertools.pairwise(widths), start=1):
        stride = 2 if block in strided else 1
        layers.append(GatedLayer(f"block{block}.conv3x3", inner, inner, size, stride=stride))
        size //= stride
        layers.append(GatedLayer(f"block{block}.conv1x1", inner, outer, size, kernel=1))
    return Network("imagenet", "ImageNet (ReActNet variant)", Stem(32, 224, 2), tuple(layers), 1000, 4)


CIFAR10 = _cifar10()
IMAGENET = _imagenet()
NETWORKS = {network.name: network for network in (CIFAR10, IMAGENET)}


def get_network(name: str) -> Network:
    """The network called ``name``; raises :class:`~fracbnn_pynq.errors.ModelError` for an unknown name."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise ModelError(f"unknown network {name!r}: expected one of {', '.join(NETWORKS)}") from None
