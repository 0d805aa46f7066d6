"""Open Inference Protocol v2 over HTTP, as KServe and Triton define it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .compression import coding_of, unpacked
from .errors import ServiceError, json_response, unavailable
from .inference import VERSION, Inference
from .jobs import Images, Job
from .limits import header_of, read_body
from .media import PictureReader, media_type
from .oip_binary import HEADER
from .oip_reply import model_metadata, reply, server_metadata
from .oip_request import InferRequest, parse
from .schemas import INFER_ANSWER, INFER_BODY, errors
from .worker import Worker

router = APIRouter(tags=["Open Inference Protocol v2"])

_HEADER = HEADER.lower().encode("ascii")
# "curl -d" says it sends a form, and Triton's own client says nothing.
_TYPES = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")


@router.get("/v2", summary="Server metadata")
async def server() -> Response:
    """Name, version and extensions."""
    return json_response(server_metadata())


@router.get("/v2/health/live", summary="Whether the server runs")
async def live() -> Response:
    """Always true while anything answers."""
    return json_response({"live": True})


@router.get("/v2/health/ready", summary="Whether all models take requests", responses=errors(503))
async def ready(request: Request) -> Response:
    """503 while a model recovers and once a shutdown has begun."""
    inference: Inference = request.app.state.inference
    if not inference.ready:
        raise unavailable("shutting down" if inference.draining else "not all models are ready", ready=False)
    return json_response({"ready": True})


@router.get("/v2/models", summary="Names of the models", responses=errors(401))
async def models(request: Request) -> Response:
    """All models served."""
    return json_response({"models": list(request.app.state.inference.workers)})


@router.get("/v2/models/{name}", summary="Model metadata", responses=errors(401, 404))
@router.get("/v2/models/{name}/versions/{version}", summary="Model metadata", responses=errors(401, 404))
async def model(request: Request, name: str, version: str = VERSION) -> Response:
    """Inputs and outputs."""
    worker = find(request, name, version)
    return json_response(model_metadata(name, worker.classifier))


@router.get("/v2/models/{name}/ready", summary="Whether a model takes requests", responses=errors(401, 404, 503))
@router.get(
    "/v2/models/{name}/versions/{version}/ready",
    summary="Whether a model takes requests",
    responses=errors(401, 404, 503),
)
async def model_ready(request: Request, name: str, version: str = VERSION) -> Response:
    """503 while it recovers and once a shutdown has begun."""
    worker = find(request, name, version)
    if request.app.state.inference.draining or not worker.ready:
        raise unavailable(f"model {name} is {worker.state}", name=name, ready=False)
    return json_response({"name": name, "ready": True})


_INFER: dict[str, Any] = {
    "summary": "Inference",
    "openapi_extra": {"requestBody": INFER_BODY},
    "responses": {200: INFER_ANSWER, **errors(400, 401, 403, 404, 408, 413, 415, 422, 503)},
}


@router.post("/v2/models/{name}/infer", **_INFER)
@router.post("/v2/models/{name}/versions/{version}/infer", **_INFER)
async def infer(request: Request, name: str, version: str = VERSION) -> Response:
    """One input, ``images`` (UINT8) or ``pictures`` (BYTES); outputs ``logits``, ``probabilities``, ``labels``."""
    inference: Inference = request.app.state.inference
    worker = find(request, name, version)
    header = header_of(request, _HEADER)
    kind = media_type(header_of(request, b"content-type") or "")
    if header is None and kind not in _TYPES:
        raise ServiceError(415, f"Content-Type: expected application/json, found {kind!r}")
    coding = coding_of(header_of(request, b"content-encoding"))
    settings = inference.settings
    only_json = header is None and coding is None
    body = await read_body(request.receive, settings.max_json if only_json else None)

    def prepare(job: Job) -> tuple[Images, InferRequest]:
        network = worker.classifier.network
        reader = PictureReader(network, settings, inference.budget, job.check)
        return parse(unpacked(body, coding, settings.max_body, job.check), header, reader, network, settings)

    outcome = await inference.infer(worker, prepare, request.receive)

    def build() -> tuple[bytes, int | None]:
        return reply(name, worker.classifier, outcome.context, outcome.logits)

    content, length = await inference.answer(outcome, build)
    inference.count(worker, outcome, request.state.received)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER: str(length)}, media_type="application/octet-stream")


async def infer_at(request: Request) -> Response:
    """:func:`infer` for a route that leaves the parameters in the path."""
    return await infer(request, **request.path_params)


def find(request: Request, name: str, version: str) -> Worker:
    """The worker of a model; 404 for one, or a version of it, that there is not."""
    inference: Inference = request.app.state.inference
    return inference.version(name, version)
