"""Inference answers and metadata of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._version import __version__
from ..classifier import Classifier, softmax
from .errors import as_json
from .inference import VERSION
from .jobs import Logits
from .oip_binary import pack_bytes
from .oip_request import DATATYPES, IMAGES, LABELS, LOGITS, PICTURES, PROBABILITIES, InferRequest, Output

EXTENSIONS = ("classification", "binary_tensor_data", "statistics", "model_configuration", "model_repository")


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "fracbnn", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(name: str, classifier: Classifier) -> dict[str, Any]:
    """Inputs and outputs of a model; a request gives one of the two inputs."""
    size, classes = classifier.network.image_size, classifier.network.classes
    return {
        "name": name,
        "versions": [VERSION],
        "platform": f"fracbnn_{classifier.backend}",
        "inputs": [
            {"name": IMAGES, "datatype": DATATYPES[IMAGES], "shape": [-1, size, size, 3]},
            {"name": PICTURES, "datatype": DATATYPES[PICTURES], "shape": [-1]},
        ],
        "outputs": [
            {"name": LOGITS, "datatype": "FP32", "shape": [-1, classes]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABELS, "datatype": "BYTES", "shape": [-1]},
        ],
    }


def model_configuration(name: str, classifier: Classifier, max_batch: int) -> dict[str, Any]:
    """The same as Triton's configuration of a model: shapes without the first dimension, which is the batch's."""

    def tensors(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
        types = {"BYTES": "TYPE_STRING"}
        return [
            {
                "name": tensor["name"],
                "data_type": types.get(tensor["datatype"], f"TYPE_{tensor['datatype']}"),
                "dims": tensor["shape"][1:] or [1],
            }
            for tensor in described
        ]

    about = model_metadata(name, classifier)
    return {
        "name": name,
        "platform": about["platform"],
        "backend": "fracbnn",
        "max_batch_size": max_batch,
        "input": [{**tensor, "optional": True} for tensor in tensors(about["inputs"])],  # one of the two is given
        "output": tensors(about["outputs"]),
    }


def reply(name: str, classifier: Classifier, request: InferRequest, logits: Logits) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON part where binary data follow it."""
    outputs = []
    binary = []
    for output in request.outputs:
        datatype, values = output_values(output, classifier, logits)
        tensor: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(values.shape)}
        if output.binary:
            data = pack_bytes(values.ravel().tolist()) if datatype == "BYTES" else values.tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        elif datatype == "BYTES":
            tensor["data"] = [text.decode("utf-8") for text in values.ravel().tolist()]
        else:
            tensor["data"] = values.ravel().tolist()
        outputs.append(tensor)
    document: dict[str, Any] = {"model_name": name, "model_version": VERSION, "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
    text = as_json(document)
    if not binary:
        return text, None
    return b"".join((text, *binary)), len(text)


def output_values(output: Output, classifier: Classifier, logits: Logits) -> tuple[str, np.ndarray[Any, Any]]:
    """Datatype and values of an output: float32 [n, classes], or an array of bytes objects [n] or [n, k]."""
    if output.name == LABELS:
        return "BYTES", _texts([classifier.labels[index] for index in logits.argmax(axis=1)])
    values = np.ascontiguousarray(logits if output.name == LOGITS else softmax(logits), dtype="<f4")
    if not output.classification:
        return "FP32", values
    order = np.argsort(-values, axis=1, kind="stable")[:, : output.classification]
    texts = [
        f"{row[index]:f}:{index}:{classifier.labels[index]}"
        for row, best in zip(values, order, strict=True)
        for index in best
    ]
    return "BYTES", _texts(texts).reshape(order.shape)


def _texts(texts: list[str]) -> np.ndarray[Any, Any]:
    return np.array([text.encode("utf-8") for text in texts], dtype=object)
