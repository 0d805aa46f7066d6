"""The clock registers of the processing system from which pynq computes, and sets, the clocks of the fabric.

A fabric clock is ``reference * FBDIV / (2 if DIV2) / DIVISOR0 / DIVISOR1`` of the PLL its SRCSEL names (Zynq
UltraScale+ register reference UG1087, modules CRL_APB and CRF_APB). The boot image here is Avnet's base design for
the Ultra96-V2: all fabric clocks come from the IOPLL at 1500 MHz, divided by 15. pynq changes divisors only, so a
hand-off file whose divisors were meant for another PLL gives another frequency than its designer wanted.
"""

from __future__ import annotations

from .bus import Bus
from .registers import Ram32

REFERENCE_HZ = 100e6 / 3
CRL_APB, CRF_APB = 0xFF5E_0000, 0xFD1A_0000
_WINDOW = 0x1000

_IOPLL, _RPLL, _APLL, _DPLL, _VPLL, _ACPU = 0x20, 0x30, 0x20, 0x2C, 0x38, 0x60
_PL0 = 0xC0
_FABRIC_CLOCKS = 4
_CLKACT = 1 << 24


def _pll(fbdiv: int) -> int:
    return 1 << 16 | fbdiv << 8  # DIV2 set: the output is half the oscillator's frequency


def _divided(divisor0: int, divisor1: int = 1, source: int = 0) -> int:
    return _CLKACT | divisor1 << 16 | divisor0 << 8 | source


class Clocks:
    """CRL_APB and CRF_APB of the simulated board, attached to ``bus``."""

    def __init__(self, bus: Bus) -> None:
        self._crl, self._crf = Ram32(), Ram32()
        self.reset()
        bus.attach(CRL_APB, _WINDOW, self._crl)
        bus.attach(CRF_APB, _WINDOW, self._crf)

    def reset(self) -> None:
        """What the boot image leaves: IOPLL 1500 MHz, RPLL 800 MHz, fabric clocks 100 MHz."""
        self._crl.locked.clear()
        self._crl.values = {_IOPLL: _pll(90), _RPLL: _pll(48)}
        self._crl.values.update({_PL0 + 4 * i: _divided(15) for i in range(_FABRIC_CLOCKS)})
        self._crf.values = {_APLL: _pll(72), _DPLL: _pll(64), _VPLL: _pll(90), _ACPU: _divided(1)}

    def fabric_hz(self, index: int = 0) -> float:
        """Present frequency of fabric clock ``index`` in Hz; 0 where it is switched off."""
        control = self._crl.values[_PL0 + 4 * index]
        divisor = (control >> 8 & 0x3F) * (control >> 16 & 0x3F)
        sources = {0: self._crl.values[_IOPLL], 2: self._crl.values[_RPLL], 3: self._crf.values[_DPLL]}
        pll = sources.get(control & 7)
        if not control & _CLKACT or not divisor or pll is None:
            return 0.0
        return REFERENCE_HZ * (pll >> 8 & 0x7F) / (2 if pll >> 16 & 1 else 1) / divisor

    def force(self, mhz: float, *, locked: bool = False) -> None:
        """Set fabric clock 0 to the frequency nearest ``mhz`` MHz behind pynq's back.

        ``locked``: later writes to its control register have no effect, until :meth:`release`.
        """
        self.release()
        self._crl.write(_PL0, _divided(max(1, min(63, round(1500 / mhz)))))
        if locked:
            self._crl.locked.add(_PL0)

    def release(self) -> None:
        """Let fabric clock 0 be set again."""
        self._crl.locked.discard(_PL0)
