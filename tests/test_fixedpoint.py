"""Fixed-point formats and roundings, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.fixedpoint import Format, divide_toward_zero, round_half_up, shift_half_up, wrap

RAW = st.integers(-(2**50), 2**50)
FORMATS = st.tuples(st.integers(2, 40), st.integers(1, 12)).map(lambda pair: Format(max(pair), min(pair)))


def int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize(
    ("width", "integer", "fraction", "minimum", "maximum"),
    [(16, 9, 7, -32768, 32767), (12, 4, 8, -2048, 2047), (24, 9, 15, -8388608, 8388607), (13, 9, 4, -4096, 4095)],
)
def test_format_of_the_published_cores(width: int, integer: int, fraction: int, minimum: int, maximum: int):
    number = Format(width, integer)
    assert (number.fraction, number.minimum, number.maximum) == (fraction, minimum, maximum)
    assert str(number) == f"<{width},{integer}>"


@given(FORMATS, st.lists(RAW, min_size=1))
def test_saturate_clamps_to_twos_complement(number: Format, raw: list[int]):
    bits = number.width - 1
    assert number.saturate(int64(*raw)).tolist() == [min(max(value, -(2**bits)), 2**bits - 1) for value in raw]


@given(FORMATS, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1))
def test_quantise_rounds_to_nearest_and_counts_what_does_not_fit(number: Format, values: list[float]):
    exact = [half_up(Fraction(value) * 2**number.fraction) for value in values]
    kept, clipped = number.quantise(np.array(values))
    assert kept.dtype == np.int64
    assert kept.tolist() == [min(max(value, number.minimum), number.maximum) for value in exact]
    assert clipped == sum(not number.minimum <= value <= number.maximum for value in exact)


def test_quantise_sends_ties_up():
    kept, clipped = Format(12, 4).quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]) / 256)
    assert kept.tolist() == [1, 2, 3, 0, -1, -2]
    assert clipped == 0


@given(st.floats(-(2.0**51), 2.0**51))
def test_round_half_up_is_exact(value: float):
    assert round_half_up(np.array([value])).tolist() == [half_up(Fraction(value))]


def test_round_half_up_below_one_half():
    assert round_half_up(np.array([np.nextafter(0.5, 0)])).tolist() == [0]


@pytest.mark.parametrize("value", [0.5, -0.5, np.nextafter(-0.5, -1), np.nextafter(2.5, 0)])
def test_round_half_up_beside_a_tie(value: float):
    assert round_half_up(np.array([value])).tolist() == [half_up(Fraction(float(value)))]


@given(st.lists(RAW, min_size=1), st.integers(1, 40))
def test_shift_half_up(raw: list[int], bits: int):
    shifted = shift_half_up(int64(*raw), bits)
    assert shifted.dtype == np.int64
    assert shifted.tolist() == [half_up(Fraction(value, 2**bits)) for value in raw]


@given(st.lists(st.tuples(RAW, st.integers(1, 40)), min_size=1))
def test_shift_half_up_takes_a_shift_per_element(pairs: list[tuple[int, int]]):
    raw, bits = (int64(*column) for column in zip(*pairs, strict=True))
    assert shift_half_up(raw, bits).tolist() == [half_up(Fraction(value, 2**n)) for value, n in pairs]


@given(st.lists(RAW, min_size=1), st.integers(1, 1000))
def test_divide_toward_zero_truncates_as_c(raw: list[int], divisor: int):
    assert divide_toward_zero(int64(*raw), divisor).tolist() == [math.trunc(Fraction(v, divisor)) for v in raw]


def test_divide_toward_zero_of_a_pooled_feature():
    assert divide_toward_zero(int64(-13, -3, 3, 13), 4).tolist() == [-3, 0, 0, 3]


@given(st.lists(RAW, min_size=1), st.integers(2, 40))
def test_wrap_keeps_the_low_bits(raw: list[int], bits: int):
    wrapped = wrap(int64(*raw), bits).tolist()
    assert all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in wrapped)
    assert all((value - kept) % 2**bits == 0 for value, kept in zip(raw, wrapped, strict=True))


def test_wrap_of_a_full_match():
    assert wrap(int64(32, 31, -32), 6).tolist() == [-32, 31, -32]
