"""Engines that run a FracBNN network: one module per engine behind one small protocol."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..arithmetic import Arithmetic
from ..errors import PictureError
from ..networks import Network


class Backend(Protocol):
    """What every engine offers. Engines may be used from several threads."""

    name: str
    network: Network
    arithmetic: Arithmetic

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 RGB pictures [N, S, S, 3] at the network's size to float32 logits [N, classes]."""

    def close(self) -> None:
        """Free what the engine holds; it is of no use afterwards."""


def check_images(images: npt.NDArray[np.uint8], network: Network) -> None:
    """Raise :class:`~fracbnn_pynq.errors.PictureError` unless ``images`` is uint8 [N, S, S, 3] for ``network``."""
    size = network.image_size
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        raise PictureError(f"expected a uint8 array [N, {size}, {size}, 3] for {network.title}, found {found}")
