"""The parameter search of native/fit.c once more, in NumPy and Python's integers, for readers and for comparison.

Losses are computed with the arithmetic of the reference backend, one channel at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fracbnn_pynq.arithmetic import IMAGENET_2021
from fracbnn_pynq.backends.published import imagenet_code
from fracbnn_pynq.fixedpoint import shift_half_up

THRESHOLD, WEIGHT1, BIAS1, SHIFT_X, SLOPE, SHIFT_Y, WEIGHT2, BIAS2 = range(8)
LOWEST, HIGHEST = -8192, 8191
STEEPER, STRONGER, SHIFTED, RAISED = range(8, 12)
FIRST_STEPS = [64, 2, 64, 64, 32, 64, 32, 64, 2, 8, 8, 8]


@dataclass
class Channel:
    """One channel's samples: int64 [n] each. ``positions``: of the last layer's map, else 0."""

    closed: np.ndarray
    open: np.ndarray
    shortcut: np.ndarray
    target: np.ndarray
    activation: np.ndarray
    positions: int = 0

    def first(self, count: int) -> Channel:
        arrays = (self.closed, self.open, self.shortcut, self.target, self.activation)
        closed, opened, shortcut, target, activation = (array[:count] for array in arrays)
        return Channel(closed, opened, shortcut, target, activation, self.positions)

    def codes(self, p: list[int]) -> np.ndarray:
        saturate = IMAGENET_2021.feature.saturate
        value = np.where(self.closed * 16 > p[THRESHOLD], self.open, self.closed)
        value = saturate(shift_half_up(p[WEIGHT1] * value + p[BIAS1] * 16, 8))
        value = saturate(shift_half_up(value * 16 + p[SHIFT_X], 4))
        value = np.where(value < 0, saturate(shift_half_up(value * p[SLOPE], 8)), value)
        value = saturate(shift_half_up(value * 16 + p[SHIFT_Y], 4))
        value = saturate(shift_half_up(value * 16 + self.shortcut * 34 - 256, 4))
        return imagenet_code(saturate(shift_half_up(p[WEIGHT2] * value + p[BIAS2] * 16, 8)))

    def loss(self, p: list[int]) -> float:
        codes = self.codes(p)
        if self.positions:
            return self._pooled(codes)[0]
        activation = np.searchsorted([3, 8, 13], codes, side="right")
        errors, others = 16 * codes - self.target, activation - self.activation
        return float(int((4 * errors**2 + 3840 * others**2).sum()))

    def affine(self, p: list[int]) -> tuple[float, float]:
        return self._pooled(self.codes(p))[1:] if self.positions else (0.0, 0.0)

    def _pooled(self, codes: np.ndarray) -> tuple[float, float, float]:
        by_picture, targets = codes.reshape(-1, self.positions), self.target.reshape(-1, self.positions)
        sums, wanted_sums = by_picture.sum(axis=1), targets.sum(axis=1)
        n, area = float(codes.size), float(self.positions)
        mean, wanted = int(codes.sum()) / n, int(targets.sum()) / n
        variance = int((sums * sums).sum()) / n / area - mean * mean
        covariance = int((sums * wanted_sums).sum()) / n / area - mean * wanted
        spread = int((wanted_sums * wanted_sums).sum()) / n / area - wanted * wanted
        slope = covariance / variance if variance > 0 else 0.0
        own_variance = int((codes * codes).sum()) / n - mean * mean
        own_covariance = int((by_picture * targets).sum()) / n - mean * wanted
        own_spread = int((targets * targets).sum()) / n - wanted * wanted
        left = (own_spread - 2 * slope * own_covariance + slope * slope * own_variance) / area
        return spread - slope * covariance + left, slope, wanted - slope * mean


def fit(channel: Channel, starts: list[list[int]], *, first: int, kept: int, passes: int) -> tuple[list[int], float]:
    """The best parameters, and their loss on all samples."""
    few = channel.first(first)
    losses = [few.loss(start) for start in starts]
    order = sorted(range(len(starts)), key=lambda k: (losses[k], k))[:kept]
    ends = [_descend(few, losses[k], list(starts[k]), passes) for k in order]
    best = min(ends, key=lambda end: end[0])[1]
    loss = channel.loss(best)
    if first < len(channel.closed):
        loss, best = _descend(channel, loss, best, passes)
    start = channel.loss(starts[0])
    return (list(starts[0]), start) if start < loss else (best, loss)


def _descend(channel: Channel, best: float, p: list[int], passes: int) -> tuple[float, list[int]]:
    steps = list(FIRST_STEPS)
    for _ in range(passes):
        before = best
        for direction in range(12):
            least = 16 if direction in (SHIFT_X, SHIFT_Y) else 1
            step = steps[direction]
            while step >= least:
                for sign in (-1, 1):
                    while (moved := _moved(channel, p, direction, sign * step)) is not None:
                        found = channel.loss(moved)
                        if not found < best - best / (1 << 17):
                            break
                        best, p = found, moved
                step //= 2
            if direction < 8:
                steps[direction] = max(steps[direction] // 4, least)
        if before - best < before / 1024:
            break
    return best, p


def _moved(channel: Channel, p: list[int], direction: int, amount: int) -> list[int] | None:
    q = list(p)
    if direction == STEEPER:
        q[WEIGHT1] = _limited(p[WEIGHT1] + amount)
        if q[WEIGHT1] == 0:
            return None
        q[BIAS1] = _limited(p[BIAS1] - _quotient(amount * int(channel.closed.sum()), 16 * len(channel.closed)))
        q[SLOPE] = _limited(_quotient(p[SLOPE] * p[WEIGHT1], q[WEIGHT1]))
    elif direction == STRONGER:
        if p[WEIGHT2] == 0:
            return None
        q[WEIGHT2] = _limited(p[WEIGHT2] + amount)
        q[BIAS2] = _limited(_quotient(p[BIAS2] * q[WEIGHT2], p[WEIGHT2]))
    elif direction == SHIFTED:
        q[SHIFT_X], q[SHIFT_Y] = _limited(p[SHIFT_X] + 16 * amount), _limited(p[SHIFT_Y] - 16 * amount)
    elif direction == RAISED:
        q[BIAS1], q[SHIFT_Y] = _limited(p[BIAS1] + 4 * amount), _limited(p[SHIFT_Y] - 4 * amount)
    else:
        q[direction] = _limited(p[direction] + amount)
    return q if q != p else None


def _limited(value: int) -> int:
    return max(LOWEST, min(HIGHEST, value))


def _quotient(value: int, divisor: int) -> int:
    """Nearest integer, ties up."""
    return (2 * value + divisor) // (2 * divisor) if divisor > 0 else _quotient(-value, -divisor)
