"""uvicorn, run so that a load balancer learns of a shutdown before connections are refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from .hub import Hub

_UNSENT = 1 << 16
_MAX_MESSAGE = 1 << 12
"""Bytes of a message from a WebSocket client; none is expected."""


class Server(uvicorn.Server):
    """SIGTERM and SIGINT: readiness turns false; after the settings' ``drain`` seconds, in which requests are still
    served, connections are no longer accepted and requests in flight have ``grace`` seconds. A second signal ends it
    at once. ``started_at`` is called with the port once connections are accepted.
    """

    def __init__(self, app: FastAPI, *, started_at: Callable[[int], None] | None = None, **options: Any) -> None:
        self.hub: Hub = app.state.hub
        self._started_at = started_at
        config = uvicorn.Config(
            app,
            http=_protocol(),
            ws=_websocket_protocol(),
            ws_max_size=_MAX_MESSAGE,
            ws_per_message_deflate=False,  # JPEG does not get smaller
            access_log=False,  # the application writes its own, with request ids
            log_config=None,
            timeout_graceful_shutdown=max(1, round(self.hub.settings.grace)),
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does, and say so."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                _keep_little(listening)
        if self.started and self._started_at is not None:
            self._started_at(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn does on a signal. It would also repeat the signal at the end: this exits with status 0."""
        if self.hub.draining:
            self.force_exit = self.should_exit = True
            return
        self.hub.draining = True
        if self.hub.settings.drain > 0:
            timer = threading.Timer(self.hub.settings.drain, self._stop)
            timer.daemon = True
            timer.start()
        else:
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True


def _keep_little(listening: Any) -> None:
    """Let the kernel hold little that a client has not been sent, else a slow viewer of the camera lags by seconds."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, option, _UNSENT)  # connections inherit it


def _websocket_protocol() -> Any:
    """wsproto, which the extra installs; else what uvicorn finds, which may be nothing."""
    return "wsproto" if find_spec("wsproto") is not None else "auto"


def _protocol() -> Any:
    """The fast parser where it is installed, with limits of our own; else h11, which has one of its own."""
    try:
        from .protocol import LimitedHttp  # noqa: PLC0415 - httptools need not be there
    except ImportError:
        return "h11"
    return LimitedHttp
