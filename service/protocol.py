"""HTTP/1.1 connections with limits that uvicorn's fast parser does not have: of time in every state, and of sizes.

A connection waits for a request's head, or receives its body, or its answer is computed and sent. In each of these
states a timer runs that closes it in the end, whatever the client does or does not send.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .connections import Registry
from .errors import as_json, new_id

log = logging.getLogger(__name__)

MAX_HEAD = 64 << 10
"""Bytes of request line and headers; what h11, the other parser, allows."""
MAX_FRAMING = 64 << 10
"""Bytes between two pieces of a chunked body, or of its trailers: those are read and thrown away."""
READ_AT_ONCE = 64 << 10
"""Bytes that are read of a connection before it is another one's turn."""
MAX_PIPELINED = 8
"""Requests that may wait behind the one that is answered."""
HEAD_TIMEOUT_S = 10.0
"""Seconds from the connection, or from the last answer, or from a request's first byte, to the end of its head."""
BODY_TIMEOUT_S = 60.0
"""Seconds for a body, also where nobody reads it; the application's own limit is shorter."""
LINGER_S = 2.0
"""Seconds that are read on after a refusal of the connection."""
MAX_LINGERING = 4 << 20
"""Bytes that are."""
SEND_TIMEOUT_S = 60.0
"""Seconds in which a client must take an answer but for its last 64 KB, and those, too, once the connection closes."""
_SHORTEST_S = 0.01

_AUTHORITY_ALONE = re.compile(rb"(https?://[^/?#]+)([?#].*)?", re.IGNORECASE | re.DOTALL)


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's connection, which ends in bounded time and holds bounded memory."""

    def __init__(self, *arguments: Any, registry: Registry, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._registry = registry
        self._complaint = ""
        self._lingering = False
        self._in_head = True
        self._receiving = False
        self._head = 0
        self._framing = 0
        self._since = 0.0
        self._stuck_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # --- what happens to a connection -------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        # asyncio would read 256 KB at once of each of a thousand connections, before any of them is looked at.
        if hasattr(transport, "max_size"):
            transport.max_size = READ_AT_ONCE
        self._since = self.loop.time()
        if not self._registry.admit(self):
            self.transport.write(_answer(503, "there are as many connections as there may be: try again", new_id()))
            self.transport.close()
            return
        self._registry.idle(self)
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._registry.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        if self._lingering:
            self._head += len(data)
            if self._head > MAX_LINGERING:
                self.transport.abort()
            return
        if self.transport.is_closing():
            return
        was_in_head = self._in_head
        self._framing += len(data)
        super().data_received(data)
        if self._lingering:
            return
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the head of a request: expected at most {MAX_HEAD} bytes")
        elif was_in_head:
            self._framing = 0
        elif self._receiving and self._framing > MAX_FRAMING:
            self._refuse(400, f"a chunked body: expected at most {MAX_FRAMING} bytes around its data and of trailers")

    def abandon(self) -> None:
        """End it at once, as its place is wanted by others."""
        self.transport.abort()

    def shutdown(self) -> None:
        """The server ends: so does this, once it owes no answer."""
        if self._in_head and self._head and not self.transport.is_closing():
            return  # a request has begun to arrive; its answer will be the last one, and a timer runs
        super().shutdown()

    # --- what the parser finds --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head, self._since = True, 0, self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after a body are not kept."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has ended."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._complaint = f"expected at most {MAX_PIPELINED} requests ahead of their answers"
            raise ValueError(self._complaint)  # ends the parsing: uvicorn then asks for the answer with status 400
        found = _AUTHORITY_ALONE.fullmatch(self.url) if self.url[:4].lower() == b"http" else None
        if found is not None:  # RFC 9112, section 3.2.2: the path of such a target is "/"
            self.url = found[1] + b"/" + (found[2] or b"")
        self._in_head = False
        self._receiving = True
        self._since = self.loop.time()
        self._registry.receiving(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._framing = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._receiving = False
        self._head = self._framing = 0
        self._since = self.loop.time()
        if self._is_idle():  # it was answered before it had ended
            self._registry.idle(self)
        else:
            self._registry.busy(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been given to the transport."""
        super().on_response_complete()
        self._since = self.loop.time()
        if not self._receiving and self._is_idle():
            self._registry.idle(self)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn sends for malformed HTTP, in the shape of all other refusals."""
        self._refuse(400, self._complaint or f"malformed HTTP: {msg}")

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has taken nearly all."""
        self._stuck_since = 0.0
        super().resume_writing()

    # --- limits -----------------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Answer, where no other answer has begun, and close."""
        if self._lingering:
            return
        request_id = new_id()
        log.info("a connection is closed (%s): %s", request_id, message)
        if self.pipeline:  # another request's answer may have begun, and this one's place is behind it
            self.transport.abort()
            return
        cycle = self.cycle
        answers = not self._is_idle()
        if cycle is not None:
            cycle.waiting_for_100_continue = False  # nothing may be written behind this answer
        if not self.transport.is_closing():
            if not answers or not cycle.response_started:
                self.transport.write(_answer(status, message, request_id))
            self._linger()
        if answers:
            cycle.disconnected = True  # whoever computes an answer to it learns that nobody waits
            cycle.message_event.set()

    def _linger(self) -> None:
        """Close, but read on for a moment: else what the client has sent may keep it from reading the answer."""
        self._since = self.loop.time()
        if self.transport.can_write_eof():
            self._lingering, self._head = True, 0
            self.transport.write_eof()
            self.flow.resume_reading()
            self._registry.idle(self)
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _watch(self) -> None:
        """Close the connection if its state has lasted too long; else come back when it might have."""
        if self.transport is None or self.transport.get_protocol() is not self:
            self._registry.forget(self)  # it has become a WebSocket, or has ended
            return
        now = self.loop.time()
        since, limit = self._state(now)
        left = since + limit - now
        if left <= 0:
            self._expire()
            left = HEAD_TIMEOUT_S
        self._timer = self.loop.call_later(max(left, _SHORTEST_S), self._watch)

    def _state(self, now: float) -> tuple[float, float]:
        """When the present state began, and how many seconds it may last."""
        if self.transport.is_closing():  # it has something to send yet
            self._stuck_since = self._stuck_since or now
        if self._stuck_since:
            return self._stuck_since, SEND_TIMEOUT_S
        if self._is_idle():
            return self._since, HEAD_TIMEOUT_S
        if self._receiving:
            return self._since, BODY_TIMEOUT_S
        return now, HEAD_TIMEOUT_S  # its answer is being computed: the application's deadlines hold

    def _expire(self) -> None:
        if self._stuck_since:
            log.info("a connection was closed: its client took nothing for %g s", SEND_TIMEOUT_S)
            self.transport.abort()
        elif self._in_head and self._head:
            self._refuse(408, f"the head of a request was not here after {HEAD_TIMEOUT_S:g} s")
        else:
            self.transport.close()


def _answer(status: int, message: str, request_id: str) -> bytes:
    """The whole answer of a refusal, for requests that do not reach the application."""
    body = as_json({"error": message})
    head = (
        STATUS_LINE[status],
        b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
        b"x-request-id: %s\r\nconnection: close\r\n\r\n" % request_id.encode("ascii"),
    )
    return b"".join((*head, body))
