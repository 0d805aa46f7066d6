"""The CIFAR-10 accelerator: pictures in, logits out; its weights are in the bitstream. Imports pynq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ..cores import CIFAR10_CORE
from ..errors import AcceleratorError
from ..layouts.images import CIFAR10_IMAGE_SHAPE, CIFAR10_RESULT_BYTES, CIFAR10_RESULT_SHAPE, ImageEncoder
from ..networks import CIFAR10, Network
from .accelerator import F32, U8, Accelerator, Encode, Take
from .buffers import Buffers
from .drivers import Cifar10Core, HlsCore

_NAN = np.float32(np.nan).tobytes()
"""What a result holds before a run, so that what the core does not write is seen not to be a logit."""
_UNWRITTEN = _NAN * CIFAR10_RESULT_SHAPE[0]


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
        self._image_encoder = ImageEncoder([image.array for image in self._images])
        self._results = [buffers.allocate("a result", CIFAR10_RESULT_SHAPE, np.float32) for _ in range(2)]

    def _upload(self) -> None:
        """Nothing stays."""

    def _encoder(self, images: U8) -> Encode:
        self._image_encoder.take(images)
        return self._image_encoder.encode

    def _let_go(self) -> None:
        self._image_encoder.let_go()

    def _flush(self, slot: int) -> None:
        self._images[slot].flush()
        result = self._results[slot]
        result.bytes[:] = _UNWRITTEN
        result.flush()

    def _addresses(self, slot: int) -> Mapping[str, int]:
        return {"image": self._images[slot].address, "output": self._results[slot].address}

    def _read(self, slot: int) -> bytes:
        result = self._results[slot]
        result.invalidate()
        return bytes(result.bytes)

    def _taker(self, logits: F32) -> Take:
        rows, size = logits.reshape(-1).view(np.uint8).data, CIFAR10_RESULT_BYTES

        def take(index: int, result: bytes) -> None:
            if _NAN in result:
                self._check_whole(result)
            first = index * size
            rows[first : first + size] = result

        return take

    def _check_whole(self, result: bytes) -> None:
        """Raise where the core has not written a logit; bytes of two logits can look like that, too."""
        written = int(np.count_nonzero(~np.isnan(np.frombuffer(result, np.float32))))
        if written < CIFAR10_RESULT_SHAPE[0]:
            raise AcceleratorError(
                f"{self._core.instance}: expected 10 logits, found {written}: the core has not written the whole "
                f"result",
                advice="try again; if it happens again, call reload()",
            )
