"""An ImageNet model in parts that a calibration changes: weights, parameters as trained and as the core holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import IMAGENET_2021, quantise_published
from .fixedpoint import Raw
from .model import Bits, LayerParameters, Model, Real, quantise_rows
from .networks import GatedLayer, Network

RAW_ONE = 1 << IMAGENET_2021.parameter.fraction
"""1.0 as the core holds a parameter."""
FOLD_ONE = 1 << 16
"""1.0 as an affine map of the features holds it."""
Order = npt.NDArray[np.int64]


@dataclass
class LayerDraft:
    """One gated layer.

    ``bits``: weights, uint8 [out, k, k, in], 1 for +1. ``wanted``: float64 [8, out], the parameters with which the
    float network would compute, for these weights, what it was trained to. ``raw``: int64 [8, out], the core's.
    """

    bits: Bits
    wanted: Real
    raw: Raw

    def signs(self) -> npt.NDArray[np.int8]:
        """The weights as +1 and -1, int8 [out, k, k, in]."""
        return (2 * self.bits.astype(np.int8) - 1).astype(np.int8)

    def part(self, channels: slice) -> LayerDraft:
        """Some output channels alone; changing the arrays changes the whole's."""
        return LayerDraft(self.bits[channels], self.wanted[:, channels], self.raw[:, channels])

    def row(self, index: int, channels: Any, values: Any) -> None:
        """Set wanted parameters of some channels, and their nearest raw numbers."""
        self.wanted[index, channels] = values
        self.raw[index, channels] = nearest_raw(self.wanted[index, channels])


@dataclass
class Draft:
    """A model in parts that the steps of the calibration change."""

    network: Network
    classes: tuple[str, ...]
    stem_weight: Bits
    stem_wanted: Real
    stem_raw: Raw
    layers: dict[str, LayerDraft]
    fc_weight: Real
    fc_bias: Real

    @classmethod
    def of(cls, model: Model) -> Draft:
        """A draft that is ``model`` as the core would run it today."""
        tables = quantise_published(model, IMAGENET_2021)
        layers = {
            name: LayerDraft(
                np.unpackbits(layer.weight, axis=-1, bitorder="little"),
                layer.parameters.copy(),
                tables.layers[name].copy(),
            )
            for name, layer in model.layers.items()
        }
        return cls(
            model.network,
            model.classes,
            model.stem_weight,
            model.stem_bn.copy(),
            tables.stem.copy(),
            layers,
            in_16_bits(model.fc_weight),
            model.fc_bias.copy(),
        )

    def permute(self, orders: Mapping[int, Order]) -> None:
        """Put the channels of every layer into another order; the network computes what it did.

        ``orders``: by number of channels, place in the new order to channel in the old one. Where a layer doubles its
        channels, the two that share a shortcut must stay apart by the number of its inputs.
        """
        for layer in self.network.layers:
            part = self.layers[layer.name]
            out, inner = orders[layer.out_channels], orders[layer.in_channels]
            part.bits = np.ascontiguousarray(part.bits[out][..., inner])
            part.wanted = part.wanted[:, out]
            part.raw = part.raw[:, out]
        self.fc_weight = np.ascontiguousarray(self.fc_weight[:, orders[self.network.features]])

    def fold(self, affine: npt.NDArray[np.int32]) -> None:
        """Take an affine map of the pooled features into the classifier, whose weights get 16 bits again.

        ``affine`` int32 [2, features]: gain and offset in steps of 2**-16. With 16-bit weights products and sums are
        integers below 2**53, which float64 adds up exactly in any order.
        """
        gain, offset = affine / FOLD_ONE
        self.fc_bias = self.fc_bias + self.fc_weight @ offset
        self.fc_weight = in_16_bits(self.fc_weight * gain)

    def model(self, provenance: Mapping[str, Any]) -> Model:
        """The model as it stands."""
        layers = {
            name: LayerParameters(np.packbits(layer.bits, axis=-1, bitorder="little"), layer.raw / RAW_ONE)
            for name, layer in self.layers.items()
        }
        return Model(
            self.network,
            self.stem_weight,
            self.stem_raw / RAW_ONE,
            layers,
            self.fc_weight,
            self.fc_bias,
            self.classes,
            provenance,
        )

    def wanted(self, layer: GatedLayer) -> LayerParameters:
        """The wanted parameters of a layer, by name; without weights."""
        return LayerParameters(np.zeros(0, np.uint8), self.layers[layer.name].wanted)


def in_16_bits(weight: Real) -> Real:
    """The classifier's weights as the host computes with them: 16 bits a weight, one step per class."""
    integers, exponent = quantise_rows(weight)
    return np.ldexp(integers.astype(np.float64), -exponent[:, None].astype(np.int64))


def nearest_raw(values: Real) -> Raw:
    """The core's numbers nearest to real parameters, saturated."""
    return IMAGENET_2021.parameter.quantise(values)[0]
