"""Loading overlays: from any thread and working directory, and what becomes of the overlay that was there before."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from fracbnn_pynq import simulator
from fracbnn_pynq.errors import AcceleratorError, OverlayError, OverlayReplacedError
from fracbnn_pynq.simulator import write_overlay

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: overlays are loaded through it"
)

PICTURES = np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def sums(words):
    return np.arange(10) + float(np.bitwise_xor.reduce(words, axis=None) >> np.uint64(44))


@pytest.fixture(scope="module", autouse=True)
def pynq():
    return simulator.import_pynq()


@pytest.fixture
def make(tmp_path):
    """A CIFAR-10 accelerator on a simulated board; both are closed at the end, and no buffer may be left."""
    from fracbnn_pynq.board.cifar10 import Cifar10Accelerator
    from fracbnn_pynq.board.loading import load_overlay

    opened = []

    def make(*faults, **options):
        board = simulator.install(latency="none", cifar10=sums, faults=faults)
        opened.append(board)
        accelerator = Cifar10Accelerator(load_overlay(write_overlay(tmp_path, "cifar10")), timeout_s=5.0, **options)
        opened.append(accelerator)
        return accelerator, board

    yield make
    for thing in reversed(opened):
        thing.close()
    assert all(board.dram.buffers == () for board in opened if hasattr(board, "dram"))


def runs(board):
    return board.cores["FracNet_T_0"].runs


# What others do to the overlay


def test_the_same_overlay_loaded_by_another_process_is_seen_in_the_registers(make):
    accelerator, board = make()
    expected = accelerator.logits(PICTURES[:1])
    board.reload_overlay()
    with pytest.raises(OverlayReplacedError, match=r"expected the address 0x\w+ .* found 0x0: .* call reload\(\)"):
        accelerator.logits(PICTURES[:1])
    assert runs(board) == 0
    accelerator.reload()
    assert np.array_equal(accelerator.logits(PICTURES[:1]), expected)


@pytest.mark.parametrize("at", range(1, 7))
def test_the_same_overlay_loaded_within_a_batch_gives_right_results_or_an_error(make, at):
    accelerator, _ = make()
    expected = accelerator.logits(PICTURES)
    accelerator.close()
    accelerator, board = make(f"overlay-reloaded@{at}")
    assert np.array_equal(accelerator.logits(PICTURES), expected)
    assert runs(board) == 6 - at


def test_another_process_that_uses_the_core_is_seen(make):
    accelerator, board = make()
    accelerator.logits(PICTURES[:1])
    core = board.cores["FracNet_T_0"]
    core.control.write(accelerator._core.offsets["output"], 0x4000_0000)
    with pytest.raises(OverlayReplacedError, match=r"found 0x40000000: the core has been loaded again since"):
        accelerator.logits(PICTURES[:1])
    assert runs(board) == 1


def test_the_firmware_file_tells_of_other_processes(tmp_path):
    """pynq writes it before every first load of a bitstream in a process, also where it does not write its record."""
    from fracbnn_pynq.board.overlay_state import LoadedCheck

    overlay = SimpleNamespace(binfile_name="x.bin", is_loaded=lambda: True)
    file = tmp_path / "x.bin"
    file.write_bytes(b"bits")
    os.utime(file, ns=(1, 1))
    check = LoadedCheck(overlay, tmp_path, firmware=tmp_path)
    assert check.still(closely=True)
    file.write_bytes(b"bits")
    assert not check.still(closely=True)
    assert check.still()
    check = LoadedCheck(overlay, tmp_path, firmware=tmp_path)
    assert check.still(closely=True)
    file.unlink()
    assert not check.still(closely=True)


# Reloading that fails


@pytest.mark.parametrize("fault", ["download-fails@2", "clock-stuck@2:375"])
def test_after_a_failed_reload_the_core_is_not_driven(make, fault):
    accelerator, board = make(fault)
    expected = accelerator.logits(PICTURES[:2])
    with pytest.raises(OverlayError, match=r"could not be loaded again: .*injected|expected at most 250 MHz"):
        accelerator.reload()
    before = runs(board)
    for _ in range(2):
        with pytest.raises(OverlayReplacedError, match=r"loading it again has failed; call reload\(\)"):
            accelerator.logits(PICTURES[:2])
    assert runs(board) == before
    accelerator.reload()
    assert np.array_equal(accelerator.logits(PICTURES[:2]), expected)


def test_a_hung_core_is_stopped_although_a_reload_had_failed(make):
    accelerator, board = make("hang@1", "download-fails@2")
    accelerator.timeout_s = 0.1
    with pytest.raises(AcceleratorError):
        accelerator.logits(PICTURES[:1])
    with pytest.raises(OverlayError):
        accelerator.reload()
    accelerator.close()
    assert board.downloads == 2
    assert not board.cores["FracNet_T_0"].control.busy


# Threads and working directories


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.fixture
def boards(monkeypatch):
    """What pynq does on a board, in a device of a test: ask for an event loop, and write beside the process."""
    import asyncio

    from pynq.pl_server.device import Device, DeviceMeta

    found = SimpleNamespace(loops=[], folders=[], broken=None)

    class Board(Device):
        _probe_priority_ = 1

        @classmethod
        def _probe_(cls):
            if found.broken:
                raise found.broken
            found.loops.append(asyncio.get_event_loop())
            return [cls("a board")]

    class Overlay:
        bitfile_name = "a.bit"

        def __init__(self, path):
            self.path = path
            self.download()

        def download(self):
            assert type(Device.active_device) is Board
            with open("loaded.xclbin", "wb") as file:
                file.write(b"x")
            found.folders.append(os.getcwd())

    monkeypatch.setattr(DeviceMeta, "_subclasses", {1: Board})
    monkeypatch.setattr("pynq.Overlay", Overlay)
    for name in ("_active_device", "_devices"):
        if hasattr(Device, name):
            monkeypatch.delattr(Device, name)
    yield found
    for name in ("_active_device", "_devices"):
        if name in Device.__dict__:
            delattr(Device, name)


def test_the_first_load_may_be_in_any_thread(boards):
    from fracbnn_pynq.board.loading import load_overlay

    assert in_a_thread(lambda: load_overlay("a.bit")).path == os.path.abspath("a.bit")
    assert [loop.is_closed() for loop in boards.loops] == [True]


def test_nothing_is_written_into_the_working_directory(boards, tmp_path, monkeypatch):
    from fracbnn_pynq.board.loading import download, load_overlay

    monkeypatch.chdir(tmp_path)
    overlay = load_overlay("a.bit")
    assert overlay.path == str(tmp_path / "a.bit")
    download(overlay)
    assert list(tmp_path.iterdir()) == []
    assert os.getcwd() == str(tmp_path)
    assert not any(os.path.exists(folder) for folder in boards.folders)


def test_other_threads_keep_their_working_directory(boards, tmp_path, monkeypatch):
    from fracbnn_pynq.board.loading import _apart

    monkeypatch.chdir(tmp_path)
    inside, seen = threading.Event(), threading.Event()

    def work():
        inside.set()
        seen.wait(5)
        return os.getcwd()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_apart, work)
        assert inside.wait(5)
        assert os.getcwd() == str(tmp_path)
        seen.set()
        assert other.result() != str(tmp_path)


def test_a_board_that_was_not_found_is_looked_for_again(boards):
    """pynq itself would say ever after that there is none."""
    from fracbnn_pynq.board.loading import load_overlay

    boards.broken = NameError("name 'pyxrt' is not defined")
    with pytest.raises(OverlayError, match=r"a\.bit could not be loaded: NameError: name 'pyxrt' is not defined"):
        load_overlay("a.bit")
    boards.broken = None
    assert load_overlay("a.bit")


def test_an_interrupt_waits_for_the_load(boards, monkeypatch):
    from fracbnn_pynq.board import loading

    done = []
    joins = []

    class Interrupted(threading.Thread):
        def join(self, timeout=None):
            joins.append(len(done))
            if len(joins) == 1:
                raise KeyboardInterrupt
            super().join(timeout)

    monkeypatch.setattr(loading.threading, "Thread", Interrupted)
    release = threading.Event()
    threading.Timer(0.1, release.set).start()
    with pytest.raises(KeyboardInterrupt):
        loading._apart(lambda: (release.wait(5), done.append(1)))
    assert done == [1]


# Buffers


class XrtObject:
    """What pynq 4 holds for a buffer: XRT's object, which removes its mapping when it goes."""

    def __init__(self, log):
        self.log = log

    def sync(self, direction, size=None, offset=0):
        self.log.append((direction, size, offset))

    def __del__(self):
        self.log.append("unmapped")


@pytest.fixture
def xrt_memory(monkeypatch):
    """A pynq buffer as pynq 4 makes it, and what happens to it."""
    from pynq.buffer import PynqBuffer

    pyxrt = ModuleType("pyxrt")
    pyxrt.xclBOSyncDirection = SimpleNamespace(XCL_BO_SYNC_BO_TO_DEVICE="to", XCL_BO_SYNC_BO_FROM_DEVICE="from")
    monkeypatch.setitem(sys.modules, "pyxrt", pyxrt)
    log = []
    device = SimpleNamespace(
        flush=lambda bo, offset, pointer, size: bo.sync("to"), invalidate=lambda bo, *_: bo.sync("from")
    )
    target = SimpleNamespace(log=log)

    def allocate(shape, dtype, **_):
        data = bytearray(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        memory = PynqBuffer(shape, dtype, bo=XrtObject(log), device=device, buffer=data, device_address=0x6000_0000)
        memory.memory = target
        return memory

    target.allocate = allocate
    return target


def test_a_part_of_a_buffer_hands_over_its_own_bytes_only(xrt_memory):
    from fracbnn_pynq.board.buffers import Buffers

    buffers = Buffers(xrt_memory)
    whole = buffers.allocate("scratch memory", (100, 64), np.uint8)
    part = whole.part(7)
    part.flush()
    part.invalidate()
    whole.flush()
    assert xrt_memory.log == [("to", 7 * 64, 0), ("from", 7 * 64, 0), ("to", 100 * 64, 0)]
    assert np.shares_memory(part.array, whole.array)
    buffers.free()


def test_freeing_lets_go_of_every_view_of_a_buffer(xrt_memory):
    """Whoever still holds a buffer or a part of it does not keep XRT's object, whose end would unmap somebody else's
    memory; and pynq does not unmap it besides."""
    from fracbnn_pynq.board.buffers import Buffers

    buffers = Buffers(xrt_memory)
    whole = buffers.allocate("scratch memory", (100, 64), np.uint8)
    held = [whole, whole.part(7), whole.part(3)]
    gone = weakref.ref(whole._memory.bo)
    buffers.free()
    assert gone() is None
    assert xrt_memory.log == ["unmapped"]
    for buffer in held:
        for transfer in (buffer.flush, buffer.invalidate):
            with pytest.raises(AcceleratorError, match="has been freed"):
                transfer()
        assert buffer.array.size == 0
    del held, whole
    gc.collect()
    buffers.free()
    assert xrt_memory.log == ["unmapped"]


def test_without_xrts_object_a_part_hands_over_its_own_bytes_only(make):
    from fracbnn_pynq.board.buffers import Buffers

    _, board = make()
    buffers = Buffers(board)
    whole = buffers.allocate("scratch memory", (100, 64), np.uint8)
    whole.array.fill(1)
    whole.part(7).flush()
    assert board.dram.read(whole.address, 8 * 64) == b"\1" * 7 * 64 + b"\xa5" * 64
    buffers.free()
