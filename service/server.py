"""uvicorn, run so that a load balancer learns of a shutdown before connections are refused, and within limits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from .connections import Registry, most_connections
from .inference import Inference
from .memory import return_large_blocks
from .protocol import LimitedHttp

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 64
"""Connections that the event loop accepts before it looks at any of them; the kernel keeps more that wait."""
_BACKLOG = 2048
_UNSENT = 1 << 16
_MAX_MESSAGE = 1 << 12
"""Bytes of a message from a WebSocket client; none is expected."""
_LAST_REQUESTS_S = 1.0
"""Seconds in which those who keep connections may send one request more, when they do not know yet that it ends."""
_SAY_AGAIN_S = 10.0


class Server(uvicorn.Server):
    """SIGTERM and SIGINT: readiness turns false; after the settings' ``drain`` seconds, in which requests are still
    served, connections are no longer accepted and requests in flight have ``grace`` seconds. A second signal ends it
    at once. ``started_at`` is called with the port once connections are accepted.

    From the signal on answers tell clients to close their connections. Connections that wait to be accepted are, and
    a request that one of them or a kept connection brings within a second is answered.
    """

    def __init__(self, app: FastAPI, *, started_at: Callable[[int], None] | None = None, **options: Any) -> None:
        self.inference: Inference = app.state.inference
        self.registry = Registry(most_connections(self.inference.settings.connections))
        self._started_at = started_at
        config = uvicorn.Config(
            app,
            http=functools.partial(LimitedHttp, registry=self.registry),  # type: ignore[arg-type]
            ws=_websocket_protocol(),
            ws_max_size=_MAX_MESSAGE,
            ws_per_message_deflate=False,  # JPEG does not get smaller
            access_log=False,  # the application writes its own, with request ids
            log_config=None,
            backlog=ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=max(1, round(self.inference.settings.grace)),
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does, and say so."""
        return_large_blocks()
        asyncio.get_running_loop().set_exception_handler(_Handler())
        await super().startup(sockets)
        for listening in self._listening():
            _keep_little(listening)
            with _another(listening) as same:
                same.listen(_BACKLOG)  # the kernel's number; the loop's stays
        if self.started and self._started_at is not None:
            self._started_at(self._listening()[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: no request that has been accepted is lost."""
        await self._accept_the_last()
        end = time.monotonic() + _LAST_REQUESTS_S
        while self.server_state.connections and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn does on a signal. It would also repeat the signal at the end: this exits with status 0."""
        if self.inference.draining:
            self.force_exit = self.should_exit = True
            return
        self.inference.draining = True
        if self.inference.settings.drain > 0:
            timer = threading.Timer(self.inference.settings.drain, self._stop)
            timer.daemon = True
            timer.start()
        else:
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True

    def _listening(self) -> list[Any]:
        return [listening for server in self.servers for listening in server.sockets]

    async def _accept_the_last(self) -> None:
        """Close the listening sockets, but take over the connections that wait there: their clients have sent."""
        waiting: list[socket.socket] = []
        for server in self.servers:
            for listening in server.sockets:
                with _another(listening) as same, contextlib.suppress(OSError):
                    while len(waiting) < _BACKLOG:
                        waiting.append(same.accept()[0])
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._connection, connection, ssl=self.config.ssl)

    def _connection(self) -> asyncio.Protocol:
        return LimitedHttp(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, registry=self.registry
        )


class _Handler:
    """asyncio's handler of errors nobody waits for, except that failures to accept are said once in a while.

    Where there are no file descriptors left, asyncio fails to accept hundreds of times a second.
    """

    def __init__(self) -> None:
        self._said = -_SAY_AGAIN_S
        self._unsaid = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not str(context.get("message", "")).startswith("socket.accept()"):
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        self._unsaid += 1
        if now - self._said >= _SAY_AGAIN_S:
            log.error("connections cannot be accepted (%d times): %s", self._unsaid, context.get("exception"))
            self._said, self._unsaid = now, 0


def _another(listening: Any) -> socket.socket:
    """The same listening socket with all methods; asyncio's own has few."""
    return socket.socket(fileno=os.dup(listening.fileno()))


def _keep_little(listening: Any) -> None:
    """Let the kernel hold little that a client has not been sent, else a slow viewer of the camera lags by seconds."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, option, _UNSENT)  # connections inherit it


def _websocket_protocol() -> Any:
    """wsproto, which the extra installs; else what uvicorn finds, which may be nothing."""
    return "wsproto" if find_spec("wsproto") is not None else "auto"
