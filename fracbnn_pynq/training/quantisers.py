"""The step functions of FracBNN with the derivatives that training puts in their place.

Forward they are exact; backward each step has the derivative of a simple curve (straight-through estimation). Source:
Zhang et al., arXiv 2012.12206, sections 3.1 and 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ACTIVATION_CLIP = 1.0
"""Activations are quantised between -1 and 1; beyond it they get no gradient."""
WEIGHT_CLIP = 1.3
"""Weights beyond this magnitude get no gradient, so that they stop moving away from zero."""
GATE_SLOPE = 5.0
"""Slope of the sigmoid whose derivative stands for that of the gate's step."""


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.where(weight > 0, 1.0, -1.0).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return _inside(gradient, weight, WEIGHT_CLIP)


class _Split(Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps)
        code = maps.clamp(-ACTIVATION_CLIP, ACTIVATION_CLIP).add_(1).mul_(1.5).round_()
        centred = code.sub_(1.5)  # code = 2 m + l, most = 2 m - 1, least = 2 l - 1: centred = most + least / 2
        most = centred.sign()
        least = centred.sub_(most).mul_(2)
        ctx.mark_non_differentiable(least)
        return most, least

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        return _inside(gradient, maps, ACTIVATION_CLIP).mul_(1.5)


class _Gate(Function):
    @staticmethod
    def forward(ctx: Any, most: Tensor, least: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(most, least, threshold)
        return (2 * most).add_(_where_open(least, most, threshold)).div_(3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        most, least, threshold = ctx.saved_tensors
        soft = torch.sigmoid((most * (2 / 3) - threshold) * GATE_SLOPE)
        third = gradient * (1 / 3)
        through_gate = torch.ops.aten.sigmoid_backward((third * least).to(soft.dtype), soft).mul_(GATE_SLOPE)
        by_most = torch.add(2 * third, through_gate, alpha=2 / 3).to(most.dtype)
        by_threshold = -through_gate.sum(dim=(0, 2, 3), keepdim=True, dtype=torch.float32)
        return by_most, _where_open(third, most, threshold), by_threshold.to(threshold.dtype)


class _Round(Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(maps)
        steps = (2**bits - 1) / 2
        return torch.round((maps.clamp(-ACTIVATION_CLIP, ACTIVATION_CLIP) + 1) * steps) / steps - 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (maps,) = ctx.saved_tensors
        return _inside(gradient, maps, ACTIVATION_CLIP), None


# Selecting by a mask (``torch.where``, or times a tensor of truth values) is ten to twenty times slower on a CPU than
# the derivatives below, whose kernels are vectorised and select in the same way.


def _inside(gradient: Tensor, at: Tensor, clip: float) -> Tensor:
    """``gradient`` where the magnitude of ``at`` is at most ``clip``, else 0."""
    past = clip * (1 + torch.finfo(at.dtype).eps)  # the derivative of hardtanh is 0 at its ends
    selected: Tensor = torch.ops.aten.hardtanh_backward(gradient, at, -past, past)
    return selected


def _where_open(values: Tensor, most: Tensor, threshold: Tensor) -> Tensor:
    """``values`` where (2/3) ``most`` exceeds ``threshold``, else 0."""
    excess = (2 * most - 3 * threshold).to(values.dtype)  # rounding keeps its sign
    selected: Tensor = torch.ops.aten.threshold_backward(values, excess, 0)
    return selected


def binarise_weight(weight: Tensor) -> Tensor:
    """Signs of ``weight``, 0 as -1; the gradient passes where its magnitude is at most :data:`WEIGHT_CLIP`."""
    signs: Tensor = _Sign.apply(weight)  # type: ignore[no-untyped-call]
    return signs


def split_activation(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The two bits of the 2-bit activation of ``maps``, each as +1 or -1.

    q = round(1.5 (x + 1)) = 2 m + l, in 0..3, has the value (2/3)(2m - 1) + (1/3)(2l - 1); returned are 2m - 1 and
    2l - 1. The gradient goes through the first alone: a straight-through quantiser has slope one for the sum of both
    and for the first term, so none is left for the second.
    """
    most, least = _Split.apply(maps)  # type: ignore[no-untyped-call]
    return most, least


def gated_sum(most: Tensor, least: Tensor, threshold: Tensor) -> Tensor:
    """Precision gating: (2/3) M, and (1/3) L more where (2/3) M exceeds its channel's ``threshold``.

    ``most`` and ``least`` are M and L [N, C, H, W]. To ``most`` and ``threshold`` the gate passes the gradient of a
    sigmoid of slope :data:`GATE_SLOPE`.
    """
    total: Tensor = _Gate.apply(most, least, threshold)  # type: ignore[no-untyped-call]
    return total


def quantise_map(maps: Tensor, bits: int) -> Tensor:
    """``maps`` clamped to [-1, 1] and rounded to one of 2**bits values; the gradient passes inside."""
    rounded: Tensor = _Round.apply(maps, bits)  # type: ignore[no-untyped-call]
    return rounded
