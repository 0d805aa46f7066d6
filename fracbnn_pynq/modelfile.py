"""Model files: save, load, check.

A model file is a ``.safetensors`` file with one metadata entry, ``fracbnn``, a JSON object (``format``, ``version``,
``network``, ``classes``, ``provenance``, ``checksum``, and ``arithmetic`` where the model is for one only). Its tensors
are listed by :func:`.model.tensor_layout`:

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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ModelError
from .files import read_file, write_file
from .model import LayerParameters, Model, quantise_rows, tensor_layout
from .networks import Network, get_network

FORMAT = "fracbnn-model"
VERSION = 1
MAX_FILE_SIZE = 64 << 20
"""Files above this many bytes are refused unread; the larger network needs 6 MB."""


def _smallest_exact(name: str, tensor: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The tensor in the smallest of the stored types that keeps every number; rows end to end, as files have them."""
    tensor = np.ascontiguousarray(tensor)  # safetensors writes memory as it lies
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
    write_file(Path(path), dump_model(model), ModelError)


def dump_model(model: Model) -> bytes:
    """The bytes of a model file; :func:`parse_model` reads them.

    Raises :class:`~fracbnn_pynq.errors.ModelError` if the provenance is not JSON.
    """
    from safetensors.numpy import save  # noqa: PLC0415 - keeps "import fracbnn_pynq" light

    header, stored = _described(model)
    return save(stored, {"fracbnn": json.dumps(header, sort_keys=True)})


def model_digest(model: Model) -> str:
    """SHA-256 of what the model's file says and holds, in hexadecimal; the same for each way of writing that file."""
    digest: str = _described(model)[0]["checksum"]
    return digest


def _described(model: Model) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """A model file's description, with its checksum, and its tensors as they are stored."""
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
    if model.arithmetic is not None:
        header["arithmetic"] = model.arithmetic
    header["checksum"] = _checksum(header, stored)
    return header, stored


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
    from safetensors import SafetensorError  # noqa: PLC0415 - as in dump_model
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        stored = load(data)
        # The library has just checked that the first 8 bytes hold the length of a well-formed JSON header.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(
            f"expected a complete .safetensors file, found something else ({error})", advice="fetch or export it again"
        ) from None
    header = _parse_header(metadata)
    network = get_network(header["network"]).with_classes(len(header["classes"]))
    checksum = header.pop("checksum")
    try:
        matches = _checksum(header, stored) == checksum
    except RecursionError:
        matches = False
    if not matches:
        raise ModelError("the checksum does not match: the file is damaged", advice="fetch or export it again")
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
        arithmetic=header.get("arithmetic"),
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
            "fracbnn_pynq",
            advice="upgrade this package or export the model for this version",
        )
    expected = {"network": str, "classes": list, "provenance": dict, "checksum": str}
    for key, kind_of in expected.items():
        if not isinstance(header.get(key), kind_of):
            raise ModelError(f"expected {key!r} in the file's description as {kind_of.__name__}, found none")
    if not isinstance(header.get("arithmetic", ""), str):
        raise ModelError(f"expected 'arithmetic' in the file's description as str, found {header['arithmetic']!r:.40}")
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
