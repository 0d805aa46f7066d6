"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from .._version import __version__
from ..classifier import Classifier
from . import metrics, oip, oip_statistics, page, rest, stream, trace
from .errors import (
    ServiceError,
    handle_http_exception,
    handle_service_error,
    handle_validation_error,
)
from .inference import Inference
from .limits import Memory
from .middleware import RequestMiddleware
from .oip_binary import HEADER
from .schemas import errors
from .settings import Settings

router = APIRouter(tags=["operation"])

BUSIEST = [
    Route("/v1/classify", rest.classify, methods=["POST"]),
    Route("/v2/models/{name}/infer", oip.infer_at, methods=["POST"]),
    Route("/v2/models/{name}/versions/{version}/infer", oip.infer_at, methods=["POST"]),
]
"""Routes that come before all others, without FastAPI's preparations for parameters that these handlers do not have:
both together would take longer than the small network. FastAPI's own routes of the same addresses describe them."""


def create_app(models: Mapping[str, Classifier] | Settings | Inference, settings: Settings | None = None) -> FastAPI:
    """An application that serves ``models``: classifiers by name, or settings that name them.

    Classifiers that are given stay open at the end and must be used by nothing else meanwhile; ``settings`` then has
    the limits. Those that settings name are loaded now and closed at the end, so that such an application runs once.

    Raises :class:`~fracbnn_pynq.errors.ModelError`, :class:`~fracbnn_pynq.errors.BackendError`, or what the camera that
    settings name raises: :class:`~fracbnn_pynq.errors.CameraError`, :class:`~fracbnn_pynq.errors.PictureError`.
    """
    if isinstance(models, Inference):
        inference = models
    elif isinstance(models, Settings):
        inference = Inference.load(models)
    else:
        inference = Inference(models, settings or Settings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        inference.start()
        try:
            yield
        finally:
            await inference.stop()

    app = FastAPI(
        title="fracbnn",
        version=__version__,
        description="Image classification with FracBNN binary neural networks.",
        lifespan=lifespan,
        docs_url=None,  # a page of our own, without code inside it
        redoc_url=None,
    )
    app.state.inference = inference
    app.state.tracing = asyncio.Lock()
    app.router.redirect_slashes = False
    app.add_middleware(RequestMiddleware, inference=inference, memory=Memory(inference.settings.max_held))
    if inference.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=inference.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "OPTIONS"),
            allow_headers=("Authorization", "Content-Encoding", "Content-Type", HEADER, "X-Request-ID"),
            expose_headers=(HEADER, "Retry-After", "X-Request-ID"),
        )
    app.add_exception_handler(ServiceError, handle_service_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.router.routes[:0] = BUSIEST
    for part in (page.router, rest.router, trace.router, stream.router, oip_statistics.router, oip.router, router):
        app.include_router(part)
    return app


@router.get("/health/live", summary="Whether the server runs")
async def live() -> Response:
    """Always true while anything answers."""
    return await oip.live()


@router.get("/health/ready", summary="Whether all models take requests", responses=errors(503))
async def ready(request: Request) -> Response:
    """503 while a model recovers and once a shutdown has begun."""
    return await oip.ready(request)


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse, responses=errors(401))
async def prometheus(request: Request) -> Response:
    """Counters with Triton's names, gauges of the queues, what computes each model."""
    lines = request.app.state.inference.metrics()
    return Response("\n".join(lines) + "\n", media_type=metrics.CONTENT_TYPE)
