"""Limits on request bodies, kept while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from .errors import ServiceError, too_large, unavailable
from .settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Memory:
    """Bytes of all request bodies that are in memory now, at most ``limit``.

    Where there would be more, the request that has been sending its body for the longest time gives way: those who send
    slowly, or nothing any more, do not keep out those whose bodies come at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._reading: dict[LimitedBody, None] = {}

    def begin(self, body: LimitedBody) -> None:
        """A body begins to come."""
        self._reading[body] = None

    def end(self, body: LimitedBody) -> None:
        """It is whole, or nobody reads it any more."""
        self._reading.pop(body, None)

    def add(self, size: int) -> None:
        """Count so many bytes more, of a body that is being read; 503 where there is no room for them."""
        self.held += size
        while self.held > self.limit:
            victim = next((body for body in self._reading if body.size), None)
            if victim is None:
                raise unavailable("too many large requests at once: try again")
            self.end(victim)
            victim.give_way()


class LimitedBody:
    """A ``receive`` that ends a request whose body is too long or too slow; :meth:`release` at its end.

    Raises :class:`~fracbnn_pynq.service.errors.ServiceError` in whoever reads: 413, 408, or 503 where all bodies
    together are too many bytes.
    """

    def __init__(self, receive: Receive, settings: Settings, memory: Memory) -> None:
        self.size = 0
        """Bytes of it that are in memory."""
        self._receive = receive
        self._limit = settings.max_body
        self._timeout = settings.body_timeout
        self._memory = memory
        self._end: float | None = None
        self._reader: asyncio.Task[Any] | None = None
        self._why: ServiceError | None = None
        self.whole = False
        """Whether it has come to its end."""

    async def __call__(self) -> Message:
        if self.whole:
            return await self._receive()
        message = await self._next()
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self.size += size
        self.whole = not message.get("more_body", False)
        if self.whole:
            self._memory.end(self)
        check_length(self.size, self._limit)
        self._memory.add(size)
        if self._why is not None:  # it was this one that had to give way
            raise self._why
        return message

    def release(self) -> None:
        """The body is not in memory any more."""
        self._memory.end(self)
        self._memory.held -= self.size
        self.size = 0

    def give_way(self) -> None:
        """End the reading of it, as others want its room."""
        self._memory.held -= self.size
        self.size = 0
        self._stop(unavailable("the body came slowly, and others wanted its room in memory: try again"))

    async def _next(self) -> Message:
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = loop.time() + self._timeout
            self._memory.begin(self)
        # asyncio.wait_for costs a task for each message, and nearly all of them are there already.
        self._reader = asyncio.current_task()
        timer = loop.call_at(self._end, self._expire)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if self._why is None:
                raise
            raise self._why from None
        finally:
            self._reader = None
            timer.cancel()

    def _expire(self) -> None:
        late = ServiceError(408, f"the body was not here after {self._timeout:g} s", headers={"Connection": "close"})
        self._stop(late)

    def _stop(self, why: ServiceError) -> None:
        why.headers.setdefault("Connection", "close")
        self._why = why
        if self._reader is not None:
            self._reader.cancel()


async def read_body(receive: Receive, limit: int | None = None) -> bytes:
    """A request's whole body, 413 where it has more than ``limit`` bytes.

    Raises ``ClientDisconnect`` where it does not come to its end.
    """
    parts: list[bytes] = []
    try:
        return await _collected(receive, limit, parts)
    except BaseException:
        parts.clear()  # the exception's traceback would keep them in memory until it has been answered
        raise


async def _collected(receive: Receive, limit: int | None, parts: list[bytes]) -> bytes:
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if limit is not None:
            check_length(size, limit)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def header_of(request: Request, name: bytes) -> str | None:
    """A header of a request, by its name in lower case; the middleware has read them all, once."""
    headers: dict[bytes, bytes] = request.scope["state"]["headers"]
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def check_length(length: int, limit: int) -> None:
    """413, and the end of the connection, for a body of more than ``limit`` bytes."""
    if length > limit:
        raise too_large(f"body: expected at most {limit} bytes, found at least {length}", close=True)
