"""Inference requests of the Open Inference Protocol v2, from bytes to pictures, with every check on the way.

A model has two inputs, of which a request gives one: ``images``, UINT8 [n, S, S, 3], RGB at the network's size, and
``pictures``, BYTES [n], encoded files (JPEG, PNG, ...): as they are in binary data, as base64 text in JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from ..networks import Network
from . import oip_binary
from .errors import ServiceError, too_large
from .media import decode
from .worker import Images

IMAGES = "images"
PICTURES = "pictures"
LOGITS = "logits"
PROBABILITIES = "probabilities"
LABELS = "labels"
OUTPUTS = (LOGITS, PROBABILITIES, LABELS)

DATATYPES = {IMAGES: "UINT8", PICTURES: "BYTES"}

_SHOWN = 80


@dataclass(frozen=True)
class Output:
    """An output asked for. ``classification``: so many best classes as text instead of numbers; 0: numbers."""

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """What a request says about its answer."""

    id: str | None
    outputs: tuple[Output, ...]


def parse(
    body: bytes, header: str | None, network: Network, *, max_batch: int, max_pixels: int
) -> tuple[Images, InferRequest]:
    """The pictures of a request, uint8 [n, S, S, 3], and what it says about its answer.

    ``header``: the value of Inference-Header-Content-Length. Raises
    :class:`~fracbnn_pynq.service.errors.ServiceError`: 400 for what does not follow the protocol or the model's
    metadata, 413 for too many pictures or pixels, 422 for pictures that cannot be read.
    """
    text, binary = oip_binary.split(body, header)
    document = _object(_load(text), "the body")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        _refuse("id: expected a string", identifier)
    parameters = _parameters(document, "the body")
    outputs = _outputs(document, default=_flag(parameters, "binary_data_output", "the body", default=False))
    tensor, raw = _only_input(document, binary)
    shape = _shape(tensor)
    if shape[0] > max_batch:
        raise too_large(f"shape: expected at most {max_batch} pictures, found {shape[0]}")
    read = _images if tensor["name"] == IMAGES else _pictures
    return read(tensor, shape, raw, network, max_pixels), InferRequest(identifier, outputs)


def _load(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: _refuse("JSON: expected finite numbers", name))
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, f"the body is not JSON: {error}") from None


def _refuse(expectation: str, found: Any) -> NoReturn:
    shown = repr(found)
    raise ServiceError(400, f"{expectation}, found {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what}: expected a JSON object", value)
    return value


def _parameters(owner: dict[str, Any], what: str) -> dict[str, Any]:
    value = owner.get("parameters")
    return {} if value is None else _object(value, f"parameters of {what}")


def _flag(parameters: dict[str, Any], name: str, what: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _refuse(f"{name} of {what}: expected true or false", value)
    return value


def _count(value: Any, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        _refuse(f"{what}: expected an integer from {least}", value)
    return value


def _outputs(document: dict[str, Any], *, default: bool) -> tuple[Output, ...]:
    asked = document.get("outputs")
    if asked is None or asked == []:
        return tuple(Output(name, default) for name in OUTPUTS)
    if not isinstance(asked, list):
        _refuse("outputs: expected an array", asked)
    outputs = [_output(_object(entry, "outputs"), default) for entry in asked]
    if len({output.name for output in outputs}) != len(outputs):
        _refuse("outputs: expected each name once", [output.name for output in outputs])
    return tuple(outputs)


def _output(entry: dict[str, Any], default: bool) -> Output:
    name = entry.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        _refuse(f"outputs: expected a name of {', '.join(OUTPUTS)}", name)
    parameters = _parameters(entry, name)
    classes = _count(parameters.get("classification", 0), f"classification of {name}", least=0)
    if classes and name == LABELS:
        _refuse(f"classification: expected with {LOGITS} or {PROBABILITIES}", name)
    return Output(name, _flag(parameters, "binary_data", name, default=default), classes)


def _only_input(document: dict[str, Any], binary: memoryview) -> tuple[dict[str, Any], memoryview | None]:
    """The one input and its binary data, ``None`` where its data are in the JSON part."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"{len(inputs)} inputs" if isinstance(inputs, list) else inputs
        _refuse(f"inputs: expected an array with one input, {IMAGES} or {PICTURES}", found)
    tensor = _object(inputs[0], "inputs")
    name = tensor.get("name")
    if not isinstance(name, str) or name not in DATATYPES:
        _refuse(f"inputs: expected a name of {IMAGES} and {PICTURES}", name)
    if tensor.get("datatype") != DATATYPES[name]:
        _refuse(f"datatype of {name}: expected {DATATYPES[name]}", tensor.get("datatype"))
    size = _parameters(tensor, name).get("binary_data_size")
    if size is None:
        if len(binary):
            _refuse("expected no bytes after the JSON part, as no input has a binary_data_size", f"{len(binary)} bytes")
        if "data" not in tensor:
            _refuse(f"{name}: expected data or a binary_data_size", sorted(tensor))
        return tensor, None
    if _count(size, f"binary_data_size of {name}", least=0) != len(binary):
        _refuse(f"binary_data_size of {name}: expected the {len(binary)} bytes after the JSON part", size)
    if "data" in tensor:
        _refuse(f"{name}: expected data or binary_data_size", "both")
    return tensor, binary


def _shape(tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 4:
        _refuse(f"shape of {tensor['name']}: expected an array of one to four integers", shape)
    return [_count(edge, f"shape of {tensor['name']}", least=1) for edge in shape]


def _images(
    tensor: dict[str, Any], shape: list[int], binary: memoryview | None, network: Network, _max_pixels: int
) -> Images:
    size = network.image_size
    if shape[1:] != [size, size, 3]:
        _refuse(f"shape of {IMAGES}: expected [n, {size}, {size}, 3]; send other sizes as {PICTURES}", shape)
    total = math.prod(shape)
    if binary is not None:
        if len(binary) != total:
            _refuse(f"{IMAGES}: expected {total} bytes by its shape", f"{len(binary)} bytes")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    return _from_json(tensor["data"], shape, total).reshape(shape)


def _from_json(data: Any, shape: list[int], total: int) -> Images:
    """uint8 [total] from a flat JSON array, or one nested as ``shape``."""
    values = data
    if isinstance(data, list) and data and isinstance(data[0], list):
        for edge in shape[1:]:
            if not all(isinstance(row, list) and len(row) == edge for row in values):
                _refuse(f"data of {IMAGES}: expected an array, flat or nested as its shape {shape}", data)
            values = list(chain.from_iterable(values))
    if not isinstance(values, list) or len(values) != total:
        found = f"{len(values)} values" if isinstance(values, list) else values
        _refuse(f"data of {IMAGES}: expected an array of {total} numbers by its shape", found)
    if set(map(type, values)) != {int}:
        _refuse(f"data of {IMAGES}: expected integers", next(value for value in values if type(value) is not int))
    try:
        return np.frombuffer(bytes(values), np.uint8)
    except ValueError:
        _refuse(f"data of {IMAGES}: expected 0..255", next(value for value in values if not 0 <= value <= 255))


def _pictures(
    tensor: dict[str, Any], shape: list[int], binary: memoryview | None, network: Network, max_pixels: int
) -> Images:
    if shape[1:] not in ([], [1]):
        _refuse(f"shape of {PICTURES}: expected [n] or [n, 1]", shape)
    if binary is not None:
        encoded = oip_binary.unpack_bytes(binary, shape[0], PICTURES)
    else:
        encoded = _from_base64(tensor["data"], shape)
    return np.stack([decode(data, network, max_pixels, f"picture {i}") for i, data in enumerate(encoded)])


def _from_base64(data: Any, shape: list[int]) -> list[bytes]:
    if isinstance(data, list) and len(shape) == 2 and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    if not isinstance(data, list) or len(data) != shape[0] or not all(isinstance(text, str) for text in data):
        _refuse(f"data of {PICTURES}: expected an array of {shape[0]} base64 texts", data)
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError) as error:
        raise ServiceError(400, f"data of {PICTURES}: expected base64 in JSON: {error}") from None
