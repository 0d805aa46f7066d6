"""AXI DMA 7.1 in direct register mode (product guide PG021), as far as ``pynq.lib.dma`` uses it.

One channel reads memory into a stream (MM2S), one writes a stream to memory (S2MM); between them sits whatever the
caller puts there, by default a wire.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .interrupts import Line
from .memory import BusError, MasterPort

Stream = Callable[[bytes], "bytes | None"]
"""The core behind the DMA: a packet in, a packet out or none."""

_CR, _SR, _ADDRESS, _ADDRESS_HIGH, _LENGTH = 0x00, 0x04, 0x18, 0x1C, 0x28
_S2MM = 0x30
_RUN, _RESET = 1 << 0, 1 << 2
_HALTED, _IDLE, _INTERNAL_ERROR, _DECODE_ERROR, _COMPLETE = 1 << 0, 1 << 1, 1 << 4, 1 << 6, 1 << 12
_INTERRUPTS = 0x7000
_CR_AT_RESET = 0x10002


@dataclass
class _Channel:
    interrupt: Line | None
    control: int = _CR_AT_RESET
    status: int = _HALTED
    address: int = 0
    length: int = 0
    armed: bool = field(default=False)

    def reset(self) -> None:
        self.control, self.status = _CR_AT_RESET, _HALTED
        self.address = self.length = 0
        self.armed = False
        self.drive()

    def complete(self) -> None:
        self.status |= _IDLE | _COMPLETE
        self.drive()

    def fail(self, error: int) -> None:
        self.status |= error | _HALTED

    def drive(self) -> None:
        if self.interrupt:
            self.interrupt(bool(self.status & self.control & _COMPLETE))


class AxiDma:
    """Both channels of a DMA engine whose memory side is ``port``.

    ``send_interrupt`` and ``receive_interrupt`` are the lines of the MM2S and the S2MM channel.
    """

    def __init__(
        self,
        port: MasterPort,
        stream: Stream = bytes,
        *,
        send_interrupt: Line | None = None,
        receive_interrupt: Line | None = None,
    ) -> None:
        self._port = port
        self._stream = stream
        self._send, self._receive = _Channel(send_interrupt), _Channel(receive_interrupt)
        self._packets: deque[bytes] = deque()
        self._lock = threading.RLock()

    def read(self, offset: int) -> int:
        with self._lock:
            channel, register = self._decode(offset)
            return {
                _CR: channel.control,
                _SR: channel.status,
                _ADDRESS: channel.address & 0xFFFF_FFFF,
                _ADDRESS_HIGH: channel.address >> 32,
                _LENGTH: channel.length,
            }.get(register, 0)

    def write(self, offset: int, value: int) -> None:
        with self._lock:
            channel, register = self._decode(offset)
            if register == _CR:
                self._write_control(channel, value)
            elif register == _SR:
                channel.status &= ~(value & _INTERRUPTS)
                channel.drive()
            elif register == _ADDRESS:
                channel.address = channel.address >> 32 << 32 | value
            elif register == _ADDRESS_HIGH:
                channel.address = value << 32 | channel.address & 0xFFFF_FFFF
            elif register == _LENGTH and not channel.status & _HALTED:
                self._start(channel, value)

    def _decode(self, offset: int) -> tuple[_Channel, int]:
        return (self._receive, offset - _S2MM) if offset >= _S2MM else (self._send, offset)

    def _write_control(self, channel: _Channel, value: int) -> None:
        if value & _RESET:  # resets the whole engine, whichever channel it is written to
            self._send.reset()
            self._receive.reset()
            self._packets.clear()
            return
        channel.control = value
        channel.status = channel.status & ~_HALTED if value & _RUN else channel.status | _HALTED
        channel.drive()

    def _start(self, channel: _Channel, nbytes: int) -> None:
        channel.status &= ~_IDLE
        channel.length = nbytes
        if not nbytes:
            channel.fail(_INTERNAL_ERROR)
        elif channel is self._receive:
            channel.armed = True
        else:
            try:
                packet = self._port.read(channel.address, nbytes)
            except BusError:
                channel.fail(_DECODE_ERROR)
                return
            channel.complete()
            answer = self._stream(packet)
            if answer is not None:
                self._packets.append(answer)
        self._deliver()

    def _deliver(self) -> None:
        channel = self._receive
        if not channel.armed or not self._packets:
            return
        channel.armed = False
        packet = self._packets.popleft()
        if len(packet) > channel.length:
            channel.fail(_INTERNAL_ERROR)
            return
        try:
            self._port.write(channel.address, packet)
        except BusError:
            channel.fail(_DECODE_ERROR)
            return
        channel.length = len(packet)  # the register reads back what arrived
        channel.complete()
