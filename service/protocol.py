"""Limits on request heads, which uvicorn's fast parser does not have: their size, and the time they take."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

MAX_HEAD = 64 << 10
"""Bytes of request line and headers; what h11, the other parser, allows."""
HEAD_TIMEOUT_S = 10.0
"""Seconds from a connection's or a request's first byte to the end of its headers."""


class LimitedHttp(HttpToolsProtocol):
    """Closes connections whose request head is too long or too slow."""

    _in_head = True
    _head = 0
    _since = 0.0

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._close("long")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head, self._since = True, 0, self.loop.time()

    def on_headers_complete(self) -> None:
        """Its headers have ended."""
        self._in_head = False
        super().on_headers_complete()

    def _watch(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if self._in_head and self.loop.time() - self._since >= HEAD_TIMEOUT_S:
            self._close("slow")
            return
        # One timer for a connection, not one for a request: they last from one to two times the limit then.
        loop: asyncio.AbstractEventLoop = self.loop
        loop.call_later(HEAD_TIMEOUT_S, self._watch)

    def _close(self, why: str) -> None:
        log.info("a connection was closed: the head of its request was too %s", why)
        self.transport.close()
