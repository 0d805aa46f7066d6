"""The thermometer code: every 8-bit value, and the order of planes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.networks import INPUT_PLANES, THERMOMETER_LEVELS
from fracbnn_pynq.thermometer import LEVELS, levels, planes


def test_levels_round_half_to_even():
    assert LEVELS.dtype == np.uint8
    assert LEVELS.tolist() == [round(value / 8) for value in range(256)]  # Python rounds ties to even


def test_levels_at_ties_and_ends():
    values = np.array([0, 4, 5, 12, 20, 28, 36, 251, 252, 255], np.uint8)
    assert levels(values).tolist() == [0, 0, 1, 2, 2, 4, 4, 31, 32, 32]


def test_levels_keep_shape_and_type():
    picture = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    found = levels(picture)
    assert found.shape == picture.shape
    assert found.dtype == np.uint8


@given(st.integers(0, 255), st.integers(0, 2))
def test_plane_t_is_set_below_the_level(value: int, colour: int):
    picture = np.zeros((1, 1, 1, 3), np.uint8)
    picture[..., colour] = value
    found = planes(picture)[0, :, 0, 0].reshape(3, THERMOMETER_LEVELS)
    expected = np.full((3, THERMOMETER_LEVELS), -1)
    expected[colour, : round(value / 8)] = 1
    assert (found == expected).all()


def test_planes_are_channels_first_and_contiguous():
    picture = np.zeros((2, 3, 5, 3), np.uint8)
    picture[1, 2, 4, 2] = 8
    found = planes(picture)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((2, INPUT_PLANES, 3, 5), np.int8, True)
    assert np.argwhere(found == 1).tolist() == [[1, 2 * THERMOMETER_LEVELS, 2, 4]]


@given(st.integers(0, 2**32 - 1))
def test_sum_of_planes_gives_back_the_levels(seed: int):
    picture = np.random.default_rng(seed).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    lit = (planes(picture) == 1).reshape(1, 3, THERMOMETER_LEVELS, 4, 4).sum(axis=2)
    assert (np.moveaxis(lit, 1, -1) == levels(picture)).all()
