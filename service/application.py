"""The FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from .._version import __version__
from ..classifier import Classifier
from . import metrics, oip, page, rest, stream, trace
from .envelope import Envelope
from .errors import (
    ServiceError,
    handle_http_exception,
    handle_service_error,
    handle_validation_error,
)
from .hub import Hub
from .limits import Memory
from .schemas import errors
from .settings import Settings
from .shortcuts import HANDLER, answer_directly, shortcut

router = APIRouter(tags=["operation"])


class Application(FastAPI):
    """FastAPI, except for the few addresses that :mod:`.shortcuts` knows."""

    direct: Envelope

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request (ASGI)."""
        handler = shortcut(scope)
        if handler is None:
            await super().__call__(scope, receive, send)
        else:
            scope.update({"app": self, HANDLER: handler})
            await self.direct(scope, receive, send)


def create_app(models: Mapping[str, Classifier] | Settings | Hub, settings: Settings | None = None) -> FastAPI:
    """An application that serves ``models``: classifiers by name, or settings that name them.

    Classifiers that are given stay open at the end and must be used by nothing else meanwhile; ``settings`` then has
    the limits. Those that settings name are loaded now and closed at the end, so that such an application runs once.

    Raises :class:`~fracbnn_pynq.errors.ModelError`, :class:`~fracbnn_pynq.errors.BackendError`, or what the camera that
    settings name raises: :class:`~fracbnn_pynq.errors.CameraError`, :class:`~fracbnn_pynq.errors.PictureError`.
    """
    if isinstance(models, Hub):
        hub = models
    elif isinstance(models, Settings):
        hub = Hub.load(models)
    else:
        hub = Hub(models, settings or Settings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        hub.start()
        try:
            yield
        finally:
            await hub.stop()

    app = Application(
        title="fracbnn",
        version=__version__,
        description="Image classification with FracBNN binary neural networks.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.hub = hub
    app.state.tracing = asyncio.Lock()
    app.router.redirect_slashes = False
    memory = Memory(hub.settings.max_held)
    app.add_middleware(Envelope, hub=hub, memory=memory)
    app.direct = Envelope(answer_directly, hub, memory)
    app.add_exception_handler(ServiceError, handle_service_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    for part in (page.router, rest.router, trace.router, stream.router, oip.router, router):
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
    lines = request.app.state.hub.metrics()
    return Response("\n".join(lines) + "\n", media_type=metrics.CONTENT_TYPE)
