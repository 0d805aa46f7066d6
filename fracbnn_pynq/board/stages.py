"""Where the time of a call goes."""

from __future__ import annotations

from time import perf_counter

STAGES = ("encode", "copy", "start", "run", "read", "post", "total")
"""Stages of a picture: thermometer code into the buffer; flush; registers; from the start until the core is seen idle
(during which the next picture is encoded and the last one's ``post`` done); result out of the buffer; what is left to
compute on the host. ``total`` is the whole call's time, divided by its pictures."""


class Stopwatch:
    """Adds up seconds by stage. Asked half a dozen times a picture, so it is brief."""

    __slots__ = ("_begin", "_last", "_seconds")

    def __init__(self) -> None:
        self._begin = self._last = perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def lap(self, stage: str) -> None:
        """The time since the last stage's end was spent on ``stage``."""
        now = perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def since(self, stage: str, started: float) -> None:
        """``stage`` has lasted from ``started`` (``time.perf_counter``), beside others, and ends now."""
        now = perf_counter()
        self._seconds[stage] += now - started
        self._last = now

    def milliseconds(self, pictures: int) -> dict[str, float]:
        """Milliseconds per picture by stage; the call ends now."""
        self._seconds["total"] = perf_counter() - self._begin
        return {stage: seconds * 1e3 / pictures for stage, seconds in self._seconds.items()}
