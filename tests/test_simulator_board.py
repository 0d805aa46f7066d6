"""The simulated board under the real, unmodified pynq of whatever version is installed here."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import time

import numpy as np
import pytest
from waiting_support import live_threads

from fracbnn_pynq import simulator
from fracbnn_pynq.errors import ModelError, OverlayError
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.simulator import BusError, write_overlay
from fracbnn_pynq.simulator.handoff import make_bit

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: the simulated board is built on it"
)

IMAGE = np.random.default_rng(0).integers(0, 1 << 63, layout.CIFAR10_IMAGE_SHAPE, dtype=np.uint64)


def checksum(words):
    return np.array([float(np.sum(words >> np.uint64(32 + i)) % 8191) for i in range(10)], np.float32)


EXPECTED = checksum(IMAGE)


@pytest.fixture(scope="module", autouse=True)
def pynq():
    return simulator.import_pynq()


@pytest.fixture
def install():
    """simulator.install(), undone at the end of the test; without latency and with a stand-in network by default."""
    boards = []

    def make(**options):
        boards.append(simulator.install(**{"latency": "none", "cifar10": checksum, **options}))
        return boards[-1]

    yield make
    for board in reversed(boards):
        board.close()


@pytest.fixture
def load(tmp_path, pynq):
    """Write an overlay and load it."""

    def make(kind="cifar10", **options):
        return pynq.Overlay(str(write_overlay(tmp_path, kind, **options)))

    return make


class Driver:
    """The least a driver of the CIFAR-10 core can be, written as for a board."""

    def __init__(self, overlay) -> None:
        import pynq

        self.ip = overlay.FracNet_T_0
        self.image = pynq.allocate(layout.CIFAR10_IMAGE_SHAPE, np.uint64)
        self.result = pynq.allocate((10,), np.float32)
        offsets = {name: entry["address_offset"] for name, entry in overlay.ip_dict["FracNet_T_0"]["registers"].items()}
        self.ip.write(next(o for n, o in offsets.items() if n.startswith("image")), self.image.physical_address)
        self.ip.write(next(o for n, o in offsets.items() if n.startswith("output")), self.result.physical_address)

    def start(self, words=IMAGE) -> None:
        self.image[:] = words
        self.image.flush()
        self.ip.write(0, 1)

    def wait(self, seconds=5.0) -> None:
        end = time.monotonic() + seconds
        while not self.ip.read(0) & 4:
            if time.monotonic() > end:
                raise TimeoutError

    def logits(self):
        self.result.invalidate()
        return np.array(self.result)

    def classify(self, words=IMAGE):
        self.start(words)
        self.wait()
        return self.logits()


def test_installing_makes_the_active_device_and_closing_undoes_it(install, pynq):
    with simulator.install() as board:
        assert pynq.Device.active_device is board
        assert board.name == "Ultra96-V2 (simulated)"
        assert board.part == "xczu3eg-sbva484-1-e"
        other = install()
        assert pynq.Device.active_device is other
    assert pynq.Device.active_device is other
    other.close()
    other.close()
    assert getattr(pynq.Device, "_active_device", None) is None


@pytest.mark.parametrize("registers", ["published", "renamed"])
def test_one_picture(install, load, registers):
    install()
    assert np.array_equal(Driver(load(registers=registers)).classify(), EXPECTED)


@pytest.mark.parametrize(("stem", "core"), [("FracNet_T_0", "FracNet_T_0"), ("0503", "FracNet_0")])
def test_the_published_hand_off_files(install, tmp_path, shared, stem, core, pynq):
    board = install()
    bit = tmp_path / f"{stem}.bit"
    bit.write_bytes(make_bit())
    shutil.copy(shared / "golden" / f"{stem}.hwh", bit.with_suffix(".hwh"))
    overlay = pynq.Overlay(str(bit))
    assert list(board.cores) == [core]
    assert getattr(overlay, core).read(0) == 4
    assert round(board.fabric_mhz) == 250
    assert pynq.Clocks.fclk0_mhz == pytest.approx(250, rel=1e-4)
    if core == "FracNet_T_0":
        assert np.array_equal(Driver(overlay).classify(), EXPECTED)


def test_register_maps_work_by_name(install, load):
    install()
    driver = Driver(load())
    registers = driver.ip.register_map
    registers.image_V = 0x1234
    assert driver.ip.read(0x10) == 0x1234
    assert registers.CTRL.AP_IDLE == 1
    registers.image_V = driver.image.physical_address
    driver.image[:] = IMAGE
    driver.image.flush()
    registers.CTRL.AP_START = 1
    assert registers.CTRL.AP_IDLE == 1
    assert registers.CTRL.AP_DONE == 0  # reading AP_IDLE has cleared it
    assert np.array_equal(driver.logits(), EXPECTED)


def test_forgetting_to_flush_or_invalidate_shows(install, load):
    seen = []

    def record(words):
        seen.append(words.copy())
        return checksum(words)

    install(cifar10=record)
    driver = Driver(load())
    driver.image[:] = IMAGE
    driver.ip.write(0, 1)
    assert (seen[-1].view(np.uint8) == 0xA5).all()
    driver.start()
    assert np.array_equal(seen[-1], IMAGE)
    assert (np.asarray(driver.result).view(np.uint8) == 0xA5).all()
    assert np.array_equal(driver.logits(), EXPECTED)


def test_a_lenient_cache_hides_it(install, load):
    install(strict_cache=False)
    driver = Driver(load())
    driver.image[:] = IMAGE
    driver.ip.write(0, 1)
    assert np.array_equal(np.asarray(driver.result), EXPECTED)


def test_views_of_a_buffer_flush_their_own_part(install, pynq):
    board = install()
    buffer = pynq.allocate((4, 16), np.uint8)
    buffer[:] = 7
    part = buffer[1:3]
    assert part.physical_address == buffer.physical_address + 16
    part.flush()
    assert board.dram.read(buffer.physical_address, 64) == b"\xa5" * 16 + b"\7" * 32 + b"\xa5" * 16


def test_buffers_are_freed_once_with_their_last_reference(install, pynq):
    board = install()
    buffer = pynq.allocate(100)
    assert len(board.dram.buffers) == 1
    buffer.freebuffer()
    buffer.freebuffer()
    assert board.dram.buffers == ()
    with pynq.allocate((3, 3), np.float32, cacheable=1) as scoped:
        assert scoped.shape == (3, 3)
        assert len(board.dram.buffers) == 1
    del buffer, scoped
    assert board.dram.buffers == ()


def test_memory_runs_out_as_on_a_board(install, pynq):
    install(cma_size=1 << 20)
    with pytest.raises(RuntimeError, match="Allocate failed: no 2097152 contiguous"):
        pynq.allocate(2 << 20, np.uint8)


def test_mmio_offsets_are_checked_by_pynq(install, load):
    install()
    mmio = load().FracNet_T_0.mmio
    with pytest.raises(IndexError):
        mmio.read(0x10000)
    with pytest.raises(MemoryError):
        mmio.read(2)


@pytest.mark.filterwarnings("ignore:Setting frequency to the closest possible value:UserWarning")
def test_another_build_clocks_the_fabric_differently(install, load, pynq):
    """A hand-off file made for a PLL of 800 MHz, on a boot image that takes the clock from 1500 MHz."""
    board = install()
    overlay = load(clock_mhz=200.0, pll_mhz=800.0)
    major = int(pynq.__version__.split(".")[0])
    # Up to 3.1 pynq applies the divisor it finds; 4.0 picks the nearest possible frequency, here one above.
    assert board.fabric_mhz == pytest.approx(1500 / 7 if major >= 4 else 375.0)
    assert pynq.Clocks.fclk0_mhz == pytest.approx(board.fabric_mhz, rel=1e-4)
    driver = Driver(overlay)
    assert np.array_equal(driver.classify(), EXPECTED) == (major >= 4)
    assert board.cores["FracNet_T_0"].overclocked == (major < 4)
    pynq.Clocks.fclk0_mhz = 1500 / 8
    assert board.fabric_mhz == pytest.approx(187.5)
    assert np.array_equal(driver.classify(), EXPECTED)


def test_published_latency(install, load):
    install(latency="published")
    driver = Driver(load())
    driver.classify()
    times = []
    for _ in range(10):
        driver.image.flush()
        start = time.perf_counter()
        driver.ip.write(0, 1)
        driver.wait()
        times.append((time.perf_counter() - start) * 1e3)
    assert min(times) >= 0.356
    assert min(times) < 2
    assert np.array_equal(driver.logits(), EXPECTED)


def test_a_split_slave_leaves_pynq_without_control_registers(install, load, pynq):
    board = install()
    overlay = load(registers="split")
    entry = overlay.ip_dict["FracNet_T_0"]
    assert "CTRL" not in entry["registers"]
    pynq.MMIO(entry["phys_addr"], entry["addr_range"]).write(0, 1)
    assert board.cores["FracNet_T_0"].runs == 0


def test_overlays_name_the_model_inside(install, load, tmp_path):
    from fracbnn_pynq.backends.reference import ReferenceBackend
    from fracbnn_pynq.model import random_model
    from fracbnn_pynq.modelfile import save_model
    from fracbnn_pynq.networks import CIFAR10

    inside, other = random_model(CIFAR10, seed=1), random_model(CIFAR10, seed=2)
    save_model(inside, tmp_path / "inside.safetensors")
    image = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    words = layout.pack_cifar10_image(image)[0]
    options = {"model": str(tmp_path / "inside.safetensors"), "arithmetic": "cifar10-2021"}

    install(cifar10=None)
    expected = ReferenceBackend(inside, "cifar10-2021").logits(image)[0]
    assert np.array_equal(Driver(load(**options)).classify(words), expected)

    install(cifar10=None, model=other)
    expected = ReferenceBackend(other, "cifar10-2021").logits(image)[0]
    assert np.array_equal(Driver(load(**options)).classify(words), expected)


def test_the_published_imagenet_core(install, load, imagenet_release, pynq):
    """The authors' weights, sample picture and result, through pynq's buffers and registers."""
    install()
    core = load("imagenet").FracNet_0
    names = ("conv_weight_3x3_all_new", "conv_weight_1x1_all_new", "weights_all")
    contents = [
        imagenet_release["sample.image_thermo"].view(np.uint8),
        *(imagenet_release[f"packed.{name}"] for name in names),
    ]
    buffers = []
    for i, content in enumerate(contents):
        buffers.append(pynq.allocate(content.shape, np.uint8))
        buffers[-1][:] = content
        buffers[-1].flush()
        core.write(0x10 + 8 * i, buffers[-1].physical_address)
    scratch = pynq.allocate((layout.IMAGENET_SCRATCH_WORDS, layout.WORD_BYTES), np.uint8)
    core.write(0x30, scratch.physical_address)
    for _ in range(2):
        core.write(0, 1)
        assert core.read(0) & 4
    result = scratch[: layout.IMAGENET_RESULT_WORDS]
    result.invalidate()
    codes = layout.unpack_imagenet_result(np.array(result))
    assert np.array_equal(codes, imagenet_release["sample.result_q4"])


def test_interrupts_wake_a_coroutine(install, load):
    install(latency="published")

    async def classify():
        driver = Driver(load(interrupt=True))  # pynq ties an interrupt to the event loop in which it first meets it
        driver.ip.write(4, 1)
        driver.ip.write(8, 1)
        results = []
        for _ in range(3):
            driver.start()
            while not driver.ip.read(0) & 4:
                await asyncio.wait_for(driver.ip.interrupt.wait(), 5)
            driver.ip.write(0xC, driver.ip.read(0xC))
            results.append(driver.logits())
        return results

    assert all(np.array_equal(logits, EXPECTED) for logits in asyncio.run(classify()))


def test_loading_again_resets_the_core(install, load):
    board = install(faults=["hang"])
    first = load()
    driver = Driver(first)
    driver.start()
    with pytest.raises(TimeoutError):
        driver.wait(0.02)
    second = load()
    assert not first.is_loaded()
    assert second.is_loaded()
    assert board.downloads == 2
    assert np.array_equal(Driver(second).classify(), EXPECTED)


def test_a_missing_hand_off_file_is_named(install, tmp_path, pynq):
    install()
    bit = write_overlay(tmp_path, "cifar10")
    bit.with_suffix(".hwh").unlink()
    with pytest.raises(OverlayError, match=r"FracNet_T_0\.hwh"):
        pynq.Overlay(str(bit))


def test_fault_cma_exhausted(install, pynq):
    install(faults=["cma-exhausted@2"])
    pynq.allocate(10)
    with pytest.raises(RuntimeError, match="Allocate failed"):
        pynq.allocate(10)
    pynq.allocate(10)


def test_fault_wrong_part(install, load, monkeypatch):
    monkeypatch.setenv("FRACBNN_FAULTS", "wrong-part")
    board = install()
    with pytest.raises(OSError, match="xczu5eg-sfvc784"):
        load()
    assert board.downloads == 0
    assert load(part="xczu5eg-sfvc784-1-i").is_loaded()


def test_fault_wrong_clock_can_be_put_right(install, load, pynq):
    board = install(faults=["wrong-clock"])
    driver = Driver(load())
    assert round(pynq.Clocks.fclk0_mhz) == 375
    assert not np.array_equal(driver.classify(), EXPECTED)
    assert board.cores["FracNet_T_0"].overclocked
    pynq.Clocks.fclk0_mhz = 250
    assert np.array_equal(driver.classify(), EXPECTED)


def test_fault_clock_stuck_cannot(install, load, pynq):
    install(faults=["clock-stuck:500"])
    load()
    pynq.Clocks.fclk0_mhz = 250
    assert round(pynq.Clocks.fclk0_mhz) == 500


def test_a_clock_is_stuck_until_the_next_download(install, load, pynq):
    install(faults=["clock-stuck"])
    overlay = load()
    overlay.download()
    pynq.Clocks.fclk0_mhz = 250
    assert round(pynq.Clocks.fclk0_mhz) == 250
    assert np.array_equal(Driver(overlay).classify(), EXPECTED)


def test_fault_clock_stuck_at_every_download(install, load, pynq):
    install(faults=["clock-stuck@*"])
    load().download()
    pynq.Clocks.fclk0_mhz = 250
    assert round(pynq.Clocks.fclk0_mhz) == 375


def test_fault_overlay_replaced(install, load):
    install(faults=["overlay-replaced"])
    overlay = load()
    driver = Driver(overlay)
    assert overlay.is_loaded()
    driver.start()
    assert not overlay.is_loaded()
    assert np.array_equal(driver.logits(), EXPECTED)
    with pytest.raises(BusError, match="still loaded"):
        driver.start()


def test_fault_power_cycle(install, load):
    board = install(latency="published", faults=["power-cycle@2"])
    overlay = load()
    driver = Driver(overlay)
    assert np.array_equal(driver.classify(), EXPECTED)
    driver.start()
    with pytest.raises(BusError):
        driver.wait()
    assert not overlay.is_loaded()
    assert round(board.fabric_mhz) == 100
    assert (driver.logits().view(np.uint8) == 0xA5).all()


def test_no_thread_outlives_the_board(install, load):
    before = live_threads()
    board = install(latency="published")

    async def classify():
        Driver(load(interrupt=True)).classify()

    asyncio.run(classify())
    assert live_threads() - before
    board.close()
    assert live_threads() <= before


def test_an_unknown_model_inside_is_an_error_of_its_own(install, load):
    install(cifar10=None)
    driver = Driver(load(model="nobodys"))
    with pytest.raises(ModelError, match="nobodys"):
        driver.classify()
