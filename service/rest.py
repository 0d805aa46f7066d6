"""The plain interface: a picture in, labels out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..classifier import Prediction
from .errors import ServiceError, json_response
from .inference import Inference, Outcome
from .jobs import Images, Job
from .media import Body, PictureReader, TooManyPixelsError, Upload, unreadable
from .schemas import BATCH_ANSWER, CLASSIFY_ANSWER, CLASSIFY_QUERY, MODELS_ANSWER, errors, pictures_body
from .worker import Worker

router = APIRouter(tags=["classify"])

_MOST_LABELS = 1000
_OF_ONE_PICTURE = (413, 422)
_REFUSALS = errors(400, 401, 403, 404, 408, 413, 415, 422, 503)


@router.get("/v1/models", summary="What the models know", responses={200: MODELS_ANSWER, **errors(401, 403)})
async def models(request: Request) -> Response:
    """The models in the service's order, the default first: what they can recognise, and what their files say of them.

    With the limit of a picture's pixels, so that a client can make larger ones smaller.
    """
    inference: Inference = request.app.state.inference
    described = [_describe(worker) for worker in inference.workers.values()]
    return json_response({"models": described, "max_pixels": inference.settings.max_pixels})


@router.post(
    "/v1/classify",
    summary="Classify one picture",
    openapi_extra={"parameters": CLASSIFY_QUERY, "requestBody": pictures_body(several=False)},
    responses={200: CLASSIFY_ANSWER, **_REFUSALS},
)
async def classify(request: Request) -> Response:
    """The body is a picture in any format Pillow reads, or a form with one file."""
    inference: Inference = request.app.state.inference
    top, worker = _query(request, inference)
    body = await Body.read(request)
    settings = inference.settings

    def prepare(job: Job) -> tuple[Images, None]:
        (upload,) = body.uploads(1, settings.max_body, job.check)
        reader = PictureReader(worker.classifier.network, settings, inference.budget, job.check)
        try:
            return reader.read(upload.data)[None], None
        except ServiceError as error:
            raise unreadable(body, error) from None

    outcome = await inference.infer(worker, prepare, request.receive)
    (ranked,) = worker.classifier.rank(outcome.logits, top)
    answer = {**_about(worker, request), **Prediction(ranked).as_dict(), "timings_ms": _timings(outcome, request)}
    inference.count(worker, outcome, request.state.received)
    return json_response(answer)


@router.post(
    "/v1/classify/batch",
    summary="Classify several pictures",
    openapi_extra={"parameters": CLASSIFY_QUERY, "requestBody": pictures_body(several=True)},
    responses={200: BATCH_ANSWER, **_REFUSALS},
)
async def classify_batch(request: Request) -> Response:
    """The body is a form with files. Every part has an entry in its place; one that is no picture has an ``error``.

    Where none is a picture the status is 422.
    """
    inference: Inference = request.app.state.inference
    top, worker = _query(request, inference)
    body = await Body.read(request)
    settings = inference.settings

    def prepare(job: Job) -> tuple[Images, list[tuple[str, str | None]]]:
        uploads = body.uploads(settings.max_batch, settings.max_body, job.check)
        reader = PictureReader(worker.classifier.network, settings, inference.budget, job.check)
        try:
            return _read_all(uploads, reader, job.check)
        except ServiceError as error:
            raise unreadable(body, error) from None

    outcome = await inference.infer(worker, prepare, request.receive)

    def build() -> list[dict[str, Any]]:
        ranked = iter(worker.classifier.rank(outcome.logits, top))
        return [
            {"file": name, **({"error": problem} if problem else Prediction(next(ranked)).as_dict())}
            for name, problem in outcome.context
        ]

    results = await inference.answer(outcome, build)
    answer = {**_about(worker, request), "results": results, "timings_ms": _timings(outcome, request)}
    inference.count(worker, outcome, request.state.received)
    return json_response(answer)


def _describe(worker: Worker) -> dict[str, Any]:
    classifier = worker.classifier
    return {
        "name": worker.name,
        "network": classifier.network.title,
        "arithmetic": classifier.arithmetic,
        "image_size": classifier.network.image_size,
        "labels": list(classifier.labels),
        "card": {key: _in_words(value) for key, value in classifier.model.provenance.items()},
    }


def _in_words(value: Any) -> str:
    return "; ".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def _query(request: Request, inference: Inference) -> tuple[int, Worker]:
    """``top`` and the worker of ``model``. Read here, as FastAPI takes longer for it than the network."""
    query = request.query_params if request.scope["query_string"] else {}
    text = query.get("top", "5")
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MOST_LABELS):
        raise ServiceError(422, f"top: expected an integer 1..{_MOST_LABELS}, found {text[:20]!r}")
    return int(text), inference.worker(query.get("model"))


def _read_all(
    uploads: list[Upload], reader: PictureReader, check: Callable[[], None]
) -> tuple[Images, list[tuple[str, str | None]]]:
    """The pictures that can be read, and for every upload its name and ``None``, or what is wrong with it."""
    images = []
    found: list[tuple[str, str | None]] = []
    first: ServiceError | None = None
    encoded = [upload.data for upload in uploads]
    for place, upload in enumerate(uploads):
        check()
        try:
            images.append(reader.read(upload.data, others=encoded[place + 1 :]))
            found.append((upload.name, None))
        except ServiceError as error:
            if error.status not in _OF_ONE_PICTURE or isinstance(error, TooManyPixelsError):
                raise
            found.append((upload.name, str(error)))
            first = first or error
    if not images and first is not None:
        raise first
    return np.stack(images), found


def _about(worker: Worker, request: Request) -> dict[str, Any]:
    return {"model": worker.name, **worker.classifier.engine.describe(), "request_id": request.state.request_id}


def _timings(outcome: Outcome, request: Request) -> dict[str, float]:
    total = (time.perf_counter() - request.state.received) * 1e3
    return {stage: round(ms, 3) for stage, ms in {**outcome.timings, "total": total}.items()}
