"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from .._version import __version__
from ..classifier import Classifier
from ..errors import BackendError
from ..extras import install_line
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

if TYPE_CHECKING:
    from .grpc_server import GrpcServer

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
    if isinstance(models, Settings):
        settings = models
    elif isinstance(models, Inference):
        settings = models.settings
    settings = settings or Settings()
    grpc_server = _grpc_server(settings)  # before models are loaded, which takes longer than to say that it is missing
    if isinstance(models, Inference):
        inference = models
    elif isinstance(models, Settings):
        inference = Inference.load(models)
    else:
        inference = Inference(models, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        inference.start()
        speaking: GrpcServer | None = None
        try:
            if grpc_server is not None:
                speaking = grpc_server(inference)
                await speaking.start()
                _app.state.grpc_port = speaking.port
            yield
        finally:
            if speaking is not None:
                await speaking.stop()
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


def _grpc_server(settings: Settings) -> Callable[[Inference], GrpcServer] | None:
    """What makes a server for gRPC, where one is wanted: its library is an extra.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where that is missing.
    """
    if settings.grpc is None:
        return None
    try:
        found: Callable[[Inference], GrpcServer] = import_module(".grpc_server", __package__).GrpcServer
    except ImportError as error:
        raise BackendError(
            f"gRPC needs more than the service: {error}", advice=f"install it with: {install_line('grpc')}"
        ) from error
    return found


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
