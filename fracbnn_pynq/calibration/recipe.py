"""What the calibration does, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a calibration; the defaults are those of the calibration that comes with the package.

    ``positions``: how many are sampled of each map and picture (a 7x7 map is taken whole). ``kept``: from how many of
    its starts a channel's search sets out; ``passes``: how often it goes through its directions. ``mirror``: every
    picture is used mirrored as well.

    Steps that can be left out, to see what each wins: ``fit`` (parameters of all layers but the last), ``fit_last``
    (those of the last; without, only the classifier is adjusted), ``recentre`` (sums of 3x3 layers with at least
    ``recentre_from`` channels), ``permute`` (which of block 12's channels are overwritten) and ``repair`` (new weights
    for these, with at least ``repair_from`` pictures).
    """

    positions: int = 36
    kept: int = 3
    passes: int = 3
    mirror: bool = False
    fit: bool = True
    fit_last: bool = True
    recentre: bool = True
    recentre_from: int = 256
    permute: bool = True
    repair: bool = True
    repair_from: int = 100

    @property
    def copies(self) -> int:
        """How many maps there are of each picture, one after the other."""
        return 2 if self.mirror else 1
