"""How much may be decoded at once: pixels cost memory, whatever the size of the file that they come from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

SMALL = 1_000_000
"""Pixels of a picture that need not wait: there are few decoders, and each holds one picture."""
_LOOK_S = 0.05


class PixelBudget:
    """Pixels that are being decoded in all threads together, at most ``limit`` but for small pictures.

    Those who wait are served in the order in which they came. A picture of more pixels than ``limit`` is decoded alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.while_waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered where somebody has to wait, so that others may go on."""
        self.taken = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def take(self, pixels: int, check: Callable[[], None]) -> int:
        """Wait for room for ``pixels``; returns how many were taken, to be given back. ``check`` is called meanwhile
        and raises where there is nothing to wait for any more."""
        if pixels <= SMALL:
            return 0
        wanted = min(pixels, self.limit)
        with self._changed:
            if not self._waiting and self.taken + wanted <= self.limit:
                self.taken += wanted
                return wanted
        with self.while_waiting():
            self._wait(wanted, check)
        return wanted

    def _wait(self, wanted: int, check: Callable[[], None]) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self.taken + wanted > self.limit:
                    check()
                    self._changed.wait(_LOOK_S)
                self.taken += wanted
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def give_back(self, pixels: int) -> None:
        """They are not in memory any more."""
        if pixels:
            with self._changed:
                self.taken -= pixels
                self._changed.notify_all()
