"""The clock of the programmable logic: read it, and keep it within what the design was built for.

pynq applies a hand-off file's divisors to whatever PLL the boot image selected, and up to 3.1 does not look at the
frequency that results: a design for 250 MHz can find itself at 375 MHz and return wrong bits. 4.0 picks the nearest
possible frequency, which may be above the design's.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from ..cores import CLOCK_TOLERANCE
from ..doctor.environment import pynq_advice
from ..doctor.handoff import read_handoff
from ..errors import BackendError, OverlayError

log = logging.getLogger(__name__)

_DIVISOR_BITS = 6
_LARGEST = (1 << _DIVISOR_BITS) - 1


def read_pl_clock_mhz() -> float:
    """Present frequency of fabric clock 0 in MHz, computed by pynq from the clock registers.

    Raises :class:`~fracbnn_pynq.errors.OverlayError` where they cannot be read or make no sense.
    """
    try:
        mhz = float(_clocks().fclk0_mhz)
    except BackendError:
        raise
    except Exception as error:
        raise OverlayError(
            f"expected readable clock registers, found {type(error).__name__}: {error}",
            advice="run as root on the board",
        ) from error
    if not (math.isfinite(mhz) and mhz > 0):
        raise OverlayError(f"fabric clock 0: expected a frequency, found {mhz} MHz", advice="load the overlay again")
    return mhz


def set_safe_clock(design_mhz: float) -> float:
    """Set fabric clock 0 to the highest possible rate not above ``design_mhz``; returns the rate read back, in MHz.

    To be called when an overlay has been loaded and before its core is started. Leaves a clock that already has the
    design's rate alone. Raises :class:`~fracbnn_pynq.errors.OverlayError` where the clock stays faster than the design.
    """
    before = read_pl_clock_mhz()
    if abs(before - design_mhz) <= CLOCK_TOLERANCE * design_mhz:
        return before
    try:
        # The slowest clock is safe for every design, and gives away the PLL's frequency, which pynq does not tell.
        _clocks().set_pl_clk(0, _LARGEST, 1)
        pll_mhz = read_pl_clock_mhz() * _LARGEST
        first, second = _divisors(pll_mhz / design_mhz)
        _clocks().set_pl_clk(0, first, second)
    except OverlayError:
        raise
    except Exception as error:
        raise OverlayError(
            f"fabric clock 0 cannot be set: {type(error).__name__}: {error}", advice="run as root"
        ) from error
    after = read_pl_clock_mhz()
    if after > design_mhz * (1 + CLOCK_TOLERANCE):
        raise OverlayError(
            f"fabric clock 0: expected at most {design_mhz:g} MHz, for which the overlay was built, found "
            f"{after:g} MHz after setting it, at which the core would return wrong results",
            advice="power-cycle the board; if that is no help, its boot image sets a clock that cannot be divided",
        )
    log.warning("fabric clock 0 was %.3f MHz; set to %.3f MHz for a design of %.3f MHz", before, after, design_mhz)
    return after


def design_clock_mhz(bitfile: Path | str) -> float:
    """The clock the overlay's hand-off file was made for, in MHz; raises OverlayError where it names none."""
    path = Path(bitfile).with_suffix(".hwh")
    mhz = read_handoff(path).clock_mhz
    if mhz is None:
        raise OverlayError(
            f"{path}: expected the frequency of fabric clock 0, found none", advice="give it as design_mhz"
        )
    return mhz


def _divisors(ratio: float) -> tuple[int, int]:
    """The two divisors with the smallest product not below ``ratio``, but for the tolerance."""
    least = max(1, math.ceil(ratio * (1 - CLOCK_TOLERANCE)))
    pairs = ((math.ceil(least / second), second) for second in range(1, _LARGEST + 1))
    usable = [pair for pair in pairs if pair[0] <= _LARGEST]
    return min(usable, key=lambda pair: (pair[0] * pair[1], pair[1]), default=(_LARGEST, _LARGEST))


def _clocks() -> Any:
    try:
        from pynq import Clocks  # noqa: PLC0415 - a board's checks import this module where there is no pynq
    except ImportError as error:
        raise BackendError(f"the clock is read through pynq: {error}", advice=pynq_advice()) from error
    return Clocks
