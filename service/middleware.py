"""What surrounds every request: its id, access, limits, log line, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect

from .access import Access, bearer, is_bearer, route_path
from .errors import CLIENT_GONE, ServiceError, error_response, new_id, refuse_websocket
from .inference import Inference
from .limits import LimitedBody, Memory, Message, Receive, check_length
from .logs import REQUEST_ID
from .page import PAGE_PATHS

log = logging.getLogger(__name__)
access = logging.getLogger("fracbnn_pynq.service.access")

Scope = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = dict[bytes, bytes]

HEALTH_PATHS = frozenset(("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"))
"""What load balancers ask for, under whatever name they have for this service."""
OPEN_PATHS = HEALTH_PATHS | frozenset((*PAGE_PATHS, "/openapi.json"))
"""What needs no token: it tells nothing, and load balancers and browsers cannot send one."""

DRAINED_BYTES = 64 << 20
"""Bytes of a refused body that are read and thrown away, so that its sender comes to read the answer."""
DRAINED_S = 5.0
"""Seconds for that."""

_TOO_SLOW = 408
"""Whoever gets this sends nothing that would have to be read."""
_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_CLOSE = (b"connection", b"close")
TOKEN_PROTOCOL = "fracbnn.token."  # noqa: S105 - no token, but what stands before one
"""A WebSocket subprotocol that begins like this goes on with the token in base64url: browsers can send that, and no
headers. Unlike an address it is in nobody's log or history."""


class RequestMiddleware:
    """ASGI middleware; ``inference`` is what the application serves, ``memory`` what all requests together may hold."""

    def __init__(self, app: App, inference: Inference, memory: Memory) -> None:
        self._app = app
        self._inference = inference
        self._memory = memory
        self._access = Access(inference.settings)
        token = inference.settings.token
        self._authorization = None if token is None else bearer(token)
        self._protocol = None if token is None else token_protocol(token).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._inference.ensure_started()
            await _Exchange(self, self._inference, scope, receive, send).run(self._app, self._memory)
        elif scope["type"] == "websocket":
            self._inference.ensure_started()
            try:
                self.check(scope, dict(scope["headers"]))
            except ServiceError as error:
                await refuse_websocket(error, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """401 without the token, 403 for a wrong host or a page of another site, 501 for encodings of the transfer."""
        path = route_path(scope)
        if path not in HEALTH_PATHS:
            self._access.check(scope, headers, path)
        if self._authorization is not None and path not in OPEN_PATHS and not self._has_token(scope, headers):
            raise ServiceError(
                401,
                "expected 'Authorization: Bearer' with this service's token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        coding = headers.get(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise ServiceError(
                501,
                f"Transfer-Encoding: expected chunked alone, found {coding[:40].decode('latin-1')!r}; "
                f"for compressed bodies there is Content-Encoding",
                headers={"Connection": "close"},
            )

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        if is_bearer(headers.get(b"authorization", b""), self._authorization or b""):
            return True
        given = [name.encode("utf-8", "replace") for name in scope.get("subprotocols") or ()]
        return any(hmac.compare_digest(name, self._protocol or b"") for name in given)


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        middleware: RequestMiddleware,
        inference: Inference,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        self._id = given.decode("ascii") if given and _ID.fullmatch(given) else new_id()
        self._middleware = middleware
        self._inference = inference
        self._scope = scope
        self._headers = headers
        self._receive = receive
        self._to_client = send
        self._status = 0
        self._ends = False
        self._start = time.perf_counter()
        scope.setdefault("state", {}).update(request_id=self._id, received=self._start, headers=headers)

    async def run(self, app: App, memory: Memory) -> None:
        mark = REQUEST_ID.set(self._id)
        settings = self._inference.settings
        body = self._body = LimitedBody(self._receive, settings, memory)
        try:
            self._middleware.check(self._scope, self._headers)
            length = self._headers.get(b"content-length")
            if length is not None and length.isdigit():
                check_length(int(length[:20]), settings.max_body)
            scope = self._scope
            if scope["method"] == "HEAD":  # as GET; the server, which has the other scope, sends no body
                scope = {**scope, "method": "GET", "state": {**scope["state"], "head": True}}
            await app(scope, body, self._send)
        except ServiceError as error:
            await self._refuse(error)
        except ClientDisconnect:
            self._status = self._status or CLIENT_GONE
        except Exception:
            log.exception("%s %s failed", self._scope["method"], self._scope["path"])
            await self._refuse(ServiceError(500, "the service failed; its log says why"))
        finally:
            body.release()
            self._inference.http.by_status[self._status] += 1
            self._log()
            REQUEST_ID.reset(mark)

    async def _refuse(self, error: ServiceError) -> None:
        if self._status:
            log.error("the answer had begun before this: %s", error)
            return
        await error_response(error)(self._scope, self._receive, self._send)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._id.encode("ascii")), _NOSNIFF]
            self._ends = _CLOSE in headers and self._status != _TOO_SLOW
            if self._inference.draining:
                headers.append(_CLOSE)
            message["headers"] = headers
        elif self._ends and not message.get("more_body", False) and not self._body.whole:
            await self._end_slowly(message)
            return
        await self._to_client(message)

    async def _end_slowly(self, message: Message) -> None:
        """Give the whole answer and then read what the client is still sending, for a while, before the connection is
        closed: else the answer would be lost with what is not read."""
        await self._to_client({**message, "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_throw_away(self._receive), DRAINED_S)
        await self._to_client({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self) -> None:
        if access.isEnabledFor(logging.INFO):
            elapsed = round((time.perf_counter() - self._start) * 1e3, 3)
            method, path = self._scope["method"], self._scope["path"]
            fields = {"method": method, "path": path, "status": self._status, "ms": elapsed}
            client = self._scope.get("client")
            if client:
                fields["client"] = client[0]
            access.info("%s %r %d %.1f ms", method, path, self._status, elapsed, extra={"fields": fields})


async def _throw_away(receive: Receive) -> None:
    """Read a body to its end, or so much of it that there must be one soon."""
    size = 0
    while size < DRAINED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def token_protocol(token: str) -> str:
    """The WebSocket subprotocol that stands for a token."""
    return TOKEN_PROTOCOL + base64.urlsafe_b64encode(token.encode("ascii")).decode("ascii").rstrip("=")
