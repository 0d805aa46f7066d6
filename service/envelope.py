"""What surrounds every request: its id, authorization, limits, log line, and an answer whatever happens."""

from __future__ import annotations

import base64
import hmac
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect

from .errors import CLIENT_GONE, ServiceError, error_response, refuse_websocket
from .hub import Hub
from .limits import LimitedBody, Memory, Message, Receive, check_length
from .logs import REQUEST_ID
from .page import PAGE_PATHS

log = logging.getLogger(__name__)
access = logging.getLogger("fracbnn_pynq.service.access")

Scope = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

OPEN_PATHS = frozenset(
    (*PAGE_PATHS, "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
)
"""What needs no token: it tells nothing, and load balancers and browsers cannot send one."""

_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
TOKEN_PROTOCOL = "fracbnn.token."  # noqa: S105 - no token, but what stands before one
"""A WebSocket subprotocol that begins like this goes on with the token in base64url: browsers can send that, and no
headers. Unlike an address it is in nobody's log or history."""


class Envelope:
    """ASGI middleware; ``hub`` is what the application serves, ``memory`` what all requests together may hold."""

    def __init__(self, app: App, hub: Hub, memory: Memory) -> None:
        self._app = app
        self._hub = hub
        self._memory = memory
        token = hub.settings.token
        self._authorization = None if token is None else b"bearer " + token.encode("ascii")
        self._protocol = None if token is None else token_protocol(token).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(scope, receive, send).run(self._app, self._hub, self._memory, self._allows(scope))
        elif scope["type"] == "websocket" and not self._allows(scope):
            await refuse_websocket(_unauthorized(), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        if self._authorization is None or scope["path"] in OPEN_PATHS:
            return True
        scheme, _, token = (_header(scope, b"authorization") or b"").partition(b" ")
        if hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._authorization):
            return True
        given = [name.encode("utf-8", "replace") for name in scope.get("subprotocols") or ()]
        return any(hmac.compare_digest(name, self._protocol or b"") for name in given)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = _header(scope, b"x-request-id")
        self._id = given.decode("ascii") if given and _ID.fullmatch(given) else _new_id()
        self._scope = scope
        self._receive = receive
        self._to_client = send
        self._status = 0
        self._start = time.perf_counter()
        scope.setdefault("state", {}).update(request_id=self._id, received=self._start)

    async def run(self, app: App, hub: Hub, memory: Memory, allowed: bool) -> None:
        mark = REQUEST_ID.set(self._id)
        body = LimitedBody(self._receive, hub.settings, memory)
        try:
            self._check(hub, allowed)
            await app(self._scope, body, self._send)
        except ServiceError as error:
            await self._refuse(error)
        except ClientDisconnect:
            self._status = self._status or CLIENT_GONE
        except Exception:
            log.exception("%s %s failed", self._scope["method"], self._scope["path"])
            await self._refuse(ServiceError(500, "the service failed; its log says why"))
        finally:
            body.release()
            hub.http.by_status[self._status] += 1
            self._log()
            REQUEST_ID.reset(mark)

    def _check(self, hub: Hub, allowed: bool) -> None:
        if not allowed:
            raise _unauthorized()
        length = _header(self._scope, b"content-length")
        if length is not None and length.isdigit():
            check_length(int(length[:20]), hub.settings.max_body)

    async def _refuse(self, error: ServiceError) -> None:
        if self._status:
            log.error("the answer had begun before this: %s", error)
            return
        await error_response(error)(self._scope, self._receive, self._send)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._id.encode("ascii"))]
        await self._to_client(message)

    def _log(self) -> None:
        if access.isEnabledFor(logging.INFO):
            elapsed = round((time.perf_counter() - self._start) * 1e3, 3)
            method, path = self._scope["method"], self._scope["path"]
            fields = {"method": method, "path": path, "status": self._status, "ms": elapsed}
            client = self._scope.get("client")
            if client:
                fields["client"] = client[0]
            access.info("%s %r %d %.1f ms", method, path, self._status, elapsed, extra={"fields": fields})


def _new_id() -> str:
    # It need not be a secret, and os.urandom gives up the GIL, which takes a busy event loop long to get back.
    return f"{random.getrandbits(96):024x}"


def token_protocol(token: str) -> str:
    """The WebSocket subprotocol that stands for a token."""
    return TOKEN_PROTOCOL + base64.urlsafe_b64encode(token.encode("ascii")).decode("ascii").rstrip("=")


def _unauthorized() -> ServiceError:
    return ServiceError(
        401, "expected 'Authorization: Bearer' with this service's token", headers={"WWW-Authenticate": "Bearer"}
    )


def _header(scope: Scope, name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
