"""Faults the simulated board can be told to show, so that drivers can be tested against them.

Written ``name[@occasion][:value]``, several separated by commas, in ``install(faults=...)`` or in the environment
variable ``FRACBNN_FAULTS``. ``occasion`` counts from 1 (runs of all cores together, allocations or downloads,
whichever the fault concerns) and is ``*`` for every one; left out it is 1. ``FRACBNN_FAULTS="hang@3,late@*:0.02"``
lets the third run hang and every run take 20 ms longer.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..cores import REACH
from ..errors import BackendError

ENVIRONMENT = "FRACBNN_FAULTS"


class FaultKind(str, Enum):
    """What goes wrong. The comment gives the occasion that is counted and the meaning of the value."""

    HANG = "hang"
    """Run: it never ends; only a download brings the core back."""
    LATE = "late"
    """Run: it takes ``value`` seconds longer (default 0.5)."""
    WRONG_LENGTH = "wrong-length"
    """Run: only the first ``value`` bytes of the result are written (default: half of them)."""
    FLIPPED_BIT = "flipped-bit"
    """Run: bit ``value`` (default 0) of the result is the other one."""
    BUS_ERROR = "bus-error"
    """Run: memory at ``value`` (``first-end``, default all of it) answers the core with a decode error; it stops."""
    POWER_CYCLE = "power-cycle"
    """Run: while it runs the board loses power: fabric empty, DRAM lost, clocks as after booting."""
    OVERLAY_REPLACED = "overlay-replaced"
    """Run: right after it somebody else loads another overlay."""
    OVERLAY_RELOADED = "overlay-reloaded"
    """Run: right after it somebody else loads the same overlay again, which pynq in this process does not notice."""
    CMA_EXHAUSTED = "cma-exhausted"
    """Allocation: it fails as when no contiguous memory is left."""
    WRONG_CLOCK = "wrong-clock"
    """Download: fabric clock 0 comes out at ``value`` MHz (default 375); setting it again helps."""
    CLOCK_STUCK = "clock-stuck"
    """Download: as ``wrong-clock``, and setting it again has no effect before the next download."""
    DOWNLOAD_FAILS = "download-fails"
    """Download: the kernel refuses it, and what was in the fabric stays there."""
    WRONG_PART = "wrong-part"
    """No occasion: the board carries another device, an xczu5eg, and refuses bitstreams for the Ultra96-V2's."""


_OCCASIONS = {
    FaultKind.CMA_EXHAUSTED: "allocation",
    FaultKind.WRONG_CLOCK: "download",
    FaultKind.CLOCK_STUCK: "download",
    FaultKind.DOWNLOAD_FAILS: "download",
    FaultKind.WRONG_PART: "board",
}


@dataclass(frozen=True)
class Fault:
    """One fault; ``at`` is the occasion, ``None`` for every one; see :class:`FaultKind` for ``value``."""

    kind: FaultKind
    at: int | None = 1
    value: str | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``name[@occasion][:value]``; raises BackendError for anything else."""
        head, _, value = text.strip().partition(":")
        name, _, occasion = head.partition("@")
        try:
            kind = FaultKind(name)
            at = None if occasion == "*" else int(occasion or 1)
            fault = cls(kind, at, value or None)
            if kind is FaultKind.BUS_ERROR:
                fault.range()
            elif value:
                fault.number(0.0)
        except ValueError:
            names = ", ".join(member.value for member in FaultKind)
            raise BackendError(f"fault {text!r}: expected name[@occasion][:value], name one of {names}") from None
        return fault

    def number(self, default: float) -> float:
        """``value`` as a number."""
        return default if self.value is None else float(self.value)

    def range(self) -> tuple[int, int]:
        """``value`` as a half-open range of addresses; by default all of memory."""
        if self.value is None:
            return 0, REACH
        first, end = (int(part, 0) for part in self.value.split("-"))
        return first, end


class FaultPlan:
    """Which faults are due when. Counts the occasions; safe to use from several threads."""

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        self.faults = [fault if isinstance(fault, Fault) else Fault.parse(fault) for fault in faults]
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, faults: Iterable[Fault | str] = ()) -> FaultPlan:
        """The given faults and those named in ``FRACBNN_FAULTS``."""
        named = os.environ.get(ENVIRONMENT, "")
        return cls([*faults, *(part for part in named.split(",") if part.strip())])

    def next(self, occasion: str) -> dict[FaultKind, Fault]:
        """Count one more ``"run"``, ``"allocation"``, ``"download"`` or ``"board"`` and give the faults due at it."""
        with self._lock:
            self._counts[occasion] += 1
            count = self._counts[occasion]
        return {
            fault.kind: fault
            for fault in self.faults
            if _OCCASIONS.get(fault.kind, "run") == occasion and fault.at in (None, count)
        }
