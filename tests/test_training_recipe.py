"""What training makes of pictures, and when: augmentation and the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")


from fracbnn_pynq.networks import CIFAR10, IMAGENET  # noqa: E402
from fracbnn_pynq.training.augment import augment, resized  # noqa: E402
from fracbnn_pynq.training.recipe import Recipe  # noqa: E402

# Augmentation

ALL = [Recipe(), Recipe(zoom=0.5), Recipe(shift=0, flip=False), Recipe(shift=0.5, flip=False), Recipe(shift=0)]


def some(count: int = 12, edge: int = 16, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 3, edge, edge), dtype=torch.uint8, generator=generator)


def varied(recipe: Recipe, seed: int, count: int = 12) -> Any:
    return augment(some(count), recipe, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recipe", ALL, ids=["default", "zoom", "none", "shift", "flip"])
def test_augmentation_follows_from_the_generator(recipe: Recipe):
    found = varied(recipe, 1)
    assert (found.shape, found.dtype) == (some().shape, torch.uint8)
    assert torch.equal(found, varied(recipe, 1))
    still = recipe.shift == 0 and recipe.zoom == 1 and not recipe.flip
    assert torch.equal(found, varied(recipe, 2)) == still
    assert torch.equal(found, some()) == still


def test_pictures_are_mirrored_whole():
    found, given_pictures = varied(Recipe(shift=0), 3, 200), some(200)
    mirrored = [torch.equal(one, two.flip(2)) for one, two in zip(found, given_pictures, strict=True)]
    same = [torch.equal(one, two) for one, two in zip(found, given_pictures, strict=True)]
    assert all(one != two for one, two in zip(mirrored, same, strict=True))
    assert 60 < sum(mirrored) < 140


def test_pictures_are_moved_by_whole_pixels():
    found, given_pictures = varied(Recipe(shift=0.125, flip=False), 3, 200), some(200)
    moves = []
    for one, two in zip(found, given_pictures, strict=True):
        padded = np.pad(two.numpy(), ((0, 0), (2, 2), (2, 2)))
        fits = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(padded[:, row : row + 16, column : column + 16], one.numpy())
        ]
        assert len(fits) == 1
        moves += fits
    assert len(set(moves)) == 25


@pytest.mark.parametrize("recipe", [Recipe(flip=False), Recipe(zoom=0.5, flip=False)], ids=["shift", "zoom"])
def test_pictures_stay_in_place_at_the_end(recipe: Recipe):
    given = some()
    before, after = (
        augment(given, recipe, torch.Generator().manual_seed(1), progress)
        for progress in (recipe.in_place_from - 0.01, recipe.in_place_from)
    )
    assert not torch.equal(before, given)
    assert torch.equal(after, given)


@pytest.mark.parametrize("axis", [2, 3])
def test_zooming_stays_inside_the_picture(axis: int):
    flat = torch.full((20, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(augment(flat, Recipe(zoom=0.5), torch.Generator().manual_seed(0)), flat)
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(200, 3, 32, 32).transpose(axis, 3)
    found = augment(ramp, Recipe(zoom=0.5, flip=False), torch.Generator().manual_seed(0)).int()
    line = found.transpose(axis, 3)[:, 0, 7]
    assert line.diff().min() >= 0  # a ramp still
    spans = line[:, -1] - line[:, 0]
    assert 110 <= spans.min() < 140
    assert 230 < spans.max() <= 248


@pytest.mark.parametrize("size", [8, 12, 16])
def test_resizing(size: int):
    flat = torch.full((2, 3, 16, 16), 201, dtype=torch.uint8)
    assert torch.equal(resized(flat, size).float(), torch.full((2, 3, size, size), 201.0))
    if size == 16:
        assert resized(flat, size) is flat
    if size == 8:
        pixels = some()
        expected = pixels.float().view(12, 3, 8, 2, 8, 2).mean(dim=(3, 5))
        assert torch.equal(resized(pixels, 8), expected)


# The schedule

PROGRESS = st.floats(0, 1)


@given(PROGRESS, PROGRESS)
def test_rates_rise_and_fall(one: float, other: float):
    recipe = Recipe()
    first, second = sorted((one, other))
    assert 0 < recipe.rate(first) <= recipe.peak_rate
    if second < recipe.warm_up:
        assert recipe.rate(first) <= recipe.rate(second)
    if first >= recipe.warm_up:
        assert recipe.rate(first) >= recipe.rate(second)


def test_rates_at_the_ends():
    recipe = Recipe(peak_rate=1.0, warm_up=0.1)
    assert [recipe.rate(p) for p in (0, 0.05, 0.1, 1.0)] == pytest.approx([0.01, 0.5, 1.0, 0.001])
    assert recipe.rate(0.55) == pytest.approx(0.5)
    assert Recipe(peak_rate=1.0, warm_up=0).rate(0) == 1


@given(PROGRESS, PROGRESS, st.sampled_from([(32, 4), (224, 32)]))
def test_sizes_ascend_in_multiples(one: float, other: float, network: tuple[int, int]):
    full, multiple = network
    sizes = [Recipe().size(progress, full, multiple) for progress in sorted((one, other))]
    assert sizes == sorted(sizes)
    assert all(multiple <= size <= full and size % multiple == 0 for size in sizes)


def test_sizes_of_both_networks():
    recipe = Recipe()
    for network, expected in ((CIFAR10, [16, 24, 32, 32]), (IMAGENET, [128, 160, 224, 224])):
        multiple = network.image_size // network.pool_size
        found = [recipe.size(progress, network.image_size, multiple) for progress in (0, 0.25, 0.45, 1)]
        assert found == expected
    assert Recipe(sizes=((0, 0.01),)).size(0, 32, 4) == 4


def test_weights_become_binary_once():
    assert [Recipe(float_until=0.25).binary(progress) for progress in (0, 0.2499, 0.25, 1)] == [
        False,
        False,
        True,
        True,
    ]
    assert Recipe(float_until=0).binary(0)


def test_recipes_as_plain_numbers():
    found = Recipe(batch=7).as_dict()
    assert found["batch"] == 7
    assert Recipe(**found) == Recipe(batch=7)
