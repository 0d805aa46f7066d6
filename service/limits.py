"""Limits on request bodies, kept while they are read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

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
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._timeout
        try:
            return await asyncio.wait_for(self._receive(), max(0.0, self._end - now))
        except asyncio.TimeoutError:
            raise ServiceError(
                408, f"the body was not here after {self._timeout:g} s", headers={"Connection": "close"}
            ) from None


def check_length(length: int, limit: int) -> None:
    """413, and the end of the connection, for a body of more than ``limit`` bytes."""
    if length > limit:
        raise too_large(f"body: expected at most {limit} bytes, found at least {length}", close=True)
