"""Interrupt controller and interrupt line, without pynq (with pynq: test_simulator_board)."""

from __future__ import annotations

import os
import select

import pytest

from fracbnn_pynq.simulator.interrupts import AxiIntc, UioLine

ISR, IPR, IER, IAR, SIE, CIE, MER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C


@pytest.fixture
def line():
    uio = UioLine()
    yield uio
    uio.close()


def read_event(path_or_fd: int, timeout: float) -> bytes | None:
    ready, _, _ = select.select([path_or_fd], [], [], timeout)
    return os.read(path_or_fd, 4) if ready else None


def test_output_needs_input_enable_and_master_enable():
    levels: list[bool] = []
    intc = AxiIntc(levels.append)
    drive = intc.input(3)
    drive(True)
    assert intc.read(ISR) == 8
    assert intc.read(IPR) == 0
    intc.write(SIE, 8)
    assert intc.read(IER) == intc.read(IPR) == 8
    assert not any(levels)
    intc.write(MER, 3)
    assert levels[-1]
    intc.write(CIE, 8)
    assert not levels[-1]
    intc.write(IER, 8)
    assert levels[-1]


def test_acknowledging_a_line_still_high_latches_it_again():
    levels: list[bool] = []
    intc = AxiIntc(levels.append)
    drive = intc.input(0)
    intc.write(SIE, 1)
    intc.write(MER, 3)
    drive(True)
    intc.write(IAR, 1)
    assert intc.read(ISR) == 1
    drive(False)
    assert levels[-1]
    intc.write(IAR, 1)
    assert intc.read(ISR) == 0
    assert not levels[-1]


def test_a_line_fires_once_per_unmask(line):
    with open(line.path, "r+b", buffering=0) as device:
        line.drive(True)
        assert read_event(device.fileno(), 0.05) is None  # masked until the driver asks
        device.write(b"\0\0\0\1")
        assert read_event(device.fileno(), 5) == b"\1\0\0\0"
        line.drive(False)
        line.drive(True)
        assert read_event(device.fileno(), 0.05) is None
        device.write(b"\0\0\0\1")
        assert read_event(device.fileno(), 5) == b"\2\0\0\0"
        assert line.count == 2


def test_unmasking_a_quiet_line_waits_for_it(line):
    with open(line.path, "r+b", buffering=0) as device:
        device.write(b"\0\0\0\1")
        assert read_event(device.fileno(), 0.05) is None
        line.drive(True)
        assert read_event(device.fileno(), 5) == b"\1\0\0\0"


def test_closing_twice(line):
    line.close()
    line.close()
    assert not os.path.exists(line.path)
