"""What the paper (arXiv 2012.12206) says of the networks on the Ultra96-V2, to compare with.

Nobody has measured these figures again on a board with this package.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "arXiv 2012.12206, Ultra96-V2 at 250 MHz"


@dataclass(frozen=True)
class PaperFigures:
    """``top1``: share of the test or validation pictures; ``latency_ms`` and ``pictures_per_s`` of the accelerator,
    ``watts`` of the board."""

    top1: float
    latency_ms: float
    pictures_per_s: float
    watts: float


PAPER = {
    "cifar10": PaperFigures(0.891, 0.356, 2806.9, 4.1),
    "imagenet": PaperFigures(0.718, 20.8, 48.1, 6.1),
}
"""By network."""
