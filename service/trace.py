"""What a picture does inside the network: how much of each layer its precision gates open, and a layer as a picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image

from ..backends.reference import LayerTrace, ReferenceBackend
from ..classifier import Classifier
from .errors import ServiceError, json_response, unavailable
from .inference import Inference
from .jobs import within
from .media import Body, PictureReader, unreadable
from .schemas import BINARY, CLASSIFY_QUERY, NUMBER, STRING, errors, json_body, pictures_body

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
_QUERY = [parameter for parameter in CLASSIFY_QUERY if parameter["name"] == "model"]
_LAYER_QUERY = {"name": "layer", "in": "query", "required": True, "description": "Its name.", "schema": STRING}

SHOWN_CHANNELS = 64
"""Channels of a layer that are drawn: the first ones."""
_COLUMNS = 8
_GAP, _GREY = 1, 128


@router.post(
    "/v1/trace",
    summary="Gate fractions of one picture",
    openapi_extra={
        "parameters": _QUERY,
        "requestBody": pictures_body(several=False),
    },
    responses={200: _ANSWER, **errors(400, 401, 403, 404, 408, 413, 415, 422, 503)},
)
async def trace(request: Request) -> Response:
    """Part of each layer's outputs, 0..1, that needed the low bit of the activations.

    Computed by the reference engine in the model's arithmetic: slowly, and one picture at a time.
    """
    inference: Inference = request.app.state.inference
    worker = inference.worker(request.query_params.get("model"))
    layers = await _alone(request, worker.classifier, _gate_fractions)
    about = {"model": worker.name, "arithmetic": worker.classifier.arithmetic, "request_id": request.state.request_id}
    return json_response({**about, "layers": layers})


@router.post(
    "/v1/trace/layer",
    summary="A layer of one picture, as a picture",
    openapi_extra={"parameters": [*_QUERY, _LAYER_QUERY], "requestBody": pictures_body(several=False)},
    responses={
        200: {"description": "Maps left, gates right", "content": {"image/png": {"schema": BINARY}}},
        **errors(400, 401, 403, 404, 408, 413, 415, 422, 503),
    },
)
async def trace_layer(request: Request) -> Response:
    """The layer's first 64 channels, eight in a row: left what it hands on, from its least (black) to its largest
    value (white), right the gates that open (white). Computed as the gate fractions.
    """
    inference: Inference = request.app.state.inference
    classifier = inference.worker(request.query_params.get("model")).classifier
    name = request.query_params.get("layer", "")
    names = [layer.name for layer in classifier.network.layers]
    if name not in names:
        raise ServiceError(422, f"layer: expected one of {', '.join(names)}, found {name!r}")

    def draw(classifier: Classifier, body: Body, inference: Inference) -> bytes:
        return _drawn(next(layer for layer in _traced(classifier, body, inference) if layer.name == name))

    return Response(await _alone(request, classifier, draw), media_type="image/png")


async def _alone(request: Request, classifier: Classifier, work: Callable[[Classifier, Body, Inference], Any]) -> Any:
    """What ``work`` makes of the request's picture, in a thread, while no other picture is traced."""
    inference: Inference = request.app.state.inference
    body = await Body.read(request)
    busy: asyncio.Lock = request.app.state.tracing
    if busy.locked():
        raise unavailable("another picture is being traced: try again")
    async with busy:
        return await asyncio.to_thread(work, classifier, body, inference)


def _gate_fractions(classifier: Classifier, body: Body, inference: Inference) -> list[dict[str, Any]]:
    layers = _traced(classifier, body, inference)
    return [{"name": layer.name, "gate_fraction": layer.gate_fraction} for layer in layers if layer.gate is not None]


def _traced(classifier: Classifier, body: Body, inference: Inference) -> list[LayerTrace]:
    check = within(inference.settings.deadline)
    (upload,) = body.uploads(1, inference.settings.max_body, check)
    try:
        picture = PictureReader(classifier.network, inference.settings, inference.budget, check).read(upload.data)
    except ServiceError as error:
        raise unreadable(body, error) from None
    engine = ReferenceBackend(classifier.model, classifier.arithmetic)
    _, layers = engine.logits(np.ascontiguousarray(picture[None]), layers=True)
    return layers


def _drawn(layer: LayerTrace) -> bytes:
    """A PNG of a gated layer's maps and gates."""
    maps = layer.output[0].astype(np.float64)
    least, most = maps.min(), maps.max()
    shades = np.rint((maps - least) * (255 / max(most - least, 1e-9))).astype(np.uint8)
    gates = np.zeros_like(shades) if layer.gate is None else layer.gate[0].astype(np.uint8) * np.uint8(255)
    left, right = _tiled(shades), _tiled(gates)
    between = np.full((len(left), 4 * _GAP), _GREY, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.hstack([left, between, right])).save(stream, "PNG")
    return stream.getvalue()


def _tiled(maps: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The first channels of maps uint8 [H, W, C], one beside and below the other, with gaps between."""
    height, width, channels = maps.shape
    shown = min(channels, SHOWN_CHANNELS)
    rows = -(-shown // _COLUMNS)
    drawn = np.full((rows * (height + _GAP) - _GAP, _COLUMNS * (width + _GAP) - _GAP), _GREY, np.uint8)
    for channel in range(shown):
        top, left = channel // _COLUMNS * (height + _GAP), channel % _COLUMNS * (width + _GAP)
        drawn[top : top + height, left : left + width] = maps[:, :, channel]
    return drawn
