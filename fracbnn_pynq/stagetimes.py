"""How long the stages of a stream take and how often they come: constant memory, however long the stream."""

from __future__ import annotations

import math
from typing import Any

SHORTEST_S = 1e-6
RATIO = 1.01
BINS = 2100
"""1 µs times 1.01 to the power 2100 is about 1200 s; longer times fall into the last bin."""

STAGES = ("capture", "wait for inference", "inference", "wait for delivery", "delivery", "end to end")
"""``capture``: what the source takes for a frame, waiting for the camera included. ``end to end``: from the moment the
source handed the frame out to the moment its result was delivered."""


class Histogram:
    """Times in bins whose edges are 1 % apart. Written by one thread, readable from others."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        self._bins = [0] * (BINS + 1)

    def add(self, seconds: float) -> None:
        """Count one time."""
        index = math.ceil(math.log(seconds / SHORTEST_S) / math.log(RATIO)) if seconds > SHORTEST_S else 0
        self._bins[min(index, BINS)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.count += 1

    @property
    def mean(self) -> float:
        """Seconds; 0 without any times."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The time that ``share`` (0..1) of all times do not exceed (nearest rank), at most 1 % too long; seconds."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for index, count in enumerate(self._bins):
            seen += count
            if seen >= rank:
                return min(self.longest, SHORTEST_S * RATIO**index) if index < BINS else self.longest
        return 0.0

    def as_data(self) -> dict[str, float]:
        """Milliseconds."""
        values = {"mean": self.mean, "p50": self.quantile(0.5), "p99": self.quantile(0.99), "max": self.longest}
        return {name: value * 1e3 for name, value in values.items()}


class EventCounter:
    """Events, and when the first and the last came."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0
        self._last = 0.0

    def at(self, now: float) -> None:
        """Count one event at ``now`` seconds."""
        if not self.count:
            self._first = now
        self._last = now
        self.count += 1

    @property
    def rate(self) -> float:
        """Events per second, from the first to the last; 0 for fewer than two."""
        span = self._last - self._first
        return (self.count - 1) / span if span > 0 else 0.0


class Statistics:
    """What a pipeline counted: frames by stage, frames dropped, times by stage (:data:`STAGES`)."""

    def __init__(self) -> None:
        self.captured = EventCounter()
        self.classified = EventCounter()
        self.delivered = EventCounter()
        self.dropped = 0
        self.stages = {name: Histogram() for name in STAGES}

    @property
    def unfinished(self) -> int:
        """Frames still under way, or given up when the stream was stopped."""
        return self.captured.count - self.dropped - self.delivered.count

    def as_data(self) -> dict[str, Any]:
        """Counts, rates per second, and milliseconds by stage."""
        counters = {"captured": self.captured, "classified": self.classified, "delivered": self.delivered}
        return {
            **{name: counter.count for name, counter in counters.items()},
            "dropped": self.dropped,
            "unfinished": self.unfinished,
            "per_second": {name: counter.rate for name, counter in counters.items()},
            "milliseconds": {name: times.as_data() for name, times in self.stages.items()},
        }
