"""The driver of the project's own accelerator on the simulated board: bits, batches, faults, and its hardware."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import Classifier, native, simulator
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.engine.registers import OFFSETS
from fracbnn_pynq.errors import (
    AcceleratorError,
    AcceleratorTimeoutError,
    BackendError,
    EngineError,
    OverlayError,
    OverlayReplacedError,
)
from fracbnn_pynq.model import random_model
from fracbnn_pynq.models import find_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.selection import open_overlay
from fracbnn_pynq.simulator.handoff import write_overlay

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("pynq") is None, reason="pynq is not installed: it drives accelerators"
    ),
    pytest.mark.skipif(not native.available(), reason="native kernels were not built"),
]
needs_sources = pytest.mark.skipif(
    shutil.which("verilator") is None or not (Path(__file__).parents[1] / "overlays/engine/rtl").is_dir(),
    reason="needs verilator and the engine's sources beside the tests",
)
PICTURES = np.random.default_rng(0).integers(0, 256, (150, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return find_model("cifar10")


@pytest.fixture(scope="module")
def expected(model):
    return CpuBackend(model).logits(PICTURES)


@pytest.fixture
def make(tmp_path, model):
    """An engine on a simulated board; both are closed at the end, and no buffer may be left."""
    pynq = simulator.import_pynq()
    from fracbnn_pynq.board.accelerators import create_accelerator

    opened = []

    def make(*faults, model=model, timeout_s=20.0, overlay=None, **options):
        board = simulator.install(**{"latency": "none", "faults": faults, **options})
        opened.append(board)
        bit = write_overlay(tmp_path, "engine", **(overlay or {}))
        opened.append(create_accelerator(pynq.Overlay(str(bit)), model, timeout_s=timeout_s))
        return opened[-1], board

    yield make
    for thing in reversed(opened):
        thing.close()
    assert all(board.dram.buffers == () for board in opened if hasattr(board, "dram"))


# Right results


@pytest.mark.parametrize("interrupt", [False, True])
@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_batches_of_any_length(make, expected, pixels, interrupt):
    accelerator, board = make(overlay={"pixels": pixels, "interrupt": interrupt})
    assert accelerator.batch == 64
    for count in (1, 2, 63, 64, 65, 150, 3):
        assert np.array_equal(accelerator.logits(PICTURES[:count]), expected[:count])
    assert accelerator.logits(PICTURES[:0]).shape == (0, 10)
    assert board.cores["fracbnn_engine_0"].runs == 1 + 1 + 1 + 1 + 2 + 3 + 1
    assert accelerator.pixels == pixels


@pytest.mark.parametrize("seed", [1, 2])
def test_random_models_of_three_classes(make, seed):
    model = random_model(CIFAR10.with_classes(3), seed)
    accelerator, _ = make(model=model)
    logits = accelerator.logits(PICTURES[:70])
    assert logits.shape == (70, 3)
    assert np.array_equal(logits, CpuBackend(model).logits(PICTURES[:70]))


def test_the_imagenet_network(make):
    model = random_model(IMAGENET, 3)
    pictures = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    accelerator, _ = make(model=model)
    assert accelerator.batch == 1
    assert np.array_equal(accelerator.logits(pictures), CpuBackend(model).logits(pictures))


def test_photographs(make, imagenet_authors, shared):
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as data:
        pictures = data["images"]
    accelerator, _ = make(model=imagenet_authors)
    assert np.array_equal(accelerator.logits(pictures), CpuBackend(imagenet_authors).logits(pictures))


def test_golden_pictures(make, cifar10_authors, shared):
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as data:
        pictures = data["images"]
    accelerator, _ = make(model=cifar10_authors)
    assert np.array_equal(accelerator.logits(pictures), CpuBackend(cifar10_authors).logits(pictures))


def test_the_model_goes_over_once_for_all_pictures(make):
    accelerator, board = make()
    arguments = board.cores["fracbnn_engine_0"].arguments
    accelerator.logits(PICTURES[:1])
    assert arguments.read(OFFSETS["LOAD"]) == 1
    accelerator.logits(PICTURES)
    assert arguments.read(OFFSETS["LOAD"]) == 0
    accelerator.reload()
    accelerator.logits(PICTURES[:1])
    assert arguments.read(OFFSETS["LOAD"]) in (0, 1)
    assert board.cores["fracbnn_engine_0"].arguments.read(OFFSETS["LOAD"]) == 1


def test_what_it_counts(make):
    accelerator, _ = make(latency="published")
    accelerator.logits(PICTURES[:10])
    counted = accelerator.counters()
    assert counted["pictures"] == 10
    assert 11_000 <= counted["cycles"] / 10 <= 11_800
    assert set(counted) == {"pictures", "cycles", "weights", "picture", "rows", "result"}


# Faults


def test_a_bus_error_is_named_and_the_next_picture_is_right(make, expected):
    accelerator, _ = make("bus-error@2")
    assert np.array_equal(accelerator.logits(PICTURES[:3]), expected[:3])
    with pytest.raises(EngineError, match=r"error 3 \(READ\): the memory answered a read with an error") as caught:
        accelerator.logits(PICTURES[:3])
    assert caught.value.code == 3
    assert np.array_equal(accelerator.logits(PICTURES[:3]), expected[:3])


def test_a_damaged_memory_image_is_named(make, expected):
    accelerator, _ = make()
    image = accelerator._image
    image.array[5000] ^= 1
    image.flush()
    with pytest.raises(EngineError, match=r"error 1 \(IMAGE\)"):
        accelerator.logits(PICTURES[:1])
    image.array[5000] ^= 1
    image.flush()
    assert np.array_equal(accelerator.logits(PICTURES[:1]), expected[:1])


def test_a_hang_ends_at_the_deadline_and_a_reload_helps(make, expected):
    accelerator, _ = make("hang@2", timeout_s=0.3)
    accelerator.logits(PICTURES[:1])
    begin = time.perf_counter()
    with pytest.raises(AcceleratorTimeoutError, match=r"within 0.3 s, found a busy core"):
        accelerator.logits(PICTURES[:100])
    assert time.perf_counter() - begin < 3
    accelerator.reload()
    assert np.array_equal(accelerator.logits(PICTURES[:100]), expected[:100])


def test_results_that_were_not_written_are_seen(make, expected):
    accelerator, _ = make("wrong-length@1:300")
    with pytest.raises(AcceleratorError, match="expected 2 whole results, found some that were not written"):
        accelerator.logits(PICTURES[:2])
    assert np.array_equal(accelerator.logits(PICTURES[:2]), expected[:2])


@pytest.mark.parametrize(("register", "value"), [("PICTURES_DONE", 1), ("LOADED", 0x1234)])
def test_a_reset_or_another_model_in_mid_run(make, expected, monkeypatch, register, value):
    accelerator, _ = make()
    read = accelerator._core.read_register
    with monkeypatch.context() as patched:
        patched.setattr(accelerator._core, "read_register", lambda name: value if name == register else read(name))
        with pytest.raises(AcceleratorError, match="it was reset, or used by somebody else, during the run"):
            accelerator.logits(PICTURES[:5])
    assert np.array_equal(accelerator.logits(PICTURES[:5]), expected[:5])


def test_another_overlay_is_noticed(make, expected):
    accelerator, board = make()
    accelerator.logits(PICTURES[:1])
    board.replace_overlay()
    with pytest.raises(OverlayReplacedError):
        accelerator.logits(PICTURES[:1])
    accelerator.reload()
    assert np.array_equal(accelerator.logits(PICTURES[:5]), expected[:5])


def test_an_engine_of_another_version_is_refused(make, monkeypatch):
    monkeypatch.setattr("fracbnn_pynq.simulator.engine.VERSION", 0x4642_0099)
    with pytest.raises(OverlayError, match=r"expected version 0x46420001 .* found version 0x46420099 with X = 2"):
        make()


# From above


@pytest.mark.parametrize(
    "core", ["model", pytest.param("rtl", marks=[needs_sources, pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_the_same_prediction_as_on_the_cpu(core, cat, monkeypatch):
    monkeypatch.setenv("FRACBNN_SIM_CORE", core)
    with Classifier.load(backend="cpu") as cpu, Classifier.load(overlay="engine", board="simulated") as engine:
        assert engine.arithmetic == "faithful"
        assert engine.classify(cat).top == cpu.classify(cat).top
        pictures = PICTURES[:4] if core == "rtl" else PICTURES
        assert np.array_equal(engine.logits(pictures), cpu.logits(pictures))


def test_what_cannot_be_asked_for(model, monkeypatch, tmp_path):
    with pytest.raises(BackendError, match="overlay: expected one of auto, engine, cifar10-overlay, imagenet-overlay"):
        Classifier.load(overlay="other")
    with pytest.raises(BackendError, match="overlay engine: backend cpu uses none"):
        Classifier.load(overlay="engine", backend="cpu")
    with pytest.raises(BackendError, match="it runs the imagenet network, not cifar10; use --overlay cifar10-overlay"):
        Classifier.load("cifar10", overlay="imagenet-overlay", board="simulated")
    with pytest.raises(BackendError, match="the engine core computes in faithful, not in 'cifar10-2021'"):
        Classifier.load(overlay="engine", board="simulated", arithmetic="cifar10-2021")
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    with pytest.raises(
        BackendError, match=r"expected .*fracbnn_engine.bit with its .hwh, found none; build it with Vivado"
    ):
        open_overlay(model, model_name="cifar10", board="real", overlay="engine", lock=tmp_path / "lock")
    monkeypatch.setenv("FRACBNN_SIM_CORE", "netlist")
    with pytest.raises(BackendError, match="FRACBNN_SIM_CORE: expected one of model, rtl, found 'netlist'"):
        Classifier.load(overlay="engine", board="simulated")


def test_the_command_line(run, cat):
    (told,) = run("classify", cat, "--overlay", "engine", "--board", "simulated", "--json").documents
    (expected,) = run("classify", cat, "--backend", "cpu", "--json").documents
    assert told["top"] == expected["top"]
    assert (told["backend"], told["arithmetic"]) == ("overlay", "faithful")
    explained = run("overlays", "explain", "cifar10", "--pixels", "4").out
    assert "layer3.2.conv2" in explained
    assert "frames/s at 250 MHz" in explained
    layer = run("overlays", "explain", "cifar10", "--layer", "stem").out
    assert layer.startswith("stem: stem, 96 to 16 channels, map 32x32, stride 1, X = 2\ndescriptor 0")


def test_the_environment_names_the_overlay(monkeypatch):
    monkeypatch.setenv("FRACBNN_OVERLAY", "engine")
    with Classifier.load("cifar10", board="simulated") as classifier:
        assert type(classifier.engine.accelerator).__name__ == "EngineAccelerator"
    with Classifier.load("cifar10", board="simulated", overlay="cifar10-overlay") as classifier:
        assert type(classifier.engine.accelerator).__name__ == "Cifar10Accelerator"
    with Classifier.load("cifar10", backend="cpu") as classifier:  # which uses none
        assert classifier.arithmetic == "faithful"
    monkeypatch.setenv("FRACBNN_OVERLAY", "motor")
    with pytest.raises(BackendError, match=r"overlay: expected one of .* found 'motor' in FRACBNN_OVERLAY"):
        Classifier.load("cifar10", board="simulated")


def test_a_leader_of_a_session_outlives_its_board():
    code = (
        "from fracbnn_pynq import Classifier\n"
        "with Classifier.load('cifar10', board='simulated', overlay='engine') as classifier:\n"
        "    waiter = type(classifier.engine.accelerator._waiter).__name__\n"
        "print(waiter)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "InterruptWaiter\n"), done.stderr
