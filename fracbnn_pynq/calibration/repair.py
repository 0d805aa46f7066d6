"""New weights for the channels whose shortcut the core overwrites.

Their shortcut carries nothing any more, so the convolution has to do alone what both did together. Its 4608 binary
weights per channel are flipped one by one while the distance between the convolution and the wanted values, over all
positions of all pictures, gets smaller; some pictures only say when to stop. All of it is done in integers:
sums of squares of small integers are exact in float32 whatever the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..draft import RAW_ONE, LayerDraft
from ..faithful import ACTIVATION_OF_CODE
from ..networks import GatedLayer
from .engine import Codes, Int16, LayerEngine
from .samples import ONE
from .starts import BIAS1, BIAS2, SLOPE, THRESHOLD, WEIGHT1, WEIGHT2, Starts

_THIRDS = np.array([-3, -1, 1, 3], np.int8)
"""Activations in thirds."""
_SPREAD, _CENTRE = 65, 80
"""Wanted standard deviation and mean of the convolution: positive nearly always, and never near the cut-off."""
_LIMIT = round(1.3 * ONE)
_MOST_FLIPS, _QUICK_FLIPS, _CAREFUL_FLIPS = 1500, 400, 300
_PATIENCE = 200
_WEIGHTS = (6, 10, 16, 24)
"""First batch norm's weights, raw, to start the fit from."""


@dataclass(frozen=True)
class Repaired:
    """Mean correlation with the wanted values on the pictures that were not used, before and after; extra starts."""

    before: float
    after: float
    starts: Starts


def rewire(
    engine: LayerEngine,
    draft: LayerDraft,
    layer: GatedLayer,
    codes: Codes,
    wanted: Int16,
    channels: npt.NDArray[np.int64],
    watched_maps: npt.NDArray[np.bool_],
) -> Repaired:
    """Change the weights of ``channels``, in place, so that the convolution alone comes close to ``wanted``.

    ``codes``: input maps; ``wanted``: 16-bit numbers [N, positions, C] of the whole output; ``watched_maps`` [N]: which
    are not learnt from but say when to stop.
    """
    inputs = _columns(layer, codes)
    watched = np.repeat(watched_maps, layer.out_size**2)
    levels = np.clip(wanted.reshape(-1, wanted.shape[-1])[:, channels], -_LIMIT, _LIMIT).astype(np.int64)
    targets = np.stack([_scaled(level) for level in levels.T])
    signs = 2 * draft.bits[channels].reshape(len(channels), -1).astype(np.int64) - 1
    values = _convolved(inputs, signs)
    falling = [_correlation(v[~watched], t[~watched]) < 0 for v, t in zip(values, targets, strict=True)]
    targets[falling] *= -1
    before = [abs(_correlation(v[watched], t[watched])) for v, t in zip(values, targets, strict=True)]
    problem = _Problem(inputs[~watched], inputs[watched])
    gradients = problem.gradients(signs, targets[:, ~watched])
    new = np.stack(list(engine.map(problem.descend, signs, gradients, values[:, watched], targets[:, watched])))
    draft.bits[channels] = (new > 0).reshape(draft.bits[channels].shape)
    values = _convolved(inputs, new)
    after = [_correlation(v[watched], t[watched]) for v, t in zip(values, targets, strict=True)]
    starts = [_starts(v, level) for v, level in zip(values, levels.T, strict=True)]
    return Repaired(float(np.mean(before)), float(np.mean(after)), np.array(starts, np.int32))


class _Problem:
    """Least squares over binary weights: inputs int8 [n, weights] in thirds, to descend on and to watch."""

    def __init__(self, inputs: npt.NDArray[np.int8], watched: npt.NDArray[np.int8]) -> None:
        self._n = len(inputs)
        self._inputs = inputs.astype(np.float32)
        self._watched = np.asfortranarray(watched)
        # At most 9 n, below 2**24: float32 adds it up exactly.
        gram = (self._inputs.T @ self._inputs).astype(np.int64)
        self._sums = inputs.sum(axis=0, dtype=np.int64)
        # 4 n times the centred Gram matrix, plus a quarter of n (in the same unit) that holds the mean.
        self._matrix = 4 * self._n * gram - 3 * np.multiply.outer(self._sums, self._sums)
        self._diagonal = np.diag(self._matrix).copy()

    def gradients(self, signs: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where ``signs`` [k, weights] lead towards the centred ``targets`` [k, n]: int64 [k, weights]."""
        high, low = np.divmod(targets, 32)  # small enough for exact float32 products
        products = [(part.astype(np.float32) @ self._inputs).astype(np.int64) for part in (high, low)]
        product = 32 * products[0] + products[1]
        total = targets.sum(axis=1, keepdims=True)
        pull = 4 * (self._n * product - self._sums * total) + self._sums * (3 * _CENTRE * self._n)
        # Integers below 2**53: float64 adds them up exactly.
        return pull - (signs.astype(np.float64) @ self._matrix.astype(np.float64)).astype(np.int64)

    def descend(
        self,
        signs: npt.NDArray[np.int64],
        gradient: npt.NDArray[np.int64],
        values: npt.NDArray[np.int64],
        watched: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Weights +1 and -1 [weights], from ``signs`` and their ``gradient``, that come closer to a target.

        ``values``: what ``signs`` give on the watched positions, where the target is ``watched``; the best there.
        """
        signs, gradient, values = signs.copy(), gradient.copy(), values.copy()
        best, best_signs, best_flips, flips = _residual(values, watched), signs.copy(), 0, 0
        while flips < _MOST_FLIPS:
            gain = signs * gradient + self._diagonal
            candidates = _least(gain, 24 if flips < _QUICK_FLIPS else 8)
            if not len(candidates):
                break
            for index in candidates[: max(1, len(candidates) // 3)] if flips > _CAREFUL_FLIPS else candidates:
                if signs[index] * gradient[index] + self._diagonal[index] >= 0:
                    continue
                gradient += 2 * signs[index] * self._matrix[index]
                values -= 2 * signs[index] * self._watched[:, index].astype(np.int64)
                signs[index] = -signs[index]
                flips += 1
            found = _residual(values, watched)
            if found < best:
                best, best_signs, best_flips = found, signs.copy(), flips
            elif flips > best_flips + _PATIENCE:
                break
        return best_signs


def _convolved(inputs: npt.NDArray[np.int8], signs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Convolutions in thirds with weights [k, weights]: int64 [k, n]. float32 holds these sums exactly."""
    return (signs.astype(np.float32) @ inputs.astype(np.float32).T).astype(np.int64)


def _least(gain: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Places of the ``count`` lowest values below zero, lowest first, the first of equal ones first."""
    limit = min(int(np.partition(gain, count - 1)[count - 1]), -1)
    places = np.flatnonzero(gain <= limit)
    return places[np.argsort(gain[places], kind="stable")][:count]


def _columns(layer: GatedLayer, codes: Codes) -> npt.NDArray[np.int8]:
    """Inputs under the kernel at every output position, in thirds, zero outside: int8 [N * positions, 9 * channels]."""
    values = np.pad(_THIRDS[ACTIVATION_OF_CODE[codes]], ((0, 0), (1, 1), (1, 1), (0, 0)))
    size, step = layer.out_size, layer.stride
    parts = [values[:, i : i + step * size : step, j : j + step * size : step] for i in range(3) for j in range(3)]
    return np.concatenate([part.reshape(-1, layer.in_channels) for part in parts], axis=1)


def _scaled(target: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``target`` centred and brought to the wanted spread, in thirds, integers."""
    n = len(target)
    centred = n * target - target.sum()
    spread = float(np.sqrt(float((centred // n).astype(np.int64) @ (centred // n)) / n))
    return np.rint(centred * (3 * _SPREAD / (n * max(spread, 1.0)))).astype(np.int64)


def _moments(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Variances of a and b, and covariance, from exact integer sums."""
    n, sum_a, sum_b = len(a), int(a.sum()), int(b.sum())
    products = ((a, a, sum_a * sum_a), (b, b, sum_b * sum_b), (a, b, sum_a * sum_b))
    var_a, var_b, covariance = ((n * int(x @ y) - both) / n**2 for x, y, both in products)
    return var_a, var_b, covariance


def _correlation(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    var_a, var_b, covariance = _moments(a, b)
    return covariance / float(np.sqrt(var_a * var_b)) if var_a > 0 and var_b > 0 else 0.0


def _residual(values: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> float:
    """What an affine function of ``values`` leaves of ``target``."""
    var, spread, covariance = _moments(values, target)
    return spread - covariance**2 / var if var > 0 else spread


def _starts(values: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]) -> list[list[int]]:
    """Parameters that make the wanted levels (16-bit numbers) of the convolution's values (in thirds), gate open."""
    var, _, covariance = _moments(values, levels)
    scale = 3 * covariance / ONE / var if var > 0 else 0.0
    mean, level = int(values.sum()) / len(values) / 3, int(levels.sum()) / len(levels) / ONE
    found = []
    for weight in _WEIGHTS:
        start = [0] * 8
        start[THRESHOLD] = -8192
        start[WEIGHT1] = weight
        start[BIAS1] = round(-weight * mean)
        start[SLOPE] = RAW_ONE
        start[WEIGHT2] = round(scale * RAW_ONE / weight * RAW_ONE)
        start[BIAS2] = round(level * RAW_ONE)
        found.append([max(-8192, min(8191, value)) for value in start])
    return found
