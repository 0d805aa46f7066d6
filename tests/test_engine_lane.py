"""The lane in integers against the package's own ``faithful`` arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from fracbnn_pynq import faithful, models
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.backends.rules import FaithfulRules
from fracbnn_pynq.engine.lane import fused_layer, lane, lane_table
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network


def shortcuts(network: Network, rules: FaithfulRules, outputs: list[np.ndarray]) -> list[np.ndarray]:
    return [rules._shortcut(layer, current) for layer, current in zip(network.layers, outputs, strict=False)]


def check_model(model: Model, pictures: np.ndarray) -> None:
    """Every element of every layer: the lane makes the reference's output of the reference's sums."""
    _, traces = ReferenceBackend(model).logits(pictures, layers=True)
    rules, fused = FaithfulRules(model), faithful.fuse(model)
    stem = traces[0]
    z, code = lane(
        lane_table(fused.stem, stem=True), stem.msb, stem.msb, stem.msb * 0, stem=True, codes=fused.stem.codes
    )
    assert np.array_equal(z, stem.output)
    assert np.array_equal(faithful.ACTIVATION_OF_CODE[code], rules.activations(stem.output))
    for layer, before, trace in zip(model.network.layers, traces, traces[1:], strict=False):
        table = fused.layers[layer.name]
        z, code = lane(
            lane_table(table),
            trace.msb,
            trace.lsb,
            rules._shortcut(layer, before.output),
            stem=False,
            codes=table.codes,
        )
        assert np.array_equal(z, trace.output), layer.name
        if layer is not model.network.layers[-1]:
            assert np.array_equal(faithful.ACTIVATION_OF_CODE[code], rules.activations(trace.output)), layer.name


def test_bundled_model() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    check_model(models.find_model("cifar10"), pictures)


@pytest.mark.parametrize("seed", range(3))
def test_random_cifar10_models(seed: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    check_model(random_model(CIFAR10, seed), pictures)


@pytest.mark.slow
def test_random_imagenet_model() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    check_model(random_model(IMAGENET, 1), pictures)


def random_table(rng: np.random.Generator, *, codes: bool, channels: int, k: int) -> faithful.FusedLayer:
    """Coefficients over the whole range that the arithmetic allows: no sum leaves 32 bits."""
    shift = rng.integers(1, 25, channels)
    size = 2.0 ** rng.uniform(1, 15, channels)
    alpha = rng.uniform(-1, 1, (2, channels)) * size
    gamma = rng.uniform(-1, 1, channels) * size
    r_max = 60 if codes else 32768
    room = 2.0**31 - 2.0**23
    reach = np.abs(alpha).max(0) * 3 * k + np.abs(gamma) * r_max
    scale = np.minimum(1, 0.9 * room / reach)
    alpha, gamma = (alpha * scale).astype(np.int64), (gamma * scale).astype(np.int64)
    left = (room - np.abs(alpha).max(0) * 3 * k - np.abs(gamma) * r_max).astype(np.int64)
    limit = np.minimum(left, np.int64(1) << np.minimum(shift + (5 if codes else 17), 40))
    return faithful.FusedLayer(
        gate_at=rng.integers(-k - 2, k + 3, channels),
        knee=rng.integers(-3 * k - 2, 3 * k + 3, channels),
        alpha=alpha,
        gamma=gamma,
        beta=(rng.uniform(-1, 1, (2, channels)) * limit).astype(np.int64),
        shift=shift,
        codes=codes,
    )


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("k", [144, 288, 576, 1152, 4608, 9216, 32, 1024])
def test_random_coefficients(k: int, codes: bool) -> None:
    rng = np.random.default_rng(k + codes)
    table = random_table(rng, codes=codes, channels=64, k=k)
    msb, lsb = (2 * rng.integers(-k // 2, k // 2 + 1, (500, 64)) for _ in range(2))
    msb[:2], lsb[:2] = [[k], [-k]], [[k], [-k]]
    shortcut = rng.integers(0, 61, (500, 64)) if codes else rng.integers(-32768, 32768, (500, 64))
    total = 2 * msb + np.where(msb >= table.gate_at, lsb, 0)
    side = (total < table.knee).astype(int)
    alpha, beta = (np.where(side, rows[1], rows[0]) for rows in (table.alpha, table.beta))
    value = (alpha * total + table.gamma * shortcut + beta) >> table.shift
    expected = np.clip(value, 0, 15) if codes else np.clip(value, -32768, 32767)
    z, code = lane(lane_table(table), msb, lsb, shortcut, stem=False, codes=codes)
    assert np.array_equal(z, expected)
    if codes:
        assert np.array_equal(code, expected)
    else:
        steps = sum((expected >= step).astype(int) for step in faithful.ACTIVATION_STEPS)
        assert np.array_equal(faithful.ACTIVATION_OF_CODE[code], steps)


def test_scaled_coefficients_go_back() -> None:
    table = random_table(np.random.default_rng(9), codes=True, channels=256, k=576)
    back = fused_layer(lane_table(table), codes=True)
    for field in ("alpha", "gamma", "beta", "shift"):
        assert np.array_equal(getattr(back, field), getattr(table, field))
