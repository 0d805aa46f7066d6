"""The plain interface: a picture in, labels out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..networks import Network
from .errors import ServiceError, json_response
from .hub import Hub, Outcome, describe
from .media import Upload, decode, read_uploads
from .schemas import BATCH_ANSWER, CLASSIFY_ANSWER, CLASSIFY_QUERY, errors, pictures_body
from .worker import Images, Worker

router = APIRouter(tags=["classify"])

_MOST_LABELS = 1000
_REFUSALS = errors(400, 401, 404, 408, 413, 415, 422, 503)


@router.post(
    "/v1/classify",
    summary="Classify one picture",
    openapi_extra={"parameters": CLASSIFY_QUERY, "requestBody": pictures_body(several=False)},
    responses={200: CLASSIFY_ANSWER, **_REFUSALS},
)
async def classify(request: Request) -> Response:
    """The body is a picture in any format Pillow reads, or a form with one file."""
    hub: Hub = request.app.state.hub
    top, worker = _query(request, hub)
    (upload,) = await read_uploads(request, 1)
    network, max_pixels = worker.classifier.network, hub.settings.max_pixels

    def prepare() -> tuple[Images, None]:
        return decode(upload.data, network, max_pixels)[None], None

    outcome = await hub.infer(worker, prepare, request.receive)
    (ranked,) = worker.classifier.rank(outcome.logits, top)
    answer = {**_about(worker, request), **_labels(ranked), "timings_ms": _timings(outcome, request)}
    hub.count(worker, outcome, request.state.received)
    return json_response(answer)


@router.post(
    "/v1/classify/batch",
    summary="Classify several pictures",
    openapi_extra={"parameters": CLASSIFY_QUERY, "requestBody": pictures_body(several=True)},
    responses={200: BATCH_ANSWER, **_REFUSALS},
)
async def classify_batch(request: Request) -> Response:
    """The body is a form with files. A file that is no picture has an ``error`` in its place, the others are answered.

    Where none is a picture the status is 422.
    """
    hub: Hub = request.app.state.hub
    top, worker = _query(request, hub)
    uploads = await read_uploads(request, hub.settings.max_batch)
    network, max_pixels = worker.classifier.network, hub.settings.max_pixels

    def prepare() -> tuple[Images, list[str | None]]:
        return _decode_all(uploads, network, max_pixels)

    outcome = await hub.infer(worker, prepare, request.receive)

    def build() -> list[dict[str, Any]]:
        ranked = iter(worker.classifier.rank(outcome.logits, top))
        return [
            {"file": upload.name, **({"error": problem} if problem else _labels(next(ranked)))}
            for upload, problem in zip(uploads, outcome.context, strict=True)
        ]

    results = await hub.answer(outcome, build)
    answer = {**_about(worker, request), "results": results, "timings_ms": _timings(outcome, request)}
    hub.count(worker, outcome, request.state.received)
    return json_response(answer)


def _query(request: Request, hub: Hub) -> tuple[int, Worker]:
    """``top`` and the worker of ``model``. Read here, as FastAPI takes longer for it than the network."""
    query = request.query_params if request.scope["query_string"] else {}
    text = query.get("top", "5")
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MOST_LABELS):
        raise ServiceError(422, f"top: expected an integer 1..{_MOST_LABELS}, found {text[:20]!r}")
    return int(text), hub.worker(query.get("model"))


def _decode_all(uploads: list[Upload], network: Network, max_pixels: int) -> tuple[Images, list[str | None]]:
    """The pictures that can be read, and for every upload ``None`` or what is wrong with it."""
    images = []
    problems: list[str | None] = []
    first: ServiceError | None = None
    for upload in uploads:
        try:
            images.append(decode(upload.data, network, max_pixels))
            problems.append(None)
        except ServiceError as error:
            problems.append(str(error))
            first = first or error
    if not images and first is not None:
        raise first
    return np.stack(images), problems


def _about(worker: Worker, request: Request) -> dict[str, Any]:
    return {"model": worker.name, **describe(worker.classifier), "request_id": request.state.request_id}


def _labels(ranked: list[tuple[str, float]]) -> dict[str, Any]:
    label, score = ranked[0]
    top = [{"label": label, "probability": probability} for label, probability in ranked]
    return {"label": label, "score": score, "top": top}


def _timings(outcome: Outcome, request: Request) -> dict[str, float]:
    total = (time.perf_counter() - request.state.received) * 1e3
    return {stage: round(ms, 3) for stage, ms in {**outcome.timings, "total": total}.items()}
