"""Register models every core needs: plain storage, and the block-level control of an HLS core (``ap_ctrl_hs``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

START, DONE, IDLE, READY, AUTO_RESTART = 0x01, 0x02, 0x04, 0x08, 0x80
CTRL, GIER, IP_IER, IP_ISR = 0x0, 0x4, 0x8, 0xC
FIRST_ARGUMENT = 0x10


class Ram32:
    """32-bit words that read back what was written, zero at reset. Offsets in ``locked`` ignore writes."""

    def __init__(self, values: Mapping[int, int] | None = None) -> None:
        self.values = dict(values or {})
        self.locked: set[int] = set()

    def read(self, offset: int) -> int:
        return self.values.get(offset & ~3, 0)

    def write(self, offset: int, value: int) -> None:
        if offset & ~3 not in self.locked:
            self.values[offset & ~3] = value


class Run(Protocol):
    """One run of a core, from AP_START to AP_DONE."""

    def finished(self) -> bool:
        """Whether the core is done by now; may wait for some ten microseconds."""

    def commit(self) -> None:
        """Make the results visible in memory; called once, when the run ends."""


class ApCtrlHs:
    """Control registers as Vivado HLS 2019.2 generates them (UG902, "S_AXILITE control register map").

    * AP_START reads 1 from the write that sets it until the run ends; setting it again meanwhile has no effect.
    * AP_DONE is set when the run ends and cleared by reading CTRL. ``register_map`` reads CTRL whenever it writes one
      of its bits, so AP_DONE is easily lost: poll AP_IDLE.
    * AP_READY is a pulse of one clock cycle for a core that is not pipelined: software never sees it.
    * AUTO_RESTART starts the next run when one ends.
    * IP_ISR bits are set at the end of a run where IP_IER enables them, and toggled by writing ones.

    ``start(arguments)`` begins a run with a snapshot of the argument registers. ``interrupt(level)`` is called
    whenever the interrupt line may have changed.
    """

    def __init__(
        self,
        start: Callable[[Mapping[int, int]], Run],
        *,
        arguments: Ram32 | None = None,
        interrupt: Callable[[bool], None] | None = None,
    ) -> None:
        self.arguments = arguments or Ram32()
        self.runs = 0
        self._start = start
        self._interrupt = interrupt
        self._run: Run | None = None
        self._done = self._auto_restart = False
        self._gier = self._ier = self._isr = 0
        self._lock = threading.RLock()

    @property
    def busy(self) -> bool:
        """Whether a run has been started and has not ended."""
        return self._run is not None

    def read(self, offset: int) -> int:
        if offset >= FIRST_ARGUMENT:
            return self.arguments.read(offset)
        self.settle()
        with self._lock:
            if offset == CTRL:
                value = START if self.busy else IDLE
                value |= DONE * self._done | AUTO_RESTART * self._auto_restart
                self._done = False
                return value
            return {GIER: self._gier, IP_IER: self._ier, IP_ISR: self._isr}.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset >= FIRST_ARGUMENT:
            self.arguments.write(offset, value)
            return
        self.settle()
        with self._lock:
            if offset == CTRL:
                self._auto_restart = bool(value & AUTO_RESTART)
                if value & START and not self.busy:
                    self._begin()
            elif offset == GIER:
                self._gier = value & 1
            elif offset == IP_IER:
                self._ier = value & 3
            elif offset == IP_ISR:
                self._isr ^= value & 3
            self._drive()
        self.settle()

    def settle(self) -> None:
        """End the current run if its time has come."""
        run = self._run
        # Waiting happens outside the lock, so that the thread that computes can take it.
        if run is None or not run.finished():
            return
        with self._lock:
            if self._run is not run:
                return  # another thread was first
            self._run = None
            run.commit()
            self.runs += 1
            self._done = True
            self._isr |= self._ier
            if self._auto_restart:
                self._begin()
            self._drive()

    def abandon(self) -> None:
        """Drop the current run, as when the fabric loses its configuration; its results never reach memory."""
        with self._lock:
            self._run = None
            self._auto_restart = False

    def _begin(self) -> None:
        self._run = self._start(dict(self.arguments.values))

    def _drive(self) -> None:
        if self._interrupt:
            self._interrupt(bool(self._gier and self._isr))
