"""The published cores' arithmetics, bit for bit.

Raw numbers: ``f`` fraction bits in the feature format, ``w`` in the parameter format; RND is
:func:`~fracbnn_pynq.fixedpoint.shift_half_up`, SAT the feature format's saturation. Sums and products inside one
assignment are exact; RND and SAT happen at the assignment.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..arithmetic import PublishedArithmetic, quantise_published
from ..fixedpoint import Format, Raw, divide_toward_zero, shift_half_up, wrap
from ..hostclassifier import host_classifier
from ..model import Model
from ..networks import GatedLayer
from .rules import Gate, Map, TileLimit, duplicated, pooled_parts


def two_thirds(arithmetic: PublishedArithmetic, msb: Raw) -> Raw:
    """2/3 M as a raw feature number."""
    feature = arithmetic.feature
    product = feature.saturate(msb << feature.fraction) * arithmetic.two_thirds
    return feature.saturate(shift_half_up(product, arithmetic.parameter.fraction))


def with_third(arithmetic: PublishedArithmetic, value: Raw, lsb: Raw) -> Raw:
    """``value``, a raw feature number, plus 1/3 L as the ImageNet core adds it."""
    finer = arithmetic.parameter.fraction - arithmetic.feature.fraction
    return arithmetic.feature.saturate(shift_half_up((value << finer) + lsb * arithmetic.third, finer))


def gate_opens(arithmetic: PublishedArithmetic, msb: Raw, threshold: Raw) -> Gate:
    """Whether 2/3 M, rounded to a feature number or exact as the core has it, exceeds the raw ``threshold``."""
    if arithmetic.gate_rounded:
        finer = arithmetic.parameter.fraction - arithmetic.feature.fraction
        return (two_thirds(arithmetic, msb) << finer) > threshold
    return msb * arithmetic.two_thirds > threshold


class PublishedRules:
    """What the published cores have in common: batch norm, RPReLU and the shortcut's addition."""

    pointwise_tile: TileLimit | None = None

    def __init__(self, model: Model, arithmetic: PublishedArithmetic) -> None:
        self._network = model.network
        self._a = arithmetic
        self._tables = quantise_published(model, arithmetic)
        self._f = arithmetic.feature.fraction
        self._w = arithmetic.parameter.fraction

    def _saturate(self, raw: Raw) -> Raw:
        return self._a.feature.saturate(raw)

    def _scaled_bias(self, values: Raw, weight: Raw, bias: Raw) -> Raw:
        """Batch norm: weight * value + bias."""
        return self._saturate(shift_half_up(weight * values + (bias << self._f), self._w))

    def _shift(self, values: Raw, offset: Raw) -> Raw:
        """value + offset, the offset in the parameter format."""
        d = self._w - self._f
        return self._saturate(shift_half_up((values << d) + offset, d))

    def _rprelu(self, values: Raw, shift_x: Raw, slope: Raw, shift_y: Raw) -> Raw:
        values = self._shift(values, shift_x)
        values = np.where(values < 0, self._saturate(shift_half_up(values * slope, self._w)), values)
        return self._shift(values, shift_y)

    def _gate(self, msb: Raw, threshold: Raw) -> Gate:
        return gate_opens(self._a, msb, threshold)


class Cifar10Rules(PublishedRules):
    """``cifar10-2021`` and ``cifar10-2020``: they differ in their formats and in what the gate compares."""

    def wrap_sums(self, sums: Raw) -> Raw:
        return sums

    def stem(self, sums: Raw) -> Map:
        weight, bias = self._tables.stem
        d = self._w - self._f
        return self._saturate(shift_half_up(weight * sums + bias, d))

    def activations(self, current: Map) -> npt.NDArray[np.int8]:
        one = 1 << self._f
        return np.clip(((current + one) * 3 + one) >> (self._f + 1), 0, 3).astype(np.int8)

    def gated(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> tuple[Gate, Map]:
        a, w, f = self._a, self._w, self._f
        threshold, bn1_weight, bn1_bias, shift_x, slope, shift_y, bn2_weight, bn2_bias = self._tables.layers[layer.name]
        value = two_thirds(a, msb)
        gate = self._gate(msb, threshold)
        added = np.where(gate, self._saturate(lsb << f), 0)
        value = self._saturate(shift_half_up((value << w) + added * a.third, w))
        value = self._rprelu(self._scaled_bias(value, bn1_weight, bn1_bias), shift_x, slope, shift_y)
        value = self._saturate(self._shortcut(layer, current) + value)
        return gate, self._scaled_bias(value, bn2_weight, bn2_bias)

    def logits(self, last: Map) -> npt.NDArray[np.float32]:
        f = self._f
        mean_format = Format(32, 10)
        finer = mean_format.fraction - f
        total = np.zeros(last.shape[:1] + last.shape[-1:], np.int64)
        for row in range(last.shape[1]):
            for column in range(last.shape[2]):
                total = mean_format.saturate(total + (last[:, row, column] << finer))
        mean = divide_toward_zero(total, last.shape[1] * last.shape[2])
        features = self._saturate(shift_half_up(mean, finer))
        acc = np.broadcast_to(self._tables.fc_bias, (len(last), self._network.classes))
        for channel in range(features.shape[1]):
            product = features[:, channel, None] * self._tables.fc_weight[:, channel]
            acc = self._saturate(shift_half_up((acc << f) + product, f))
        return np.ldexp(acc.astype(np.float64), -f).astype(np.float32)

    def _shortcut(self, layer: GatedLayer, current: Map) -> Map:
        if layer.stride == 2:
            parts = pooled_parts(current)
            total = parts[0]
            for part in parts[1:]:
                total = self._saturate(total + part)
            current = divide_toward_zero(total, 4)
        return duplicated(layer, current)


class ImageNetRules(PublishedRules):
    """``imagenet-2021``. Maps are 4-bit codes; the 2-bit activation is a function of the code."""

    pointwise_tile: TileLimit | None = TileLimit(channels=32, bits=6)
    SUM_BITS = 10
    CODE_STEP = 34  # 2/15 with 8 fraction bits

    def __init__(self, model: Model, arithmetic: PublishedArithmetic) -> None:
        super().__init__(model, arithmetic)
        self._classifier = host_classifier(model)

    def wrap_sums(self, sums: Raw) -> Raw:
        return wrap(sums, self.SUM_BITS)

    def stem(self, sums: Raw) -> Map:
        weight, bias = self._tables.stem
        return self._code(self._scaled_bias(self._saturate(self.wrap_sums(sums) << self._f), weight, bias))

    def activations(self, current: Map) -> npt.NDArray[np.int8]:
        return np.searchsorted([3, 8, 13], current, side="right").astype(np.int8)

    def gated(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> tuple[Gate, Map]:
        gate, finish = self._begin(layer, msb, lsb)
        if self._a.overlap and overlaps(layer):
            return gate, _finish_in_place(current, self.pooled, finish)
        shortcut = self.pooled(current) if layer.stride == 2 else current
        return gate, finish(slice(None), slice(None), duplicated(layer, shortcut))

    def shortcut_read(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> Map:
        """The shortcut codes that the layer which overwrites its shortcut really reads: [N, H/2, W/2, C]."""
        _, finish = self._begin(layer, msb, lsb)
        seen = np.empty(msb.shape, np.int64)

        def watched(rows: slice, channels: slice, codes: Raw) -> Raw:
            seen[:, rows, :, channels] = codes
            return finish(rows, channels, codes)

        _finish_in_place(current, self.pooled, watched)
        return seen

    def logits(self, last: Map) -> npt.NDArray[np.float32]:
        return self._classifier.logits(last.sum(axis=(1, 2)))

    def _begin(self, layer: GatedLayer, msb: Raw, lsb: Raw) -> tuple[Gate, Callable[[slice, slice, Raw], Raw]]:
        """The gates, and what makes output codes of some rows and channels from their shortcut codes."""
        a, w = self._a, self._w
        threshold, bn1_weight, bn1_bias, shift_x, slope, shift_y, bn2_weight, bn2_bias = self._tables.layers[layer.name]
        value = two_thirds(a, msb)
        gate = self._gate(msb, threshold)
        value = np.where(gate, with_third(a, value, lsb), value)
        value = self._rprelu(self._scaled_bias(value, bn1_weight, bn1_bias), shift_x, slope, shift_y)

        def finish(rows: slice, channels: slice, codes: Raw) -> Raw:
            total = self._shift(value[:, rows, :, channels], codes * self.CODE_STEP - (1 << w))
            return self._code(self._scaled_bias(total, bn2_weight[channels], bn2_bias[channels]))

        return gate, finish

    def _code(self, raw: Raw) -> Raw:
        return imagenet_code(raw)

    def pooled(self, current: Map) -> Map:
        """Codes of the 2x2 means of codes, computed on feature-map numbers."""
        drop = self._w - self._f
        values = self._saturate(shift_half_up(current * self.CODE_STEP - (1 << self._w), drop))
        parts = pooled_parts(values)
        total = parts[0]
        for part in parts[1:]:
            total = self._saturate(total + part)
        return self._code(divide_toward_zero(total, 4))


def imagenet_code(raw: Raw) -> Raw:
    """4-bit code of a raw number of the ImageNet core's feature format, ties down."""
    result: Raw = np.clip(((raw + 16) * 30 + 31) >> 6, 0, 15)
    return result


def gate_at(arithmetic: PublishedArithmetic, threshold: Raw) -> Raw:
    """The smallest integer M whose gate opens, per raw ``threshold``; int64, at most 32767.

    The gate grows with M in every arithmetic, so a binary search finds where it opens.
    """
    low = np.full(threshold.shape, -(1 << 15), np.int64)
    high = np.full(threshold.shape, (1 << 15) - 1, np.int64)
    while (low < high).any():
        middle = (low + high) >> 1
        opens = gate_opens(arithmetic, middle, threshold)
        high = np.where(opens, middle, high)
        low = np.where(opens, low, middle + 1)
    return high


def overlaps(layer: GatedLayer) -> bool:
    """Whether the core writes this layer's output over the shortcut it still has to read: block 12's 3x3."""
    return layer.stride == 2 and layer.kernel == 3 and layer.in_channels == 512


def _finish_in_place(current: Map, pooled: Callable[[Raw], Raw], finish: Callable[[slice, slice, Raw], Raw]) -> Map:
    """Block 12's 3x3 in the core's memory: the output is written over part of the shortcut that is read later.

    A word holds four columns of a 32-channel tile. The 14x14 input tiles take 56 words each from word 0 (4 words a
    row), the 7x7 output tiles 14 words each from word 448 (2 words a row). A tile is worked off in passes of seven
    input rows: read the rows, then write the output rows that are complete. An output row is written from the row
    buffer that held an input row, the first of the pass from the first and so on; its eighth column keeps what the
    buffer held there, column 7 of that input row.
    """
    n, size, _, channels = current.shape
    tile, columns = 32, 4
    out_size, tiles = size // 2, channels // tile
    row_words, out_row_words = -(-size // columns), -(-out_size // columns)
    out_base = tile * out_size * out_row_words  # the second bank begins after room for 32 tiles of the output's size
    memory = np.zeros((n, tiles * size, row_words * columns, tile), np.int64)
    memory[:, :, :size] = (
        current.reshape(n, size, size, tiles, tile).transpose(0, 3, 1, 2, 4).reshape(n, -1, size, tile)
    )
    words = memory.reshape(n, -1, columns, tile)  # the same memory, word by word
    output = np.zeros((n, out_size, out_size, channels), np.int64)
    for index in range(tiles):
        selected = slice(index * tile, (index + 1) * tile)
        for first_row, rows in _OVERLAP_PASSES:
            first = index * size
            read = memory[:, first + 2 * rows.start : first + 2 * rows.stop, :size]
            codes = finish(rows, selected, pooled(read))
            output[:, rows, :, selected] = codes
            count = rows.stop - rows.start
            stale = memory[:, first + first_row : first + first_row + count, out_size : out_size + 1]
            start = out_base + (index * out_size + rows.start) * out_row_words
            written = np.concatenate([codes, stale], axis=2)
            words[:, start : start + count * out_row_words] = written.reshape(n, -1, columns, tile)
    return output


_OVERLAP_PASSES = ((0, slice(0, 4)), (7, slice(4, 7)))
"""First input row read and output rows written in each pass of block 12's 3x3."""
