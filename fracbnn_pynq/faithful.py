"""The ``faithful`` arithmetic: a gated layer fused into integer compares and one multiply-add per element.

With M and L the exact convolution sums, ``S = 2 M + (gate ? L : 0)`` makes the convolution's value S / 3. Everything
after it is affine on each side of the PReLU's knee, and both the gate and the knee are integer compares::

    gate = M >= gate_at                            2/3 M > threshold, exactly
    side = 0 if S >= knee else 1                   the PReLU's sign, exactly; which side is which follows bn1_weight
    out  = (alpha[side] * S + gamma * r + beta[side]) >> shift

r is the shortcut as an integer: a map value, or (ImageNet) the sum of the four codes it is pooled from. alpha and
gamma have 16 bits, beta 32; shift is the largest per channel for which nothing can overflow 32 bits. Half a step is
in beta, so that the shift rounds to nearest, ties towards +infinity. Maps are 16-bit numbers with
:data:`FRACTION` fraction bits (saturated), or 4-bit codes (clamped). docs/arithmetic.md has the derivation and the
measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .arithmetic import FAITHFUL, report_clipping
from .fixedpoint import Raw, round_half_up
from .model import LayerParameters, Model, quantise_rows
from .networks import GatedLayer, Network

FRACTION = 9
"""Fraction bits of 16-bit map values: a range of +-64; trained networks reach 32."""
CODE_MAX = 15
"""Largest 4-bit code; code q stands for q * 2 / 15 - 1."""
CODE_SCALE = CODE_MAX / 2
MAX_SHIFT = 24
INT16_MAX = 32767
INT32_MAX = 2**31 - 1

ACTIVATION_STEPS = (-341, 0, 342)
"""Map values from which the 2-bit activation is at least 1, 2, 3: -2/3, 0 and 2/3 in steps of 2**-9."""
ACTIVATION_OF_CODE: npt.NDArray[np.uint8] = np.repeat(np.arange(4, dtype=np.uint8), (3, 5, 5, 3))
"""The 2-bit activation of each 4-bit code."""

Real = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FusedLayer:
    """Integer tables of one layer, int64: ``gate_at``, ``knee``, ``gamma``, ``shift`` [C]; ``alpha``, ``beta`` [2, C].

    ``codes``: whether the layer's output is 4-bit codes (else 16-bit map values).
    """

    gate_at: Raw
    knee: Raw
    alpha: Raw
    gamma: Raw
    beta: Raw
    shift: Raw
    codes: bool


@dataclass(frozen=True)
class FusedTables:
    """A whole model in the ``faithful`` arithmetic.

    ``fc_weight`` int16 [classes, features] with value ``fc_weight * 2**-fc_exponent``; ``fc_bias`` float64.
    """

    stem: FusedLayer
    layers: dict[str, FusedLayer]
    fc_weight: npt.NDArray[np.int16]
    fc_exponent: npt.NDArray[np.int16]
    fc_bias: Real
    clipped: int


def fuse(model: Model) -> FusedTables:
    """Integer tables of ``model``; coefficients that do not fit are saturated, counted and logged."""
    network = model.network
    stem, clipped = _fuse_stem(model)
    layers = {}
    for layer in network.layers:
        layers[layer.name], count = _fuse_layer(network, layer, model.layers[layer.name])
        clipped += count
    fc_weight, fc_exponent = quantise_rows(model.fc_weight)
    report_clipping(FAITHFUL, clipped)
    return FusedTables(stem, layers, fc_weight, fc_exponent, model.fc_bias, clipped)


def classifier_logits(
    sums: npt.NDArray[np.int32] | Raw,
    weight: npt.NDArray[np.int16] | npt.NDArray[np.float64],
    exponent: npt.NDArray[np.int16],
    bias: Real,
    positions: int,
) -> npt.NDArray[np.float32]:
    """Logits from the exact sums of the last map over its ``positions``.

    ``sums`` int32 or int64 [N, features] with :data:`FRACTION` fraction bits; ``weight`` holds integers, as float64 for
    callers that would have them converted every time. The products are summed exactly; the
    division by ``positions`` and the bias are one float64 operation each, then float32.
    """
    # Integers below 2**53 throughout, so float64 products are exact in any order, and NumPy is fast with them.
    products = sums.astype(np.float64) @ weight.astype(np.float64, copy=False).T
    means = np.ldexp(products, -(exponent.astype(np.int64) + FRACTION)) / positions
    return (means + bias).astype(np.float32)


def _fuse_stem(model: Model) -> tuple[FusedLayer, int]:
    """The stem as a layer without gate, knee or shortcut: S is the convolution sum itself."""
    weight, bias = model.stem_bn
    codes = model.network.shortcut_bits is not None
    scale, offset = _output_scale(codes)
    return _scale_to_integers(
        alpha=np.stack([weight * scale] * 2),
        gamma=np.zeros_like(weight),
        beta=np.stack([bias * scale + offset] * 2),
        s_max=model.network.stem.in_channels * model.network.stem.kernel**2,
        r_max=0,
        gate_at=np.zeros(weight.shape, np.int64),
        knee=np.zeros(weight.shape, np.int64),
        codes=codes,
    )


def _fuse_layer(network: Network, layer: GatedLayer, given: LayerParameters) -> tuple[FusedLayer, int]:
    codes_in = network.shortcut_bits is not None
    codes_out = codes_in and layer is not network.layers[-1]
    scale, offset = _output_scale(codes_out)
    w0, w1, slope = given.bn1_weight, given.bn2_weight, given.slope
    before_knee = given.bn1_bias + given.shift_x
    after = np.stack([w1 * (before_knee + given.shift_y), w1 * (slope * before_knee + given.shift_y)])
    alpha = np.stack([w1 * w0 / 3, slope * (w1 * w0) / 3])
    if codes_in:
        # A code q stands for q * 2/15 - 1; where the layer pools, r is the sum of four codes.
        gamma = w1 * (2.0 / CODE_MAX) / layer.stride**2
        beta = after - w1 + given.bn2_bias
        r_max = CODE_MAX * layer.stride**2
    else:
        gamma = w1 * 2.0**-FRACTION
        beta = after + given.bn2_bias
        r_max = INT16_MAX + 1
    s_max = 3 * layer.in_channels * layer.kernel**2
    knee, flipped = _knee(w0, before_knee, s_max)
    order = np.where(flipped, 1, 0)
    sides = np.stack([order, 1 - order])
    return _scale_to_integers(
        alpha=np.take_along_axis(alpha, sides, 0) * scale,
        gamma=gamma * scale,
        beta=np.take_along_axis(beta, sides, 0) * scale + offset,
        s_max=s_max,
        r_max=r_max,
        gate_at=_at_most(np.floor(1.5 * given.threshold) + 1, INT16_MAX),
        knee=knee,
        codes=codes_out,
    )


def _output_scale(codes: bool) -> tuple[float, float]:
    """Steps per unit of the output and what is added to it: codes count from -1."""
    return (CODE_SCALE, CODE_SCALE) if codes else (2.0**FRACTION, 0.0)


def _knee(w0: Real, before_knee: Real, s_max: int) -> tuple[Raw, npt.NDArray[np.bool_]]:
    """Smallest S of side 0, and where side 0 is the PReLU's negative side (bn1_weight below zero).

    The PReLU's argument w0 * S/3 + before_knee changes sign at S = -3 * before_knee / w0.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = -3.0 * before_knee / w0
    flat = np.where(before_knee >= 0, -s_max - 1.0, s_max + 1.0)  # w0 == 0: the same side everywhere
    rising = np.ceil(crossing)
    falling = np.floor(crossing) + 1
    knee = np.where(w0 > 0, rising, np.where(w0 < 0, falling, flat))
    return _at_most(knee, INT16_MAX), w0 < 0


def _at_most(values: Real, limit: int) -> Raw:
    return np.clip(values, -limit, limit).astype(np.int64)


def _scale_to_integers(
    *,
    alpha: Real,
    gamma: Real,
    beta: Real,
    s_max: int,
    r_max: int,
    gate_at: Raw,
    knee: Raw,
    codes: bool,
) -> tuple[FusedLayer, int]:
    """Choose each channel's shift and round its coefficients; also how many had to be saturated."""
    shift = np.ones(gamma.shape, np.int64)
    for bits in range(2, MAX_SHIFT + 1):
        step = 2.0**bits
        slopes = np.maximum(np.abs(alpha).max(axis=0), np.abs(gamma)) * step + 1
        reach = (np.abs(alpha).max(axis=0) * s_max + np.abs(gamma) * r_max + np.abs(beta).max(axis=0)) * step
        # One step of rounding in each coefficient, and the half step added for the shift's rounding.
        fits = (slopes <= INT16_MAX) & (reach + s_max + r_max + step < INT32_MAX)
        shift = np.where(fits, bits, shift)
    alpha_raw, beta_raw, gamma_raw = (round_half_up(np.ldexp(x, shift)) for x in (alpha, beta, gamma))
    beta_raw = beta_raw + (np.int64(1) << (shift - 1))
    # Only a channel with absurd coefficients is clipped: even one fraction bit then overflows 16 or 32 bits.
    alpha_kept = np.clip(alpha_raw, -INT16_MAX, INT16_MAX)
    gamma_kept = np.clip(gamma_raw, -INT16_MAX, INT16_MAX)
    room = INT32_MAX - np.abs(alpha_kept).max(axis=0) * s_max - np.abs(gamma_kept) * r_max
    kept = (alpha_kept, gamma_kept, np.clip(beta_raw, -room, room))
    clipped = sum(int(np.count_nonzero(a != b)) for a, b in zip(kept, (alpha_raw, gamma_raw, beta_raw), strict=True))
    return FusedLayer(gate_at, knee, kept[0], kept[1], kept[2], shift, codes), clipped
