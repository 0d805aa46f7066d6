"""The last layer and the classifier.

The core hands the last map over in 4 bits, cut off at -1 and 1; the network was trained with values from -3 to 14. So
the range is chosen per channel, and what the mean code then means, an affine map, goes into the classifier, which is
the host's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..draft import FOLD_ONE, LayerDraft, nearest_raw
from ..faithful import CODE_SCALE
from ..model import Real
from .engine import Int16
from .starts import BIAS2, WEIGHT2, Starts
from .teacher import LAST_UNIT

_LOW = (0.0, 0.002, 0.01, 0.03)
_HIGH = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_NARROWEST = 0.05


def last_starts(draft: LayerDraft, wanted: Int16) -> Starts:
    """Starts with every choice of range: int32 [C, S, 8]. ``wanted`` [C, n]: the values, in 1/256."""
    ordered = np.sort(wanted, axis=1)
    places = [[round(share * (wanted.shape[1] - 1)) for share in shares] for shares in (_LOW, _HIGH)]
    lows, highs = (ordered[:, chosen] / LAST_UNIT for chosen in places)
    starts = [draft.raw]
    for low in lows.T:
        for high in highs.T:
            scale = 2 / np.maximum(high - low, _NARROWEST)
            start = draft.raw.copy()
            start[WEIGHT2] = nearest_raw(draft.wanted[WEIGHT2] * scale)
            start[BIAS2] = nearest_raw((draft.wanted[BIAS2] - (high + low) / 2) * scale)
            starts.append(start)
    return np.ascontiguousarray(np.stack(starts, axis=1).transpose(2, 1, 0).astype(np.int32))


def affine_of(fitted: Real) -> npt.NDArray[np.int32]:
    """The fitted map, 1/256 per code and 1/256, for the classifier: int32 [2, C] in steps of 2**-16.

    The classifier sees value v = code / 7.5 - 1; the wanted value is ``gain`` * v + ``offset``.
    """
    per_code, offset = fitted / LAST_UNIT
    gain = per_code * CODE_SCALE
    steps = np.rint(np.stack([gain, gain + offset]) * FOLD_ONE)
    return np.clip(steps, -(1 << 24), 1 << 24).astype(np.int32)
