"""Fixed-point formats ``<W,I>``, rounding shifts and saturation on integer arrays.

A number of format ``<W,I>`` is a W-bit two's complement integer *raw* with F = W - I fraction bits; its value is
raw / 2**F. All functions take and return int64 arrays (or ints) of any shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Raw = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Format:
    """A signed fixed-point format: ``width`` bits in all, ``integer`` of them integer (sign included)."""

    width: int
    integer: int

    @property
    def fraction(self) -> int:
        return self.width - self.integer

    @property
    def minimum(self) -> int:
        """Smallest raw value."""
        return -(1 << (self.width - 1))

    @property
    def maximum(self) -> int:
        """Largest raw value."""
        return (1 << (self.width - 1)) - 1

    def saturate(self, raw: Raw) -> Raw:
        """Clamp raw values to the format's range."""
        return np.clip(raw, self.minimum, self.maximum)

    def quantise(self, values: npt.NDArray[np.float64]) -> tuple[Raw, int]:
        """Nearest raw values (ties towards +infinity), saturated; and how many had to be saturated."""
        raw = round_half_up(np.ldexp(values, self.fraction))
        kept = self.saturate(raw)
        return kept, int(np.count_nonzero(kept != raw))

    def __str__(self) -> str:
        return f"<{self.width},{self.integer}>"


def round_half_up(values: npt.NDArray[np.float64]) -> Raw:
    """Nearest integers of real numbers, ties towards +infinity."""
    below = np.floor(values)
    # Not floor(values + 0.5): the largest number below one half plus one half is one in float64.
    return (below + (values - below >= 0.5)).astype(np.int64)


def shift_half_up(raw: Raw, bits: int | Raw) -> Raw:
    """Drop ``bits`` (at least 1) low bits, rounding to nearest, ties towards +infinity."""
    half = np.left_shift(np.int64(1), np.asarray(bits, np.int64) - 1)
    result: Raw = (raw + half) >> bits
    return result


def divide_toward_zero(raw: Raw, divisor: int) -> Raw:
    """Integer division that truncates, as C's does."""
    result: Raw = np.sign(raw) * (np.abs(raw) // divisor)
    return result


def wrap(raw: Raw, bits: int) -> Raw:
    """Keep the low ``bits`` bits as a two's complement number."""
    half = 1 << (bits - 1)
    result: Raw = ((raw + half) & ((1 << bits) - 1)) - half
    return result
