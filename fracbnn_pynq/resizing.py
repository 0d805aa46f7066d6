"""Resizing pictures, uint8 [H, W, 3], in ways that do not depend on the machine: see :func:`.pictures.prepare`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from . import native

Pixels: TypeAlias = npt.NDArray[np.uint8]

_WIDEST_ASPECT = 32


def centre(picture: Pixels, height: int, width: int) -> Pixels:
    """The middle of ``picture``, a view of ``height`` x ``width`` pixels."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def resize(picture: Pixels, height: int, width: int, crop: int) -> Pixels:
    """The centre ``crop`` x ``crop`` of ``picture`` resized with Pillow's bilinear filter.

    Along the rows first, then along the columns, each rounded to 8 bits: in one call the order of the two, and with it
    the result, depends on Pillow's version (seen between 12.0, 12.2 and 13.0).
    """
    top, left = (round((edge - crop) / 2) for edge in (height, width))
    image = Image.fromarray(picture)
    image = image.resize((width, image.height), Image.Resampling.BILINEAR).crop((left, 0, left + crop, image.height))
    image = image.resize((crop, height), Image.Resampling.BILINEAR).crop((0, top, crop, top + crop))
    return np.array(image)


def shorter_side_crop(picture: Pixels, shorter: int, size: int) -> Pixels:
    """``picture`` with its shorter side resized to ``shorter``, and of that the centre ``size`` x ``size``."""
    height, width = picture.shape[:2]
    longest = _WIDEST_ASPECT * min(height, width)
    # Taking off an even number of pixels leaves the middle where it was.
    kept = [edge if edge <= longest else longest + (edge - longest) % 2 for edge in (height, width)]
    new_height, new_width = (int(shorter * edge / min(kept)) for edge in kept)
    return resize(centre(picture, *kept), new_height, new_width, size)


def area_mean(square: Pixels, size: int) -> Pixels:
    """uint8 [L, L, 3] with L >= size averaged to [size, size, 3], in integers; in C where the native kernels are."""
    return native.area_mean(square, size) if native.available() else area_mean_reference(square, size)


def area_mean_reference(square: Pixels, size: int) -> Pixels:
    """As :func:`area_mean`. In units of 1/size pixel, a pixel of the result is L long and a source pixel ``size``."""
    edge = square.shape[0]
    sums = _area_sums(_area_sums(square, size).swapaxes(0, 1), size).swapaxes(0, 1)
    sums += edge * edge // 2
    sums //= edge * edge
    return np.ascontiguousarray(sums, dtype=np.uint8)


def _area_sums(rows: npt.NDArray[Any], size: int) -> npt.NDArray[np.int64]:
    """Sums of ``rows`` [L, ...] over ``size`` equal stretches, each row weighted by its share: int64 [size, ...]."""
    length = rows.shape[0]
    sums = np.empty((size, *rows.shape[1:]), np.int64)
    for i in range(size):
        first, head = divmod(i * length, size)
        last, tail = divmod((i + 1) * length, size)
        np.add.reduce(rows[first:last], axis=0, dtype=np.int64, out=sums[i])
        sums[i] *= size
        if head:
            sums[i] -= head * rows[first].astype(np.int64)
        if tail:
            sums[i] += tail * rows[last].astype(np.int64)
    return sums
