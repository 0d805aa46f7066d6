"""The JSON part of an inference request: parsed by type, so that what is not expected costs nothing.

A general parser makes an object of everything that stands in a text: ten million empty lists, say. Here the text is
first split into its fields without making anything of them; then each field is decoded as what it must be, and the
first thing that it must not be ends it.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from msgspec import Meta, Raw

from .errors import ServiceError
from .jobs import Images

MAX_FIELD = 64 << 10
"""Bytes of any field but a tensor's data."""
_SHOWN = 80
_OPENING = re.compile(rb"[\s\[]*")
_Pixel = Annotated[int, Meta(ge=0, le=255)]


class _Tensor(msgspec.Struct):
    name: Raw = Raw()
    datatype: Raw = Raw()
    shape: Raw = Raw()
    parameters: Raw = Raw()
    data: Raw = Raw()


class _Document(msgspec.Struct):
    id: Raw = Raw()
    parameters: Raw = Raw()
    inputs: Raw = Raw()
    outputs: Raw = Raw()


class Document:
    """An inference request: fields as JSON values, and the data of its one input as it stands in the text."""

    def __init__(self, text: bytes) -> None:
        document = _decode(text, _DOCUMENT, "the body", "a JSON object")
        self.id = _value(document.id, "id")
        self.parameters = _value(document.parameters, "parameters of the body")
        self.outputs = _value(document.outputs, "outputs")
        self.has_inputs = bool(bytes(document.inputs))
        expected = "an array with one input, images or pictures, as a JSON object"
        if not self.has_inputs:
            refuse(f"inputs: expected {expected}", None)
        (tensor,) = _decode(bytes(document.inputs), _INPUTS, "inputs", expected)
        self.name = _value(tensor.name, "inputs")
        self.datatype = _value(tensor.datatype, "datatype")
        self.shape = _value(tensor.shape, "shape")
        self.tensor_parameters = _value(tensor.parameters, "parameters of the input")
        self.data = bytes(tensor.data)
        """Empty where there is none."""


def pixels(data: bytes, shape: list[int], what: str) -> Images:
    """uint8 of ``shape`` [n, S, S, 3] from a JSON array of integers, flat or nested as the shape."""
    nested = _depth(data) > 1
    total = math.prod(shape)
    expected = f"an array, flat or nested as its shape {shape}, of integers in 0..255"
    values = _decode(data, _pixels_decoder(tuple(shape[1:]) if nested else ()), f"data of {what}", expected)
    if nested:
        array = np.array(values, np.uint8) if values else np.empty(0, np.uint8)
        found = array.size
    else:
        array, found = np.frombuffer(bytes(values), np.uint8), len(values)
    if found != total:
        refuse(f"data of {what}: expected an array of {total} numbers by its shape", f"{found} values")
    return array.reshape(shape)


def texts(data: bytes, shape: list[int], what: str) -> list[str]:
    """The elements of a BYTES tensor [n] or [n, 1] from a JSON array of texts."""
    nested = len(shape) == 2 and _depth(data) > 1
    expected = f"an array of {shape[0]} base64 texts"
    found = _decode(data, _COLUMN if nested else _TEXTS, f"data of {what}", expected)
    if len(found) != shape[0]:
        refuse(f"data of {what}: expected {expected}", f"{len(found)}")
    return [row[0] for row in found] if nested else found


def refuse(expectation: str, found: Any) -> NoReturn:
    """400, with what was expected and found."""
    shown = repr(found)
    raise ServiceError(400, f"{expectation}, found {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}")


def _decode(text: bytes, decoder: msgspec.json.Decoder[Any], what: str, expected: str) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise ServiceError(400, f"{what}: expected {expected}: {error}") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ServiceError(400, f"the body is not JSON: {error}") from None


def _value(raw: Raw, what: str) -> Any:
    """Any JSON value; ``None`` for a field that is not there."""
    text = bytes(raw)
    if not text:
        return None
    if len(text) > MAX_FIELD:
        raise ServiceError(400, f"{what}: expected at most {MAX_FIELD} bytes of JSON, found {len(text)}")
    return _decode(text, _ANYTHING, what, "a JSON value")


def _depth(data: bytes) -> int:
    """Brackets at the beginning of an array."""
    opening = _OPENING.match(data[:200])
    return 0 if opening is None else opening[0].count(b"[")


@cache
def _pixels_decoder(edges: tuple[int, ...]) -> msgspec.json.Decoder[Any]:
    """Of an array of arrays of so many elements; without ``edges``, of a flat one."""
    kind: Any = _Pixel
    for edge in reversed(edges):
        kind = Annotated[list[kind], Meta(min_length=edge, max_length=edge)]
    return msgspec.json.Decoder(list[kind])


_DOCUMENT = msgspec.json.Decoder(_Document)
_INPUTS = msgspec.json.Decoder(tuple[_Tensor])
_TEXTS = msgspec.json.Decoder(list[str])
_COLUMN = msgspec.json.Decoder(list[Annotated[list[str], Meta(min_length=1, max_length=1)]])
_ANYTHING = msgspec.json.Decoder()
