"""Refusals: a status, a message, and one shape for all of them, ``{"error": "..."}``."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from ..errors import FracBNNError

RETRY_AFTER = {"Retry-After": "1"}
_POLICY_VIOLATION = 1008
CLIENT_GONE = 499
"""Status in logs and counters of a request whose client went away; nobody receives it."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ServiceError(FracBNNError):
    """A request is answered with ``status`` and ``{"error": message}``; ``extra`` is added to that object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def unavailable(message: str, **extra: Any) -> ServiceError:
    """503 with Retry-After: the same request may succeed later, or on another server."""
    return ServiceError(503, message, headers=RETRY_AFTER, extra=extra)


class LateError(ServiceError):
    """No answer within the deadline."""


def late(message: str) -> ServiceError:
    """503 as :func:`unavailable`, because the deadline has passed."""
    return LateError(503, f"{message}: try again", headers=RETRY_AFTER)


def too_large(message: str, *, close: bool = False) -> ServiceError:
    """413; ``close``: also end the connection, as the rest of the body will not be read."""
    return ServiceError(413, message, headers={"Connection": "close"} if close else None)


async def refuse_websocket(error: ServiceError, scope: Any, receive: Any, send: Any) -> None:
    """Refuse a WebSocket's handshake; a server that cannot send the reason sends a bare 403."""
    await receive()
    if "websocket.http.response" in (scope.get("extensions") or {}):
        answer = error_response(error)
        start = {"type": "websocket.http.response.start", "status": error.status, "headers": answer.raw_headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": answer.body})
    else:
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


def new_id() -> str:
    """An X-Request-ID for a request that has none."""
    # It need not be a secret, and os.urandom gives up the GIL, which takes a busy event loop long to get back.
    return f"{random.getrandbits(96):024x}"


def as_json(content: Any) -> bytes:
    """Compact UTF-8 JSON."""
    return _JSON.encode(content).encode("utf-8", "backslashreplace")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(as_json(content), status, headers=dict(headers or {}), media_type="application/json")


def error_response(error: ServiceError) -> Response:
    """The answer that says why there is no other."""
    return json_response({"error": str(error), **error.extra}, error.status, error.headers)


async def handle_service_error(_request: Request, error: Exception) -> Response:
    """FastAPI's handler for :class:`ServiceError`."""
    if not isinstance(error, ServiceError):
        raise error
    return error_response(error)


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """FastAPI's handler for what its router refuses: unknown paths and methods."""
    if not isinstance(error, HTTPException):
        raise error
    message = str(error.detail)
    if error.status_code == 404:
        message = f"nothing is at {request.url.path}: see /docs"
    elif error.status_code == 405:
        message = f"{request.method} is not possible at {request.url.path}"
    return error_response(ServiceError(error.status_code, message, headers=error.headers))


async def handle_validation_error(_request: Request, error: Exception) -> Response:
    """FastAPI's handler for query parameters out of range."""
    if not isinstance(error, RequestValidationError):
        raise error
    problems = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return error_response(ServiceError(422, "; ".join(problems)))
