"""Interrupts of the simulated board: the AXI interrupt controller and the UIO device of a line to the processor.

A UIO device is played by a pseudo terminal, so that pynq's own ``UioController`` opens, writes and reads a device
file as on a board: writing four bytes unmasks the line, four bytes can be read once per interrupt.
"""

from __future__ import annotations

import os
import select
import threading
import tty
from collections.abc import Callable

Line = Callable[[bool], None]
"""Sets an interrupt line to a level."""

_ISR, _IPR, _IER, _IAR, _SIE, _CIE, _MER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C


class AxiIntc:
    """AXI INTC 4.1 with level inputs (product guide PG099), the registers pynq uses.

    An input that is high sets its bit of ISR, and sets it again right after it was acknowledged while still high: a
    driver that acknowledges the source last sees one more, spurious, interrupt. Wait for a condition, not an event.
    """

    def __init__(self, output: Line) -> None:
        self._output = output
        self._inputs = self._isr = self._ier = self._mer = 0
        self._lock = threading.RLock()

    def input(self, number: int) -> Line:
        """Input line ``number``, 0..31."""

        def drive(level: bool) -> None:
            with self._lock:
                self._inputs = self._inputs | 1 << number if level else self._inputs & ~(1 << number)
                self._update()

        return drive

    def read(self, offset: int) -> int:
        with self._lock:
            pending = self._isr & self._ier
            return {_ISR: self._isr, _IPR: pending, _IER: self._ier, _MER: self._mer}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        with self._lock:
            if offset == _IER:
                self._ier = value
            elif offset == _IAR:
                self._isr &= ~value
            elif offset == _SIE:
                self._ier |= value
            elif offset == _CIE:
                self._ier &= ~value
            elif offset == _MER:
                self._mer = value & 3
            self._update()

    def _update(self) -> None:
        self._isr |= self._inputs
        self._output(bool(self._mer == 3 and self._isr & self._ier))


class UioLine:
    """One interrupt line of the processor as a UIO device; ``path`` is its device file."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._ours)
        tty.setraw(self._theirs)
        self._stop, self._stopper = os.pipe()
        self.path = os.ttyname(self._theirs)
        self.count = 0
        self._level, self._masked = False, True
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="simulated UIO", daemon=True)
        self._thread.start()

    def drive(self, level: bool) -> None:
        """Set the line; a rising line that is not masked is an interrupt, and masks itself."""
        with self._lock:
            self._level = level
            self._fire()

    def close(self) -> None:
        """Remove the device. Idempotent."""
        if self._thread.is_alive():
            os.write(self._stopper, b"x")
            self._thread.join()
            for descriptor in (self._ours, self._theirs, self._stop, self._stopper):
                os.close(descriptor)

    def _fire(self) -> None:
        if self._level and not self._masked:
            self._masked = True
            self.count += 1
            os.write(self._ours, self.count.to_bytes(4, "little"))

    def _loop(self) -> None:
        while True:
            ready, _, _ = select.select([self._ours, self._stop], [], [])
            if self._stop in ready:
                return
            os.read(self._ours, 4)  # the driver's "unmask"
            with self._lock:
                self._masked = False
                self._fire()
