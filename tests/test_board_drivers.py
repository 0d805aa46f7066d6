"""Drivers, clock, lock, and the small parts an accelerator is made of."""

from __future__ import annotations

import importlib.util
import threading
import time
from types import SimpleNamespace

import pytest

from fracbnn_pynq import simulator
from fracbnn_pynq.board.executor import OwnerThread
from fracbnn_pynq.board.overlay_state import LoadedCheck
from fracbnn_pynq.errors import BackendError, OverlayError
from fracbnn_pynq.simulator import write_overlay

needs_pynq = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: drivers are subclasses of its classes"
)


@pytest.fixture
def drivers():
    simulator.import_pynq()
    from fracbnn_pynq.board import drivers

    return drivers


@pytest.fixture
def board(drivers):
    with simulator.install(latency="none") as device:
        yield device


def load(folder, kind="cifar10", **options):
    import pynq

    return pynq.Overlay(str(write_overlay(folder, kind, **options)))


# Registers


def registers(**offsets):
    return {name: {"address_offset": offset} for name, offset in offsets.items()}


@needs_pynq
@pytest.mark.parametrize(
    ("names", "image", "output"),
    [
        ({"image_V": 0x10, "output_r": 0x18}, 0x10, 0x18),
        ({"image_r": 0x10, "output_r": 0x1C}, 0x10, 0x1C),
        ({"output_V": 0x10, "image": 0x40}, 0x40, 0x10),
    ],
)
def test_registers_are_found_by_name_wherever_they_are(drivers, names, image, output):
    found = drivers.find_registers("core", ("image", "output"), registers(CTRL=0, **names))
    assert found == {"CTRL": 0, "image": image, "output": output}


@needs_pynq
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"image_V": 0x10, "output_r": 0x18},
            "expected a control register CTRL, found the registers image_V, output_r",
        ),
        ({"CTRL": 0, "image_V": 0x10}, "output is missing"),
        (
            {"CTRL": 0, "image_V_x": 0x10, "output": 0x18},
            "found the registers CTRL, image_V_x, output; image is missing",
        ),
        ({"CTRL": 0, "image_V": 0x10, "image_r": 0x18, "output": 0x20}, "expected one register image"),
        ({}, "found the registers none"),
    ],
)
def test_other_registers_are_refused(drivers, names, message):
    with pytest.raises(OverlayError, match=message):
        drivers.find_registers("core", ("image", "output"), registers(**names))


@needs_pynq
@pytest.mark.parametrize("build", ["published", "renamed"])
def test_the_driver_is_bound_and_drives(drivers, board, tmp_path, build):
    core = drivers.find_core(load(tmp_path, registers=build), drivers.Cifar10Core)
    assert core.instance == "FracNet_T_0"
    assert core.idle()
    core.set_address("output", 0x1234)
    assert core.mmio.read({"published": 0x18, "renamed": 0x1C}[build]) == 0x1234


@needs_pynq
def test_a_split_slave_is_refused(drivers, board, tmp_path):
    with pytest.raises(OverlayError, match="separate slaves for control and arguments cannot be driven"):
        drivers.find_core(load(tmp_path, registers="split"), drivers.Cifar10Core)


@needs_pynq
def test_another_overlay_is_refused(drivers, board, tmp_path):
    with pytest.raises(OverlayError, match=r"expected a core xilinx.com:hls:FracNet_T:1.0 .* FracNet_0 \("):
        drivers.find_core(load(tmp_path, "imagenet"), drivers.Cifar10Core)


@needs_pynq
def test_a_core_bound_to_another_driver_is_refused(drivers):
    overlay = SimpleNamespace(ip_dict={"FracNet_0": {"type": drivers.ImageNetCore.bindto[0]}}, FracNet_0=object())
    with pytest.raises(OverlayError, match=r"import fracbnn_pynq.board.drivers before the overlay is loaded"):
        drivers.find_core(overlay, drivers.ImageNetCore)


# Clock


@needs_pynq
@pytest.mark.parametrize(
    ("start", "design", "expected"),
    [
        (375.0, 250.0, 250.0),
        (250.0, 250.0, 250.0),
        (1500.0, 249.997498, 250.0),
        (100.0, 250.0, 250.0),
        (375.0, 200.0, 187.5),
        (375.0, 23.0, 1500 / 66),
        (50.0, 5000.0, 1500.0),
    ],
)
def test_the_highest_rate_not_above_the_design(board, start, design, expected):
    from fracbnn_pynq.board import clock

    board.clocks.force(start)
    assert clock.set_safe_clock(design) == pytest.approx(expected, rel=1e-3)
    assert clock.read_pl_clock_mhz() == pytest.approx(expected, rel=1e-3)
    assert board.fabric_mhz == pytest.approx(expected)


@needs_pynq
def test_a_clock_that_stays_too_fast_is_refused(board):
    from fracbnn_pynq.board import clock

    board.clocks.force(375.0, locked=True)
    with pytest.raises(OverlayError, match=r"expected at most 250 MHz, .* found 374.* power-cycle the board"):
        clock.set_safe_clock(250.0)


@needs_pynq
def test_a_design_slower_than_the_largest_divisors_give(board):
    from fracbnn_pynq.board import clock

    with pytest.raises(OverlayError, match=r"expected at most 0\.2 MHz"):
        clock.set_safe_clock(0.2)


@needs_pynq
def test_a_clock_without_a_source_is_refused(board):
    from fracbnn_pynq.board import clock

    board.bus.write32(0xFF5E_00C0, 1 << 24 | 1 << 16 | 6 << 8 | 1)  # SRCSEL 1 is reserved
    with pytest.raises(OverlayError, match="expected readable clock registers, found"):
        clock.read_pl_clock_mhz()


def test_the_design_clock_comes_from_the_hand_off_file(tmp_path, shared):
    from fracbnn_pynq.board.clock import design_clock_mhz

    assert design_clock_mhz(write_overlay(tmp_path, "cifar10", clock_mhz=187.5)) == 187.5
    assert design_clock_mhz(shared / "golden" / "0503.bit") == pytest.approx(250, rel=1e-4)
    bit = write_overlay(tmp_path, "imagenet", name="off")
    hwh = bit.with_suffix(".hwh")
    hwh.write_text(hwh.read_text().replace('"PSU__FPGA_PL0_ENABLE" VALUE="1"', '"PSU__FPGA_PL0_ENABLE" VALUE="0"'))
    with pytest.raises(OverlayError, match="expected the frequency of fabric clock 0, found none"):
        design_clock_mhz(bit)


# Waiting


@pytest.fixture
def polling():
    pytest.importorskip("pynq", reason="pynq is not installed: the waiters know its drivers")
    simulator.import_pynq()
    from fracbnn_pynq.board.waiting import PollingWaiter

    return PollingWaiter


def run_of(seconds, now=time.perf_counter):
    """The start of a pretended run, and its ``idle()``, which counts how often it was asked."""
    start = now()
    looks = []

    def idle():
        looks.append(None)
        return now() - start >= seconds

    return start, idle, looks


class Clock:
    """Time of its own, in which sleeps end as late as a quiet Linux lets them, and nobody else needs a processor."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 0.3e-6
        return self.now

    def sleep(self, seconds):
        self.now += seconds + 70e-6

    def sched_yield(self):
        self.now += 0.6e-6


@pytest.fixture
def clock(polling, monkeypatch):
    clock = Clock()
    for name in ("time", "os"):
        monkeypatch.setattr(f"fracbnn_pynq.board.waiting.{name}", clock)
    return clock


def test_a_long_run_is_slept_through(polling):
    waiter = polling(0.03)
    start, idle, _ = run_of(0.03)
    processor = time.thread_time()
    assert waiter.wait(idle, start, 1.0)
    assert time.thread_time() - processor < 0.01
    assert time.perf_counter() - start >= 0.03


@pytest.mark.parametrize("guess", [1e-9, 1e-4, 0.05])
def test_the_duration_is_learnt(polling, clock, guess):
    waiter = polling(guess)
    for _ in range(150):
        start, idle, _ = run_of(2e-3, clock.perf_counter)
        assert waiter.wait(idle, start, 1.0)
    assert waiter.expected_s == pytest.approx(2e-3, rel=0.06)
    assert clock.perf_counter() - start < 2.1e-3  # its end was seen at once


def test_a_hiccup_is_forgotten(polling, clock):
    waiter = polling(1e-3)
    for seconds in [1e-3] * 5 + [0.1] + [1e-3] * 5:
        start, idle, _ = run_of(seconds, clock.perf_counter)
        assert waiter.wait(idle, start, 1.0)
    assert waiter.expected_s == pytest.approx(1e-3, rel=0.06)


def test_a_run_that_does_not_end_is_given_up(polling):
    waiter = polling(1e-3)
    start, idle, looks = run_of(1e9)
    assert not waiter.wait(idle, start, 0.2)
    assert 0.2 <= time.perf_counter() - start < 0.6
    assert len(looks) < 2000
    assert waiter.expected_s == 1e-3


# Owner thread


def test_jobs_run_in_one_thread_in_order():
    owner = OwnerThread("owner")
    seen = []

    def work(job):
        seen.append(threading.current_thread())
        return len(seen)

    assert [owner.call(work) for _ in range(3)] == [1, 2, 3]
    assert {thread.name for thread in seen} == {"owner"}
    with pytest.raises(ZeroDivisionError):
        owner.call(lambda job: 1 // 0)
    assert owner.call(work) == 4
    owner.stop()
    owner.stop()
    assert not seen[0].is_alive()
    with pytest.raises(BackendError, match="has been closed"):
        owner.call(work)


def test_a_caller_may_stand_in_for_an_idle_owner():
    owner = OwnerThread("owner")
    here = threading.current_thread()
    assert owner.call(lambda job: threading.current_thread(), direct=True) is here
    started, go = threading.Event(), threading.Event()
    busy = threading.Thread(target=lambda: owner.call(lambda job: started.set() or go.wait(10)))
    busy.start()
    assert started.wait(10)
    threading.Timer(0.1, go.set).start()
    assert owner.call(lambda job: (go.is_set(), threading.current_thread().name), direct=True) == (True, "owner")
    busy.join()
    with pytest.raises(ZeroDivisionError):
        owner.call(lambda job: 1 // 0, direct=True)
    owner.stop()
    with pytest.raises(BackendError, match="has been closed"):
        owner.call(lambda job: None, direct=True)


def test_the_thread_ends_with_its_object():
    owner = OwnerThread("forgotten")
    thread = owner.call(lambda job: threading.current_thread())
    del owner
    thread.join(5)
    assert not thread.is_alive()


# Loaded overlay


def test_another_process_that_loads_an_overlay_is_noticed(tmp_path):
    overlay = SimpleNamespace(loaded=True)
    overlay.is_loaded = lambda: overlay.loaded
    state = tmp_path / "global_pl_state_x.json"
    state.write_text("{}")
    check = LoadedCheck(overlay, tmp_path)
    assert check.still()
    state.write_text('{"bitfile_name": "other.bit"}')
    assert not check.still()
    check = LoadedCheck(overlay, tmp_path)
    assert check.still()
    state.unlink()
    assert not check.still()
    check = LoadedCheck(overlay, tmp_path)
    overlay.loaded = False
    assert not check.still()
