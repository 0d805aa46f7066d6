"""The lane: what the engine does to an output element after its convolution sums, bit for bit.

The lane computes the ``faithful`` arithmetic (:mod:`fracbnn_pynq.faithful`) on halves, because M and L are even::

    gate = M/2 >= gate_at            half = (stem ? M/2 : M + (gate ? L/2 : 0))      S = 2 half
    side = half < knee
    z    = (alpha[side] * S + gamma * r + beta[side]) >> (12 or 24), saturated to 16 bits or clamped to 0..15

Its two multipliers do the shifting too: coefficients are stored times 2**k, with k = Q - shift and Q = 12 for shifts 1
to 12, Q = 24 for 13 to 24. No bit is lost: (v << k) >> Q is v >> shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import faithful
from ..errors import ModelError
from ..fixedpoint import Raw

COEFFICIENT_BITS = 27
OFFSET_BITS = 43
GATE_BITS = 14
KNEE_BITS = 15
LOW_SHIFT, HIGH_SHIFT = 12, 24
GATE_LIMIT = (1 << (GATE_BITS - 1)) - 1
KNEE_LIMIT = (1 << (KNEE_BITS - 1)) - 1


@dataclass(frozen=True)
class LaneTable:
    """A layer's coefficients as the lanes read them, int64: [C], ``alpha`` and ``beta`` [2, C].

    ``gate_at`` and ``knee`` are compared with halves of M and S; ``shift`` is the layer's own, 1 to 24.
    """

    gate_at: Raw
    knee: Raw
    alpha: Raw
    gamma: Raw
    beta: Raw
    shift: Raw


def lane_table(layer: faithful.FusedLayer, *, stem: bool = False) -> LaneTable:
    """The lane's coefficients of a fused layer; the stem gets no gate, one side and no shortcut.

    Raises :class:`~fracbnn_pynq.errors.ModelError` for coefficients that are not a fused layer's.
    """
    if not ((layer.shift >= 1) & (layer.shift <= HIGH_SHIFT)).all():
        raise ModelError(f"expected shifts of 1 to {HIGH_SHIFT}, found {layer.shift.min()} to {layer.shift.max()}")
    up = quotient(layer.shift) - layer.shift
    if stem:
        gate_at = np.full_like(layer.gate_at, GATE_LIMIT)
        knee = np.full_like(layer.knee, -KNEE_LIMIT - 1)
        gamma = np.zeros_like(layer.gamma)
    else:
        # Even numbers are compared: v >= t is v/2 >= ceil(t/2). Sums stay below the limits, so clamping changes
        # nothing.
        gate_at = np.clip(-(-layer.gate_at // 2), -GATE_LIMIT, GATE_LIMIT)
        knee = np.clip(-(-layer.knee // 2), -KNEE_LIMIT, KNEE_LIMIT)
        gamma = layer.gamma << up
    table = LaneTable(gate_at, knee, layer.alpha << up, gamma, layer.beta << up, layer.shift)
    for name, bits in (("alpha", COEFFICIENT_BITS), ("gamma", COEFFICIENT_BITS), ("beta", OFFSET_BITS)):
        largest = int(np.abs(getattr(table, name)).max())
        if largest >= 1 << (bits - 1):
            raise ModelError(f"{name}: expected {bits} bits signed after scaling, found {largest}")
    return table


def fused_layer(table: LaneTable, *, codes: bool) -> faithful.FusedLayer:
    """Inverse of :func:`lane_table`, with the thresholds as the even numbers that give the same results."""
    up = quotient(table.shift) - table.shift
    return faithful.FusedLayer(
        gate_at=2 * table.gate_at,
        knee=2 * table.knee,
        alpha=table.alpha >> up,
        gamma=table.gamma >> up,
        beta=table.beta >> up,
        shift=table.shift,
        codes=codes,
    )


def quotient(shift: Raw) -> Raw:
    """Q: the bits the lane drops, 12 or 24."""
    return np.where(shift > LOW_SHIFT, HIGH_SHIFT, LOW_SHIFT)


def lane(table: LaneTable, msb: Raw, lsb: Raw, shortcut: Raw, *, stem: bool, codes: bool) -> tuple[Raw, Raw]:
    """The lane in integers: ``msb``, ``lsb`` (M and L, even) and ``shortcut`` (r) int64 [..., C].

    Returns (z, code): the value added up or kept in 16 bits, and the 4-bit code whose activation the next layer reads.
    """
    half = msb // 2
    if not stem:
        half = msb + np.where(half >= table.gate_at, lsb // 2, 0)
    side = half < table.knee
    alpha = np.where(side, table.alpha[1], table.alpha[0])
    beta = np.where(side, table.beta[1], table.beta[0])
    value = (alpha * (2 * half) + table.gamma * shortcut + beta) >> quotient(table.shift)
    if codes:
        code = np.clip(value, 0, faithful.CODE_MAX)
        return code, code
    value = np.clip(value, -faithful.INT16_MAX - 1, faithful.INT16_MAX)
    activation = sum((value >= step).astype(np.int64) for step in faithful.ACTIVATION_STEPS)
    return value, np.array([0, 4, 8, 15], np.int64)[activation]
