"""What the Open Inference Protocol's clients ask about a server besides inference: Triton's extensions, read only.

``statistics``, ``model_configuration`` and the index of ``model_repository``. Models are neither loaded nor unloaded.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .errors import ServiceError, json_response
from .inference import VERSION, Inference
from .limits import read_body
from .oip import find
from .oip_reply import model_configuration
from .schemas import INDEX_BODY, errors
from .worker import Worker

_CONFIGURATION: dict[str, Any] = {"summary": "Configuration of a model", "responses": errors(401, 404)}

router = APIRouter(tags=["Open Inference Protocol v2"])

_LONGEST_QUESTION = 4096


@router.get("/v2/models/stats", summary="Statistics of all models", responses=errors(401))
async def statistics(request: Request) -> Response:
    """Counts and nanoseconds since the start."""
    inference: Inference = request.app.state.inference
    return json_response({"model_stats": [statistics_of(worker) for worker in inference.workers.values()]})


@router.get("/v2/models/{name}/stats", summary="Statistics of a model", responses=errors(401, 404))
@router.get("/v2/models/{name}/versions/{version}/stats", summary="Statistics of a model", responses=errors(401, 404))
async def model_statistics(request: Request, name: str, version: str = VERSION) -> Response:
    """Counts and nanoseconds since the start."""
    return json_response({"model_stats": [statistics_of(find(request, name, version))]})


@router.get("/v2/models/{name}/config", summary="Configuration of a model", responses=errors(401, 404))
@router.get(
    "/v2/models/{name}/versions/{version}/config", summary="Configuration of a model", responses=errors(401, 404)
)
async def configuration(request: Request, name: str, version: str = VERSION) -> Response:
    """Its inputs and outputs without their first dimension, and how many pictures a request may have."""
    worker = find(request, name, version)
    settings = request.app.state.inference.settings
    return json_response(model_configuration(name, worker.classifier, settings.max_batch))


@router.post(
    "/v2/repository/index",
    summary="The models and their states",
    openapi_extra={"requestBody": INDEX_BODY},
    responses=errors(400, 401, 403, 408, 413, 503),
)
async def index(request: Request) -> Response:
    """All models, or with ``{"ready": true}`` those that take requests."""
    inference: Inference = request.app.state.inference
    text = await read_body(request.receive, _LONGEST_QUESTION)
    try:
        question = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, f"the body is not JSON: {error}") from None
    only_ready = question.get("ready", False) if isinstance(question, dict) else None
    if not isinstance(only_ready, bool):
        raise ServiceError(400, 'expected nothing, or a JSON object such as {"ready": true}')
    return json_response(index_of(inference, only_ready=only_ready))


def index_of(inference: Inference, *, only_ready: bool) -> list[dict[str, str]]:
    """``name``, ``version``, ``state`` and ``reason`` of the models, or of those that take requests."""
    workers = [worker for worker in inference.workers.values() if worker.ready or not only_ready]
    return [_entry(worker, inference.draining) for worker in workers]


def _entry(worker: Worker, draining: bool) -> dict[str, str]:
    ready = worker.ready and not draining
    reason = "" if ready else "shutting down" if draining else worker.state
    return {"name": worker.name, "version": VERSION, "state": "READY" if ready else "UNAVAILABLE", "reason": reason}


def statistics_of(worker: Worker) -> dict[str, Any]:
    """Triton's statistics of a model."""
    values = worker.counters.values()

    def duration(count: str, microseconds: str) -> dict[str, int]:
        return {"count": int(values[count]), "ns": int(values[microseconds] * 1e3)}

    none = {"count": 0, "ns": 0}
    return {
        "name": worker.name,
        "version": VERSION,
        "last_inference": int(values["last_ms"]),
        "inference_count": int(values["pictures"]),
        "execution_count": int(values["executions"]),
        "inference_stats": {
            "success": duration("success", "request_us"),
            "fail": duration("failure", "failure_us"),
            "queue": duration("success", "queue_us"),
            "compute_input": duration("success", "input_us"),
            "compute_infer": duration("success", "infer_us"),
            "compute_output": duration("success", "output_us"),
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
    }
