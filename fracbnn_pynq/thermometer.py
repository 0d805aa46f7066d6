"""The thermometer code of the input layer, as a 256-entry table.

An 8-bit colour value v becomes a level r = round(v / 8), 0..32, ties to the even neighbour; plane t of 32 is +1 where
t < r and -1 elsewhere. Channel ``32 * colour + t`` of the first convolution reads plane t of that colour, colours in
the order R, G, B. Source: the authors' released models (resolution 8).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .networks import INPUT_PLANES, THERMOMETER_LEVELS

RESOLUTION = 8
LEVELS: npt.NDArray[np.uint8] = np.rint(np.arange(256) / RESOLUTION).astype(np.uint8)
"""Thermometer level (number of planes that are +1) of every 8-bit value. uint8 [256], 0..32."""


def levels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Thermometer levels of uint8 pictures of any shape: uint8 of the same shape, 0..32."""
    return LEVELS[images]


def planes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The 96 planes the first convolution reads.

    ``images``: uint8 [N, H, W, 3]. Returns int8 [N, 96, H, W], +1 or -1.
    """
    steps = np.arange(THERMOMETER_LEVELS, dtype=np.uint8)
    lit = steps < levels(images)[..., None]  # [N, H, W, 3, 32]
    signs = np.where(lit, np.int8(1), np.int8(-1))
    n, height, width = images.shape[:3]
    return np.ascontiguousarray(signs.reshape(n, height, width, INPUT_PLANES).transpose(0, 3, 1, 2))
