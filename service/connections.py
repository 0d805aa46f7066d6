"""How many connections there may be, and which one gives way to a new one where there are that many."""

from __future__ import annotations

import resource
import time
from typing import Protocol

RESERVED_DESCRIPTORS = 128
"""File descriptors that are kept for listening sockets, accepting, files, the camera and the board."""
FEWEST = 16
PATIENCE_S = 1.0
"""Seconds for which a connection may wait for a request before it is the first to give way to another one."""


class Connection(Protocol):
    """What can be asked of a connection."""

    def abandon(self) -> None:
        """End it at once."""


class Registry:
    """The connections of a server, at most ``limit`` of them; in the event loop only.

    Where a connection more comes, the one gives way that has waited longest for a request, if for a second or more;
    else the one that has been sending its request for the longest time, as who has just connected has sent nothing
    yet; where none sends, the one that waits. Those whose answer is being computed or sent stay.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.abandoned = 0
        """Connections that gave way, ever."""
        self.refused = 0
        """Connections for which none gave way, ever."""
        self._all: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        """Since when, in seconds, in the order in which they began."""
        self._receiving: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: Connection) -> bool:
        """Let a connection in; whether there is a place for it."""
        if len(self._all) >= self.limit:
            victim = self._first_to_give_way()
            if victim is None:
                self.refused += 1
                return False
            self.abandoned += 1
            self.forget(victim)
            victim.abandon()
        self._all.add(connection)
        return True

    def idle(self, connection: Connection) -> None:
        """It begins to wait for a request."""
        self._receiving.pop(connection, None)
        if connection in self._all:
            self._idle.setdefault(connection, time.monotonic())

    def receiving(self, connection: Connection) -> None:
        """It begins to receive a request's body."""
        self._idle.pop(connection, None)
        if connection in self._all:
            self._receiving[connection] = None

    def busy(self, connection: Connection) -> None:
        """Its request is here, and will be answered."""
        self._idle.pop(connection, None)
        self._receiving.pop(connection, None)

    def forget(self, connection: Connection) -> None:
        """It has ended, or is not the server's any more."""
        self._all.discard(connection)
        self.busy(connection)

    def _first_to_give_way(self) -> Connection | None:
        waits, since = next(iter(self._idle.items()), (None, 0.0))
        if waits is not None and time.monotonic() - since >= PATIENCE_S:
            return waits
        return next(iter(self._receiving), waits)


def most_connections(wanted: int) -> int:
    """``wanted``, or as many as there can be file descriptors; raises the limit of this process towards that first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError):  # some systems allow no change
            pass
    possible = wanted if soft == resource.RLIM_INFINITY else soft - RESERVED_DESCRIPTORS
    return max(FEWEST, min(wanted, possible))
