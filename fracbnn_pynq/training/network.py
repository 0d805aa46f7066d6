"""The two FracBNN networks in PyTorch; modules and parameters have the names of the authors' modules.

So a ``state_dict()`` is what :mod:`fracbnn_pynq.importers` reads, and the authors' parameters load here. Pictures are
uint8 (or float 0..255) [N, 3, H, W], H and W any multiple of the network's total stride; logits are [N, classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import SourceError
from ..importers.parameters import BATCH_NORM_EPSILON
from ..networks import CIFAR10, IMAGENET, GatedLayer, Network
from .layers import BinaryConv2d, GatedConv2d, RPReLU, ThermometerEncoding, shortcut
from .quantisers import quantise_map


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


def _gated_conv(layer: GatedLayer) -> GatedConv2d:
    return GatedConv2d(layer.in_channels, layer.out_channels, layer.kernel, layer.stride)


class Cifar10Block(nn.Module):
    """Two gated layers with their shortcuts; ``bn1``, ``bn3`` are the first one's, ``bn2``, ``bn4`` the other's."""

    def __init__(self, first: GatedLayer, second: GatedLayer) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.conv1, self.conv2 = _gated_conv(first), _gated_conv(second)
        self.bn1, self.bn3 = _batch_norm(first.out_channels), _batch_norm(first.out_channels)
        self.bn2, self.bn4 = _batch_norm(second.out_channels), _batch_norm(second.out_channels)
        self.rprelu1, self.rprelu2 = RPReLU(first.out_channels), RPReLU(second.out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.bn3(self.rprelu1(self.bn1(self.conv1(maps))) + shortcut(maps, self.first))
        out: Tensor = self.bn4(self.rprelu2(self.bn2(self.conv2(maps))) + shortcut(maps, self.second))
        return out


class Cifar10Net(nn.Module):
    """FracBNN for CIFAR-10: a ResNet-20 in shape."""

    def __init__(self, network: Network = CIFAR10) -> None:
        super().__init__()
        stem = network.stem
        self.encoder = ThermometerEncoding()
        self.conv1 = BinaryConv2d(stem.in_channels, stem.out_channels, stem.kernel, stem.stride)
        self.bn1 = _batch_norm(stem.out_channels)
        stages = (self._stage(network, number) for number in (1, 2, 3))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(network.features, network.classes)

    @staticmethod
    def _stage(network: Network, number: int) -> nn.Sequential:
        layers = [layer for layer in network.layers if layer.name.startswith(f"layer{number}.")]
        return nn.Sequential(*map(Cifar10Block, layers[::2], layers[1::2]))

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.bn1(self.conv1(self.encoder(pictures)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


class ImageNetBlock(nn.Module):
    """A gated 3x3 and a gated 1x1 layer; the shortcut around each is the layer's input in ``bits`` bits."""

    def __init__(self, first: GatedLayer, second: GatedLayer, bits: int) -> None:
        super().__init__()
        self.first, self.second, self.bits = first, second, bits
        self.conv3x3 = nn.Sequential(_gated_conv(first), _batch_norm(first.out_channels))
        self.pointwise = nn.Sequential(_gated_conv(second), _batch_norm(second.out_channels))
        self.rprelu1, self.rprelu2 = RPReLU(first.out_channels), RPReLU(second.out_channels)
        self.shiftbn1, self.shiftbn2 = _batch_norm(first.out_channels), _batch_norm(second.out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        around = shortcut(quantise_map(maps, self.bits), self.first)
        maps = self.shiftbn1(self.rprelu1(self.conv3x3(maps)) + around)
        around = shortcut(quantise_map(maps, self.bits), self.second)
        out: Tensor = self.shiftbn2(self.rprelu2(self.pointwise(maps)) + around)
        return out


class ImageNetNet(nn.Module):
    """FracBNN for ImageNet: a ReActNet variant."""

    def __init__(self, network: Network = IMAGENET) -> None:
        super().__init__()
        stem, layers, bits = network.stem, network.layers, network.shortcut_bits
        if bits is None:
            raise ValueError(f"expected a network whose shortcuts travel as codes, found {network.name}")
        self.encoder = ThermometerEncoding()
        first = BinaryConv2d(stem.in_channels, stem.out_channels, stem.kernel, stem.stride)
        blocks = [ImageNetBlock(a, b, bits) for a, b in zip(layers[::2], layers[1::2], strict=True)]
        self.model = nn.Sequential(nn.Sequential(first, _batch_norm(stem.out_channels)), *blocks)
        self.fc = nn.Linear(network.features, network.classes)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.model(self.encoder(pictures)).mean(dim=(2, 3)))
        return logits


def build_network(network: Network) -> nn.Module:
    """``network`` with random parameters."""
    return Cifar10Net(network) if network.name == CIFAR10.name else ImageNetNet(network)


def set_binary(module: nn.Module, binary: bool) -> None:
    """Switch every convolution of ``module`` between binary and real weights."""
    for part in module.modules():
        if isinstance(part, BinaryConv2d):
            part.binary = binary


def gated_layers(module: nn.Module) -> list[GatedConv2d]:
    """The gated convolutions of ``module``, in the order in which it uses them."""
    return [part for part in module.modules() if isinstance(part, GatedConv2d)]


def load_parameters(module: nn.Module, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Named arrays into ``module``; batch norms without running statistics are taken as folded.

    Weights may be float or +-1. Raises :class:`~fracbnn_pynq.errors.SourceError` where a name is missing or a shape
    is another one.
    """
    state = {}
    for name, present in module.state_dict().items():
        if name in arrays:
            value = torch.tensor(np.asarray(arrays[name])).to(present.dtype)
            row_by_row = value.dim() == 1 and value.numel() == present.numel()
            if not row_by_row and value.squeeze().shape != present.squeeze().shape:
                raise SourceError(
                    f"parameter {name!r}: expected shape {list(present.shape)}, found {list(value.shape)}"
                )
            state[name] = value.reshape(present.shape)
        elif name.endswith("running_mean"):
            state[name] = torch.zeros_like(present)
        elif name.endswith("running_var"):
            state[name] = torch.full_like(present, 1 - BATCH_NORM_EPSILON)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.zeros_like(present)
        else:
            raise SourceError(f"expected a parameter {name!r}, found none", advice="is this the right --network?")
    module.load_state_dict(state)


def named_arrays(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """The state of ``module`` as named float64 arrays, in the form that the importer reads."""
    return {
        name: (value.detach().double() if value.is_floating_point() else value.detach()).cpu().numpy()
        for name, value in module.state_dict().items()
    }
