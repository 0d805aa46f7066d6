"""Those who watch the camera. A slow one misses frames; it holds up neither the camera nor anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import unavailable

log = logging.getLogger(__name__)

POLL_S = 0.25
"""A shutdown is noticed within this time, also while no frames come."""
STALLED_S = 10.0
"""A viewer that takes nothing for this long is sent away: its place may be wanted."""


@dataclass(frozen=True)
class Update:
    """What viewers are told: ``data`` for programs and, where somebody wants it, JPEG files of the frame.

    ``plain`` is the frame as it came, ``marked`` the one with text on it.
    """

    data: Mapping[str, Any]
    plain: bytes | None = None
    marked: bytes | None = None


class Subscriber:
    """One who watches: a slot for one update, in which a newer one replaces an older. In the event loop only.

    ``wants``: the name of the picture in :class:`Update` that it is sent, or ``None`` for data alone.
    """

    def __init__(self, wants: str | None) -> None:
        self.wants = wants
        self.dropped = 0
        self._waiting: Update | None = None
        self._filled = asyncio.Event()

    def offer(self, update: Update) -> None:
        """Put an update into the slot."""
        self.dropped += self._waiting is not None
        self._waiting = update
        self._filled.set()

    async def take(self, timeout: float) -> Update | None:
        """The update in the slot; ``None`` where none came in ``timeout`` seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._filled.wait(), timeout)
        update, self._waiting = self._waiting, None
        self._filled.clear()
        return update


class Subscribers:
    """All viewers, at most ``places`` at once. In the event loop only, except for :attr:`wanted`."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.wanted: frozenset[str | None] = frozenset()
        """What those who are here want; replaced as a whole, so that another thread may read it."""
        self.dropped = 0
        """Updates that gave way to newer ones, of all viewers ever."""
        self._viewers: set[Subscriber] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    def add(self, viewer: Subscriber) -> None:
        """Let a viewer in; 503 where all places are taken."""
        if len(self._viewers) >= self.places:
            raise unavailable(f"{self.places} viewers are watching, which is all there may be: try again")
        self._viewers.add(viewer)
        self._count()

    def remove(self, viewer: Subscriber) -> None:
        """It has left."""
        self._viewers.discard(viewer)
        self._count()

    def tell(self, update: Update) -> None:
        """Offer an update to everybody."""
        for viewer in self._viewers:
            before = viewer.dropped
            viewer.offer(update)
            self.dropped += viewer.dropped - before

    def _count(self) -> None:
        self.wanted = frozenset(viewer.wants for viewer in self._viewers)


async def send_updates(
    viewer: Subscriber,
    send: Callable[[Update], Awaitable[None]],
    gone: Awaitable[None],
    ended: Callable[[], bool],
) -> bool:
    """Send a viewer what comes until it has left, takes nothing any more or the service ends.

    ``send``: may wait for the network and may raise. ``gone``: returns when the viewer has left. ``ended``: whether the
    service ends. Returns whether the viewer is still there, to be told of the end.
    """

    async def send_all() -> None:
        while not ended():
            update = await viewer.take(POLL_S)
            if update is not None:
                await asyncio.wait_for(send(update), STALLED_S)

    tasks = asyncio.ensure_future(send_all()), asyncio.ensure_future(gone)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(tasks)
    sent, left = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(sent, asyncio.TimeoutError):
        log.info("a viewer of the camera took nothing for %g s and was sent away", STALLED_S)
    elif isinstance(sent, Exception):
        # What a server raises when its client has gone differs from one to the next.
        log.debug("a viewer of the camera could not be sent anything", exc_info=sent)
    return sent is None and left is not None


async def _end(tasks: Iterable[asyncio.Future[None]]) -> None:
    """Cancel tasks until they have ended: before Python 3.12 ``wait_for`` may swallow a cancellation."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=POLL_S)
