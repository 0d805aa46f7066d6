"""The first layer's parameters: a batch norm of two numbers per channel, few enough to try them all."""

from __future__ import annotations

import numpy as np

from ..arithmetic import IMAGENET_2021
from ..backends.published import imagenet_code
from ..draft import RAW_ONE, Draft
from ..fixedpoint import Raw, shift_half_up, wrap
from .engine import Int16
from .samples import TARGET_UNIT, target_codes
from .starts import FEATURE_ONE

_COARSE = range(-160, 161, 16)
_FINE = range(-15, 16)
_SUM_BITS = 10
_ACTIVATION_COST = 3840


def fit_stem(draft: Draft, sums: Int16, wanted: Int16) -> tuple[float, float]:
    """Fit the stem in place; the loss a sample before and after, in squared codes.

    ``sums``: exact sums at sampled positions, int16 [N, S, C]; ``wanted``: the float network's values there.
    """
    feature = IMAGENET_2021.feature
    channels = sums.shape[-1]
    inputs = feature.saturate(wrap(sums.reshape(-1, channels).T.astype(np.int64), _SUM_BITS) * FEATURE_ONE)
    targets, activations = (part.astype(np.int64) for part in target_codes(wanted.reshape(-1, channels).T))
    before = after = 0
    for channel in range(channels):
        values, target, activation = inputs[channel], targets[channel], activations[channel]

        def loss(
            weight: int, bias: int, values: Raw = values, target: Raw = target, activation: Raw = activation
        ) -> int:
            code = imagenet_code(feature.saturate(shift_half_up(weight * values + bias * FEATURE_ONE, 8)))
            own = (code >= 3).astype(np.int64) + (code >= 8) + (code >= 13)
            error = TARGET_UNIT * code - target
            return int(4 * (error @ error) + _ACTIVATION_COST * np.count_nonzero(own != activation))

        weight, bias = (int(value) for value in draft.stem_raw[:, channel])
        best = loss(weight, bias), weight, bias
        before += best[0]
        scale, offset = draft.stem_wanted[:, channel] * RAW_ONE
        mean = int(values.sum()) / len(values) / FEATURE_ONE
        for other in range(int(np.floor(scale)) - 1, int(np.ceil(scale)) + 2):
            middle = int(offset + (scale - other) * mean)
            best = min([best, *((loss(other, middle + step), other, middle + step) for step in _COARSE)])
        _, weight, bias = best
        best = min([best, *((loss(weight, bias + step), weight, bias + step) for step in _FINE)])
        after += best[0]
        draft.stem_raw[:, channel] = best[1:]
    unit = 1 / (1024 * inputs.size)
    return before * unit, after * unit
