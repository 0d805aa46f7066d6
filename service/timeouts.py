"""How long the wait for a job goes on: until its deadline, or until its client has gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .errors import CLIENT_GONE, ServiceError, late
from .jobs import Job, Logits
from .worker import Worker

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_UNWATCHED_S = 0.05
"""A request answered this soon needs nobody to watch whether its client is still there."""


class RequestTimeout:
    """Fails ``future``, that of ``job``, when the deadline has passed or ``receive`` tells that the client has gone;
    :meth:`end` it always.

    ``deadline``: seconds from now. One timer is all that a request costs which is answered soon.
    """

    def __init__(
        self, worker: Worker, job: Job, future: asyncio.Future[Logits], receive: Receive, deadline: float
    ) -> None:
        self._worker = worker
        self._job = job
        self._future = future
        self._receive = receive
        self._deadline = deadline
        self._watch: asyncio.Future[None] | None = None
        self._loop = future.get_loop()
        self._timer = self._loop.call_later(min(_UNWATCHED_S, deadline), self._begin_to_watch)

    async def end(self) -> None:
        """Nobody waits any more."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    def _begin_to_watch(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._job.deadline - time.perf_counter()), self._late)
        self._watch = asyncio.ensure_future(_until_gone(self._receive))
        self._watch.add_done_callback(self._gone)

    def _gone(self, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled() and not self._future.done():
            self._worker.counters.add(dropped=1)
            self._future.set_exception(ServiceError(CLIENT_GONE, "the client has gone"))

    def _late(self) -> None:
        if not self._future.done():
            self._worker.counters.add(late=1)
            self._future.set_exception(late(f"no answer within the deadline of {self._deadline:g} s"))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
