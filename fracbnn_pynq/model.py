"""A trained model in memory: binary weights, exact one-dimensional parameters, classes, provenance."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .fixedpoint import round_half_up
from .networks import LAYER_PARAMETERS, GatedLayer, Network, Stem

Bits = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]
_INT16_MAX = 32767


class _Row:
    """A row of ``LayerParameters.parameters`` as an attribute."""

    def __init__(self, name: str) -> None:
        self._index = LAYER_PARAMETERS.index(name)

    def __get__(self, layer: LayerParameters, _owner: type | None = None) -> Real:
        row: Real = layer.parameters[self._index]
        return row


@dataclass(frozen=True, eq=False)  # arrays do not compare to a bool
class LayerParameters:
    """One gated layer's trained numbers.

    ``weight``: packed bits, uint8 [out, k, k, in/8]; ``parameters``: float64 [8, out], whose rows have the names of
    :data:`LAYER_PARAMETERS`.
    """

    weight: Bits
    parameters: Real

    threshold = _Row("threshold")
    bn1_weight = _Row("bn1_weight")
    bn1_bias = _Row("bn1_bias")
    shift_x = _Row("shift_x")
    slope = _Row("slope")
    shift_y = _Row("shift_y")
    bn2_weight = _Row("bn2_weight")
    bn2_bias = _Row("bn2_bias")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model in memory, checked on creation.

    ``provenance`` is a JSON-able mapping: where the model comes from, its licence, what it was trained on, its
    accuracy with the set and the number of pictures, and anything else its maker wants to keep. ``arithmetic``: the one
    arithmetic the parameters are for (see :mod:`fracbnn_pynq.arithmetic`); in any other this is another network.

    Raises :class:`~fracbnn_pynq.errors.ModelError` where shapes, dtypes or numbers are not a model of ``network``.
    """

    network: Network
    stem_weight: Bits
    stem_bn: Real
    layers: Mapping[str, LayerParameters]
    fc_weight: Real
    fc_bias: Real
    classes: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    arithmetic: str | None = None

    def __post_init__(self) -> None:
        _check_tensors(self)
        if len(self.classes) != self.network.classes:
            raise ModelError(
                f"expected {self.network.classes} class names for {self.network.title}, found {len(self.classes)}"
            )
        for name in self.classes:
            if not (isinstance(name, str) and name and name.isprintable()):
                raise ModelError(f"expected class names of printable characters, found {reprlib.repr(name)}")

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Every tensor under its name in the file, real numbers as float64."""
        named: dict[str, npt.NDArray[Any]] = {"stem.weight": self.stem_weight, "stem.bn": self.stem_bn}
        for name, layer in self.layers.items():
            named[f"{name}.weight"] = layer.weight
            named[f"{name}.parameters"] = layer.parameters
        named["fc.weight"] = self.fc_weight
        named["fc.bias"] = self.fc_bias
        return named


def pack_weight(signs: npt.NDArray[Any]) -> Bits:
    """Pack real or +-1 weights [out, in, k, k] into uint8 [out, k, k, in/8]; +1 is a weight above zero."""
    return np.packbits(np.moveaxis(np.asarray(signs) > 0, 1, -1), axis=-1, bitorder="little")


def unpack_weight(packed: Bits) -> npt.NDArray[np.int8]:
    """Inverse of :func:`pack_weight`: int8 [out, k, k, in] (channels last), +1 or -1."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little").astype(np.int8)
    signs: npt.NDArray[np.int8] = 2 * bits - 1
    return signs


def tensor_layout(network: Network) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a model file of ``network`` (``fc.exponent`` aside)."""

    def weight(layer: Stem | GatedLayer) -> tuple[int, ...]:
        return (layer.out_channels, layer.kernel, layer.kernel, layer.in_channels // 8)

    layout: dict[str, tuple[int, ...]] = {
        "stem.weight": weight(network.stem),
        "stem.bn": (2, network.stem.out_channels),
    }
    for layer in network.layers:
        layout[f"{layer.name}.weight"] = weight(layer)
        layout[f"{layer.name}.parameters"] = (len(LAYER_PARAMETERS), layer.out_channels)
    layout["fc.weight"] = (network.classes, network.features)
    layout["fc.bias"] = (network.classes,)
    return layout


def _check_tensors(model: Model) -> None:
    layout = tensor_layout(model.network)
    tensors = model.tensors()
    if tensors.keys() != layout.keys():
        odd = sorted(tensors.keys() ^ layout.keys())
        raise ModelError(f"expected the layers of {model.network.title}, found a difference at {odd[0]!r}")
    for name, shape in layout.items():
        tensor = tensors[name]
        dtype = np.dtype(np.uint8) if name.endswith(".weight") and name != "fc.weight" else np.dtype(np.float64)
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ModelError(
                f"tensor {name!r}: expected {dtype} {list(shape)}, found {tensor.dtype} {list(tensor.shape)}"
            )
        if dtype != np.uint8 and not (np.isfinite(tensor).all() and np.abs(tensor).max() < 1e6):
            raise ModelError(f"tensor {name!r}: expected finite numbers below a million, found NaN, infinite or larger")


def quantise_rows(weights: Real) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Round each row to 16-bit integers with the finest power-of-two step that holds the row.

    ``weights``: float64 [rows, columns]. Returns (int16 [rows, columns], exponent int16 [rows]) with
    ``weights ~= integers * 2.0 ** -exponent``, ties towards +infinity.
    """
    largest = np.abs(weights).max(axis=1)
    # frexp: largest = mantissa * 2**power with mantissa in [0.5, 1), so 15 - power fills 15 bits; an exponent above
    # 100 (a row of next to nothing) gains nothing.
    exponent = np.minimum(15 - np.frexp(largest)[1].astype(np.int64), 100)
    exponent -= round_half_up(np.ldexp(largest, exponent)) > _INT16_MAX
    integers = round_half_up(np.ldexp(weights, exponent[:, None]))
    return integers.astype(np.int16), exponent.astype(np.int16)


def random_model(network: Network, seed: int = 0) -> Model:
    """A model with random weights and parameters in the range of trained ones, for tests and benchmarks."""
    rng = np.random.default_rng(seed)

    def bits(layer: Stem | GatedLayer) -> Bits:
        shape = (layer.out_channels, layer.kernel, layer.kernel, layer.in_channels // 8)
        return rng.integers(0, 256, shape, dtype=np.uint8)

    def parameters(layer: GatedLayer) -> Real:
        n, taps = layer.out_channels, layer.in_channels * layer.kernel**2
        rows = {
            "threshold": rng.normal(0, 0.3 * taps**0.5, n),
            "bn1_weight": rng.normal(1.5, 1.0, n) / taps**0.5,
            "bn1_bias": rng.normal(0, 0.5, n),
            "shift_x": rng.normal(0, 0.3, n),
            "slope": rng.normal(0.25, 0.5, n),
            "shift_y": rng.normal(0, 0.3, n),
            "bn2_weight": rng.normal(0.8, 0.3, n),
            "bn2_bias": rng.normal(0, 0.3, n),
        }
        return np.stack([rows[name] for name in LAYER_PARAMETERS])

    stem = network.stem
    channels = stem.out_channels
    return Model(
        network=network,
        stem_weight=bits(stem),
        stem_bn=np.stack([rng.normal(0.02, 0.01, channels), rng.normal(0, 0.5, channels)]),
        layers={layer.name: LayerParameters(bits(layer), parameters(layer)) for layer in network.layers},
        fc_weight=rng.normal(0, 0.3, (network.classes, network.features)),
        fc_bias=rng.normal(0, 0.3, network.classes),
        classes=tuple(f"class {i}" for i in range(network.classes)),
        provenance={"description": f"random numbers, seed {seed}"},
    )
