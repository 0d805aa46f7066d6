"""The DMA engine's registers, without pynq (with pynq: test_simulator_board)."""

from __future__ import annotations

import pytest

from fracbnn_pynq.simulator.dma import AxiDma
from fracbnn_pynq.simulator.memory import Dram, MasterPort

SEND, RECEIVE = 0x00, 0x30
CR, SR, ADDRESS, HIGH, LENGTH = 0x00, 0x04, 0x18, 0x1C, 0x28
HALTED, IDLE, INTERNAL, DECODE, COMPLETE = 0x1, 0x2, 0x10, 0x40, 0x1000


class Bench:
    def __init__(self, stream=bytes) -> None:
        self.dram = Dram()
        self.levels: list[tuple[str, bool]] = []
        self.dma = AxiDma(
            MasterPort(self.dram),
            stream,
            send_interrupt=lambda level: self.levels.append(("send", level)),
            receive_interrupt=lambda level: self.levels.append(("receive", level)),
        )
        self.source, self.target = self.dram.allocate(64), self.dram.allocate(64)
        self.dram.write(self.source.address, bytes(range(64)))

    def start(self, channel: int, address: int, nbytes: int, control: int = 1) -> None:
        self.dma.write(channel + CR, control)
        self.dma.write(channel + ADDRESS, address & 0xFFFF_FFFF)
        self.dma.write(channel + HIGH, address >> 32)
        self.dma.write(channel + LENGTH, nbytes)

    def status(self, channel: int) -> int:
        return self.dma.read(channel + SR)


@pytest.mark.parametrize("receive_first", [True, False])
def test_a_packet_goes_through_in_either_order(receive_first):
    bench = Bench(lambda packet: bytes(reversed(packet)))
    steps = [(RECEIVE, bench.target.address, 64), (SEND, bench.source.address, 8)]
    for step in steps if receive_first else reversed(steps):
        bench.start(*step)
    assert bench.dram.read(bench.target.address, 8) == bytes(range(7, -1, -1))
    assert bench.status(SEND) == bench.status(RECEIVE) == IDLE | COMPLETE
    assert bench.dma.read(RECEIVE + LENGTH) == 8


def test_a_halted_channel_does_not_start():
    bench = Bench()
    bench.dma.write(SEND + LENGTH, 8)
    assert bench.status(SEND) == HALTED


def test_errors_halt_the_channel():
    bench = Bench()
    bench.start(SEND, 0x1000, 8)
    assert bench.status(SEND) == DECODE | HALTED
    bench.start(RECEIVE, 0x1000, 64)
    bench.start(SEND, bench.source.address, 8)
    assert bench.status(RECEIVE) & (DECODE | HALTED) == DECODE | HALTED
    bench.dma.write(RECEIVE + CR, 4)
    bench.start(RECEIVE, bench.target.address, 0)
    assert bench.status(RECEIVE) & (INTERNAL | HALTED) == INTERNAL | HALTED


def test_a_packet_longer_than_the_buffer_is_an_error():
    bench = Bench()
    bench.start(RECEIVE, bench.target.address, 4)
    bench.start(SEND, bench.source.address, 8)
    assert bench.status(RECEIVE) & (INTERNAL | HALTED) == INTERNAL | HALTED
    assert bench.dram.read(bench.target.address, 4) == b"\xa5" * 4


def test_addresses_above_4_gib_are_out_of_reach():
    bench = Bench()
    bench.start(SEND, 1 << 32 | bench.source.address, 8)
    assert bench.status(SEND) & DECODE
    assert bench.dma.read(SEND + HIGH) == 1


def test_interrupts_follow_enable_and_acknowledge():
    bench = Bench()
    bench.start(SEND, bench.source.address, 8)
    assert bench.levels[-1] == ("send", False)
    bench.dma.write(SEND + SR, COMPLETE)
    bench.start(SEND, bench.source.address, 8, control=0x1001)
    assert bench.levels[-1] == ("send", True)
    bench.dma.write(SEND + SR, COMPLETE)
    assert bench.levels[-1] == ("send", False)
    assert bench.status(SEND) == IDLE


def test_a_reset_of_one_channel_resets_the_engine():
    bench = Bench()
    bench.start(SEND, bench.source.address, 8)
    bench.dma.write(RECEIVE + CR, 4)
    assert bench.status(SEND) == bench.status(RECEIVE) == HALTED
    bench.start(RECEIVE, bench.target.address, 64)
    assert not bench.status(RECEIVE) & COMPLETE  # the packet under way is gone
