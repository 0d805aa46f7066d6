"""Accuracies measured by this project that its commands print: each once, with what it was measured on.

Tables with more of them are in the README and in docs/arithmetic.md. The photographs may be training pictures: such
figures compare arithmetics, and do not say how good a network is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Top-1 accuracies, per cent, of a published core's arithmetic and of the float network, with the same parameters
    on the same ``pictures``."""

    published: float
    floating: float
    pictures: str


CIFAR10 = Comparison(89.2, 88.6, "1,017 lossless test images")
IMAGENET = Comparison(49.0, 81.0, "1,000 photographs")
"""One of each class. The 125 of the README are every eighth of them; there it is 44.0 and 81.6 %."""
