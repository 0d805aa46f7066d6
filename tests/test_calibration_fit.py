"""The native parameter search against its twin, and what any search must do."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_twin import Channel, fit

from fracbnn_pynq import BackendError, native
from fracbnn_pynq.calibration.engine import LayerEngine, Samples

OPTIONS = {"first": 300, "positions": 0, "kept": 1, "passes": 1}
START = [768, 5, 10, -40, 128, 60, 256, 0]


def make(channels: int, count: int, *, positions: int = 0, seed: int = 0) -> list[np.ndarray]:
    """Samples like a layer's: closed, open, shortcut, target, activation; int16 [C, n]."""
    random = np.random.default_rng(seed)
    closed = random.normal(0, 500, (channels, count)).round().clip(-4096, 4095)
    opened = (closed + random.normal(0, 150, closed.shape)).round().clip(-4096, 4095)
    shortcut = random.integers(0, 16, closed.shape)
    # Something that a layer could give, with noise: the search has a minimum to find.
    value = (
        opened / 16 * random.uniform(0.01, 0.05, (channels, 1))
        + shortcut / 7.5
        - 1
        + random.normal(0, 0.1, closed.shape)
    )
    scale = 256 if positions else 120
    target = (value * scale if positions else (value.clip(-1, 1) + 1) * scale).round()
    activation = np.searchsorted([-2 / 3, 0, 2 / 3], value)
    return [np.ascontiguousarray(array, np.int16) for array in (closed, opened, shortcut, target, activation)]


def starts_of(channels: int, count: int, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.integers(-60, 61, (channels, count, 8))
    noise[:, 0] = 0
    noise[:, -1, 1] = -START[1]  # a start without weight: some directions mean nothing from there
    noise[:, -1, 6] = -START[6]
    return np.ascontiguousarray(np.array(START) + noise, np.int32)


@pytest.mark.parametrize(("count", "first", "positions"), [(300, 300, 0), (5000, 700, 0), (9 * 40, 9 * 40, 9)])
def test_search_equals_the_twin(count: int, first: int, positions: int) -> None:
    samples, starts = make(3, count, positions=positions), starts_of(3, 4)
    plan = native.FitPlan(samples, starts, first=first, positions=positions, kept=2, passes=2)
    plan.fit(0, 3)
    for index in range(3):
        channel = Channel(*(array[index].astype(np.int64) for array in samples), positions=positions)
        given = [[int(value) for value in start] for start in starts[index]]
        best, loss = fit(channel, given, first=first, kept=2, passes=2)
        assert plan.best[index].tolist() == best
        assert plan.losses[index].tolist() == [channel.loss(given[0]), loss]
        assert tuple(plan.affine[index]) == channel.affine(best)


def test_loss_beyond_a_block_and_32_bits() -> None:
    # Every error as large as it can be, so that a sum in 32 bits would overflow.
    count = 3 * 4096 + 5
    zeros = np.zeros((1, count), np.int16)
    samples = [zeros, zeros, zeros, zeros + 240, zeros + 3]
    start = np.array([[[0, 0, 0, 0, 0, 0, 0, -8192]]], np.int32)
    plan = native.FitPlan(samples, start, first=1, positions=0, kept=1, passes=1)
    plan.fit(0, 1)
    assert plan.losses[0, 0] == count * (4 * 240**2 + 3840 * 9)


def test_result_does_not_depend_on_threads() -> None:
    arrays, starts = make(37, 400), starts_of(37, 3)
    found = []
    for threads in (1, 3):
        with LayerEngine(threads) as engine:
            found.append(engine.fit(Samples(*arrays), starts, kept=2, passes=2))
    assert np.array_equal(found[0].raw, found[1].raw)
    assert np.array_equal(found[0].after, found[1].after)


def test_search_never_ends_above_the_first_start() -> None:
    arrays, starts = make(8, 3000), starts_of(8, 3)
    with LayerEngine(1) as engine:
        found = engine.fit(Samples(*arrays), starts, kept=3, passes=1)
    assert np.all(found.after < found.before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 0}, "first samples"),
        ({"first": 301}, "first samples"),
        ({"kept": 0}, "starts kept"),
        ({"positions": 7}, "multiple of 7"),
    ],
)
def test_plan_refuses_what_the_kernel_cannot_read(change: dict[str, int], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        native.FitPlan(
            make(2, 300), starts_of(2, 2), **({"first": 300, "positions": 0, "kept": 1, "passes": 1} | change)
        )


def test_plan_refuses_other_arrays_and_channels() -> None:
    samples, starts = make(2, 300), starts_of(2, 2)
    with pytest.raises(BackendError, match="expected a contiguous int16"):
        native.FitPlan([array.astype(np.int32) for array in samples], starts, **OPTIONS)
    with pytest.raises(BackendError, match="1 to 64"):
        native.FitPlan(samples, starts_of(2, 65), **OPTIONS)
    with pytest.raises(BackendError, match="0 to 2"):
        native.FitPlan(samples, starts, **OPTIONS).fit(0, 3)
