"""Limits on request bodies, kept while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from .errors import ServiceError, too_large, unavailable
from .settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Memory:
    """Bytes of all request bodies that are in memory now."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class LimitedBody:
    """A ``receive`` that ends a request whose body is too long or too slow; :meth:`release` at its end.

    Raises :class:`~fracbnn_pynq.service.errors.ServiceError` in whoever reads: 413, 408, or 503 where all bodies
    together are too many bytes.
    """

    def __init__(self, receive: Receive, settings: Settings, memory: Memory) -> None:
        self._receive = receive
        self._limit = settings.max_body
        self._timeout = settings.body_timeout
        self._memory = memory
        self._size = 0
        self._end: float | None = None
        self._expired = False
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        message = await self._next()
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._size += size
        self._memory.held += size
        self._whole = not message.get("more_body", False)
        check_length(self._size, self._limit)
        if self._memory.held > self._memory.limit:
            raise unavailable("too many large requests at once: try again")
        return message

    def release(self) -> None:
        """The body is not in memory any more."""
        self._memory.held -= self._size
        self._size = 0

    async def _next(self) -> Message:
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = loop.time() + self._timeout
        # asyncio.wait_for costs a task for each message, and nearly all of them are there already.
        timer = loop.call_at(self._end, self._expire, asyncio.current_task())
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._expired:
                raise
            raise ServiceError(
                408, f"the body was not here after {self._timeout:g} s", headers={"Connection": "close"}
            ) from None
        finally:
            timer.cancel()

    def _expire(self, reader: asyncio.Task[Any] | None) -> None:
        self._expired = True
        if reader is not None:
            reader.cancel()


async def read_body(receive: Receive) -> bytes:
    """A request's whole body; raises ``ClientDisconnect`` where it does not come to its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def check_length(length: int, limit: int) -> None:
    """413, and the end of the connection, for a body of more than ``limit`` bytes."""
    if length > limit:
        raise too_large(f"body: expected at most {limit} bytes, found at least {length}", close=True)
