"""What a calibration changes of a model, as a small file: no weights of the model it is a difference from.

A difference is a ``.safetensors`` file with one metadata entry, ``fracbnn-difference``: a JSON object (``version``,
``base``: the fingerprint of the model it applies to, ``arithmetic``, ``provenance``, ``checksum``). Its tensors:

* ``order``: int16 [512], place in the new order to channel in the old one, where the channels are permuted;
* ``<layer>.flips``: uint32, ascending: weights that change their sign, by place in [out, k, k, in], new order;
* ``stem.raw`` int16 [2, C], ``<layer>.raw`` int16 [8, C]: parameters as the core holds them;
* ``affine`` int32 [2, features]: gain and offset of the pooled features, in steps of 2**-16, for the classifier.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import IMAGENET_2021
from .draft import Draft
from .errors import ModelError
from .files import read_file, write_file
from .model import Model
from .networks import IMAGENET

METADATA = "fracbnn-difference"
VERSION = 1
MAX_FILE_SIZE = 16 << 20
_ORDERED = 512

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """A difference in memory. ``base``: fingerprint of the model it applies to."""

    base: str
    tensors: Tensors
    provenance: Mapping[str, Any]
    arithmetic: str = IMAGENET_2021.name

    def apply(self, model: Model) -> Model:
        """The calibrated model. Raises ModelError where ``model`` is not the one this is a difference from."""
        found = fingerprint(model)
        if found != self.base:
            raise ModelError(
                f"expected the model with the fingerprint {self.base}, which this calibration is for, found {found}",
                advice="fetch imagenet-authors again, or calibrate your own model",
            )
        draft = Draft.of(model)
        if "order" in self.tensors:
            draft.permute(orders_of(self.tensors["order"].astype(np.int64)))
        draft.stem_raw = self.tensors["stem.raw"].astype(np.int64)
        for name, layer in draft.layers.items():
            layer.bits.reshape(-1)[self.tensors[f"{name}.flips"]] ^= 1
            layer.raw = self.tensors[f"{name}.raw"].astype(np.int64)
        draft.fold(self.tensors["affine"])
        provenance = {**model.provenance, **self.provenance}
        return replace(draft.model(provenance), arithmetic=self.arithmetic)


def difference(
    model: Model,
    draft: Draft,
    orders: Mapping[int, npt.NDArray[np.int64]] | None,
    affine: npt.NDArray[np.int32],
    provenance: Mapping[str, Any],
) -> Difference:
    """What turns ``model`` into the calibrated ``draft``."""
    start = Draft.of(model)
    tensors: Tensors = {"stem.raw": draft.stem_raw.astype(np.int16), "affine": affine.astype(np.int32)}
    if orders is not None:
        start.permute(orders)
        tensors["order"] = orders[_ORDERED].astype(np.int16)
    for name, layer in draft.layers.items():
        flips = np.flatnonzero((layer.bits != start.layers[name].bits).reshape(-1))
        tensors[f"{name}.flips"] = flips.astype(np.uint32)
        tensors[f"{name}.raw"] = np.ascontiguousarray(layer.raw, np.int16)
    return Difference(fingerprint(model), tensors, dict(provenance))


def orders_of(order: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.int64]]:
    """Orders by number of channels, of which the one of 512 channels says all."""
    orders = {_ORDERED: order, 2 * _ORDERED: np.concatenate([order, order + _ORDERED])}
    width = _ORDERED
    while width > IMAGENET.stem.out_channels:
        width //= 2
        orders[width] = orders[2 * width][:width] % width
    return orders


def fingerprint(model: Model) -> str:
    """A model's numbers as a short text."""
    digest = hashlib.sha256(model.network.name.encode())
    for name, tensor in model.tensors().items():
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()[:32]


def save_difference(given: Difference, path: Path) -> None:
    """Write a difference whole, or not at all; raises ModelError."""
    from safetensors.numpy import save  # noqa: PLC0415 - as in modelfile

    header = {
        "version": VERSION,
        "base": given.base,
        "arithmetic": given.arithmetic,
        "provenance": dict(given.provenance),
    }
    header["checksum"] = _checksum(header, given.tensors)
    write_file(path, save(given.tensors, {METADATA: json.dumps(header, sort_keys=True)}), ModelError)


def load_difference(path: Path) -> Difference:
    """Read and check a difference; raises ModelError."""
    from safetensors import SafetensorError  # noqa: PLC0415 - as in modelfile
    from safetensors.numpy import load  # noqa: PLC0415

    data = read_file(path, MAX_FILE_SIZE, ModelError, "calibration")
    try:
        tensors = load(data)
        outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header = json.loads(outer["__metadata__"][METADATA])
        version, checksum = header["version"], header.pop("checksum")
        base, arithmetic, provenance = header["base"], header["arithmetic"], header["provenance"]
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(
            f"{path}: expected a calibration, found something else ({error})", advice="reinstall this package"
        ) from None
    if version != VERSION:
        raise ModelError(f"{path}: expected version {VERSION}, found {version!r:.40}", advice="upgrade this package")
    if _checksum(header, tensors) != checksum:
        raise ModelError(f"{path}: the checksum does not match: the file is damaged", advice="reinstall this package")
    _check(path, tensors)
    return Difference(base, tensors, provenance, arithmetic)


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _check(path: Path, tensors: Tensors) -> None:
    """Everything that could break :meth:`Difference.apply`."""
    expected: dict[str, tuple[Any, tuple[int, ...] | None]] = {
        "stem.raw": (np.int16, (2, IMAGENET.stem.out_channels)),
        "affine": (np.int32, (2, IMAGENET.features)),
    }
    for layer in IMAGENET.layers:
        expected[f"{layer.name}.raw"] = (np.int16, (8, layer.out_channels))
        expected[f"{layer.name}.flips"] = (np.uint32, None)
    if "order" in tensors:
        expected["order"] = (np.int16, (_ORDERED,))
    odd = sorted(expected.keys() ^ tensors.keys())
    if odd:
        raise ModelError(f"{path}: expected the tensors of a calibration, found a difference at {odd[0]!r}")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != dtype or (tensor.shape != shape if shape else tensor.ndim != 1):
            raise ModelError(f"{path}: tensor {name!r}: expected {np.dtype(dtype)} {shape}, found {tensor.dtype}")
    for layer in IMAGENET.layers:
        flips = tensors[f"{layer.name}.flips"]
        count = layer.out_channels * layer.kernel**2 * layer.in_channels
        if len(flips) and not (np.all(flips[1:] > flips[:-1]) and int(flips[-1]) < count):
            raise ModelError(f"{path}: expected ascending weights below {count} in {layer.name}, found others")
    if "order" in tensors:
        orders = orders_of(tensors["order"].astype(np.int64))
        wrong = not np.array_equal(orders[IMAGENET.stem.out_channels], np.arange(IMAGENET.stem.out_channels))
        for width in sorted(orders)[1:]:
            half = orders[width // 2]
            halves = orders[width].reshape(2, -1)
            siblings = np.sum(halves >= width // 2, axis=0) == 1
            wrong = wrong or not (np.array_equal(halves % (width // 2), [half, half]) and bool(np.all(siblings)))
        if wrong:
            raise ModelError(f"{path}: expected an order that keeps the network's repeated channels, found another")
