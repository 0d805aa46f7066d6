"""The faithful arithmetic: exact gates, exact knees, nothing overflows, agreement with the float network."""

from __future__ import annotations

import logging
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracbnn_pynq import faithful
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.model import LayerParameters, random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, LAYER_PARAMETERS, GatedLayer, Network

real = st.floats(-50, 50, allow_nan=False).map(lambda x: float(np.float32(x)))


def fuse_one(network: Network, layer: GatedLayer, values: dict[str, float]) -> faithful.FusedLayer:
    """A layer of one channel with the given parameters."""
    rows = np.array([[values[name]] for name in LAYER_PARAMETERS])
    return faithful._fuse_layer(network, layer, LayerParameters(np.zeros((1, 1, 1, 1), np.uint8), rows))[0]


@settings(max_examples=200, deadline=None)
@given(threshold=real, msb=st.integers(-576, 576))
def test_the_gate_is_exact(threshold: float, msb: int) -> None:
    gate_at = np.floor(1.5 * threshold) + 1
    assert (msb >= gate_at) == (Fraction(2, 3) * msb > Fraction(threshold))


@settings(max_examples=60, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(LAYER_PARAMETERS, real)), total=st.integers(-432, 432))
def test_the_knee_is_exact(values: dict[str, float], total: int) -> None:
    """Side 0 is taken exactly where the PReLU's argument has the sign that side 0 stands for."""
    knee, flipped = faithful._knee(
        np.array([values["bn1_weight"]]), np.array([values["bn1_bias"] + values["shift_x"]]), 3 * 16 * 9
    )
    argument = Fraction(values["bn1_weight"]) * total / 3 + Fraction(values["bn1_bias"] + values["shift_x"])
    side = 0 if total >= knee[0] else 1
    positive = side == (1 if flipped[0] else 0)
    if abs(argument) > Fraction(1, 10**12):  # the quotient is rounded to float64 once
        assert positive == (argument > 0)


@settings(max_examples=40, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(LAYER_PARAMETERS, real)))
@pytest.mark.parametrize(
    ("network", "index"), [(CIFAR10, 0), (CIFAR10, 17), (IMAGENET, 0), (IMAGENET, 2), (IMAGENET, 24), (IMAGENET, 25)]
)
def test_nothing_can_overflow(network: Network, index: int, values: dict[str, float]) -> None:
    layer = network.layers[index]
    fused = fuse_one(network, layer, values)
    s_max = 3 * layer.in_channels * layer.kernel**2
    r_max = 15 * layer.stride**2 if network.shortcut_bits else 32768
    reach = np.abs(fused.alpha).max(axis=0) * s_max + np.abs(fused.gamma) * r_max + np.abs(fused.beta).max(axis=0)
    assert reach.max() < 2**31
    assert max(np.abs(fused.alpha).max(), np.abs(fused.gamma).max()) <= 32767
    assert fused.shift.min() >= 1


@settings(max_examples=60, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(LAYER_PARAMETERS, st.floats(-2, 2))), data=st.data())
def test_an_element_is_the_rounded_real_value(values: dict[str, float], data: st.DataObject) -> None:
    """One layer, one element: the integer result is within one step of the real one, given 16-bit coefficients."""
    layer = CIFAR10.layers[1]
    fused = fuse_one(CIFAR10, layer, values)
    total, shortcut = data.draw(st.integers(-200, 200)), data.draw(st.integers(-8000, 8000))
    side = 0 if total >= fused.knee[0] else 1
    value = (fused.alpha[side, 0] * total + fused.gamma[0] * shortcut + fused.beta[side, 0]) >> fused.shift[0]
    u = total / 3 * values["bn1_weight"] + values["bn1_bias"] + values["shift_x"]
    y = (u if u >= 0 else u * values["slope"]) + values["shift_y"]
    expected = (y + shortcut / 512) * values["bn2_weight"] + values["bn2_bias"]
    # Coefficients carry an error of half a step of 2**-shift each.
    bound = 0.5 + (abs(total) + abs(shortcut) + 1) * 0.5 / 2.0 ** fused.shift[0] + 1e-6
    assert abs(int(value) - expected * 512) <= bound


def test_absurd_parameters_are_clipped_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = random_model(CIFAR10)
    name = CIFAR10.layers[3].name
    huge = LayerParameters(model.layers[name].weight, model.layers[name].parameters * 5000)
    with caplog.at_level(logging.WARNING):
        tables = faithful.fuse(replace(model, layers={**model.layers, name: huge}))
    assert tables.clipped > 0
    assert f"{tables.clipped} parameters" in caplog.text


def test_a_trained_model_clips_nothing(cifar10_authors, imagenet_authors) -> None:  # type: ignore[no-untyped-def]
    assert faithful.fuse(cifar10_authors).clipped == 0
    assert faithful.fuse(imagenet_authors).clipped == 0


def test_activation_steps_are_thirds() -> None:
    one, two, three = faithful.ACTIVATION_STEPS
    assert Fraction(one - 1, 512) < Fraction(-2, 3) < Fraction(one, 512)
    assert two == 0
    assert Fraction(three - 1, 512) < Fraction(2, 3) < Fraction(three, 512)
    for code in range(16):
        value = Fraction(code * 2, 15) - 1
        quantised = min(3, max(0, int((value + 1) * Fraction(3, 2) + Fraction(1, 2))))
        assert faithful.ACTIVATION_OF_CODE[code] == quantised


def test_traces_show_every_layer() -> None:
    model = random_model(CIFAR10, 4)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for arithmetic in ("faithful", "float", "cifar10-2021", "cifar10-2020"):
        backend = ReferenceBackend(model, arithmetic)
        logits, traces = backend.logits(images, layers=True)
        assert np.array_equal(logits, backend.logits(images))
        assert [t.name for t in traces] == ["stem", *(layer.name for layer in CIFAR10.layers)]
        for trace, layer in zip(traces[1:], CIFAR10.layers, strict=True):
            assert trace.msb.shape == trace.output.shape == (2, layer.out_size, layer.out_size, layer.out_channels)
            assert 0 <= trace.gate_fraction <= 1
        assert traces[0].gate_fraction == 0
