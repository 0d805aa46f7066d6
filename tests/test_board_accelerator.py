"""Accelerators on the simulated board: buffers, overlap, threads, and every fault of the hardware."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from waiting_support import live_threads, until

from fracbnn_pynq import simulator
from fracbnn_pynq.errors import (
    AcceleratorError,
    AcceleratorTimeoutError,
    BackendError,
    OverlayError,
    OverlayReplacedError,
    PictureError,
)
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.model import LayerParameters, Model
from fracbnn_pynq.networks import IMAGENET
from fracbnn_pynq.simulator import write_overlay

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pynq") is None, reason="pynq is not installed: accelerators are driven through it"
)

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
WEIGHTS = np.random.default_rng(1).integers(1, 1 << 31, (3, 32, 32), dtype=np.uint64)


def fingerprint(words):
    """A stand-in for the network that depends on every bit of the image."""
    mixed = (words >> np.uint64(32)) * WEIGHTS
    return np.array(
        [float(np.bitwise_xor.reduce(mixed, axis=None) >> np.uint64(i) & np.uint64(4095)) for i in range(10)]
    )


EXPECTED = np.stack([fingerprint(layout.pack_cifar10_image(picture)) for picture in PICTURES]).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def pynq():
    return simulator.import_pynq()


@pytest.fixture
def make(tmp_path):
    """A CIFAR-10 accelerator on a simulated board; both are closed at the end, and no buffer may be left."""
    from fracbnn_pynq.board.cifar10 import Cifar10Accelerator

    opened = []

    def make(*faults, overlay=None, timeout_s=5.0, design_mhz=None, **options):
        board = simulator.install(**{"latency": "none", "cifar10": fingerprint, "faults": faults, **options})
        opened.append(board)
        import pynq

        loaded = pynq.Overlay(str(write_overlay(tmp_path, "cifar10", **(overlay or {}))))
        accelerator = Cifar10Accelerator(loaded, timeout_s=timeout_s, design_mhz=design_mhz)
        opened.append(accelerator)
        return accelerator, board

    make.opened = opened
    yield make
    for thing in reversed(opened):
        thing.close()
    assert [board.dram.buffers for board in opened if hasattr(board, "dram")] == [()] * sum(
        hasattr(board, "dram") for board in opened
    )


def correct(accelerator, count=3):
    return np.array_equal(accelerator.logits(PICTURES[:count]), EXPECTED[:count])


# Right results


@pytest.mark.parametrize("latency", ["none", "published"])
@pytest.mark.parametrize("registers", ["published", "renamed"])
def test_every_picture_gets_its_own_result(make, latency, registers):
    accelerator, board = make(overlay={"registers": registers}, latency=latency)
    for count in (1, 2, 3, 40):
        assert np.array_equal(accelerator.logits(PICTURES[:count]), EXPECTED[:count])
    assert accelerator.logits(PICTURES[:0]).shape == (0, 10)
    assert board.cores["FracNet_T_0"].runs == 46
    assert accelerator.clock_mhz == pytest.approx(250, rel=1e-3)


@pytest.mark.parametrize("fault", [(), ("wrong-length@2",)])
def test_pictures_are_not_kept_after_a_call(make, fault):
    accelerator, _ = make(*fault)
    pictures = PICTURES[:3].copy()
    before = sys.getrefcount(pictures)
    with pytest.raises(AcceleratorError) if fault else contextlib.nullcontext():
        accelerator.logits(pictures)
    gc.collect()
    assert sys.getrefcount(pictures) == before


def test_timings_name_the_stages(make):
    from fracbnn_pynq.board.stages import STAGES

    accelerator, _ = make(latency="published")
    accelerator.logits(PICTURES)
    timings = accelerator.timings
    assert tuple(timings) == STAGES
    assert all(value > 0 for value in timings.values())
    assert 0.35 < timings["run"] <= timings["total"]


def test_other_pictures_are_refused(make):
    accelerator, _ = make()
    for bad in (PICTURES[0], PICTURES.astype(np.int16), PICTURES[:, :16], [1]):
        with pytest.raises(PictureError, match="expected a uint8 array"):
            accelerator.logits(bad)
    assert correct(accelerator)


def test_four_threads_never_get_each_others_results(make):
    accelerator, _ = make()
    wrong = []

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(60):
            chosen = rng.integers(0, 40, rng.integers(1, 5))
            if not np.array_equal(accelerator.logits(PICTURES[chosen]), EXPECTED[chosen]):
                wrong.append(chosen)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_threads_and_files_stay_the_same(make):
    accelerator, board = make()

    def state():
        gc.collect()
        return len(board.dram.buffers), len(os.listdir("/proc/self/fd"))

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    accelerator.logits(np.tile(PICTURES, (10, 1, 1, 1)))
    before, threads, memory = state(), live_threads(), resident()
    for _ in range(5):
        accelerator.logits(np.tile(PICTURES, (10, 1, 1, 1)))
    for i in range(500):
        accelerator.logits(PICTURES[i % 40][None])
    assert all(now <= then for now, then in zip(state(), before, strict=True))
    assert live_threads() <= threads
    assert resident() - memory < 4 << 20


def test_without_interrupt_and_with_one(make, tmp_path):
    """Short runs are polled even where there is an interrupt; its line must not get in the way."""
    accelerator, _ = make(overlay={"interrupt": True}, latency="published")
    assert correct(accelerator, 10)
    accelerator.reload()
    assert correct(accelerator, 10)


# Closing


def test_closing_frees_everything_and_ends_the_thread(make):
    accelerator, board = make()
    assert len(board.dram.buffers) == 4
    own = live_threads(f"fracbnn {accelerator.network.name}")
    assert own
    accelerator.close()
    accelerator.close()
    assert board.dram.buffers == ()
    until(lambda: not own & live_threads())
    for call in (lambda: accelerator.logits(PICTURES), accelerator.reload):
        with pytest.raises(BackendError, match="has been closed"):
            call()


def test_a_core_that_hangs_is_stopped_before_its_memory_is_freed(make):
    accelerator, board = make("hang", timeout_s=0.1)
    with pytest.raises(AcceleratorTimeoutError):
        accelerator.logits(PICTURES[:1])
    assert board.cores["FracNet_T_0"].control.busy
    accelerator.close()
    assert board.downloads == 2
    assert not board.cores["FracNet_T_0"].control.busy


def test_an_accelerator_nobody_holds_is_cleaned_up(make):
    accelerator, board = make()
    assert correct(accelerator)
    make.opened.remove(accelerator)
    del accelerator
    gc.collect()
    assert board.dram.buffers == ()


# Faults


def test_hang(make):
    accelerator, _ = make("hang@2", timeout_s=0.2)
    begin = time.perf_counter()
    with pytest.raises(AcceleratorTimeoutError, match=r"within 0.2 s, found a busy core.*call reload\(\)"):
        accelerator.logits(PICTURES[:5])
    assert time.perf_counter() - begin < 2
    begin = time.perf_counter()
    with pytest.raises(AcceleratorError, match=r"still busy with a run that was started .* call reload\(\)"):
        accelerator.logits(PICTURES[:1])
    assert time.perf_counter() - begin < 0.1
    accelerator.reload()
    assert correct(accelerator)


def test_late_within_the_deadline(make):
    accelerator, _ = make("late@2:0.3")
    assert correct(accelerator)


def test_late_beyond_the_deadline(make):
    accelerator, _ = make("late@2:0.4", timeout_s=0.1)
    with pytest.raises(AcceleratorTimeoutError, match="used again as soon as it is idle"):
        accelerator.logits(PICTURES[:3])
    time.sleep(0.5)
    assert correct(accelerator)


@pytest.mark.parametrize("written", [0, 4, 20, 36])
def test_a_result_of_the_wrong_length(make, written):
    accelerator, _ = make(f"wrong-length@2:{written}")
    with pytest.raises(AcceleratorError, match=rf"expected 10 logits, found {written // 4}: .* call reload\(\)"):
        accelerator.logits(PICTURES[:5])
    assert correct(accelerator)


def test_a_bus_error(make):
    accelerator, _ = make("bus-error@2", timeout_s=0.2)
    with pytest.raises(AcceleratorTimeoutError, match=r"call reload\(\)"):
        accelerator.logits(PICTURES[:3])
    accelerator.reload()
    assert correct(accelerator)


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_no_contiguous_memory(make, which):
    with pytest.raises(AcceleratorError, match=r"bytes of contiguous memory for an? .* free buffers"):
        make(f"cma-exhausted@{which}")
    assert make.opened[0].dram.buffers == ()


def test_memory_out_of_reach(make):
    with pytest.raises(OverlayError, match=r"bytes below 0x80000000, .* found them at 0x80000000; boot with"):
        make(cma_base=0x8000_0000)
    assert make.opened[0].dram.buffers == ()


def test_memory_across_the_end_of_reach(make):
    with pytest.raises(OverlayError, match="found them at 0x7fff"):
        make(cma_base=0x7FFF_F000)
    assert make.opened[0].dram.buffers == ()


def test_a_wrong_clock_is_put_right(make, caplog):
    accelerator, board = make("wrong-clock@*:375")
    assert board.fabric_mhz == pytest.approx(250)
    assert correct(accelerator)
    accelerator.reload()
    assert board.fabric_mhz == pytest.approx(250)
    assert correct(accelerator)
    assert not board.cores["FracNet_T_0"].overclocked
    assert "fabric clock 0 was 374." in caplog.text


def test_a_clock_that_cannot_be_set(make):
    with pytest.raises(OverlayError, match="expected at most 250 MHz"):
        make("clock-stuck:375")
    assert make.opened[0].dram.buffers == ()


def test_a_reload_that_failed_can_be_repeated(make):
    accelerator, board = make("clock-stuck@2:375", "clock-stuck@3:375")
    for _ in range(2):
        with pytest.raises(OverlayError, match="expected at most 250 MHz"):
            accelerator.reload()
    accelerator.reload()
    assert board.fabric_mhz == pytest.approx(250)
    assert correct(accelerator)


def test_the_design_clock_may_be_given(make):
    accelerator, _ = make(design_mhz=200.0)
    assert accelerator.clock_mhz == pytest.approx(187.5, rel=1e-3)
    assert correct(accelerator)


def test_another_overlay_between_calls(make):
    accelerator, board = make()
    assert correct(accelerator)
    board.replace_overlay()
    with pytest.raises(OverlayReplacedError, match=r"another one has been loaded since.* call reload\(\)"):
        accelerator.logits(PICTURES[:1])
    accelerator.reload()
    assert correct(accelerator)


def test_another_overlay_within_a_batch(make):
    accelerator, _ = make("overlay-replaced@2")
    with pytest.raises(OverlayReplacedError, match=r"call reload\(\)"):
        accelerator.logits(PICTURES[:5])
    accelerator.reload()
    assert correct(accelerator)


@pytest.mark.parametrize("latency", ["none", "published"])
def test_power_fails_within_a_run(make, latency):
    accelerator, _ = make("power-cycle@2", latency=latency)
    with pytest.raises(OverlayReplacedError, match="the board lost it"):
        accelerator.logits(PICTURES[:5])
    accelerator.reload()
    assert correct(accelerator)


def test_power_fails_between_pictures(make):
    accelerator, board = make()
    assert correct(accelerator)
    board.power_cycle()
    with pytest.raises(OverlayReplacedError):
        accelerator.logits(PICTURES[:1])
    accelerator.reload()
    assert correct(accelerator)


def test_a_core_that_is_busy_from_the_start(make, monkeypatch):
    from fracbnn_pynq.board.drivers import HlsCore

    monkeypatch.setattr(HlsCore, "idle", lambda self: False)
    with pytest.raises(AcceleratorError, match="expected an idle core after loading the overlay"):
        make()


def test_an_interrupted_caller_leaves_the_accelerator_usable(make):
    accelerator, board = make("late@*:0.05")
    threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        accelerator.logits(PICTURES)
    runs = board.cores["FracNet_T_0"].runs
    assert runs < 10
    assert correct(accelerator, 2)
    assert board.cores["FracNet_T_0"].runs <= runs + 5  # the batch nobody waits for was not finished


def test_an_interrupt_at_any_moment_never_gives_wrong_results(make):
    accelerator, _ = make(latency="published")
    rng = np.random.default_rng(7)
    interrupted = 0
    for delay in rng.uniform(0.0005, 0.008, 60):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            assert np.array_equal(accelerator.logits(PICTURES), EXPECTED)
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert correct(accelerator, 1)
        assert correct(accelerator, 2)
    assert interrupted > 30


def test_a_forgotten_flush_could_not_pass(make, monkeypatch):
    """The simulated cache keeps what the CPU and what the core see apart, so the tests above would fail."""
    accelerator, _ = make()
    for buffer in accelerator._images:
        monkeypatch.setattr(buffer, "flush", lambda: None)
    assert not correct(accelerator)


def test_a_forgotten_invalidate_could_not_pass(make, monkeypatch):
    accelerator, _ = make()
    for buffer in accelerator._results:
        monkeypatch.setattr(buffer, "invalidate", lambda: None)
    with pytest.raises(AcceleratorError, match="expected 10 logits, found 0"):
        accelerator.logits(PICTURES[:1])


def test_deadlines_must_be_positive(make):
    with pytest.raises(AcceleratorError, match="expected seconds above zero"):
        make(timeout_s=0)


# The ImageNet core


def random_model():
    rng = np.random.default_rng(3)

    def weight(layer):
        shape = (layer.out_channels, layer.kernel, layer.kernel, layer.in_channels // 8)
        return rng.integers(0, 256, shape, dtype=np.uint8)

    layers = {
        layer.name: LayerParameters(weight(layer), rng.integers(-99, 99, (8, layer.out_channels)) / 64.0)
        for layer in IMAGENET.layers
    }
    return Model(
        IMAGENET,
        weight(IMAGENET.stem),
        rng.integers(-99, 99, (2, 32)) / 64.0,
        layers,
        rng.integers(-99, 99, (1000, 1024)) / 256.0,
        rng.integers(-99, 99, 1000) / 4.0,
        tuple(f"class {i}" for i in range(1000)),
    )


PHOTOS = np.random.default_rng(5).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)


def photo_codes(words):
    seed = int(np.bitwise_xor.reduce(words, axis=None)) + int(words.sum(dtype=np.uint64) % 1000003)
    return np.random.default_rng(seed).integers(0, 16, (1024, 7, 7), dtype=np.uint8)


CODES = np.stack([photo_codes(layout.pack_imagenet_image(photo)) for photo in PHOTOS])


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def make_imagenet(tmp_path, model):
    from fracbnn_pynq.board.imagenet import ImageNetAccelerator

    opened = []

    def make(*faults, timeout_s=5.0, overlay=None, **options):
        made_from = []

        def network(*weights):
            made_from.append(weights)
            return photo_codes

        options = {"latency": "none", "imagenet": network, "faults": faults, **options}
        board = simulator.install(**options)
        opened.append(board)
        import pynq

        accelerator = ImageNetAccelerator(
            pynq.Overlay(str(write_overlay(tmp_path, "imagenet", **(overlay or {})))), model, timeout_s=timeout_s
        )
        opened.append(accelerator)
        return accelerator, board, made_from

    make.opened = opened
    yield make
    for thing in reversed(opened):
        thing.close()
    assert opened[0].dram.buffers == ()


@pytest.mark.parametrize("latency", ["none", "published"])
def test_imagenet(make_imagenet, model, latency):
    from fracbnn_pynq.hostclassifier import host_classifier
    from fracbnn_pynq.layouts.weights import pack_model

    accelerator, _, made_from = make_imagenet(latency=latency)
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)
    expected = host_classifier(model).logits(CODES.sum(axis=(2, 3), dtype=np.int64))
    assert np.array_equal(accelerator.logits(PHOTOS), expected)
    assert [list(weights) for weights in made_from] == [[buffer.tobytes() for buffer in pack_model(model)]]


def test_imagenet_weights_come_back_after_a_power_failure(make_imagenet):
    accelerator, board, made_from = make_imagenet()
    assert np.array_equal(accelerator.result_codes(PHOTOS[:1]), CODES[:1])
    board.power_cycle()
    with pytest.raises(OverlayReplacedError):
        accelerator.result_codes(PHOTOS[:1])
    accelerator.reload()
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)
    assert made_from[0] == made_from[1]


@pytest.mark.parametrize("written", [0, 64, 28_672 - 64])
def test_imagenet_result_of_the_wrong_length(make_imagenet, written):
    accelerator, _, _ = make_imagenet(f"wrong-length@2:{written}")
    with pytest.raises(AcceleratorError, match=f"expected 448 words of result, found {written // 64}"):
        accelerator.logits(PHOTOS)
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)


def test_imagenet_does_not_start_a_core_that_has_lost_its_weights(make_imagenet):
    """Within a batch the image's address is set for every picture, and those of the weights are not."""
    accelerator, board, _ = make_imagenet("overlay-reloaded@2")
    with pytest.raises(OverlayReplacedError, match=r"expected the address 0x\w+ .* found 0x0"):
        accelerator.result_codes(PHOTOS)
    assert board.cores["FracNet_0"].runs == 0
    accelerator.reload()
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)


def test_imagenet_hang(make_imagenet):
    accelerator, _, _ = make_imagenet("hang@3", timeout_s=0.3)
    with pytest.raises(AcceleratorTimeoutError, match="FracNet_0"):
        accelerator.logits(PHOTOS)
    accelerator.reload()
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)


@pytest.mark.parametrize("which", range(1, 7))
def test_imagenet_no_contiguous_memory(make_imagenet, which):
    with pytest.raises(AcceleratorError, match="of contiguous memory"):
        make_imagenet(f"cma-exhausted@{which}")
    assert make_imagenet.opened[0].dram.buffers == ()


def test_imagenet_waits_for_its_interrupt(make_imagenet):
    from fracbnn_pynq.board.waiting import InterruptWaiter, PollingWaiter

    accelerator, _, _ = make_imagenet(overlay={"interrupt": True}, latency="published")
    assert isinstance(accelerator._waiter, InterruptWaiter)
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)
    assert accelerator.timings["run"] < 40
    accelerator.reload()
    assert isinstance(accelerator._waiter, PollingWaiter)
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)


def test_imagenet_interrupt_that_never_comes(make_imagenet):
    accelerator, _, _ = make_imagenet("hang@2", overlay={"interrupt": True}, latency="published", timeout_s=0.3)
    begin = time.perf_counter()
    with pytest.raises(AcceleratorTimeoutError):
        accelerator.logits(PHOTOS)
    assert time.perf_counter() - begin < 2
    accelerator.reload()
    assert np.array_equal(accelerator.result_codes(PHOTOS), CODES)
