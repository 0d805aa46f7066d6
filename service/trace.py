"""What a picture does inside the network: how much of each layer its precision gates open."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..backends.reference import ReferenceBackend
from ..classifier import Classifier
from ..networks import CIFAR10
from .errors import ServiceError, json_response, unavailable
from .inference import Inference
from .jobs import within
from .media import Body, PictureReader, unreadable
from .schemas import CLASSIFY_QUERY, NUMBER, STRING, errors, json_body, pictures_body

router = APIRouter(tags=["classify"])

_LAYER = {"type": "object", "properties": {"name": STRING, "gate_fraction": NUMBER}}
_ANSWER = json_body(
    {
        "type": "object",
        "properties": {
            "model": STRING,
            "arithmetic": STRING,
            "request_id": STRING,
            "layers": {"type": "array", "items": _LAYER},
        },
    },
    "The gated layers in network order",
)


@router.post(
    "/v1/trace",
    summary="Gate fractions of one picture",
    openapi_extra={
        "parameters": [parameter for parameter in CLASSIFY_QUERY if parameter["name"] == "model"],
        "requestBody": pictures_body(several=False),
    },
    responses={200: _ANSWER, **errors(400, 401, 403, 404, 408, 413, 415, 422, 503)},
)
async def trace(request: Request) -> Response:
    """Part of each layer's outputs, 0..1, that needed the low bit of the activations. Models for CIFAR-10 only.

    Computed by the reference engine in the model's arithmetic: slowly, and one picture at a time.
    """
    inference: Inference = request.app.state.inference
    worker = inference.worker(request.query_params.get("model"))
    classifier = worker.classifier
    if classifier.network.name != CIFAR10.name:
        raise ServiceError(422, f"model: expected one for CIFAR-10, as others take too long; found {worker.name!r}")
    body = await Body.read(request)
    busy: asyncio.Lock = request.app.state.tracing
    if busy.locked():
        raise unavailable("another picture is being traced: try again")
    async with busy:
        layers = await asyncio.to_thread(_gate_fractions, classifier, body, inference)
    about = {"model": worker.name, "arithmetic": classifier.arithmetic, "request_id": request.state.request_id}
    return json_response({**about, "layers": layers})


def _gate_fractions(classifier: Classifier, body: Body, inference: Inference) -> list[dict[str, Any]]:
    check = within(inference.settings.deadline)
    (upload,) = body.uploads(1, inference.settings.max_body, check)
    try:
        picture = PictureReader(classifier.network, inference.settings, inference.budget, check).read(upload.data)
    except ServiceError as error:
        raise unreadable(body, error) from None
    engine = ReferenceBackend(classifier.model, classifier.arithmetic)
    _, layers = engine.logits(np.ascontiguousarray(picture[None]), layers=True)
    return [{"name": layer.name, "gate_fraction": layer.gate_fraction} for layer in layers if layer.gate is not None]
