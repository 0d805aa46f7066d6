"""Address decoding and register windows of the simulated board."""

from __future__ import annotations

import numpy as np
import pytest

from fracbnn_pynq.simulator.bus import Bus, MappedRegisters
from fracbnn_pynq.simulator.memory import BusError
from fracbnn_pynq.simulator.registers import Ram32

BASE = 0xA001_0000


class Recorder(Ram32):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[object, ...]] = []

    def read(self, offset: int) -> int:
        self.log.append(("read", offset))
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        self.log.append(("write", offset, value))
        super().write(offset, value)


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def slave(bus: Bus) -> Recorder:
    recorder = Recorder()
    bus.attach(BASE, 0x1000, recorder)
    return recorder


def test_values_are_32_bits_wide(bus, slave):
    bus.write32(BASE + 8, 0x1_2345_6789)
    assert bus.read32(BASE + 8) == 0x2345_6789
    assert slave.log == [("write", 8, 0x2345_6789), ("read", 8)]


def test_nothing_answers_elsewhere(bus, slave):
    for address in (BASE - 4, BASE + 0x1000, 0):
        with pytest.raises(BusError, match="found none"):
            bus.read32(address)
        with pytest.raises(BusError):
            bus.write32(address, 0)


def test_windows_must_not_overlap(bus, slave):
    with pytest.raises(ValueError, match="0xa0010000"):
        bus.attach(BASE + 0xFFC, 0x1000, Ram32())
    bus.attach(BASE + 0x1000, 0x1000, Ram32())


def test_configuring_the_fabric_leaves_the_processor_system_alone(bus, slave):
    bus.attach(0xFF5E_0000, 0x1000, Ram32({0: 5}))
    bus.detach_fabric()
    assert bus.read32(0xFF5E_0000) == 5
    with pytest.raises(BusError):
        bus.read32(BASE)


def test_elements_are_registers(bus, slave):
    window = MappedRegisters(bus, BASE, 0x1000)
    window[4] = np.uint32(0xDEAD_BEEF)
    assert window[4] == 0xDEAD_BEEF
    assert isinstance(window[4], np.uint32)
    assert window[-1] == 0
    assert slave.log[0] == ("write", 0x10, 0xDEAD_BEEF)
    assert slave.log[-1] == ("read", 0xFFC)


def test_slices_write_registers_and_give_windows(bus, slave):
    window = MappedRegisters(bus, BASE, 0x1000)
    window[4:8] = [1, 2, 3, 4]
    assert [bus.read32(BASE + 0x10 + 4 * i) for i in range(4)] == [1, 2, 3, 4]
    part = window[4:8]
    assert part[2] == 3
    part[2] = 9
    assert bus.read32(BASE + 0x18) == 9
    with pytest.raises(IndexError, match="4 registers"):
        part[4]


def test_a_view_of_64_bits_reads_two_registers(bus, slave):
    window = MappedRegisters(bus, BASE, 0x1000)
    wide = window[4:8].view(np.uint64)
    wide[1] = 0x1122_3344_5566_7788
    assert bus.read32(BASE + 0x18) == 0x5566_7788
    assert bus.read32(BASE + 0x1C) == 0x1122_3344
    assert wide[1] == 0x1122_3344_5566_7788
