"""Other parameters for the published ImageNet core: the bitstream stays, what is streamed to it changes.

The core computes in coarser numbers than the network was trained with, cuts sums off, and overwrites part of a
shortcut. :func:`calibrate` fits the network's parameters to what the core really computes, on unlabelled pictures, so
that its answers come close to the float network's. docs/calibration.md explains the steps.
"""

from .recipe import Recipe
from .report import Report
from .run import Calibration, calibrate

__all__ = ["Calibration", "Recipe", "Report", "calibrate"]
