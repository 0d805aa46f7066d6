"""Energy of a run from the board's own power sensors, where there are any.

pynq finds the sensors through libsensors and names them as the image's /etc/sensors.d says
(``pynq.get_rails()``). What Avnet's images name, by their public configuration files:

* Ultra96 (version 1): ``VSYS``, the input of the whole board.
* Ultra96-V2: the outputs of three regulators: ``5V`` of one, and ``INT`` (programmable logic), ``PSINT_FP``
  (processors), ``PSINT_LP``, ``PSDDR``, ``PSAUX``, ``AUX``, ``PSPLL``, ``1V2``, ``3V3``, ``3V3_D`` of two others. The
  input itself has a voltage (``VIN``) and no current.

An input is used alone; else the regulators' outputs are added, which leaves out the regulators' own losses. Without
the image's configuration file sensors of different chips have the same names and cannot be told apart: then nothing is
measured. None of this has been tried on a board.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .environment import Machine

log = logging.getLogger(__name__)

INPUT_RAILS = ("VSYS", "12V")
"""Rails that feed the whole board; the first one found is used alone."""
OUTPUT_RAILS = ("5V", "INT", "PSINT_FP", "PSINT_LP", "PSDDR", "PSAUX", "AUX", "PSPLL", "1V2", "3V3", "3V3_D")
"""Outputs of the Ultra96-V2's regulators; those found are added."""
_REQUIRED = {"INT", "PSINT_FP"}
"""Without the logic's and the processors' rails a sum would say nothing about an inference."""
_LARGEST_W = 100.0
"""A reading above what the board's supply can give is a failed I2C transfer."""
_JOIN_S = 2.0

Rails = Mapping[str, Any]


class PowerMeter:
    """Measures power while its ``with`` block runs, in a thread that reads the sensors every ``interval`` seconds.

    ``rails``: by name, objects with ``power``, ``voltage`` and ``current`` sensors or ``None``, each with a ``value``
    in W, V and A; by default those of the board. Off a board, and where sensors are missing or fail,
    :attr:`joules` and :attr:`watts` are ``None``. Nothing here raises.

    Sensors average over milliseconds and reading them takes some too: measure seconds, not one picture.
    """

    def __init__(self, rails: Rails | None = None, *, interval: float = 0.05) -> None:
        self._sensors = choose_rails(find_rails() if rails is None else rails)
        self._interval = max(0.001, interval)
        self._samples: list[tuple[float, float]] = []
        self._failed = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._span = (0.0, 0.0)

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the rails that are added; empty where nothing can be measured."""
        return tuple(self._sensors)

    @property
    def covers(self) -> str | None:
        """What the numbers cover, in words, ``None`` where nothing can be measured."""
        if not self._sensors:
            return None
        if self.rails[0] in INPUT_RAILS:
            return f"the whole board (rail {self.rails[0]})"
        return f"the outputs of the board's regulators ({', '.join(self.rails)}), without their losses"

    @property
    def seconds(self) -> float:
        """Duration of the ``with`` block."""
        return self._span[1] - self._span[0]

    @property
    def watts(self) -> float | None:
        """Mean power during the ``with`` block in W: trapezoids between samples."""
        samples = self._samples
        if not samples:
            return None
        span = samples[-1][0] - samples[0][0]
        if span <= 0:
            return samples[0][1]
        pairs = itertools.pairwise(samples)
        return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairs) / span

    @property
    def joules(self) -> float | None:
        """Energy of the ``with`` block: mean power times duration."""
        watts = self.watts
        return None if watts is None else watts * self.seconds

    def joules_per(self, pictures: int) -> float | None:
        """Energy of one of ``pictures``; ``None`` where none was measured or there was no picture."""
        joules = self.joules
        return None if joules is None or pictures < 1 else joules / pictures

    def __enter__(self) -> PowerMeter:
        self._samples, self._failed = [], 0
        self._stop.clear()
        self._span = (time.perf_counter(),) * 2
        if self._sensors:
            self._sample()
            self._thread = threading.Thread(target=self._run, name="fracbnn-power", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span = (self._span[0], time.perf_counter())
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            log.warning("a power sensor does not answer; the energy is not known")
            self._samples = []
        else:
            self._sample()
        self._thread = None
        if self._failed:
            log.warning("%d readings of the power sensors failed, %d succeeded", self._failed, len(self._samples))

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        samples = self._samples
        try:
            watts = sum(float(sensor()) for sensor in self._sensors.values())
        except Exception:  # sensors fail in many ways, and a measurement must not end what it measures
            log.debug("reading the power sensors failed", exc_info=True)
            watts = math.nan
        if 0 <= watts <= _LARGEST_W:
            samples.append((time.perf_counter(), watts))
        else:
            self._failed += 1


def find_rails(machine: Machine | None = None) -> Rails:
    """pynq's rails by name; empty off a board, where pynq is missing, and where it finds none. Never raises."""
    if not (machine or Machine()).is_board:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pynq warns where libsensors is missing
            from pynq import get_rails  # noqa: PLC0415 - boards only

            return dict(get_rails())
    except Exception:  # as above
        log.info("pynq's power sensors cannot be used", exc_info=True)
        return {}


def choose_rails(rails: Rails) -> dict[str, Any]:
    """The rails whose sum is the board's power: name to a function that reads W. Empty where they are not there."""
    readers = {name: reader for name, rail in rails.items() if (reader := _reader(rail)) is not None}
    for name in INPUT_RAILS:
        if name in readers:
            return {name: readers[name]}
    outputs = {name: readers[name] for name in OUTPUT_RAILS if name in readers}
    return outputs if outputs.keys() >= _REQUIRED else {}


def _reader(rail: Any) -> Any:
    """A function that reads a rail's power in W, from its power sensor or as voltage times current; else ``None``."""
    power, voltage, current = (getattr(rail, name, None) for name in ("power", "voltage", "current"))
    if power is not None:
        return lambda: power.value
    if voltage is not None and current is not None:
        return lambda: voltage.value * current.value
    return None
