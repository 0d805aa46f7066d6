"""Inference requests that came by gRPC, described as those with binary data over HTTP."""

from __future__ import annotations

from typing import Any

from .oip_binary import pack_bytes
from .oip_json import refuse

_BINARY = "binary_data_size"
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


class Question:
    """A ``ModelInferRequest`` as :func:`.oip_request.read_request` takes it; ``binary``: its input's data.

    The data are either raw or, number by number, in ``contents``. Raises
    :class:`~fracbnn_pynq.service.errors.ServiceError`: 400 for several inputs, and for data that are in neither or
    in both.
    """

    data = b""

    def __init__(self, request: Any) -> None:
        self.id: Any = request.id or None
        self.parameters: Any = _parameters(request.parameters)
        self.outputs: Any = [
            {"name": output.name, "parameters": _parameters(output.parameters)} for output in request.outputs
        ]
        if len(request.inputs) != 1:
            refuse("inputs: expected one input, images or pictures", f"{len(request.inputs)}")
        (tensor,) = request.inputs
        self.name: Any = tensor.name
        self.datatype: Any = tensor.datatype
        self.shape: Any = list(tensor.shape)
        self.binary = memoryview(_data(tensor, request.raw_input_contents))
        self.tensor_parameters: Any = {**_parameters(tensor.parameters), _BINARY: len(self.binary)}


def _data(tensor: Any, raw: Any) -> bytes:
    given = [field.name for field, _ in tensor.contents.ListFields()]
    if len(raw) + len(given) != 1:
        refuse(f"{tensor.name}: expected raw_input_contents or contents", f"{len(raw)} raw, {given or 'no contents'}")
    if raw:
        data: bytes = raw[0]
        return data
    wanted = _CONTENTS.get(tensor.datatype, "uint_contents")
    if given != [wanted]:
        refuse(f"contents of {tensor.name}: expected {wanted}", given[0])
    values = getattr(tensor.contents, wanted)
    if wanted == "bytes_contents":
        return pack_bytes(values)
    try:
        return bytes(values)
    except ValueError:
        refuse(f"contents of {tensor.name}: expected numbers of 0 to 255", max(values))


def _parameters(given: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(parameter, kind)
    return found
