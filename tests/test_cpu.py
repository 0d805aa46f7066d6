"""The native kernels compute the reference's bits: every engine, every arithmetic, any model, any picture."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracbnn_pynq import native
from fracbnn_pynq.arithmetic import ARITHMETICS, FAITHFUL
from fracbnn_pynq.backends import cpu
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.backends.plan import Plan, stem_lookup
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.errors import BackendError, PictureError
from fracbnn_pynq.model import LayerParameters, Model, random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network
from fracbnn_pynq.thermometer import LEVELS, levels, planes

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels were not built")

CASES = [
    (network, arithmetic.name)
    for network in (CIFAR10, IMAGENET)
    for arithmetic in ARITHMETICS.values()
    if arithmetic.name != "float" and arithmetic.network in (None, network.name)
]


def pictures(network: Network, count: int, seed: int) -> np.ndarray:
    """Noise, flat areas and extremes: the border and full matches matter as much as the middle."""
    rng = np.random.default_rng(seed)
    size = network.image_size
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    if seed % 3 == 1:
        images[:] = rng.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    if seed % 3 == 2:
        images = np.where(images < 128, 0, 255).astype(np.uint8)
    return images


def stretched(model: Model, factor: float) -> Model:
    """The model with its parameters far outside what formats hold, so that they clip and sums saturate."""
    layers = {name: LayerParameters(p.weight, p.parameters * factor) for name, p in model.layers.items()}
    return replace(model, layers=layers, stem_bn=model.stem_bn * factor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("network", "arithmetic"), CASES, ids=[f"{n.name}-{a}" for n, a in CASES])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([1.0, 1.0, 0.01, 8.0, 1000.0]))
def test_engines_equal_the_reference(network: Network, arithmetic: str, seed: int, factor: float) -> None:
    if network is IMAGENET and seed % 2:
        return  # the reference takes a third of a second a picture
    model = stretched(random_model(network, seed), factor)
    images = pictures(network, 1 if network is IMAGENET else 3, seed)
    expected = ReferenceBackend(model, arithmetic).logits(images)
    for engine in list(native.engines()):
        assert np.array_equal(CpuBackend(model, arithmetic, engine=engine).logits(images), expected), engine


def test_result_map_equals_the_reference() -> None:
    model = random_model(IMAGENET, 5)
    images = pictures(IMAGENET, 1, 0)
    expected = ReferenceBackend(model, "imagenet-2021").result_map_from_planes(planes(images))
    for engine in list(native.engines()):
        backend = CpuBackend(model, "imagenet-2021", engine=engine)
        assert np.array_equal(backend.result_map_from_levels(levels(images)), expected)


def test_full_matches_of_a_pointwise_tile_wrap() -> None:
    """Equal weights and a white picture make 32-channel tiles agree completely, which the ImageNet core gets wrong."""
    model = random_model(IMAGENET, 9)
    layers = {n: LayerParameters(np.full_like(p.weight, 255), p.parameters) for n, p in model.layers.items()}
    model = replace(model, layers=layers)
    images = np.full((1, 224, 224, 3), 255, np.uint8)
    expected = ReferenceBackend(model, "imagenet-2021").result_map_from_planes(planes(images))
    for engine in list(native.engines()):
        backend = CpuBackend(model, "imagenet-2021", engine=engine)
        assert np.array_equal(backend.result_map_from_levels(levels(images)), expected)


def test_one_hot_weights_reach_their_own_channel() -> None:
    """One +1 weight at a time in the first gated layer: engines and reference must agree on where every bit is."""
    base = random_model(CIFAR10, 3)
    images = pictures(CIFAR10, 1, 0)
    name = CIFAR10.layers[0].name
    rng = np.random.default_rng(0)
    for _ in range(12):
        weight = np.zeros_like(base.layers[name].weight)
        out, row, column, byte, bit = (int(rng.integers(n)) for n in (*weight.shape, 8))
        weight[out, row, column, byte] = 1 << bit
        layers = {**base.layers, name: LayerParameters(weight, base.layers[name].parameters)}
        model = replace(base, layers=layers)
        expected = ReferenceBackend(model).logits(images)
        for engine in list(native.engines()):
            assert np.array_equal(CpuBackend(model, engine=engine).logits(images), expected)


def test_stem_lookup_is_the_sum_of_planes() -> None:
    weight = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), (16, 3, 3, 96))
    table = stem_lookup(weight)
    for level in range(33):
        signs = np.where(np.arange(32) < level, 1, -1)
        expected = weight.reshape(16, 27, 32).astype(int) @ signs
        assert np.array_equal(table[:, level], expected.T)
    assert not table[:, 33].any()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_batches_and_threads_change_nothing(threads: int, count: int) -> None:
    model = random_model(CIFAR10, 1)
    images = pictures(CIFAR10, 7, 0)
    whole = CpuBackend(model, threads=1).logits(images)
    backend = CpuBackend(model, threads=threads)
    assert np.array_equal(backend.logits(images[:count]), whole[:count])
    backend.close()


@pytest.mark.parametrize("engine", list(native.engines()))
def test_every_picture_of_a_batch_is_computed_once(engine: str) -> None:
    model, images = random_model(CIFAR10), pictures(CIFAR10, 23, 0)
    plan = Plan(model, FAITHFUL, engine=engine)
    team = native.Team(pieces=False)
    found = np.full((3, len(images), CIFAR10.classes), np.nan, np.float32)  # each thread's own
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda own: native.run(engine, plan.words, LEVELS, images, own, None, team), found))
    assert ((~np.isnan(found)).all(axis=2).sum(axis=0) == 1).all()
    assert np.array_equal(np.nansum(found, axis=0), CpuBackend(model, engine=engine, threads=1).logits(images))


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
def test_threads_that_share_a_picture_change_nothing(
    network: Network, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_WORTH_SHARING", 0)
    for arithmetic in (name for of, name in CASES if of is network):
        model = random_model(network, 4)
        images = pictures(network, 1, 0)
        for engine in native.engines():
            expected = CpuBackend(model, arithmetic, engine=engine, threads=1).logits(images)
            backend = CpuBackend(model, arithmetic, engine=engine, threads=threads)
            for _ in range(5 if network is CIFAR10 else 2):
                assert np.array_equal(backend.logits(images), expected), (engine, arithmetic)
            backend.close()


def test_nobody_is_waited_for_who_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's only other thread is busy: the caller does everything itself."""
    monkeypatch.setattr(cpu, "_WORTH_SHARING", 0)
    images = pictures(CIFAR10, 3, 0)
    backend = CpuBackend(random_model(CIFAR10), threads=2)
    expected = backend.logits(images)
    busy = threading.Event()
    (occupied,) = backend._start(lambda: bool(busy.wait(60)) and None, 1)
    assert np.array_equal(backend.logits(images), expected)
    assert np.array_equal(backend.logits(images[:1]), expected[:1])
    assert not occupied.done()
    busy.set()
    backend.close()


def test_callers_in_several_threads() -> None:
    model = random_model(CIFAR10, 2)
    images = pictures(CIFAR10, 24, 0)
    backend = CpuBackend(model, threads=2)
    expected = CpuBackend(model, threads=1).logits(images)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: backend.logits(images[i : i + 3]), range(0, 24, 3)))
    assert np.array_equal(np.concatenate(parts), expected)
    backend.close()


def test_arrays_of_any_stride() -> None:
    model = random_model(CIFAR10, 2)
    images = pictures(CIFAR10, 4, 0)
    backend = CpuBackend(model)
    assert np.array_equal(backend.logits(images[::2, :, ::-1]), backend.logits(images[::2, :, ::-1].copy()))


def test_levels_and_pictures_agree() -> None:
    backend = CpuBackend(random_model(CIFAR10, 2))
    images = pictures(CIFAR10, 2, 0)
    assert np.array_equal(backend.logits_from_levels(levels(images)), backend.logits(images))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 224, 224, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(images: np.ndarray) -> None:
    with pytest.raises(PictureError, match=r"expected a uint8 array \[N, 32, 32, 3\]"):
        CpuBackend(random_model(CIFAR10)).logits(images)


def test_what_cannot_work_is_refused() -> None:
    model = random_model(CIFAR10)
    with pytest.raises(BackendError, match="engine: expected one of"):
        CpuBackend(model, engine="abacus")
    for threads in (0, -1, 1025, 10**30, "2", 1.5, True, b"2", [2]):
        with pytest.raises(BackendError, match="threads: expected a whole number from 1 to 1024, found"):
            CpuBackend(model, threads=threads)
    assert CpuBackend(model, threads=np.int64(2)).threads == 2
    with pytest.raises(BackendError, match="needs backend 'reference'"):
        CpuBackend(model, "float")
    with pytest.raises(BackendError, match="expected one of"):
        CpuBackend(model, "imagenet-2021")
    with pytest.raises(PictureError, match=r"levels 0\.\.32, found 33"):
        CpuBackend(model).logits_from_levels(np.full((1, 32, 32, 3), 33, np.uint8))
    with pytest.raises(BackendError, match="result map exists"):
        CpuBackend(model).result_map_from_levels(np.zeros((1, 32, 32, 3), np.uint8))


def test_missing_kernels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "extension", None)
    assert not native.available()
    assert list(native.engines()) == []
    with pytest.raises(BackendError, match="without a C compiler"):
        CpuBackend(random_model(CIFAR10))
