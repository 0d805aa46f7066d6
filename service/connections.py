"""How many connections there may be, and which one gives way to a new one where there are that many."""

from __future__ import annotations

import resource
from typing import Protocol

RESERVED_DESCRIPTORS = 128
"""File descriptors that are kept for listening sockets, accepting, files, the camera and the board."""
FEWEST = 16


class Connection(Protocol):
    """What can be asked of a connection."""

    def abandon(self) -> None:
        """End it at once."""


class Registry:
    """The connections of a server, at most ``limit`` of them; in the event loop only.

    Where a connection more comes, the one gives way that has waited longest for a request; where none waits for one,
    the one that has been sending its request for the longest time. Those whose answer is being computed or sent stay.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.abandoned = 0
        """Connections that gave way, ever."""
        self.refused = 0
        """Connections for which none gave way, ever."""
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._receiving: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, connection: Connection) -> bool:
        """Let a connection in; whether there is a place for it."""
        if len(self._all) >= self.limit:
            waiting = self._idle or self._receiving
            victim = next(iter(waiting), None)
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
            self._idle[connection] = None

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
