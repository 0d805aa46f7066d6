"""Sums brought back into the range that the core can hold.

The core keeps 2/3 M in a feature number, after M itself has been one: |M| of 256 and more is cut off. In the wide 3x3
layers many channels' sums lie on one side of zero. Weights whose input hardly ever changes its sign add next to nothing
but a constant to M: flipping them moves M, and the threshold and the bias move along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..arithmetic import IMAGENET_2021
from ..draft import RAW_ONE, LayerDraft
from ..faithful import ACTIVATION_OF_CODE
from ..model import Real
from .engine import Codes, Int16
from .starts import BIAS1, THRESHOLD, WEIGHT1

_LIMIT = 250
"""Sums further out than this are about to be cut off."""
_GOAL = 235
_OTHER_SIDE = 200
"""Channels with sums beyond this on the other side have nowhere to go."""
_WORTH_IT = 10
_TAIL = 200
"""One sum in so many may lie outside."""
_CONSTANT = 0.8
"""Mean of an input's sign from which it counts as nearly constant."""
_TAPS = (4, 1, 3, 5, 7)
"""The kernel's centre, which never meets the border, then its neighbours."""
_MOST = IMAGENET_2021.parameter.maximum / RAW_ONE - 0.1
_USUAL_THRESHOLD_SUM = 4
_PIXELS = 8000
"""About how many input pixels are looked at."""


@dataclass(frozen=True)
class Recentred:
    """How many channels were moved, by how many flipped weights."""

    channels: int
    flips: int


def recentre(draft: LayerDraft, codes: Codes, sums: Int16) -> Recentred:
    """Move the sums of a 3x3 layer's channels into range, in place.

    ``codes``: the layer's input maps [N, H, W, in]; ``sums``: samples of M, not wrapped, int16 [n, out].
    """
    msb_mean, lsb_mean = _sign_means(codes)
    low, high = _quantiles(sums)
    moved = flips = 0
    for channel in np.flatnonzero((high > _LIMIT) | (low < -_LIMIT)):
        down = high[channel] > _LIMIT and low[channel] > -_OTHER_SIDE
        up = low[channel] < -_LIMIT and high[channel] < _OTHER_SIDE
        middle = (int(low[channel]) + int(high[channel])) / 2
        if down:
            wish = min(high[channel] - _GOAL, max(middle, 0))
        elif up:
            wish = min(-_GOAL - low[channel], max(-middle, 0))
        else:
            continue
        if wish < _WORTH_IT:
            continue
        open_share = float(np.mean(sums[:, channel] > _USUAL_THRESHOLD_SUM))
        flips += _move(draft, int(channel), 1 if down else -1, wish, msb_mean, lsb_mean, open_share)
        moved += 1
    return Recentred(moved, flips)


def _move(
    draft: LayerDraft, channel: int, direction: int, wish: float, msb_mean: Real, lsb_mean: Real, open_share: float
) -> int:
    """Flip weights of a channel until its M is ``wish`` nearer to zero; returns how many."""
    taps = draft.bits[channel].reshape(9, -1)
    # What a flip costs: the part of the input that is not constant, in the units of the layer's output.
    cost = (1 - msb_mean**2) * 4 / 9 + open_share * (1 - lsb_mean**2) / 9
    reached = reached_lsb = 0.0
    flips = 0
    for tap in _TAPS:
        signs = 2.0 * taps[tap] - 1
        gain = signs * msb_mean * direction
        useful = np.flatnonzero(gain > _CONSTANT)
        order = np.argsort(cost[useful] / np.abs(msb_mean[useful]), kind="stable")
        for index in useful[order]:
            if reached >= wish:
                break
            taps[tap, index] ^= 1
            reached += 2 * gain[index]
            reached_lsb += 2 * signs[index] * lsb_mean[index] * direction
            flips += 1
    shift, shift_lsb = -direction * reached, -direction * reached_lsb
    draft.row(THRESHOLD, channel, np.clip(draft.wanted[THRESHOLD, channel] + shift * 2 / 3, -_MOST, _MOST))
    value = shift * 2 / 3 + open_share * shift_lsb / 3
    draft.row(BIAS1, channel, draft.wanted[BIAS1, channel] - draft.wanted[WEIGHT1, channel] * value)
    return flips


def _sign_means(codes: Codes) -> tuple[Real, Real]:
    """Mean sign of the most and of the least significant activation bit per input channel, float64 [in]."""
    pixels = codes.reshape(-1, codes.shape[-1])
    activations = ACTIVATION_OF_CODE[pixels[:: max(1, len(pixels) // _PIXELS)]]
    ones = [np.count_nonzero(bit, axis=0) for bit in (activations >> 1, activations & 1)]
    msb, lsb = (2 * count / len(activations) - 1 for count in ones)
    return msb, lsb


def _quantiles(sums: Int16) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Per channel the sums that one in 200 lies below, and above."""
    count = len(sums)
    place = count // _TAIL
    ordered = np.partition(sums, sorted({place, count - 1 - place}), axis=0)
    return ordered[place], ordered[count - 1 - place]
