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

import logging
import math
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..doctor.environment import Machine

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


@dataclass(frozen=True)
class _Readings:
    """All readings so far, as what is needed of them: times in s, power in W, ``area`` under the trapezoids in J."""

    count: int
    first: float
    last: float
    watts: float
    area: float = 0.0

    def then(self, now: float, watts: float) -> _Readings:
        area = self.area + (now - self.last) * (self.watts + watts) / 2
        return _Readings(self.count + 1, self.first, now, watts, area)

    @property
    def mean(self) -> float:
        span = self.last - self.first
        return self.area / span if span > 0 else self.watts


class PowerMeter:
    """Measures power while its ``with`` block runs, in a thread that reads the sensors every ``interval`` seconds.

    ``rails``: by name, objects with ``power``, ``voltage`` and ``current`` sensors or ``None``, each with a ``value``
    in W, V and A; by default those of the board. Off a board, and where sensors are missing or fail,
    :attr:`joules` and :attr:`watts` are ``None``. Nothing here raises. Memory does not grow, however long the block.

    Sensors average over milliseconds and reading them takes some too: measure seconds, not one picture.
    """

    def __init__(self, rails: Rails | None = None, *, interval: float = 0.05) -> None:
        self._sensors = choose_rails(find_rails() if rails is None else rails)
        self._interval = max(0.001, interval)
        self._readings: _Readings | None = None  # replaced as a whole: other threads read it
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
        """Duration of the ``with`` block; 0 before its end."""
        return self._span[1] - self._span[0]

    @property
    def latest_watts(self) -> float | None:
        """The last reading in W."""
        readings = self._readings
        return None if readings is None else readings.watts

    @property
    def watts(self) -> float | None:
        """Mean power during the ``with`` block in W: trapezoids between readings."""
        readings = self._readings
        return None if readings is None else readings.mean

    @property
    def joules(self) -> float | None:
        """Energy of the ``with`` block in J: what was measured between readings, and the mean power for the rest of
        its duration. Inside the block: from the first reading to the last. It never decreases.
        """
        readings = self._readings
        if readings is None:
            return None
        unread = max(0.0, self.seconds - (readings.last - readings.first))
        return readings.area + readings.mean * unread

    def joules_per(self, pictures: int) -> float | None:
        """Energy of one of ``pictures``; ``None`` where none was measured or there was no picture."""
        joules = self.joules
        return None if joules is None or pictures < 1 else joules / pictures

    def __enter__(self) -> PowerMeter:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to measure: what entering the block does."""
        self._readings, self._failed = None, 0
        self._stop.clear()
        self._span = (time.perf_counter(),) * 2
        if self._sensors:
            self._note(self._read())
            self._thread = threading.Thread(target=self._run, name="fracbnn-power", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it: what leaving the block does."""
        self._stop.set()
        ended = time.perf_counter()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                log.warning("a power sensor does not answer; the energy is not known")
                self._readings = None
            else:
                self._note(self._read(), ended)  # what reading takes is no part of the block
        self._thread = None
        self._span = (self._span[0], ended)
        if self._failed:
            succeeded = 0 if self._readings is None else self._readings.count
            log.warning("%d readings of the power sensors failed, %d succeeded", self._failed, succeeded)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            watts = self._read()
            if not self._stop.is_set():  # else this reading hung, and nobody waits for it
                self._note(watts)

    def _read(self) -> float:
        try:
            return sum(float(sensor()) for sensor in self._sensors.values())
        except Exception:  # sensors fail in many ways, and a measurement must not end what it measures
            log.debug("reading the power sensors failed", exc_info=True)
            return math.nan

    def _note(self, watts: float, at: float | None = None) -> None:
        if not 0 <= watts <= _LARGEST_W:
            self._failed += 1
            return
        now, before = time.perf_counter() if at is None else at, self._readings
        self._readings = _Readings(1, now, now, watts) if before is None else before.then(max(now, before.last), watts)


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
