"""A model and an arithmetic as the plan that the native kernels run (native/fracbnn.h describes its layout)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import faithful, native
from ..arithmetic import FAITHFUL, IMAGENET_2021, Arithmetic, PublishedArithmetic, quantise_published
from ..fixedpoint import Raw
from ..hostclassifier import host_classifier
from ..model import Model, unpack_weight
from ..networks import THERMOMETER_LEVELS, GatedLayer
from .published import ImageNetRules, gate_at, overlaps

LANES = 16
STEM_LEVELS = THERMOMETER_LEVELS + 2
"""0..32 lit planes, and one level for the border, which adds nothing."""
PUBLISHED_RULES = {"cifar10-2021": 2, "cifar10-2020": 3, "imagenet-2021": 4}
FAITHFUL_MAP, FAITHFUL_CODES = 0, 1

Int32 = npt.NDArray[np.int32]


class _Arrays:
    """Arrays for the C side, kept alive together."""

    def __init__(self, layout: str) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._layout = layout

    def _keep(self, array: npt.NDArray[Any], dtype: npt.DTypeLike) -> int:
        """Address of a 64-byte aligned copy of ``array`` that lives as long as this object."""
        source = np.ascontiguousarray(array, dtype)
        room = np.zeros(source.nbytes + 64, np.uint8)
        offset = -room.ctypes.data % 64
        room[offset : offset + source.nbytes] = source.reshape(-1).view(np.uint8)
        self._arrays.append(room)
        return int(room.ctypes.data) + offset

    def _keep_weight(self, weight: npt.NDArray[np.int8], layer: GatedLayer) -> tuple[int, int]:
        """Addresses of the weights in the engine's layout and of the sums' starts."""
        packed = _row_weights(weight) if self._layout == "rows" else _lane_weights(weight)
        return self._keep(packed, packed.dtype), self._keep(_start(weight, layer), np.int32)


class Plan(_Arrays):
    """Arrays of a plan. ``words`` int64 is the ``struct fb_plan`` the C side reads.

    ``engine``: a name of :func:`fracbnn_pynq.native.engines`. ``sums_of``: fused tables to
    use in place of the model's; the logits are then what its classifier makes of the last map's sums, not of means.
    """

    def __init__(
        self,
        model: Model,
        arithmetic: Arithmetic,
        *,
        engine: str,
        sums_of: faithful.FusedTables | None = None,
    ) -> None:
        super().__init__(native.engines()[engine])
        self._model = model
        if sums_of is not None:
            tables = _faithful_tables(model, sums_of)
            tables.fc_divisor, tables.fc_step = 1, np.ones(model.network.classes)
        elif arithmetic is FAITHFUL:
            tables = _faithful_tables(model, faithful.fuse(model))
        else:
            tables = _published_tables(model, arithmetic)
        network, stem = model.network, model.network.stem
        layers = [self._layer(layer, tables) for layer in network.layers]
        head = [
            network.image_size,
            stem.out_channels,
            stem.stride,
            tables.rules[0],
            tables.sum_bits,
            self._keep(stem_lookup(unpack_weight(model.stem_weight)), np.int8),
            self._keep(tables.stem, np.int32),
            len(layers),
            self._keep(np.array(layers), np.int64),
            network.classes,
            *(self._keep(array, array.dtype) for array in tables.fc),
            tables.fc_scale,
            tables.fc_divisor,
            self._keep(tables.fc_offset, np.int64),
            self._keep(tables.fc_step, np.float64),
            0,
        ]
        self.words = np.array(head, np.int64)
        prepared = native.prepare(engine, self.words)
        if prepared is not None:
            self._arrays.append(prepared)

    def _layer(self, layer: GatedLayer, tables: _Tables) -> list[int]:
        return [
            layer.in_channels,
            layer.out_channels,
            layer.in_size,
            layer.out_size,
            layer.kernel,
            layer.stride,
            tables.rules[1] if layer is self._model.network.layers[-1] else tables.rules[0],
            self._model.network.shortcut_bits is not None,
            tables.sum_bits,
            tables.wraps_tiles(layer),
            bool(tables.overlap and overlaps(layer)),
            *self._keep_weight(unpack_weight(self._model.layers[layer.name].weight), layer),
            self._keep(tables.layers[layer.name], np.int32),
        ]


class LayerPlan(_Arrays):
    """One layer of the published ImageNet core, to run alone. ``words`` int64 is its ``struct fb_layer``.

    ``weight`` int8 [out, k, k, in], +1 or -1. ``raw``: parameters as the core holds them, int64 [8, out]; ``None`` for
    sums only, M and L both, whatever the gate. ``exact``: sums as the network defines them, not as the core has them.
    """

    def __init__(
        self,
        layer: GatedLayer,
        weight: npt.NDArray[np.int8],
        raw: Raw | None = None,
        *,
        layout: str,
        exact: bool = False,
    ) -> None:
        super().__init__(layout)
        if raw is None:
            table = np.zeros((8, layer.out_channels), np.int64)
            table[0] = -(1 << 15)
        else:
            table = _published_rows(IMAGENET_2021, raw)
        fields = [
            layer.in_channels,
            layer.out_channels,
            layer.in_size,
            layer.out_size,
            layer.kernel,
            layer.stride,
            PUBLISHED_RULES[IMAGENET_2021.name],
            True,
            0 if exact else ImageNetRules.SUM_BITS,
            layer.kernel == 1 and not exact,
            raw is not None and overlaps(layer),
            *self._keep_weight(weight, layer),
            self._keep(table, np.int32),
        ]
        self.words = np.array(fields, np.int64)


class _Tables:
    """What an arithmetic puts into a plan, in the plan's own types.

    ``rules``: of all layers, and of the last one. ``fc``: weight and bias.
    """

    def __init__(self, model: Model) -> None:
        self.rules: tuple[int, int]
        self.sum_bits = 0
        self.overlap = False
        self.stem: Raw
        self.layers: dict[str, Raw] = {}
        self.fc: Sequence[npt.NDArray[Any]]
        self.fc_scale = 1
        self.fc_divisor = model.network.pool_size**2
        self.fc_offset = np.zeros(model.network.classes, np.int64)
        self.fc_step = np.ones(model.network.classes)

    def wraps_tiles(self, layer: GatedLayer) -> bool:
        """Whether the layer's sums are stored tile by tile in too few bits: 1x1 of the ImageNet core."""
        return self.sum_bits > 0 and layer.kernel == 1


def _faithful_tables(model: Model, fused: faithful.FusedTables) -> _Tables:
    tables = _Tables(model)
    tables.rules = (FAITHFUL_MAP if model.network.shortcut_bits is None else FAITHFUL_CODES, FAITHFUL_MAP)
    tables.stem = _fused_rows(fused.stem)
    tables.layers = {name: _fused_rows(layer) for name, layer in fused.layers.items()}
    tables.fc = (fused.fc_weight, fused.fc_bias)
    tables.fc_step = np.ldexp(1.0, -(fused.fc_exponent.astype(np.int64) + faithful.FRACTION))
    return tables


def _fused_rows(layer: faithful.FusedLayer) -> Raw:
    """Rows FB_GATE_AT .. FB_SHIFT."""
    return np.stack([layer.gate_at, layer.knee, *layer.alpha, layer.gamma, *layer.beta, layer.shift])


def _published_tables(model: Model, arithmetic: Arithmetic) -> _Tables:
    assert isinstance(arithmetic, PublishedArithmetic)  # noqa: S101 - "float" is refused before a plan is made
    raw = quantise_published(model, arithmetic)
    rule = PUBLISHED_RULES[arithmetic.name]
    tables = _Tables(model)
    tables.rules = (rule, rule)
    tables.stem = np.zeros((8, model.network.stem.out_channels), np.int64)
    tables.stem[1:3] = raw.stem
    for layer in model.network.layers:
        tables.layers[layer.name] = _published_rows(arithmetic, raw.layers[layer.name])
    if arithmetic.network == IMAGENET_2021.network:
        tables.sum_bits = ImageNetRules.SUM_BITS
        tables.overlap = arithmetic.overlap
        classifier = host_classifier(model)
        tables.fc = (classifier.weight.astype(np.int16), classifier.bias)
        tables.fc_scale, tables.fc_divisor = classifier.scale, classifier.divisor
        tables.fc_offset, tables.fc_step = classifier.offset, classifier.step
    else:
        tables.fc = (raw.fc_weight.astype(np.int32), raw.fc_bias.astype(np.int32))
    return tables


def _published_rows(arithmetic: PublishedArithmetic, raw: Raw) -> Raw:
    """The threshold becomes the smallest M that opens the gate: one compare for every arithmetic."""
    return np.concatenate([gate_at(arithmetic, raw[0])[None], raw[1:]])


def stem_lookup(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """What each tap and colour adds to the stem's sums at each thermometer level.

    ``weight`` int8 [out, 3, 3, 96]. At level r, planes 0..r-1 are +1 and the others -1, so the sum is twice the running
    sum of the weights less their total: a table makes 32 multiplications one look-up. Returns int8 [27, 34, out]; the
    last level, the border's, is zero.
    """
    out = len(weight)
    planes = weight.reshape(out, 9, 3, THERMOMETER_LEVELS).astype(np.int64)
    running = np.concatenate([np.zeros((out, 9, 3, 1), np.int64), planes.cumsum(axis=-1)], axis=-1)
    sums = 2 * running - running[..., -1:]
    table = np.concatenate([sums, np.zeros((out, 9, 3, 1), np.int64)], axis=-1)
    return np.ascontiguousarray(table.transpose(1, 2, 3, 0).reshape(27, STEM_LEVELS, out).astype(np.int8))


def _lane_weights(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint32]:
    """uint32 [out/16][k][k][groups][16]: a lane is an output channel, its 16 weight bits in both halves."""
    out, k, _, channels = weight.shape
    bits = np.packbits(weight > 0, axis=-1, bitorder="little").view("<u2").astype(np.uint32)
    lanes = bits.reshape(out // LANES, LANES, k, k, channels // LANES).transpose(0, 2, 3, 4, 1)
    return np.ascontiguousarray(lanes | lanes << 16)


def _row_weights(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    """uint64 [out][words]: an output channel's bits (k, k, channel) end to end, the last word filled with zeros."""
    bits = (weight > 0).reshape(len(weight), -1)
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 64)))
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8")


def _start(weight: npt.NDArray[np.int8], layer: GatedLayer) -> Int32:
    """Half sums before any popcount, by border class, in both halves of a word: int32 [3, 3, out].

    A popcount over all taps counts, for a tap outside the map (its bits read as zero), the tap's +1 weights; adding
    them again leaves half the number of valid bits.
    """
    out, k, _, channels = weight.shape
    ones = (weight > 0).sum(axis=-1, dtype=np.int64)  # [out, k, k]
    start = np.zeros((3, 3, out), np.int64)
    for vertical in range(3):
        for horizontal in range(3):
            outside = np.zeros((k, k), bool)
            if k > 1:
                outside[0] |= vertical == 0
                outside[-1] |= vertical == 2
                outside[:, 0] |= horizontal == 0
                outside[:, -1] |= horizontal == 2
            valid = (k * k - np.count_nonzero(outside)) * channels
            start[vertical, horizontal] = valid // 2 + ones[:, outside].sum(axis=-1)
    return (start << 16 | start).astype(np.int32)
