"""The two cores behind their registers, without pynq."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from fracbnn_pynq.errors import OverlayError
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.simulator.cores import Cifar10Kernel, Core, ImageNetKernel, Surroundings
from fracbnn_pynq.simulator.faults import FaultPlan
from fracbnn_pynq.simulator.memory import BusError, Dram
from fracbnn_pynq.simulator.registers import CTRL, IDLE, START

PUBLISHED = {"image_V": 0x10, "output_r": 0x18}
DESIGN_HZ = 250e6


def checksum(words):
    """A stand-in for a network: ten numbers that depend on every word."""
    return np.array([float(np.sum(words >> np.uint64(32 + i)) % 8191) for i in range(10)], np.float32)


class Bench:
    """A CIFAR-10 core with its buffers, and the picture's words already in DRAM."""

    def __init__(self, *, hz=DESIGN_HZ, timed=False, faults=(), registers=PUBLISHED, compute=checksum) -> None:
        self.dram = Dram()
        self.hz = hz
        self.shown: list[str] = []
        board = Surroundings(
            self.dram, lambda: self.hz, timed, FaultPlan(faults), lambda fault: self.shown.append(fault.kind.value)
        )
        self.core = Core("core", Cifar10Kernel(compute), board, registers=registers, design_hz=DESIGN_HZ)
        self.image = self.dram.allocate(layout.CIFAR10_IMAGE_BYTES)
        self.result = self.dram.allocate(layout.CIFAR10_RESULT_BYTES)
        words = np.random.default_rng(0).integers(0, 1 << 63, layout.CIFAR10_IMAGE_SHAPE, dtype=np.uint64)
        self.expected = checksum(words)
        self.dram.write(self.image.address, words.tobytes())
        offsets = list(registers.values())
        self.core.control.write(offsets[0], self.image.address)
        self.core.control.write(offsets[1], self.result.address)

    def start(self) -> None:
        self.core.control.write(CTRL, START)

    def idle(self) -> bool:
        return bool(self.core.control.read(CTRL) & IDLE)

    def wait(self, seconds: float = 5.0) -> bool:
        end = time.perf_counter() + seconds
        while not self.idle():
            if time.perf_counter() > end:
                return False
        return True

    def logits(self):
        return np.frombuffer(self.dram.read(self.result.address, 40), np.float32)


@pytest.fixture
def make():
    benches = []

    def build(**options):
        benches.append(Bench(**options))
        return benches[-1]

    yield build
    for bench in benches:
        bench.core.close()


@pytest.mark.parametrize("registers", [PUBLISHED, {"image_r": 0x10, "output_r": 0x1C}])
def test_addresses_come_from_the_registers_by_name(make, registers):
    bench = make(registers=registers)
    bench.start()
    assert bench.idle()
    assert np.array_equal(bench.logits(), bench.expected)
    assert bench.core.runs == 1


def test_published_offsets_serve_where_the_hand_off_file_names_none():
    assert Bench(registers=PUBLISHED).core.offsets == {"image": 0x10, "result": 0x18}
    board = Surroundings(Dram(), lambda: DESIGN_HZ)
    core = Core("core", Cifar10Kernel(checksum), board, registers={}, design_hz=DESIGN_HZ)
    assert core.offsets == {"image": 0x10, "result": 0x18}


def test_a_register_that_is_missing_is_named():
    with pytest.raises(OverlayError, match=r"output\.\.\., found image_V"):
        Bench(registers={"image_V": 0x10})


@pytest.mark.parametrize(("hz", "milliseconds"), [(250e6, 0.356), (25e6, 3.56)])
def test_a_run_takes_as_long_as_the_clock_says(make, hz, milliseconds):
    bench = make(hz=hz, timed=True)
    bench.start()
    assert bench.wait()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        bench.start()
        assert bench.wait()
        times.append((time.perf_counter() - start) * 1e3)
    assert min(times) >= milliseconds
    assert min(times) < milliseconds + 2  # a busy machine may be late, but not every time


def test_results_are_not_visible_before_the_end(make):
    bench = make(hz=1e6, timed=True)  # 89 ms
    bench.start()
    assert not bench.idle()
    time.sleep(0.02)
    assert bench.dram.read(bench.result.address, 40) == b"\xa5" * 40
    assert bench.wait()
    assert np.array_equal(bench.logits(), bench.expected)


def test_no_clock_no_progress(make):
    bench = make(hz=0.0)
    bench.start()
    assert not bench.idle()


@pytest.mark.parametrize(("hz", "wrong"), [(200e6, False), (274e6, False), (276e6, True), (375e6, True)])
def test_an_overclocked_core_gives_wrong_bits(make, hz, wrong):
    bench = make(hz=hz)
    bench.start()
    assert bench.idle()
    assert bench.core.overclocked == wrong
    assert np.array_equal(bench.logits(), bench.expected) != wrong


def test_a_bad_address_stops_the_core(make):
    bench = make()
    bench.core.control.write(0x10, 0x1000)
    bench.start()
    assert not bench.idle()
    assert isinstance(bench.core.error, BusError)


def test_an_error_in_the_computation_reaches_the_driver(make):
    def fail(words):
        raise ZeroDivisionError("mistake in the model")

    bench = make(compute=fail)
    with pytest.raises(ZeroDivisionError):
        bench.start()


def test_a_result_buffer_freed_meanwhile_is_not_written(make):
    computing = threading.Event()

    def compute(words):
        computing.set()
        return checksum(words)

    bench = make(hz=1e6, timed=True, compute=compute)
    bench.start()
    assert computing.wait(5)
    bench.dram.free(bench.result)
    assert bench.wait()
    with pytest.raises(BusError):
        bench.logits()


def test_a_removed_core_leaves_memory_alone(make):
    bench = make(hz=1e6, timed=True)  # 89 ms
    bench.start()
    bench.core.remove()
    time.sleep(0.1)
    assert bench.idle()
    assert bench.dram.read(bench.result.address, 40) == b"\xa5" * 40


def test_fault_hang(make):
    bench = make(faults=["hang@2"])
    bench.start()
    assert bench.idle()
    bench.start()
    assert not bench.wait(0.02)
    assert bench.core.runs == 1


def test_fault_late(make):
    bench = make(faults=["late:0.05"])
    start = time.perf_counter()
    bench.start()
    assert bench.wait()
    assert time.perf_counter() - start >= 0.05
    assert np.array_equal(bench.logits(), bench.expected)


@pytest.mark.parametrize(("fault", "written"), [("wrong-length", 20), ("wrong-length:7", 7)])
def test_fault_wrong_length(make, fault, written):
    bench = make(faults=[fault])
    bench.start()
    assert bench.idle()
    data = bench.dram.read(bench.result.address, 40)
    assert data == bench.expected.tobytes()[:written] + b"\xa5" * (40 - written)


def test_fault_bus_error(make):
    everywhere, elsewhere = make(faults=["bus-error"]), make(faults=["bus-error:0x1000-0x2000"])
    for bench in (everywhere, elsewhere):
        bench.start()
    assert not everywhere.idle()
    assert elsewhere.idle()


def test_faults_of_the_board_are_passed_on_in_time(make):
    bench = make(faults=["overlay-replaced", "power-cycle@2"])
    bench.start()
    assert bench.shown == ["overlay-replaced"]
    assert np.array_equal(bench.logits(), bench.expected)
    bench.start()
    assert bench.shown == ["overlay-replaced", "power-cycle"]


class ImageNetBench:
    SIZES = (
        layout.IMAGENET_IMAGE_BYTES,
        layout.IMAGENET_CONV3X3_BYTES,
        layout.IMAGENET_CONV1X1_BYTES,
        layout.IMAGENET_PARAMETER_BYTES,
        layout.IMAGENET_SCRATCH_BYTES,
    )

    def __init__(self) -> None:
        self.dram = Dram()
        self.loads: list[tuple[int, ...]] = []
        board = Surroundings(self.dram, lambda: DESIGN_HZ, timed=False)
        self.core = Core("core", ImageNetKernel(self.load), board, registers={}, design_hz=DESIGN_HZ)
        self.buffers = [self.dram.allocate(size) for size in self.SIZES]
        for i, (buffer, size) in enumerate(zip(self.buffers, self.SIZES, strict=True)):
            buffer.cpu[:] = i
            self.dram.flush(buffer, 0, size)
            self.core.control.write(0x10 + 8 * i, buffer.address)

    def load(self, *weights: bytes):
        self.loads.append(tuple(part[0] for part in weights))
        self.lengths = [len(part) for part in weights]
        return lambda words: np.full((1024, 7, 7), int(words.flat[0] & 7) + weights[0][0], np.uint8)

    def run(self):
        self.core.control.write(CTRL, START)
        assert self.core.control.read(CTRL) & IDLE
        return np.frombuffer(self.dram.read(self.buffers[4].address, 448 * 64), np.uint8).reshape(448, 64)


def test_imagenet_result_lies_in_the_scratch_memory():
    bench = ImageNetBench()
    words = bench.run()
    assert bench.lengths == list(ImageNetBench.SIZES[1:4])
    assert (layout.unpack_imagenet_result(words) == 1).all()
    assert (words[1::2, 48:] == 4).all()  # the lane of column 7 holds what was there before
    assert (bench.dram.read(bench.buffers[4].address + 448 * 64, 64)) == b"\4" * 64


def test_imagenet_weights_are_read_again_only_after_a_change():
    bench = ImageNetBench()
    bench.run()
    bench.buffers[0].cpu[:] = 3
    bench.dram.flush(bench.buffers[0], 0, layout.IMAGENET_IMAGE_BYTES)
    assert (layout.unpack_imagenet_result(bench.run()) == 4).all()
    assert bench.loads == [(1, 2, 3)]
    bench.buffers[1].cpu[:] = 9
    bench.run()
    assert bench.loads == [(1, 2, 3)]  # not flushed: the core sees the old weights
    bench.dram.flush(bench.buffers[1], 0, 64)
    bench.run()
    assert bench.loads == [(1, 2, 3), (9, 2, 3)]
    other = bench.dram.allocate(layout.IMAGENET_CONV1X1_BYTES)
    bench.core.control.write(0x20, other.address)
    bench.run()
    assert bench.loads[-1] == (9, 0xA5, 3)


def test_imagenet_scratch_memory_must_be_large_enough():
    bench = ImageNetBench()
    bench.core.control.write(0x30, bench.dram.allocate(448 * 64).address)
    bench.core.control.write(CTRL, START)
    assert not bench.core.control.read(CTRL) & IDLE
    assert isinstance(bench.core.error, BusError)
