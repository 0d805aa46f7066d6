"""The calibration's steps one by one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from fracbnn_pynq import native
from fracbnn_pynq.arithmetic import IMAGENET_2021
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.backends.published import ImageNetRules, overlaps
from fracbnn_pynq.backends.reference import LayerTrace, ReferenceBackend
from fracbnn_pynq.backends.rules import float_layer, quantise_unit
from fracbnn_pynq.calibration.engine import LayerEngine, Samples, StemSums
from fracbnn_pynq.calibration.last import affine_of, last_starts
from fracbnn_pynq.calibration.permute import DAMAGED, choose
from fracbnn_pynq.calibration.recentre import recentre
from fracbnn_pynq.calibration.repair import rewire
from fracbnn_pynq.calibration.samples import (
    ONE,
    as_int16,
    at,
    core_shortcut,
    limited_sums,
    real_shortcut,
    sample_positions,
    squares_under,
    target_codes,
    towards_teacher,
)
from fracbnn_pynq.calibration.starts import make_starts
from fracbnn_pynq.calibration.teacher import LAST_UNIT, observe
from fracbnn_pynq.draft import FOLD_ONE, Draft, in_16_bits
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.networks import IMAGENET, GatedLayer
from fracbnn_pynq.thermometer import levels

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels were not built")


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(IMAGENET, 3)


@pytest.fixture
def draft(model: Model) -> Draft:
    return Draft.of(model)


@pytest.fixture
def engine() -> Iterator[LayerEngine]:
    with LayerEngine(2) as made:
        yield made


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """One smooth picture with some noise, uint8 [1, 224, 224, 3]: maps with all codes in them."""
    random = np.random.default_rng(5)
    ramp = np.linspace(0, 200, 224)[:, None, None] + np.linspace(0, 40, 224)[None, :, None]
    return (ramp + random.integers(0, 16, (224, 224, 3))).clip(0, 255).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def traces(model: Model, picture: np.ndarray) -> list[LayerTrace]:
    return ReferenceBackend(model, "imagenet-2021").logits(picture, layers=True)[1]


# Layers alone ---------------------------------------------------------------------------------------------------------


def test_layers_alone_equal_the_reference(draft: Draft, engine: LayerEngine, traces: list[LayerTrace]) -> None:
    codes = traces[0].output.astype(np.uint8)
    for layer, trace in zip(IMAGENET.layers, traces[1:], strict=True):
        part = draft.layers[layer.name]
        everywhere = np.arange(layer.out_size**2, dtype=np.int32)[None]
        sums = engine.sums(layer, part, codes, everywhere, exact=False)
        assert np.array_equal(sums.msb.reshape(trace.msb.shape), trace.msb), layer.name
        assert np.array_equal(sums.lsb.reshape(trace.msb.shape), trace.lsb), layer.name
        codes = engine.run(layer, part, codes)
        assert np.array_equal(codes, trace.output), layer.name


def test_stem_sums_equal_the_reference(model: Model, picture: np.ndarray, traces: list[LayerTrace]) -> None:
    assert np.array_equal(StemSums(IMAGENET.stem, model.stem_weight)(levels(picture)), traces[0].msb)


def test_float_network_equals_the_reference(
    model: Model, draft: Draft, engine: LayerEngine, picture: np.ndarray
) -> None:
    draft.fc_weight = model.fc_weight
    positions = sample_positions(IMAGENET, 1, 5, 0)
    names = ["stem", *(layer.name for layer in IMAGENET.layers)]
    found = observe(engine, draft, picture, positions, names)
    logits, traces = ReferenceBackend(model, "float").logits(picture, layers=True)
    for trace in traces:
        seen = as_int16(at(trace.output, positions[trace.output.shape[1]]))
        assert np.array_equal(found.kept[trace.name], seen), trace.name
        assert np.array_equal(found.sums[trace.name], limited_sums(seen))
    last = np.clip(np.rint(traces[-1].output * LAST_UNIT), -32767, 32767)
    assert np.array_equal(found.last.reshape(last.shape), last)
    assert np.array_equal(found.logits.argmax(axis=1), logits.argmax(axis=1))


# Samples and targets --------------------------------------------------------------------------------------------------


def test_positions_are_repeatable_different_and_inside() -> None:
    positions = sample_positions(IMAGENET, 4, 36, 1)
    again, other = sample_positions(IMAGENET, 4, 36, 1), sample_positions(IMAGENET, 4, 36, 2)
    for size, found in positions.items():
        assert found.shape == (4, 49 if size == 7 else 36)
        assert found.min() >= 0
        assert found.max() < size * size
        assert all(len(set(row)) == len(row) for row in found.tolist())
        assert np.array_equal(found, again[size])
        assert size == 7 or not np.array_equal(found, other[size])


@pytest.mark.parametrize("name", ["block1.conv1x1", "block2.conv3x3", "block6.conv1x1"])
def test_shortcuts_are_the_rules(model: Model, name: str) -> None:
    layer = next(each for each in IMAGENET.layers if each.name == name)
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (2, layer.in_size, layer.in_size, layer.in_channels), np.uint8)
    everywhere = np.tile(np.arange(layer.out_size**2, dtype=np.int32), (2, 1))
    squares = squares_under(layer, codes, everywhere)
    rules = ImageNetRules(model, IMAGENET_2021)
    core = rules.pooled(codes.astype(np.int64)) if layer.stride == 2 else codes
    core = np.concatenate([core, core], axis=-1) if layer.duplicates else core
    assert np.array_equal(core_shortcut(rules, layer, squares).reshape(core.shape), core)
    # The float network's, through its layer: a branch of zero and an identity leave the shortcut.
    real = real_shortcut(layer, squares).reshape(core.shape)
    values = codes / 7.5 - 1
    if layer.stride == 2:
        values = (values[:, ::2, ::2] + values[:, ::2, 1::2] + values[:, 1::2, ::2] + values[:, 1::2, 1::2]) / 4
    assert np.array_equal(real[..., : layer.in_channels], values)


def test_target_codes_are_the_quantisers() -> None:
    values = np.arange(-4 * ONE + 1, 4 * ONE, 7, dtype=np.int16)
    wanted, activation = target_codes(values)
    assert np.array_equal(np.rint(wanted / 16), np.clip(np.rint(wanted / 16), 0, 15))
    real = values / ONE
    exact = (np.clip(real, -1, 1) + 1) * 7.5 * 16
    assert np.all(np.abs(wanted - exact) <= 0.5)
    assert np.array_equal(activation, quantise_unit(real, 3))


def test_targets_get_the_teachers_mean() -> None:
    target = np.random.default_rng(0).integers(-ONE // 2, ONE // 2, (5, 9, 3)).astype(np.int16)
    teacher = limited_sums(target) + np.array([0, 45 * 100, -45 * 7])
    moved = towards_teacher(target, teacher)
    assert np.array_equal(moved - target, np.broadcast_to([0, 100, -7], target.shape))


def test_float_layer_on_a_known_channel() -> None:
    model = random_model(IMAGENET, 0)
    layer = IMAGENET.layers[0]
    parameters = model.layers[layer.name]
    msb, lsb = np.full((1, 32), 12), np.full((1, 32), -6)
    gate, value = float_layer(parameters, msb, lsb, np.full((1, 32), 0.25))
    assert np.array_equal(gate[0], parameters.threshold < 8)
    u = np.where(gate[0], 6.0, 8.0) * parameters.bn1_weight + parameters.bn1_bias + parameters.shift_x
    y = np.where(u < 0, u * parameters.slope, u) + parameters.shift_y + 0.25
    assert np.allclose(value[0], y * parameters.bn2_weight + parameters.bn2_bias)


# Fitting --------------------------------------------------------------------------------------------------------------


def test_without_loss_nothing_changes(draft: Draft, engine: LayerEngine) -> None:
    """Where the core's codes are the wanted ones already, the parameters stay as they are."""
    layer = IMAGENET.layers[1]
    part = draft.layers[layer.name]
    random = np.random.default_rng(0)
    shape = (layer.out_channels, 200)
    closed = random.integers(-900, 900, shape).astype(np.int16)
    opened = (closed + random.integers(-300, 300, shape)).astype(np.int16)
    shortcut = random.integers(0, 16, shape).astype(np.int16)
    zero = np.zeros(shape, np.int16)
    # What the core computes today, from a search that may not move.
    codes = np.zeros(shape, np.int16)
    from calibration_twin import Channel

    for index in range(layer.out_channels):
        channel = Channel(*(a[index].astype(np.int64) for a in (closed, opened, shortcut, zero, zero)))
        codes[index] = channel.codes([int(value) for value in part.raw[:, index]])
    activation = np.searchsorted([3, 8, 13], codes, side="right").astype(np.int16)
    samples = Samples(closed, opened, shortcut, (16 * codes).astype(np.int16), activation)
    found = engine.fit(samples, make_starts(part, closed.mean(axis=1)), kept=3, passes=3)
    assert np.all(found.before == 0)
    assert np.all(found.after == 0)
    assert np.array_equal(found.raw, part.raw)


def test_starts_begin_with_what_is_there_and_fit_the_format(draft: Draft) -> None:
    for layer in IMAGENET.layers[::7]:
        part = draft.layers[layer.name]
        starts = make_starts(part, np.zeros(layer.out_channels), amplified=True)
        assert np.array_equal(starts[:, 0], part.raw.T)
        assert starts.min() >= -8192
        assert starts.max() <= 8191
        assert starts.shape[1] <= native.FitPlan.MOST_STARTS


def test_starts_of_a_channel_without_weight(draft: Draft) -> None:
    part = draft.layers["block1.conv3x3"]
    part.wanted[1] = 0
    part.raw[1] = 0
    assert np.isfinite(make_starts(part, np.zeros(32))).all()


def test_last_layers_range_and_affine(draft: Draft, engine: LayerEngine) -> None:
    part = draft.layers[IMAGENET.layers[-1].name]
    random = np.random.default_rng(0)
    channels, pictures = 1024, 4
    closed = random.integers(-300, 300, (channels, 49 * pictures)).astype(np.int16)
    shortcut = random.integers(0, 16, closed.shape).astype(np.int16)
    wanted = ((shortcut / 7.5 - 1) * 3 * LAST_UNIT).round().astype(np.int16)
    starts = last_starts(part, wanted)
    assert starts.shape == (channels, 29, 8)
    assert np.array_equal(starts[:, 0], part.raw.T)
    found = engine.fit(Samples(closed, closed, shortcut, wanted, None), starts, kept=1, passes=1, positions=49)
    assert np.all(found.after <= found.before)
    gain, offset = affine_of(found.affine) / FOLD_ONE
    per_code = found.affine[0] / LAST_UNIT
    assert np.allclose(gain, per_code * 7.5, atol=1e-4)
    assert np.allclose(offset, gain + found.affine[1] / LAST_UNIT, atol=1e-4)


# Recentring -----------------------------------------------------------------------------------------------------------


def recentred(draft: Draft, engine: LayerEngine) -> tuple[GatedLayer, np.ndarray, np.ndarray, np.ndarray]:
    """Block 7's 3x3 on maps whose first 100 channels never change: its sums before and after, and who was moved."""
    layer = next(each for each in IMAGENET.layers if each.name == "block7.conv3x3")
    part = draft.layers[layer.name]
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (1, 14, 14, 512)).astype(np.uint8)
    codes[..., :100] = 15
    # 60 outputs that agree with the constant inputs everywhere lie 900 too high, 60 others too low.
    part.bits[:60, :, :, :100] = 1
    part.bits[60:120, :, :, :100] = 0
    part.bits[120:, :, :, :100] = random.integers(0, 2, part.bits[120:, :, :, :100].shape)
    inner = (14 * np.arange(1, 13)[:, None] + np.arange(1, 13)).reshape(1, -1).astype(np.int32)
    before = engine.sums(layer, part, codes, inner, exact=True).msb[0].astype(int)
    old = copy.deepcopy(part)
    found = recentre(part, codes, before.astype(np.int16))
    after = engine.sums(layer, part, codes, inner, exact=True).msb[0].astype(int)
    changed = np.any((part.bits != old.bits).reshape(512, -1), axis=1)
    assert found.channels == np.count_nonzero(changed) >= 100
    assert found.flips == np.count_nonzero(part.bits != old.bits)
    assert np.array_equal(np.any(part.wanted != old.wanted, axis=0), changed)
    return layer, before, after, changed


def test_recentring_leaves_channels_inside_the_range_alone(draft: Draft, engine: LayerEngine) -> None:
    _, before, after, changed = recentred(draft, engine)
    inside = np.all(np.abs(before) <= 250, axis=0)
    assert inside.any()
    assert not np.any(changed & inside)
    assert np.array_equal(before[:, ~changed], after[:, ~changed])


def test_recentring_only_shifts_sums_of_constant_inputs(draft: Draft, engine: LayerEngine) -> None:
    old = copy.deepcopy(draft.layers["block7.conv3x3"])
    layer, before, after, changed = recentred(draft, engine)
    part = draft.layers[layer.name]
    shift = (after - before)[:, changed]
    assert np.all(shift == shift[0])
    assert np.abs(after[:, changed]).max(axis=0).mean() < np.abs(before[:, changed]).max(axis=0).mean() - 100
    # The threshold goes along as far as its format reaches, so that the float network's gates stay as they were.
    expected = np.clip(old.wanted[0, changed] + shift[0] * 2 / 3, -31.9, 31.9)
    assert np.allclose(part.wanted[0, changed], expected, atol=0.01)
    assert np.count_nonzero(np.abs(expected) < 31) > 10


# Permuting ------------------------------------------------------------------------------------------------------------


def test_a_permutation_alone_changes_no_logit(model: Model, picture: np.ndarray) -> None:
    draft = Draft.of(model)
    before = CpuBackend(draft.model({})).logits(picture)
    draft.permute(choose(np.random.default_rng(0).random(512)))
    assert np.array_equal(CpuBackend(draft.model({})).logits(picture), before)


def test_orders_keep_repeated_channels_together() -> None:
    orders = choose(np.random.default_rng(1).random(512))
    assert np.array_equal(orders[32], np.arange(32))
    for width, order in orders.items():
        assert sorted(order) == list(range(width))
        if width > 32:
            half = width // 2
            assert np.array_equal(order[:half] % half, orders[half])
            assert np.array_equal(np.abs(order[:half] - order[half:]), np.full(half, half))


def test_the_cheapest_channels_are_damaged() -> None:
    """Against every choice there is: which child goes where, and which descendant of it."""
    cost = np.random.default_rng(2).random(512)
    chosen = choose(cost)[512][DAMAGED].reshape(3, 32)
    leaves = cost.reshape(2, 2, 2, 2, 32)
    for base in range(32):
        assert {int(place) % 32 for place in chosen[:, base]} == {base}
        totals = []
        for a, b8, b9, c8, c9, c10, d8, d9, d10 in itertools.product((0, 1), repeat=9):
            total = leaves[d8, c8, b8, a, base] + leaves[d9, c9, b9, 1 - a, base]
            totals.append(total + 0.64 * leaves[d10, c10, 1 - b8, a, base])
        found = cost[chosen[0, base]] + cost[chosen[1, base]] + 0.64 * cost[chosen[2, base]]
        assert found == pytest.approx(min(totals))


def test_what_the_overlap_leaves_of_the_shortcut(model: Model, traces: list[LayerTrace]) -> None:
    index = next(i for i, layer in enumerate(IMAGENET.layers) if overlaps(layer))
    layer, trace, current = IMAGENET.layers[index], traces[index + 1], traces[index].output
    rules = ImageNetRules(model, IMAGENET_2021)
    seen = rules.shortcut_read(layer, trace.msb, trace.lsb, current)
    clean = rules.pooled(current)
    damaged = np.flatnonzero(np.any(seen != clean, axis=(0, 1, 2)))
    assert damaged.min() >= DAMAGED.start
    assert damaged.max() < DAMAGED.stop
    assert len(damaged) > 80


# Repairing and folding ------------------------------------------------------------------------------------------------


def test_rewired_channels_come_closer_to_what_is_wanted(engine: LayerEngine) -> None:
    layer = GatedLayer("small", 32, 32, 6, stride=2)
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (60, 6, 6, 32)).astype(np.uint8)
    bits = random.integers(0, 2, (32, 3, 3, 32)).astype(np.uint8)
    draft = Draft.of(random_model(IMAGENET, 0)).layers["block1.conv3x3"]
    draft.bits = bits.copy()
    # What other weights would give is wanted: it can be reached.
    other = copy.deepcopy(draft)
    other.bits = random.integers(0, 2, bits.shape).astype(np.uint8)
    everywhere = np.tile(np.arange(9, dtype=np.int32), (60, 1))
    sums = engine.sums(layer, other, codes, everywhere, exact=True)
    wanted = as_int16((2 * sums.msb.astype(float) + sums.lsb) / 300)
    found = rewire(engine, draft, layer, codes, wanted, np.arange(8, 12), np.arange(60) % 4 == 3)
    assert found.after > 0.7 > 0.3 > found.before
    assert np.array_equal(draft.bits[:8], bits[:8])
    assert np.array_equal(draft.bits[12:], bits[12:])
    assert found.starts.shape == (4, 4, 8)
    assert found.starts.min() >= -8192
    assert found.starts.max() <= 8191
    with LayerEngine(1) as one:
        again = copy.deepcopy(draft)
        again.bits = bits.copy()
        assert np.array_equal(
            rewire(one, again, layer, codes, wanted, np.arange(8, 12), np.arange(60) % 4 == 3).starts, found.starts
        )
        assert np.array_equal(again.bits, draft.bits)


def test_folding_is_exact(draft: Draft) -> None:
    random = np.random.default_rng(0)
    affine = random.integers(-(3 << 16), 3 << 16, (2, 1024)).astype(np.int32)
    weight, bias = draft.fc_weight.copy(), draft.fc_bias.copy()
    draft.fold(affine)
    for index in (0, 500, 999):
        offset = sum(Fraction(w) * Fraction(int(o), FOLD_ONE) for w, o in zip(weight[index], affine[1], strict=True))
        assert draft.fc_bias[index] == float(Fraction(bias[index]) + offset)
    assert np.array_equal(draft.fc_weight, in_16_bits(weight * (affine[0] / FOLD_ONE)))


def test_folding_nothing_changes_nothing(draft: Draft) -> None:
    weight, bias = draft.fc_weight.copy(), draft.fc_bias.copy()
    draft.fold(np.stack([np.full(1024, FOLD_ONE), np.zeros(1024)]).astype(np.int32))
    assert np.array_equal(draft.fc_weight, weight)
    assert np.array_equal(draft.fc_bias, bias)


def test_a_draft_is_the_model_for_the_core(model: Model, picture: np.ndarray) -> None:
    found = CpuBackend(Draft.of(model).model({}), "imagenet-2021").logits(picture)
    assert np.array_equal(found, CpuBackend(model, "imagenet-2021").logits(picture))
