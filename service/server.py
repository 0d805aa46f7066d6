"""uvicorn, run so that a load balancer learns of a shutdown before connections are refused."""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from .hub import Hub


class Server(uvicorn.Server):
    """SIGTERM and SIGINT: readiness turns false; after the settings' ``drain`` seconds, in which requests are still
    served, connections are no longer accepted and requests in flight have ``grace`` seconds. A second signal ends it
    at once.
    """

    def __init__(self, app: FastAPI, **options: Any) -> None:
        self.hub: Hub = app.state.hub
        config = uvicorn.Config(
            app,
            http=_protocol(),
            access_log=False,  # the application writes its own, with request ids
            log_config=None,
            timeout_graceful_shutdown=max(1, round(self.hub.settings.grace)),
            **options,
        )
        super().__init__(config)

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


def _protocol() -> Any:
    """The fast parser where it is installed, with limits of our own; else h11, which has one of its own."""
    try:
        from .protocol import LimitedHttp  # noqa: PLC0415 - httptools need not be there
    except ImportError:
        return "h11"
    return LimitedHttp
