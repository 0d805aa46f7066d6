"""The CIFAR-10 accelerator: pictures in, logits out; its weights are in the bitstream. Imports pynq."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..cores import CIFAR10_CORE
from ..errors import AcceleratorError
from ..layouts.images import CIFAR10_IMAGE_SHAPE, CIFAR10_RESULT_SHAPE, pack_cifar10_image
from ..networks import CIFAR10, Network
from .accelerator import F32, U8, Accelerator
from .buffers import Buffers
from .drivers import Cifar10Core, HlsCore


class Cifar10Accelerator(Accelerator):
    """The core in ``FracNet_T``. Each of its two slots has an image and a result of its own, so that the next run is
    started before a result is read."""

    network: Network = CIFAR10
    driver: ClassVar[type[HlsCore]] = Cifar10Core
    cycles: int = CIFAR10_CORE.cycles
    result_is_overwritten: ClassVar[bool] = False
    direct: ClassVar[bool] = True

    def _allocate(self, buffers: Buffers) -> None:
        self._images = [buffers.allocate("an image", CIFAR10_IMAGE_SHAPE, np.uint64) for _ in range(2)]
        self._results = [buffers.allocate("a result", CIFAR10_RESULT_SHAPE, np.float32) for _ in range(2)]

    def _upload(self) -> None:
        """Nothing stays."""

    def _encode(self, slot: int, image: U8) -> None:
        pack_cifar10_image(image, self._images[slot].array)

    def _flush(self, slot: int) -> None:
        self._images[slot].flush()
        result = self._results[slot]
        result.array.fill(np.nan)  # what the core does not write is then seen not to be a logit
        result.flush()

    def _set_addresses(self, slot: int) -> None:
        self._core.set_address("image", self._images[slot].address)
        self._core.set_address("output", self._results[slot].address)

    def _read(self, slot: int) -> npt.NDArray[Any]:
        result = self._results[slot]
        result.invalidate()
        return result.array.copy()

    def _finish(self, result: npt.NDArray[Any]) -> F32:
        # The sum of ten floats is not a number if one of them is not, and takes half the time of isnan().any().
        if math.isnan(result.sum()):
            written = int(np.count_nonzero(~np.isnan(result)))
            raise AcceleratorError(
                f"{self._core.instance}: expected 10 logits, found {written}: the core has not written the whole "
                f"result",
                advice="try again; if it happens again, call reload()",
            )
        return result
