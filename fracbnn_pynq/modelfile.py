"""A trained model: binary weights, exact one-dimensional parameters, classes, provenance; load, save, check.

A model file is a ``.safetensors`` file with one metadata entry, ``fracbnn``, a JSON object (``format``, ``version``,
``network``, ``classes``, ``provenance``, ``checksum``). Its tensors are listed by :func:`tensor_layout`:

* ``stem.weight``, ``<layer>.weight``: uint8 [out, k, k, in/8]; bit ``c % 8`` (least significant first) of byte
  ``c // 8`` is input channel c, 1 where the weight is +1. The stem's input channel is ``32 * colour + plane``.
* ``stem.bn``: [2, out], weight and bias of the folded batch norm.
* ``<layer>.parameters``: [8, out], rows as :data:`fracbnn_pynq.networks.LAYER_PARAMETERS`.
* ``fc.weight`` [classes, features] and ``fc.bias`` [classes].

Real numbers are stored as float64, or as float32 where that loses nothing. ``fc.weight`` may also be int16 with
``fc.exponent`` int16 [classes]: the weight is then ``fc.weight * 2.0 ** -fc.exponent``, again only where that loses
nothing. Every number a file gives back is exactly the number that was saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .files import read_file, write_file
from .fixedpoint import round_half_up
from .networks import LAYER_PARAMETERS, GatedLayer, Network, Stem, get_network

FORMAT = "fracbnn-model"
VERSION = 1
MAX_FILE_SIZE = 64 << 20
"""Files above this many bytes are refused unread; the larger network needs 6 MB."""

Bits = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]
_INT16_MAX = 32767


@dataclass(frozen=True, eq=False)  # arrays do not compare to a bool
class LayerParameters:
    """One gated layer's trained numbers.

    ``weight``: packed bits, uint8 [out, k, k, in/8]; ``parameters``: float64 [8, out].
    """

    weight: Bits
    parameters: Real

    def __getattr__(self, name: str) -> Real:
        """A row of ``parameters`` by its name in :data:`LAYER_PARAMETERS`: float64 [out]."""
        if name in LAYER_PARAMETERS:
            row: Real = self.parameters[LAYER_PARAMETERS.index(name)]
            return row
        raise AttributeError(name)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model in memory, checked on creation.

    ``provenance`` is a JSON-able mapping: where the model comes from, its licence, what it was trained on, its
    accuracy with the set and the number of pictures, and anything else its maker wants to keep.

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


def _smallest_exact(name: str, tensor: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The tensor in the smallest of the stored types that keeps every number."""
    if tensor.dtype == np.uint8:
        return {name: tensor}
    if name == "fc.weight":
        integers, exponent = quantise_rows(tensor)
        if np.array_equal(np.ldexp(integers.astype(np.float64), -exponent[:, None].astype(np.int64)), tensor):
            return {name: integers, "fc.exponent": exponent}
    single = tensor.astype(np.float32)
    return {name: single if np.array_equal(single.astype(np.float64), tensor) else tensor}


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``; an existing file is replaced only once the new one is complete.

    Raises :class:`~fracbnn_pynq.errors.ModelError` if the provenance is not JSON or ``path`` cannot be written.
    """
    from safetensors.numpy import save  # noqa: PLC0415 - keeps "import fracbnn_pynq" light

    stored: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in model.tensors().items():
        stored.update(_smallest_exact(name, tensor))
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": model.network.name,
        "classes": list(model.classes),
        "provenance": _as_json(model.provenance),
    }
    header["checksum"] = _checksum(header, stored)
    data = save(stored, {"fracbnn": json.dumps(header, sort_keys=True)})
    write_file(Path(path), data, ModelError)


def _as_json(provenance: Mapping[str, Any]) -> Any:
    """The provenance as a file gives it back: keys are text, tuples are lists."""
    try:
        return json.loads(json.dumps(dict(provenance)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"provenance: expected a mapping that JSON can hold, found something else ({error})") from None


def load_model(path: str | os.PathLike[str]) -> Model:
    """Read and check a model file.

    Raises :class:`~fracbnn_pynq.errors.ModelError` if the file cannot be read, is damaged, is of a newer version, or
    holds anything but the tensors of its network.
    """
    path = Path(path)
    data = read_file(path, MAX_FILE_SIZE, ModelError, "model file")
    try:
        return parse_model(data)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def parse_model(data: bytes) -> Model:
    """The model in the bytes of a model file; errors as :func:`load_model`."""
    from safetensors import SafetensorError  # noqa: PLC0415 - as in save_model
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        stored = load(data)
        # The library has just checked that the first 8 bytes hold the length of a well-formed JSON header.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(
            f"expected a complete .safetensors file, found something else ({error}); fetch or export it again"
        ) from None
    header = _parse_header(metadata)
    network = get_network(header["network"]).with_classes(len(header["classes"]))
    checksum = header.pop("checksum")
    try:
        matches = _checksum(header, stored) == checksum
    except RecursionError:
        matches = False
    if not matches:
        raise ModelError("the checksum does not match: the file is damaged; fetch or export it again")
    layout = tensor_layout(network)
    odd = sorted((stored.keys() - {"fc.exponent"}) ^ layout.keys())
    if odd:
        raise ModelError(f"expected the tensors of {network.title}, found a difference at {odd[0]!r}")
    _check_stored(network, stored)
    tensors = _as_float64(stored)
    return Model(
        network=network,
        stem_weight=tensors["stem.weight"],
        stem_bn=tensors["stem.bn"],
        layers={
            layer.name: LayerParameters(tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.parameters"])
            for layer in network.layers
        },
        fc_weight=tensors["fc.weight"],
        fc_bias=tensors["fc.bias"],
        classes=tuple(header["classes"]),
        provenance=header["provenance"],
    )


def _parse_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata["fracbnn"])
        kind, version = header["format"], header["version"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ModelError(f"expected a {FORMAT} file, found .safetensors without its description") from None
    if kind != FORMAT or type(version) is not int or version < 1:
        raise ModelError(f"expected a {FORMAT} file, found {reprlib.repr(kind)} version {reprlib.repr(version)}")
    if version > VERSION:
        raise ModelError(
            f"expected {FORMAT} version {VERSION}, found version {reprlib.repr(version)}: the file was made by a newer "
            "fracbnn_pynq; upgrade this package or export the model for this version"
        )
    expected = {"network": str, "classes": list, "provenance": dict, "checksum": str}
    for key, kind_of in expected.items():
        if not isinstance(header.get(key), kind_of):
            raise ModelError(f"expected {key!r} in the file's description as {kind_of.__name__}, found none")
    return dict(header)


def _check_stored(network: Network, stored: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check stored types and shapes before any arithmetic touches them."""
    shapes = {**tensor_layout(network), "fc.exponent": (network.classes,)}
    for name, tensor in stored.items():
        allowed: tuple[Any, ...] = (np.float64, np.float32)
        if name == "fc.exponent" or (name == "fc.weight" and "fc.exponent" in stored):
            allowed = (np.int16,)
        elif name.endswith(".weight") and name != "fc.weight":
            allowed = (np.uint8,)
        if tensor.dtype not in [np.dtype(kind) for kind in allowed] or tensor.shape != shapes[name]:
            names = " or ".join(np.dtype(kind).name for kind in allowed)
            raise ModelError(
                f"tensor {name!r}: expected {names} {list(shapes[name])}, found {tensor.dtype} {list(tensor.shape)}"
            )


def _as_float64(stored: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    with np.errstate(invalid="ignore"):  # signalling NaN; every NaN is refused later
        tensors = {
            name: tensor if tensor.dtype == np.uint8 else tensor.astype(np.float64) for name, tensor in stored.items()
        }
    exponent = stored.get("fc.exponent")
    if exponent is not None:
        if np.abs(exponent.astype(np.int64)).max() > 100:
            raise ModelError("tensor 'fc.exponent': expected exponents between -100 and 100, found larger ones")
        tensors["fc.weight"] = np.ldexp(tensors["fc.weight"], -exponent[:, None].astype(np.int64))
    return tensors


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
