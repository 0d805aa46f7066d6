"""The layers of FracBNN in PyTorch, from the paper's equations. Maps are float [N, C, H, W]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import THERMOMETER_LEVELS, GatedLayer
from ..thermometer import RESOLUTION
from .quantisers import binarise_weight, gated_sum, split_activation

WEIGHT_SPREAD = 0.3
"""Standard deviation of random weights. Only signs are used; the size says how soon they can change."""


class ThermometerEncoding(nn.Module):
    """Pictures uint8 or float 0..255 [N, 3, H, W] into the 96 planes, +1 and -1, float [N, 96, H, W].

    An 8-bit value gets the level of :data:`fracbnn_pynq.thermometer.LEVELS`; values between them, as averaging
    produces them, are rounded in the same way.
    """

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(THERMOMETER_LEVELS, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        levels = torch.round(pictures.to(torch.float32) / RESOLUTION)  # ties to even, as in the table
        lit = levels.unsqueeze(2) > self.steps
        return torch.where(lit, 1.0, -1.0).to(self.steps.dtype).flatten(1, 2)


class BinaryConv2d(nn.Module):
    """Convolution with weights of which only the sign counts (0 as -1), zero padding, no bias.

    While ``binary`` is false the real weights are used, divided by their mean magnitude per output channel, so that
    the sums keep their scale when it becomes true.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel).normal_(std=WEIGHT_SPREAD))
        self.stride = stride
        self.padding = kernel // 2
        self.binary = True

    def effective_weight(self) -> Tensor:
        """The weights the convolution uses, float [out, in, k, k]."""
        if self.binary:
            return binarise_weight(self.weight)
        return self.weight / self.weight.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-8)

    def convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(maps, weight, None, self.stride, self.padding)

    def forward(self, maps: Tensor) -> Tensor:
        return self.convolve(maps, self.effective_weight())


class GatedConv2d(BinaryConv2d):
    """Precision-gated binary convolution of 2-bit activations; takes the map before it is quantised.

    A first convolution sees the most significant activation bit only; where its result exceeds the channel's
    threshold, a second one adds what the least significant bit contributes. Float [N, in, H, W] to [N, out, H', W'].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel, stride)
        self.threshold = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def sums(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """M and L, the sums over the most and the least significant bits; whole numbers where ``binary``."""
        most, least = split_activation(maps)
        weight = self.effective_weight()
        return self.convolve(most, weight), self.convolve(least, weight)

    def forward(self, maps: Tensor) -> Tensor:
        return gated_sum(*self.sums(maps), self.threshold)


class _Shift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.bias


class RPReLU(nn.Module):
    """ReActNet's activation: a PReLU with learnt shifts before and after it, per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_x = _Shift(channels)
        self.prelu = nn.PReLU(channels)
        self.shift_y = _Shift(channels)

    def forward(self, maps: Tensor) -> Tensor:
        shifted: Tensor = self.shift_y(self.prelu(self.shift_x(maps)))
        return shifted


def shortcut(maps: Tensor, layer: GatedLayer) -> Tensor:
    """``maps`` averaged over 2x2 where ``layer`` has stride 2, channels repeated where it doubles them."""
    if layer.stride == 2:
        maps = functional.avg_pool2d(maps, 2)
    return torch.cat([maps, maps], dim=1) if layer.duplicates else maps
