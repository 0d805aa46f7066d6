"""Ring words: what the engine's weight ring holds, 288 bytes each.

A pass (16 output channels of a layer) is three header words, then one word per slice of input channels.

* A weight word has bit ``144 * channel + 16 * tap + k`` for input k of the slice; for a 1x1 layer, "tap" t < 8 is the
  t-th of eight slices and tap 8 is zero.
* Header word r has, from bit 0, the corrections of row class r (0 top, 1 middle, 2 bottom): 14 bits for each
  [column class: left, middle, right][channel]; and from bit 672 a part of every channel's coefficients: alpha[0],
  alpha[1], gamma (27 bits each) in word 0; beta[0], beta[1] (43 bits each) in word 1; gate (14), knee (15), whether 24
  bits are dropped (1) and shift (5) in word 2.

A correction is half of what M would be if every tap outside the map were +1: half the number of valid inputs, plus the
+1 weights under the taps outside, whose activation bits read as zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..fixedpoint import Raw
from .lane import COEFFICIENT_BITS, GATE_BITS, KNEE_BITS, LOW_SHIFT, OFFSET_BITS, LaneTable
from .plan import TAP_SLICES
from .registers import CHANNELS_IN, CHANNELS_OUT

WORD_BYTES = 288
WORD_BITS = 8 * WORD_BYTES
HEADER_WORDS = 3
TAPS = 9
CORRECTION_BITS = 14
COEFFICIENTS_AT = 3 * CHANNELS_OUT * CORRECTION_BITS
SHIFT_BITS = 5
_RECORDS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("alpha0", COEFFICIENT_BITS), ("alpha1", COEFFICIENT_BITS), ("gamma", COEFFICIENT_BITS)),
    (("beta0", OFFSET_BITS), ("beta1", OFFSET_BITS)),
    (("gate_at", GATE_BITS), ("knee", KNEE_BITS), ("high", 1), ("shift", SHIFT_BITS)),
)

Words = npt.NDArray[np.uint8]
Signs = npt.NDArray[np.int8]


def pass_words(weight: Signs, table: LaneTable) -> Words:
    """The words of one pass: ``weight`` int8 [16, k, k, channels], +1 or -1, and the same channels' coefficients.

    Returns uint8 [3 + slices, 288].
    """
    header = np.zeros((HEADER_WORDS, WORD_BITS), np.uint8)
    corrected = corrections(weight)
    columns = {
        "alpha0": table.alpha[0],
        "alpha1": table.alpha[1],
        "gamma": table.gamma,
        "beta0": table.beta[0],
        "beta1": table.beta[1],
        "gate_at": table.gate_at,
        "knee": table.knee,
        "high": (table.shift > LOW_SHIFT).astype(np.int64),
        "shift": table.shift,
    }
    for row, record in enumerate(_RECORDS):
        header[row, :COEFFICIENTS_AT] = _to_bits(corrected[row].reshape(-1), CORRECTION_BITS).reshape(-1)
        bits = np.concatenate([_to_bits(columns[name], width) for name, width in record], axis=1)
        header[row, COEFFICIENTS_AT : COEFFICIENTS_AT + bits.size] = bits.reshape(-1)
    return np.concatenate([np.packbits(header, axis=1, bitorder="little"), _weight_words(weight)])


def parse_pass(words: Words, kernel: int, channels: int) -> tuple[Signs, LaneTable]:
    """Inverse of :func:`pass_words`.

    Raises :class:`~fracbnn_pynq.errors.ModelError` where the words are not what it makes.
    """
    bits = np.unpackbits(words, axis=1, bitorder="little")
    values: dict[str, Raw] = {}
    for row, record in enumerate(_RECORDS):
        width = sum(size for _, size in record)
        block = bits[row, COEFFICIENTS_AT : COEFFICIENTS_AT + CHANNELS_OUT * width].reshape(CHANNELS_OUT, width)
        at = 0
        for name, size in record:
            signed = name not in {"high", "shift"}
            values[name] = _from_bits(block[:, at : at + size], signed=signed)
            at += size
    table = LaneTable(
        values["gate_at"],
        values["knee"],
        np.stack([values["alpha0"], values["alpha1"]]),
        values["gamma"],
        np.stack([values["beta0"], values["beta1"]]),
        values["shift"],
    )
    weight = _parse_weight_words(bits[HEADER_WORDS:], kernel, channels)
    if not np.array_equal(pass_words(weight, table), words):
        raise ModelError("ring words: expected one pass as the compiler makes it, found other bits; compile it again")
    return weight, table


def corrections(weight: Signs) -> Raw:
    """Half sums before any popcount: int64 [row class, column class, channel] of ``weight`` [channel, k, k, inputs]."""
    count, k, _, channels = weight.shape
    ones = (weight > 0).sum(axis=-1, dtype=np.int64)
    result = np.zeros((3, 3, count), np.int64)
    for row in range(3):
        for column in range(3):
            outside = np.zeros((k, k), bool)
            if k > 1:
                outside[0] |= row == 0
                outside[-1] |= row == 2
                outside[:, 0] |= column == 0
                outside[:, -1] |= column == 2
            valid = (k * k - int(outside.sum())) * channels
            result[row, column] = valid // 2 + ones[:, outside].sum(axis=-1)
    return result


def _weight_words(weight: Signs) -> Words:
    count, k, _, channels = weight.shape
    bits = (weight > 0).astype(np.uint8)
    if k == 1:
        slices = -(-channels // (TAP_SLICES * CHANNELS_IN))
        rows = np.zeros((count, slices, TAPS, CHANNELS_IN), np.uint8)
        flat = np.zeros((count, slices * TAP_SLICES * CHANNELS_IN), np.uint8)
        flat[:, :channels] = bits.reshape(count, channels)
        rows[:, :, :TAP_SLICES] = flat.reshape(count, slices, TAP_SLICES, CHANNELS_IN)
    else:
        rows = bits.reshape(count, TAPS, channels // CHANNELS_IN, CHANNELS_IN).transpose(0, 2, 1, 3)
    return np.packbits(rows.transpose(1, 0, 2, 3).reshape(rows.shape[1], -1), axis=1, bitorder="little")


def _parse_weight_words(bits: npt.NDArray[np.uint8], kernel: int, channels: int) -> Signs:
    rows = bits.reshape(-1, CHANNELS_OUT, TAPS, CHANNELS_IN).transpose(1, 0, 2, 3)
    if kernel == 1:
        flat = rows[:, :, :TAP_SLICES].reshape(CHANNELS_OUT, 1, 1, -1)[..., :channels]
    else:
        flat = rows.transpose(0, 2, 1, 3).reshape(CHANNELS_OUT, kernel, kernel, channels)
    signs: Signs = 2 * flat.astype(np.int8) - 1
    return signs


def _to_bits(values: Raw, width: int) -> npt.NDArray[np.uint8]:
    """Two's complement, least significant bit first: uint8 [N, width]."""
    return (values[:, None] >> np.arange(width) & 1).astype(np.uint8)


def _from_bits(bits: npt.NDArray[np.uint8], *, signed: bool) -> Raw:
    weights = np.int64(1) << np.arange(bits.shape[1], dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return bits.astype(np.int64) @ weights
