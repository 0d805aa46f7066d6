"""DRAM, cache and AXI masters of the simulated board."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.simulator.memory import PAGE, POISON, REACH, SMALLEST_BUFFER, BusError, Dram, MasterPort

MIB = 1 << 20


def test_fresh_memory_is_poison_on_both_sides():
    buffer = Dram().allocate(100)
    assert (buffer.cpu == POISON).all()
    assert (buffer.dram == POISON).all()
    assert buffer.size == SMALLEST_BUFFER


def test_only_flush_reaches_dram_and_only_invalidate_reaches_the_cpu():
    dram = Dram()
    buffer = dram.allocate(16)
    buffer.cpu[:4] = 1, 2, 3, 4
    assert dram.read(buffer.address, 4) == bytes([POISON] * 4)
    dram.flush(buffer, 0, 2)
    assert dram.read(buffer.address, 4) == bytes([1, 2, POISON, POISON])
    dram.write(buffer.address + 2, b"\x09\x08")
    assert bytes(buffer.cpu[:4]) == bytes([1, 2, 3, 4])
    dram.invalidate(buffer, 0, 4)
    assert bytes(buffer.cpu[:4]) == bytes([1, 2, 9, 8])


def test_without_the_strict_cache_both_sides_share_their_bytes():
    dram = Dram(strict_cache=False)
    buffer = dram.allocate(16)
    buffer.cpu[0] = 7
    assert dram.read(buffer.address, 1) == b"\x07"
    assert dram.generation(buffer.address, 1) != dram.generation(buffer.address, 1)


def test_generation_changes_exactly_with_dram():
    dram = Dram()
    buffer, other = dram.allocate(16), dram.allocate(16)
    first = dram.generation(buffer.address, 16)
    buffer.cpu[:] = 0
    dram.invalidate(buffer, 0, 16)
    dram.flush(other, 0, 16)
    assert dram.generation(buffer.address, 16) == first
    dram.flush(buffer, 0, 1)
    second = dram.generation(buffer.address, 16)
    assert second != first
    dram.write(buffer.address, b"x")
    assert dram.generation(buffer.address, 16) not in (first, second)


def test_a_new_buffer_at_an_old_address_has_another_generation():
    dram = Dram()
    old = dram.allocate(16)
    before = dram.generation(old.address, 16)
    dram.free(old)
    new = dram.allocate(16)
    assert new.address == old.address
    assert dram.generation(new.address, 16) != before


def test_accesses_outside_a_buffer_are_bus_errors():
    dram = Dram()
    buffer = dram.allocate(PAGE)
    for address, nbytes in ((0x1000, 4), (buffer.address - 1, 2), (buffer.address + buffer.size - 1, 2)):
        with pytest.raises(BusError, match="found none"):
            dram.read(address, nbytes)
    dram.free(buffer)
    with pytest.raises(BusError):
        dram.write(buffer.address, b"x")
    with pytest.raises(ValueError, match="lie outside"):
        dram.flush(buffer, buffer.size, 1)


def test_freeing_twice_does_not_free_the_successor():
    dram = Dram()
    old = dram.allocate(16)
    dram.free(old)
    new = dram.allocate(16)
    dram.free(old)
    assert dram.buffers == (new,)


def test_power_loss_leaves_poison():
    dram = Dram()
    buffer = dram.allocate(16)
    buffer.cpu[:] = 1
    dram.flush(buffer, 0, 16)
    dram.lose_power()
    assert (buffer.dram == POISON).all()
    assert (buffer.cpu == POISON).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), max_size=40))
def test_buffers_never_overlap_and_freed_memory_comes_back_whole(steps):
    dram = Dram(cma_size=MIB)
    live = []
    for release, nbytes in steps:
        if release and live:
            dram.free(live.pop(nbytes % len(live)))
            continue
        try:
            live.append(dram.allocate(nbytes))
        except MemoryError:
            continue
    spans = sorted((b.address, b.address + b.size) for b in live)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(dram.cma_base <= start and end <= dram.cma_base + MIB for start, end in spans)
    for buffer in live:
        dram.free(buffer)
    assert dram.allocate(MIB).size == MIB


def test_exhausted_memory_says_what_is_left():
    dram = Dram(cma_size=4 * SMALLEST_BUFFER)
    dram.allocate(2 * SMALLEST_BUFFER)
    with pytest.raises(MemoryError, match=f"largest gap is {2 * SMALLEST_BUFFER} bytes"):
        dram.allocate(3 * SMALLEST_BUFFER)


def test_masters_reach_the_low_two_gigabytes_only():
    dram = Dram(cma_base=REACH - SMALLEST_BUFFER, cma_size=2 * SMALLEST_BUFFER)
    low, high = dram.allocate(1), dram.allocate(1)
    port = MasterPort(dram)
    port.write(low.address + low.size - 1, b"\x01")
    assert port.read(low.address + low.size - 1, 1) == b"\x01"
    with pytest.raises(BusError, match="expected addresses below 0x80000000"):
        port.read(high.address, 1)
    with pytest.raises(BusError):
        port.check(low.address, low.size + 1)


def test_a_broken_range_answers_with_a_decode_error():
    dram = Dram()
    buffer = dram.allocate(100)
    first = buffer.address + 10
    port = MasterPort(dram, broken=(first, first + 10))
    assert port.read(buffer.address, 10) == port.read(first + 10, 10)
    for address, nbytes in ((buffer.address, 11), (first + 9, 1), (buffer.address, 100)):
        with pytest.raises(BusError, match="decode error"):
            port.read(address, nbytes)


def test_writes_take_arrays_and_bytes():
    dram = Dram()
    buffer = dram.allocate(8)
    dram.write(buffer.address, np.arange(8, dtype=np.uint8))
    assert dram.read(buffer.address, 8) == bytes(range(8))
