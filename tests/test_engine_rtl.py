"""The engine's hardware, simulated cycle by cycle, against the reference engine: equal bits, cycles, faults.

Needs Verilator and g++; the first run builds the simulated engine, which takes a minute or two.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fracbnn_pynq import faithful, models, native
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.engine import compile_model, explain
from fracbnn_pynq.engine.image import check_image, checksum
from fracbnn_pynq.engine.registers import ERRORS, VERSION
from fracbnn_pynq.engine_simulation import SimulatedEngine, build_library, run_pictures
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, GatedLayer, Network, Stem

HARDWARE = Path(__file__).resolve().parents[1] / "overlays" / "engine"
needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None or shutil.which("g++") is None or not HARDWARE.is_dir(),
    reason="the simulated engine needs verilator, g++ and a checkout",
)
pytestmark = [needs_verilator, pytest.mark.timeout(1800)]
CODES = {name: code for code, (name, _) in ERRORS.items()}
BUNDLED = "cifar10"
SMALL = Network(
    name="small",
    title="a small network of ImageNet's kind",
    stem=Stem(32, 56, 2),
    layers=(
        GatedLayer("a", 32, 32, 28, stride=1),
        GatedLayer("b", 32, 64, 28, kernel=1),
        GatedLayer("c", 64, 64, 28, stride=2),
        GatedLayer("d", 64, 128, 14, kernel=1),
        GatedLayer("e", 128, 128, 14, stride=2),
        GatedLayer("f", 128, 128, 7, kernel=1),
        GatedLayer("g", 128, 128, 7),
        GatedLayer("h", 128, 256, 7, kernel=1),
    ),
    classes=3,
    shortcut_bits=4,
)


def pictures_of(network: Network, count: int, seed: int = 0) -> np.ndarray:
    size = network.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def sums_of(model: Model, pictures: np.ndarray) -> np.ndarray:
    """Sums of the last map over its positions, by the reference engine."""
    _, traces = ReferenceBackend(model).logits(pictures, layers=True)
    return traces[-1].output.sum(axis=(1, 2))


@cache
def bundled() -> tuple[Model, np.ndarray, np.ndarray, np.ndarray]:
    """The bundled model, its image for X = 2, pictures, and the sums they must give."""
    model = models.find_model(BUNDLED)
    pictures = pictures_of(CIFAR10, 6)
    return model, compile_model(model, pixels=2), pictures, sums_of(model, pictures)


@pytest.fixture
def engine() -> Iterator[SimulatedEngine]:
    with SimulatedEngine(2) as simulated:
        yield simulated
        assert simulated.violations == []


def start(engine: SimulatedEngine, image: np.ndarray, pictures: np.ndarray, **registers: int) -> np.ndarray:
    """Set everything up and start a run; returns the results' memory. Places are not those of ``run_pictures``."""
    results = np.full((len(pictures), 64), -1, np.int32)
    data = np.ascontiguousarray(pictures).reshape(len(pictures), -1).copy()
    engine.unmap_all()
    engine.map(0x0FFF_F010, image)
    engine.map(0x5000_0FF0, data)
    engine.map(0x7000_0040, results)
    values = {
        "IMAGE_ADDRESS": 0x0FFF_F010,
        "PICTURE_ADDRESS": 0x5000_0FF0,
        "RESULT_ADDRESS": 0x7000_0040,
        "PICTURE_STRIDE": data.shape[1],
        "RESULT_STRIDE": 256,
        "PICTURES": len(pictures),
        "LOAD": 1,
        "GIER": 1,
        "IP_IER": 1,
        **registers,
        "CTRL": 1,
    }
    for name, value in values.items():
        engine.write(name, value)
    return results


def finish(engine: SimulatedEngine, limit: int = 200_000) -> int:
    """Wait for the interrupt; returns the code of ERROR."""
    engine.run(limit)
    assert engine.interrupt
    engine.write("IP_ISR", engine.read("IP_ISR"))
    assert engine.read("CTRL") & 0b1111 == 0b1110
    assert engine.read("CTRL") & 0b1111 == 0b0100  # AP_DONE and AP_READY are cleared by reading
    return engine.read("ERROR")


def test_bundled_model_equals_the_reference(engine: SimulatedEngine) -> None:
    model, image, pictures, _ = bundled()
    assert engine.read("VERSION") == VERSION
    assert engine.read("PARAMETERS") == 16 | 16 << 8 | 2 << 16
    sums = run_pictures(engine, image, pictures, 64)
    assert engine.read("LOADED") == check_image(image)["checksum"]
    assert engine.read("PICTURES_DONE") == len(pictures)
    tables = faithful.fuse(model)
    logits = faithful.classifier_logits(
        sums.astype(np.int64), tables.fc_weight, tables.fc_exponent, tables.fc_bias, CIFAR10.pool_size**2
    )
    assert np.array_equal(logits, ReferenceBackend(model).logits(pictures))


@pytest.mark.parametrize("latency", [0, 1, 200])
@pytest.mark.parametrize("stall", [0, 30, 200])
def test_any_memory_gives_the_same_bits(engine: SimulatedEngine, latency: int, stall: int) -> None:
    _, image, pictures, sums = bundled()
    engine.set_memory(latency=latency, stall=stall, seed=latency + stall)
    assert np.array_equal(run_pictures(engine, image, pictures[:3], 64), sums[:3])
    # The weights are in the engine now.
    before = engine.traffic[0]
    assert np.array_equal(run_pictures(engine, image, pictures[3:], 64, load=False), sums[3:])
    assert engine.traffic[0] - before == 3 * 192


def test_cycles_are_those_of_the_model(engine: SimulatedEngine) -> None:
    _, image, pictures, _ = bundled()
    run_pictures(engine, image, pictures[:1], 64)
    cycles = []
    for count in (1, 6):
        run_pictures(engine, image, pictures[:count], 64, load=False)
        cycles.append(engine.read("CYCLES"))
        assert engine.read("STALL_RESULT") == engine.read("STALL_WEIGHTS") == 0
    measured = (cycles[1] - cycles[0]) / 5
    assert measured == explain(image).cycles
    assert measured <= 11_800


def test_results_and_pictures_have_their_own_strides(engine: SimulatedEngine) -> None:
    _, image, pictures, sums = bundled()
    engine.set_memory(latency=20, stall=60, seed=3)
    apart = np.zeros((6, 3072 + 1040), np.uint8)
    apart[:, :3072] = pictures.reshape(6, -1)
    results = np.full((6, 64 + 48), -1, np.int32)
    start(engine, image.copy(), pictures)
    assert finish(engine) == 0
    engine.unmap_all()
    engine.map(0x2000_0000, apart)
    engine.map(0x3000_0000, results)
    for name, value in {
        "PICTURE_ADDRESS": 0x2000_0000,
        "RESULT_ADDRESS": 0x3000_0000,
        "PICTURE_STRIDE": 3072 + 1040,
        "RESULT_STRIDE": 4 * (64 + 48),
        "LOAD": 0,
        "CTRL": 1,
    }.items():
        engine.write(name, value)
    assert finish(engine) == 0
    assert np.array_equal(results[:, :64], sums)
    assert (results[:, 64:] == -1).all()


@pytest.mark.parametrize("layers", [1, 2, 7, 8, 13])
def test_parts_of_cifar10_with_random_weights(engine: SimulatedEngine, layers: int) -> None:
    """The first layers only, so that a difference shows where it arises."""
    network = replace(CIFAR10, layers=CIFAR10.layers[:layers])
    model = random_model(network, layers)
    pictures = pictures_of(network, 2, layers)
    engine.set_memory(latency=30, stall=40, seed=layers)
    found = run_pictures(engine, compile_model(model, pixels=2), pictures, network.features)
    assert np.array_equal(found, sums_of(model, pictures))


def test_extreme_pictures(engine: SimulatedEngine) -> None:
    """Black, white, and every byte value once in every colour and place."""
    model, image, _, _ = bundled()
    ramp = np.arange(32 * 32 * 3, dtype=np.int64) * 7 % 256
    pictures = np.stack([np.zeros(3072), np.full(3072, 255), ramp, 255 - ramp]).astype(np.uint8).reshape(4, 32, 32, 3)
    assert np.array_equal(run_pictures(engine, image, pictures, 64), sums_of(model, pictures))


def changed(image: np.ndarray, word: int, value: int, *, fix_checksum: bool = True) -> np.ndarray:
    copy = image.copy()
    copy[: copy.size // 4 * 4].view("<u4")[word] = value
    if fix_checksum:
        copy[:64].view("<u4")[8] = checksum(copy)
    return copy


@pytest.mark.parametrize(
    ("word", "value"),
    [(0, 0), (1, 2), (2, 16 | 16 << 8 | 4 << 16), (3, 0), (3, 65), (4, 3), (4, 513), (9, 33), (10, 0)],
)
def test_a_wrong_header_ends_the_run(engine: SimulatedEngine, word: int, value: int) -> None:
    _, image, pictures, sums = bundled()
    start(engine, changed(image, word, value), pictures[:1])
    assert finish(engine) == CODES["IMAGE"]
    assert engine.read("LOADED") == 0
    assert np.array_equal(run_pictures(engine, image, pictures[:1], 64), sums[:1])


# Words of the second layer's descriptor, and values that are not legal there.
ILLEGAL = [(0, 0), (0, 0xD500_0003), (1, 0), (1, 0x1001_0200), (1, 0x1000_0101), (1, 0x0001_0101), (2, 0), (2, 0x0100)]


@pytest.mark.parametrize(("word", "value"), ILLEGAL)
def test_an_illegal_descriptor_ends_the_run(engine: SimulatedEngine, word: int, value: int) -> None:
    _, image, pictures, sums = bundled()
    start(engine, changed(image, 16 * 2 + word, value), pictures)
    assert finish(engine) == CODES["DESCRIPTOR"]
    assert np.array_equal(run_pictures(engine, image, pictures[:1], 64), sums[:1])


def test_a_read_error_ends_the_run(engine: SimulatedEngine) -> None:
    _, image, pictures, sums = bundled()
    start(engine, image.copy(), pictures, PICTURE_ADDRESS=0x6000_0000)  # nothing there
    assert finish(engine) == CODES["READ"]
    start(engine, image.copy(), pictures, IMAGE_ADDRESS=0x6000_0000)
    assert finish(engine) in {CODES["READ"], CODES["IMAGE"]}
    assert np.array_equal(run_pictures(engine, image, pictures[:1], 64), sums[:1])


def test_a_write_error_ends_the_run(engine: SimulatedEngine) -> None:
    _, image, pictures, sums = bundled()
    start(engine, image.copy(), pictures, RESULT_ADDRESS=0x6000_0000)
    assert finish(engine) == CODES["WRITE"]
    assert engine.read("PICTURES_DONE") < len(pictures)
    assert np.array_equal(run_pictures(engine, image, pictures[:1], 64), sums[:1])


@pytest.mark.parametrize(
    ("register", "value"),
    [
        ("PICTURES", 0),
        ("IMAGE_ADDRESS", 8),
        ("PICTURE_ADDRESS", 4),
        ("PICTURE_STRIDE", 3076),
        ("RESULT_ADDRESS", 16),
        ("RESULT_STRIDE", 272),
    ],
)
def test_wrong_arguments_are_refused(engine: SimulatedEngine, register: str, value: int) -> None:
    _, image, pictures, _ = bundled()
    start(engine, image.copy(), pictures, **{register: value})
    assert finish(engine) == CODES["ARGUMENT"]
    assert engine.traffic == (0, 0)


def test_a_run_without_a_model_is_refused(engine: SimulatedEngine) -> None:
    _, image, pictures, _ = bundled()
    start(engine, image.copy(), pictures, LOAD=0)
    assert finish(engine) == CODES["NOT_LOADED"]


def test_registers_keep_while_it_runs(engine: SimulatedEngine) -> None:
    _, image, pictures, sums = bundled()
    results = start(engine, image.copy(), pictures[:2])
    for name in ("PICTURE_ADDRESS", "RESULT_ADDRESS", "PICTURE_STRIDE", "RESULT_STRIDE", "PICTURES", "LOAD", "CTRL"):
        engine.write(name, 3)
    assert engine.read("PICTURES") == 2
    assert finish(engine) == 0
    assert np.array_equal(results, sums[:2])


def test_a_memory_that_hangs_leaves_it_busy_and_a_reset_helps(engine: SimulatedEngine) -> None:
    _, image, pictures, sums = bundled()
    start(engine, image.copy(), pictures)
    engine.run(3000)
    engine.set_memory(hangs=True)
    engine.run(100_000)
    assert engine.read("CTRL") & 0b1111 == 1
    engine.reset()
    engine.set_memory()
    assert engine.read("CTRL") & 0b1111 == 0b0100
    assert engine.read("LOADED") == 0
    assert np.array_equal(run_pictures(engine, image, pictures[:1], 64), sums[:1])


@pytest.mark.parametrize("seed", range(8))
def test_a_reset_at_any_cycle_leaves_a_usable_core(engine: SimulatedEngine, seed: int) -> None:
    _, image, pictures, sums = bundled()
    engine.set_memory(latency=25, stall=50, seed=seed)
    start(engine, image.copy(), pictures)
    engine.run(int(np.random.default_rng(seed).integers(1, 50_000)), until_interrupt=False)
    engine.reset()
    assert np.array_equal(run_pictures(engine, image, pictures[:2], 64), sums[:2])


def test_run_pictures_reports_errors(engine: SimulatedEngine) -> None:
    _, image, pictures, _ = bundled()
    with pytest.raises(BackendError, match="found code 1"):
        run_pictures(engine, changed(image, 0, 0), pictures[:1], 64)
    with pytest.raises(BackendError, match="within 100 cycles, found it busy"):
        run_pictures(engine, image, pictures[:1], 64, limit=100)


def test_without_verilator_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match="apt-get install verilator"):
        build_library(2)


def test_without_sources_the_error_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRACBNN_ENGINE_SOURCES", str(tmp_path))
    with pytest.raises(BackendError, match="set FRACBNN_ENGINE_SOURCES to overlays/engine"):
        build_library(2)


def test_the_beginning_of_imagenet(engine: SimulatedEngine) -> None:
    """The stem in strips, 3x3 and 1x1 layers, two layers in two strips."""
    network = replace(IMAGENET, layers=IMAGENET.layers[:4])
    model = random_model(network, 4)
    pictures = pictures_of(network, 1, 4)
    engine.set_memory(latency=30, stall=40, seed=4)
    found = run_pictures(engine, compile_model(model, pixels=2), pictures, network.features)
    assert np.array_equal(found, sums_of(model, pictures))


def test_odd_widths_and_few_channels(engine: SimulatedEngine) -> None:
    """Maps of 14 and 7 pixels, whose last groups are not full; 1x1 layers with 32 and 64 input channels."""
    model = random_model(SMALL, 3)
    pictures = pictures_of(SMALL, 3, 3)
    engine.set_memory(latency=10, stall=60, seed=9)
    found = run_pictures(engine, compile_model(model, pixels=2), pictures, SMALL.features)
    assert np.array_equal(found, sums_of(model, pictures))


@pytest.mark.long
@pytest.mark.parametrize("pixels", [1, 4])
def test_other_sizes_of_the_engine(pixels: int) -> None:
    model, _, pictures, sums = bundled()
    image = compile_model(model, pixels=pixels)
    with SimulatedEngine(pixels, stall=50, seed=pixels) as other:
        assert np.array_equal(run_pictures(other, image, pictures, 64), sums)
        cycles = []
        for count in (1, 6):
            run_pictures(other, image, pictures[:count], 64, load=False)
            cycles.append(other.read("CYCLES"))
        assert abs((cycles[1] - cycles[0]) / 5 - explain(image).cycles) < 10
        assert other.violations == []


@pytest.mark.long
@pytest.mark.parametrize("pixels", [2, 4])
def test_whole_imagenet_with_random_weights(pixels: int) -> None:
    model = random_model(IMAGENET, 7)
    pictures = pictures_of(IMAGENET, 2, 7)
    image = compile_model(model, pixels=pixels)
    # A port at 80 %: 51 of 256 cycles wait.
    with SimulatedEngine(pixels, stall=51, seed=pixels) as other:
        found = run_pictures(other, image, pictures, 1024)
        assert other.read("CYCLES") <= 2 * {2: 1_170_000, 4: 690_000}[pixels]
        assert other.violations == []
    assert np.array_equal(found, sums_of(model, pictures))


@pytest.mark.long
def test_golden_pictures(shared: Path, cifar10_authors: Model) -> None:
    """All 64 + 1,017 pictures, with the bundled and the authors' model."""
    files = ("golden/cifar10_csim_64.npz", "data/cifar10_lossless_1017.npz")
    everything = np.concatenate([np.load(shared / name)["images"] for name in files])
    for model in (models.find_model(BUNDLED), cifar10_authors):
        from fracbnn_pynq.backends.cpu import CpuBackend

        backend = CpuBackend(model) if native.available() else ReferenceBackend(model)
        tables = faithful.fuse(model)
        with SimulatedEngine(2, stall=20, seed=1) as other:
            sums = run_pictures(other, compile_model(model, pixels=2), everything, 64, limit=20_000_000)
            assert other.violations == []
        logits = faithful.classifier_logits(
            sums.astype(np.int64), tables.fc_weight, tables.fc_exponent, tables.fc_bias, CIFAR10.pool_size**2
        )
        assert np.array_equal(logits, backend.logits(everything))
