"""Counters and their Prometheus text.

The inference counters have the names that Triton Inference Server gives them. They are written here because Prometheus'
own client library appends ``_total`` to the name of every counter.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ..board.power import PowerMeter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MODEL_COUNTERS = {
    "success": ("nv_inference_request_success", "Requests answered"),
    "failure": ("nv_inference_request_failure", "Requests that failed after a model was found for them"),
    "pictures": ("nv_inference_count", "Pictures classified"),
    "executions": ("nv_inference_exec_count", "Batches computed"),
    "request_us": ("nv_inference_request_duration_us", "Microseconds of answered requests, all stages"),
    "queue_us": ("nv_inference_queue_duration_us", "Microseconds that pictures waited for the engine"),
    "input_us": ("nv_inference_compute_input_duration_us", "Microseconds of decoding, resizing and cropping"),
    "infer_us": ("nv_inference_compute_infer_duration_us", "Microseconds of the engine"),
    "output_us": ("nv_inference_compute_output_duration_us", "Microseconds of ranking and formatting results"),
    "refused": ("fracbnn_queue_full", "Requests refused because the queue was full"),
    "dropped": ("fracbnn_client_gone", "Requests dropped because their client went away"),
    "late": ("fracbnn_deadline_exceeded", "Requests that missed their deadline"),
    "faults": ("fracbnn_engine_faults", "Failures of the engine"),
    "reloads": ("fracbnn_engine_reloads", "Reloads after a failure that succeeded"),
    "failed_reloads": ("fracbnn_engine_reloads_failed", "Reloads after a failure that failed"),
}
"""Keyword of :meth:`ModelCounters.add` to name and meaning."""
_NOT_SHOWN = ("failure_us", "last_ms")
"""Counted for the statistics of the Open Inference Protocol alone: microseconds of failed requests, and when the engine
last ended a batch, in milliseconds of Unix time."""


class ModelCounters:
    """What has happened to one model; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys((*MODEL_COUNTERS, *_NOT_SHOWN), 0.0)

    def add(self, **amounts: float) -> None:
        """Add to counters named in :data:`MODEL_COUNTERS`, or ``failure_us``."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] += amount

    def computed(self, pictures: int) -> None:
        """The engine has computed a batch."""
        with self._lock:
            self._values["executions"] += 1
            self._values["pictures"] += pictures
            self._values["last_ms"] = time.time() * 1e3

    def values(self) -> dict[str, float]:
        """All counters now."""
        with self._lock:
            return dict(self._values)


class HttpCounters:
    """Answers by status; used from the event loop only."""

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()


Sample = tuple[Mapping[str, str], float]


def family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    """The lines of one metric. ``kind``: ``counter`` or ``gauge``."""
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        yield f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


def model_families(counters: Mapping[str, ModelCounters], version: str) -> Iterator[str]:
    """The lines of all counters of all models."""
    values = {model: counter.values() for model, counter in counters.items()}
    for key, (name, meaning) in MODEL_COUNTERS.items():
        samples = [({"model": model, "version": version}, values[model][key]) for model in values]
        yield from family(name, "counter", meaning, samples)


def verification_families(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The lines of what was computed again on the CPU, by model; none where nothing is."""
    if counts:
        samples = [
            ({"model": model, "result": key}, float(n)) for model, each in counts.items() for key, n in each.items()
        ]
        meaning = "Pictures computed again on the CPU; those that differ are among those checked"
        yield from family("fracbnn_verified_pictures", "counter", meaning, samples)


def power_families(meter: PowerMeter) -> Iterator[str]:
    """The lines of power and energy; none where nothing has been measured."""
    joules, watts = meter.joules, meter.latest_watts
    if joules is not None and watts is not None:
        yield from family("fracbnn_energy_joules", "counter", f"Energy used by {meter.covers}", [({}, joules)])
        yield from family("fracbnn_power_watts", "gauge", f"Power taken by {meter.covers}", [({}, watts)])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
