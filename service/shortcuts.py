"""The way to the handlers of the busiest addresses.

FastAPI's own way there takes longer than the small network: it tries all routes before, and prepares for parameters
that these handlers do not have. They are its routes nevertheless, for the description of the interface and for whatever
is written otherwise, such as another method or an address below a root path.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from . import oip, rest

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

HANDLER = "fracbnn.handler"
"""Where in a request's scope its handler stands."""
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


def shortcut(scope: Mapping[str, Any]) -> Handler | None:
    """The handler of a request, ``None`` where FastAPI is to find it."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope.get("root_path"):
        return None
    path: str = scope["path"]
    if path == "/v1/classify":
        return rest.classify
    if match := _INFER.fullmatch(path):
        name, version = match.groups()
        return partial(oip.infer, name=name) if version is None else partial(oip.infer, name=name, version=version)
    return None


async def answer_directly(scope: Any, receive: Any, send: Any) -> None:
    """ASGI application of requests whose ``scope`` has what :func:`shortcut` found for them."""
    handler: Handler = scope[HANDLER]
    response = await handler(Request(scope, receive))
    await response(scope, receive, send)
