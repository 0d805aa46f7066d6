"""How each arithmetic turns convolution sums into maps: the interface, ``faithful`` and ``float``.

Maps are [N, H, W, C] arrays in the arithmetic's own numbers (int64, or float64 for ``float``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import faithful
from ..fixedpoint import Raw, wrap
from ..model import LayerParameters, Model
from ..networks import GatedLayer

Map = npt.NDArray[Any]
Gate = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TileLimit:
    """1x1 sums are stored per tile of ``channels`` input channels in ``bits`` bits, two's complement."""

    channels: int
    bits: int

    def wrap(self, sums: Raw) -> Raw:
        return wrap(sums, self.bits)


class Rules(Protocol):
    """What an arithmetic defines. ``pointwise_tile`` is ``None`` where 1x1 sums are exact."""

    pointwise_tile: TileLimit | None

    def wrap_sums(self, sums: Raw) -> Raw:
        """A gated layer's sums as the arithmetic stores them."""

    def stem(self, sums: Raw) -> Map:
        """First map from the stem's sums."""

    def activations(self, current: Map) -> npt.NDArray[np.int8]:
        """2-bit activations, 0..3, of a map."""

    def gated(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> tuple[Gate, Map]:
        """Gates and output map of a layer; ``current`` is its input map, from which the shortcut is made."""

    def logits(self, last: Map) -> npt.NDArray[np.float32]:
        """float32 logits [N, classes] from the last map."""


def pooled_parts(current: Map) -> tuple[Map, Map, Map, Map]:
    """The four values of every 2x2 square, in the order the cores add them: (0,0), (0,1), (1,0), (1,1)."""
    return current[:, ::2, ::2], current[:, ::2, 1::2], current[:, 1::2, ::2], current[:, 1::2, 1::2]


def duplicated(layer: GatedLayer, shortcut: Map) -> Map:
    """The shortcut with its channels repeated where the layer doubles them."""
    return np.concatenate([shortcut, shortcut], axis=-1) if layer.duplicates else shortcut


class FaithfulRules:
    """The ``faithful`` arithmetic, from the tables of :mod:`fracbnn_pynq.faithful`."""

    pointwise_tile: TileLimit | None = None

    def __init__(self, model: Model) -> None:
        self._network = model.network
        self._tables = faithful.fuse(model)
        self._codes = model.network.shortcut_bits is not None

    def wrap_sums(self, sums: Raw) -> Raw:
        return sums

    def stem(self, sums: Raw) -> Map:
        table = self._tables.stem
        return _affine(table, sums, np.zeros_like(sums))

    def activations(self, current: Map) -> npt.NDArray[np.int8]:
        if self._codes:
            return faithful.ACTIVATION_OF_CODE[current].astype(np.int8)
        steps = [current >= step for step in faithful.ACTIVATION_STEPS]
        return np.sum(steps, axis=0, dtype=np.int8)

    def gated(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> tuple[Gate, Map]:
        table = self._tables.layers[layer.name]
        gate = msb >= table.gate_at
        return gate, _affine(table, 2 * msb + np.where(gate, lsb, 0), self._shortcut(layer, current))

    def logits(self, last: Map) -> npt.NDArray[np.float32]:
        tables = self._tables
        sums = last.sum(axis=(1, 2))
        positions = self._network.pool_size**2
        return faithful.classifier_logits(sums, tables.fc_weight, tables.fc_exponent, tables.fc_bias, positions)

    def _shortcut(self, layer: GatedLayer, current: Map) -> Map:
        if layer.stride == 2:
            total = np.add.reduce(pooled_parts(current))
            # Codes enter as the exact sum of four (gamma carries the 1/4); wide maps as their mean, rounded half up.
            current = total if self._codes else (total + 2) >> 2
        return duplicated(layer, current)


def _affine(table: faithful.FusedLayer, total: Raw, shortcut: Raw) -> Raw:
    side = np.where(total >= table.knee, 0, 1)
    alpha = np.where(side == 0, table.alpha[0], table.alpha[1])
    beta = np.where(side == 0, table.beta[0], table.beta[1])
    value: Raw = (alpha * total + table.gamma * shortcut + beta) >> table.shift
    if table.codes:
        return np.clip(value, 0, faithful.CODE_MAX)
    return np.clip(value, -faithful.INT16_MAX - 1, faithful.INT16_MAX)


class FloatRules:
    """The network as trained, in float64: the definition in :mod:`fracbnn_pynq.networks`, step by step.

    Quantisers round half to even, as PyTorch's do.
    """

    pointwise_tile: TileLimit | None = None

    def __init__(self, model: Model) -> None:
        self._model = model

    def wrap_sums(self, sums: Raw) -> Raw:
        return sums

    def stem(self, sums: Raw) -> Map:
        weight, bias = self._model.stem_bn
        return sums * weight + bias

    def activations(self, current: Map) -> npt.NDArray[np.int8]:
        # An ImageNet map is stored in 4 bits, but its 2-bit activation is quantised from the unstored value.
        return quantise_unit(current, 3).astype(np.int8)

    def gated(self, layer: GatedLayer, msb: Raw, lsb: Raw, current: Map) -> tuple[Gate, Map]:
        return float_layer(self._model.layers[layer.name], msb, lsb, self._shortcut(layer, current))

    def logits(self, last: Map) -> npt.NDArray[np.float32]:
        logits = last.mean(axis=(1, 2)) @ self._model.fc_weight.T + self._model.fc_bias
        return logits.astype(np.float32)

    def _shortcut(self, layer: GatedLayer, current: Map) -> Map:
        if self._model.network.shortcut_bits is not None:
            current = quantise_unit(current, faithful.CODE_MAX) / faithful.CODE_SCALE - 1
        if layer.stride == 2:
            current = np.add.reduce(pooled_parts(current)) / 4
        return duplicated(layer, current)


def float_layer(p: LayerParameters, msb: Map, lsb: Map, shortcut: Map) -> tuple[Gate, Map]:
    """Gates and float64 outputs of a gated layer as trained, from exact sums and the shortcut; all [..., C]."""
    scaled = msb * (2 / 3)
    gate = 2 * msb > 3 * p.threshold
    value = scaled + np.where(gate, lsb / 3, 0.0)
    u = value * p.bn1_weight + p.bn1_bias + p.shift_x
    y = np.where(u < 0, p.slope * u, u) + p.shift_y
    return gate, (y + shortcut) * p.bn2_weight + p.bn2_bias


def quantise_unit(values: Map, steps: int) -> Map:
    """Clamp to [-1, 1] and round to the ``steps + 1`` levels of the paper's quantiser, ties to even: 0..steps."""
    return np.rint((np.clip(values, -1, 1) + 1) * (steps / 2))
