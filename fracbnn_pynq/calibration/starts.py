"""Where the search for a channel's parameters sets out.

Rounding is the core's main defect: batch norm scales are a handful of its steps. So besides the rounded parameters the
search starts from neighbouring scales, with everything else adjusted to them, and from other ways to write the same
line. All numbers are raw, in steps of 1/256.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..arithmetic import IMAGENET_2021
from ..draft import RAW_ONE, LayerDraft, nearest_raw
from ..model import Real
from ..networks import LAYER_PARAMETERS

Starts = npt.NDArray[np.int32]
THRESHOLD, WEIGHT1, BIAS1, SHIFT_X, SLOPE, SHIFT_Y, WEIGHT2, BIAS2 = range(len(LAYER_PARAMETERS))
FEATURE_ONE = 1 << IMAGENET_2021.feature.fraction
_STEEPEST = 8000
_ALL_NEGATIVE = -31 * RAW_ONE
_SLIGHTLY = 0.05
_LINES = ((8, 1.0), (8, 0.6), (16, 0.8))
"""Gain of the first batch norm, and slope relative to the wanted one, of lines on the negative side."""
AMPLIFIED = (2, 4, 8, 16)
"""Gains of the branch where the shortcut is garbage that should drown."""


def make_starts(draft: LayerDraft, mean_sum: Real, *, amplified: bool = False) -> Starts:
    """Starts int32 [C, S, 8]; the first is what ``draft`` holds.

    ``mean_sum``: mean of 2/3 M per channel, raw feature numbers. ``amplified``: more starts, with a stronger branch.
    """
    wanted = draft.wanted * RAW_ONE
    weight, slope = wanted[WEIGHT1], wanted[SLOPE]
    inner = wanted[BIAS1] + wanted[SHIFT_X]
    mean = mean_sum / FEATURE_ONE
    starts = [draft.raw]
    for other in _neighbours(weight, (0, 1, -1, 2)):
        starts.append(_with(draft, other, inner + (weight - other) * mean, _divided(slope * weight, other)))
        starts.append(_with(draft, other, _divided(inner * other, weight), _divided(slope * weight, other)))
    # A falling negative side may be written as the positive side of a mirrored line.
    for other in _neighbours(weight * slope / RAW_ONE, (0, 1)):
        mirrored = _with(draft, other, _divided(inner * other, weight), _divided(weight * RAW_ONE, other))
        starts.append(np.where(slope < -_SLIGHTLY * RAW_ONE, mirrored, draft.raw))
    for gain, share in _LINES:
        starts.append(_negative_line(draft, gain, share, mean))
    if amplified:
        for gain in AMPLIFIED:
            starts.append(amplify(draft, gain))
    return np.ascontiguousarray(np.stack(starts, axis=1).transpose(2, 1, 0).astype(np.int32))


def amplify(draft: LayerDraft, gain: float) -> npt.NDArray[np.int64]:
    """The wanted parameters with the branch ``gain`` times stronger against the shortcut: raw int64 [8, C]."""
    changed = draft.wanted.copy()
    changed[[WEIGHT1, BIAS1, SHIFT_X, SHIFT_Y]] *= gain
    changed[WEIGHT2] /= gain
    return nearest_raw(changed)


def with_extra(starts: Starts, extra: Starts) -> Starts:
    """Further starts int32 [C, S', 8] after the given ones."""
    return np.ascontiguousarray(np.concatenate([starts, extra], axis=1))


def _neighbours(weight: Real, steps: Sequence[int]) -> list[Real]:
    below: Real = np.floor(weight)
    return [below + float(step) for step in steps]


def _with(draft: LayerDraft, weight: Real, bias: Real, slope: Real) -> npt.NDArray[np.int64]:
    """The draft's parameters with another first batch norm and slope, the first shift taken into the bias."""
    changed = draft.raw.copy()
    changed[WEIGHT1] = _raw(weight)
    changed[BIAS1] = _raw(bias)
    changed[SHIFT_X] = 0
    changed[SLOPE] = np.where(np.abs(slope) < _STEEPEST, _raw(slope), draft.raw[SLOPE])
    return np.where(weight == 0, draft.raw, changed)


def _negative_line(draft: LayerDraft, gain: float, share: float, mean: Real) -> npt.NDArray[np.int64]:
    """One fine line: everything on the negative side, so that weight times slope gives the scale."""
    wanted = draft.wanted * RAW_ONE
    weight = wanted[WEIGHT1]
    strong = np.floor(weight * gain + 0.5)
    slope = _divided(weight * share, strong)
    inner = weight * mean + wanted[BIAS1] + wanted[SHIFT_X]
    value = np.where(inner >= 0, inner, inner * draft.wanted[SLOPE]) + wanted[SHIFT_Y]
    changed = draft.raw.copy()
    changed[WEIGHT1] = _raw(strong)
    changed[BIAS1] = 0
    changed[SHIFT_X] = _ALL_NEGATIVE
    changed[SLOPE] = _raw(slope * RAW_ONE)
    changed[SHIFT_Y] = _raw(value - slope * (strong * mean + _ALL_NEGATIVE))
    return np.where(strong == 0, draft.raw, changed)


def _divided(value: Real, divisor: Real) -> Real:
    """value / divisor, zero where the divisor is."""
    return np.divide(value, divisor, out=np.zeros_like(value), where=divisor != 0)


def _raw(values: Real) -> npt.NDArray[np.int64]:
    return IMAGENET_2021.parameter.saturate(np.floor(np.clip(values, -1e6, 1e6) + 0.5).astype(np.int64))
