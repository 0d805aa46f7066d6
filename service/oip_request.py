"""Inference requests of the Open Inference Protocol v2, from bytes to pictures, with every check on the way.

A model has two inputs, of which a request gives one: ``images``, UINT8 [n, S, S, 3], RGB at the network's size, and
``pictures``, BYTES [n], encoded files (JPEG, PNG, ...): as they are in binary data, as base64 text in JSON.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..networks import Network
from . import oip_binary
from .errors import ServiceError, too_large
from .jobs import Images
from .media import PictureReader
from .oip_json import Document, pixels, refuse, texts
from .settings import Settings

IMAGES = "images"
PICTURES = "pictures"
LOGITS = "logits"
PROBABILITIES = "probabilities"
LABELS = "labels"
OUTPUTS = (LOGITS, PROBABILITIES, LABELS)

DATATYPES = {IMAGES: "UINT8", PICTURES: "BYTES"}


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
    body: bytes, header: str | None, reader: PictureReader, network: Network, settings: Settings
) -> tuple[Images, InferRequest]:
    """The pictures of a request, uint8 [n, S, S, 3], and what it says about its answer.

    ``header``: the value of Inference-Header-Content-Length. Raises
    :class:`~fracbnn_pynq.service.errors.ServiceError`: 400 for what does not follow the protocol or the model's
    metadata, 413 for too much JSON, too many pictures or pixels, 422 for pictures that cannot be read.
    """
    text, binary = oip_binary.split(body, header)
    if len(text) > settings.max_json:
        raise too_large(
            f"JSON: expected at most {settings.max_json} bytes, found {len(text)}: send tensors as binary data"
        )
    return read_request(Document(text), binary, reader, network, settings)


class Described(Protocol):
    """An inference request with one input: fields as in JSON, ``None`` where they are not there."""

    id: Any
    parameters: Any
    outputs: Any
    name: Any
    datatype: Any
    shape: Any
    tensor_parameters: Any
    data: bytes
    """The input's data in JSON; empty where they are binary."""


def read_request(
    document: Described, binary: memoryview, reader: PictureReader, network: Network, settings: Settings
) -> tuple[Images, InferRequest]:
    """As :func:`parse`, for a request that has been taken apart; ``binary``: the input's binary data."""
    if document.id is not None and not isinstance(document.id, str):
        refuse("id: expected a string", document.id)
    parameters = _parameters(document.parameters, "the body")
    outputs = _outputs(document.outputs, default=_flag(parameters, "binary_data_output", "the body", default=False))
    raw = _check_input(document, binary)
    shape = _shape(document)
    if shape[0] > settings.max_batch:
        raise too_large(f"shape: expected at most {settings.max_batch} pictures, found {shape[0]}")
    if document.name == IMAGES:
        images = _images(document, shape, raw, network)
    else:
        encoded = _encoded(document, shape, raw)
        read = [reader.read(data, f"picture {i}", encoded[i + 1 :]) for i, data in enumerate(encoded)]
        images = np.stack(read)
    return images, InferRequest(document.id, outputs)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(f"{what}: expected a JSON object", value)
    return value


def _parameters(value: Any, what: str) -> dict[str, Any]:
    parameters = {} if value is None else _object(value, f"parameters of {what}")
    for name in parameters:
        if name.startswith("shared_memory"):
            refuse(f"parameters of {what}: expected none of shared memory, which this service does not have", name)
    return parameters


def _flag(parameters: dict[str, Any], name: str, what: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        refuse(f"{name} of {what}: expected true or false", value)
    return value


def _count(value: Any, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(f"{what}: expected an integer from {least}", value)
    return value


def _outputs(asked: Any, *, default: bool) -> tuple[Output, ...]:
    if asked is None or asked == []:
        return tuple(Output(name, default) for name in OUTPUTS)
    if not isinstance(asked, list):
        refuse("outputs: expected an array", asked)
    outputs = [_output(_object(entry, "outputs"), default) for entry in asked]
    if len({output.name for output in outputs}) != len(outputs):
        refuse("outputs: expected each name once", [output.name for output in outputs])
    return tuple(outputs)


def _output(entry: dict[str, Any], default: bool) -> Output:
    name = entry.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        refuse(f"outputs: expected a name of {', '.join(OUTPUTS)}", name)
    parameters = _parameters(entry.get("parameters"), name)
    classes = _count(parameters.get("classification", 0), f"classification of {name}", least=0)
    if classes and name == LABELS:
        refuse(f"classification: expected with {LOGITS} or {PROBABILITIES}", name)
    return Output(name, _flag(parameters, "binary_data", name, default=default), classes)


def _check_input(document: Described, binary: memoryview) -> memoryview | None:
    """The binary data of the input; ``None`` where its data are in the JSON part."""
    name = document.name
    if not isinstance(name, str) or name not in DATATYPES:
        refuse(f"inputs: expected a name of {IMAGES} and {PICTURES}", name)
    if document.datatype != DATATYPES[name]:
        refuse(f"datatype of {name}: expected {DATATYPES[name]}", document.datatype)
    size = _parameters(document.tensor_parameters, name).get("binary_data_size")
    if size is None:
        if len(binary):
            refuse("expected no bytes after the JSON part, as no input has a binary_data_size", f"{len(binary)} bytes")
        if not document.data:
            refuse(f"{name}: expected data or a binary_data_size", "neither")
        return None
    if _count(size, f"binary_data_size of {name}", least=0) != len(binary):
        refuse(f"binary_data_size of {name}: expected the {len(binary)} bytes after the JSON part", size)
    if document.data:
        refuse(f"{name}: expected data or binary_data_size", "both")
    return binary


def _shape(document: Described) -> list[int]:
    shape = document.shape
    if not isinstance(shape, list) or not 1 <= len(shape) <= 4:
        refuse(f"shape of {document.name}: expected an array of one to four integers", shape)
    return [_count(edge, f"shape of {document.name}", least=1) for edge in shape]


def _images(document: Described, shape: list[int], binary: memoryview | None, network: Network) -> Images:
    size = network.image_size
    if shape[1:] != [size, size, 3]:
        refuse(f"shape of {IMAGES}: expected [n, {size}, {size}, 3]; send other sizes as {PICTURES}", shape)
    if binary is None:
        return pixels(document.data, shape, IMAGES)
    total = math.prod(shape)
    if len(binary) != total:
        refuse(f"{IMAGES}: expected {total} bytes by its shape", f"{len(binary)} bytes")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _encoded(document: Described, shape: list[int], binary: memoryview | None) -> list[bytes]:
    """The encoded pictures of a request, one after the other."""
    if shape[1:] not in ([], [1]):
        refuse(f"shape of {PICTURES}: expected [n] or [n, 1]", shape)
    if binary is not None:
        return oip_binary.unpack_bytes(binary, shape[0], PICTURES)
    try:
        return [base64.b64decode(text, validate=True) for text in texts(document.data, shape, PICTURES)]
    except (binascii.Error, ValueError) as error:
        raise ServiceError(400, f"data of {PICTURES}: expected base64 in JSON: {error}") from None
