"""Clock registers of the simulated board."""

from __future__ import annotations

import pytest

from fracbnn_pynq.simulator.bus import Bus
from fracbnn_pynq.simulator.clocks import CRL_APB, Clocks

PL0 = CRL_APB + 0xC0


@pytest.fixture
def bus() -> Bus:
    return Bus()


def test_the_boot_image_gives_100_mhz_from_the_io_pll(bus):
    clocks = Clocks(bus)
    assert bus.read32(PL0) == 0x0101_0F00
    assert [round(clocks.fabric_hz(i)) for i in range(4)] == [100_000_000] * 4


@pytest.mark.parametrize(
    ("control", "mhz"),
    [(0x0101_0600, 250), (0x0101_0400, 375), (0x0102_0300, 250), (0x0101_0402, 200), (0x0101_0403, 800 / 3)],
)
def test_divisors_and_sources(bus, control, mhz):
    clocks = Clocks(bus)
    bus.write32(PL0, control)
    assert clocks.fabric_hz(0) == pytest.approx(mhz * 1e6, rel=1e-12)


@pytest.mark.parametrize("control", [0x0001_0600, 0x0101_0601, 0x0101_0000])
def test_a_clock_without_gate_source_or_divisor_stands_still(bus, control):
    clocks = Clocks(bus)
    bus.write32(PL0, control)
    assert clocks.fabric_hz(0) == 0


def test_forced_and_locked(bus):
    clocks = Clocks(bus)
    clocks.force(375)
    assert round(clocks.fabric_hz() / 1e6) == 375
    bus.write32(PL0, 0x0101_0600)
    assert round(clocks.fabric_hz() / 1e6) == 250
    clocks.force(300, locked=True)
    bus.write32(PL0, 0x0101_0600)
    assert round(clocks.fabric_hz() / 1e6) == 300
    clocks.reset()
    bus.write32(PL0, 0x0101_0600)
    assert round(clocks.fabric_hz() / 1e6) == 250
