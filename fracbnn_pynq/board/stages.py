"""Where the time of a call goes."""

from __future__ import annotations

import time

STAGES = ("encode", "copy", "start", "run", "read", "post", "total")
"""Stages of a picture: thermometer code into the buffer; flush; registers; from the start until the core is seen idle
(during which the next picture is encoded and the last one's ``post`` done); result out of the buffer; what is left to
compute on the host. ``total`` is the whole call's time, divided by its pictures."""


class Stopwatch:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def mark(self) -> None:
        """What follows, up to the next lap, is timed."""
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last mark or lap was spent on ``stage``."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def add(self, stage: str, seconds: float) -> None:
        """Time measured elsewhere."""
        self._seconds[stage] += seconds

    def milliseconds(self, pictures: int) -> dict[str, float]:
        """Milliseconds per picture by stage; the call ends now."""
        self._seconds["total"] = time.perf_counter() - self._begin
        return {stage: seconds * 1e3 / pictures for stage, seconds in self._seconds.items()}
