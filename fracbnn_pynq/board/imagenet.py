"""The ImageNet accelerator: weights streamed from memory, average and fully connected layer on the host.

Imports pynq.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..cores import IMAGENET_CORE
from ..errors import AcceleratorError
from ..hostclassifier import host_classifier
from ..layouts.images import (
    IMAGENET_CONV1X1_WORDS,
    IMAGENET_CONV3X3_WORDS,
    IMAGENET_IMAGE_SHAPE,
    IMAGENET_PARAMETER_WORDS,
    IMAGENET_RESULT_WORDS,
    IMAGENET_SCRATCH_WORDS,
    WORD_BYTES,
    ImageEncoder,
    unpack_imagenet_result,
)
from ..layouts.weights import pack_model
from ..model import Model
from ..networks import IMAGENET, Network
from .accelerator import F32, TIMEOUT_S, U8, Accelerator, Encode, Take
from .buffers import Buffers
from .drivers import HlsCore, ImageNetCore

_UNWRITTEN = np.random.default_rng(0x0F2AC).integers(0, 256, (IMAGENET_RESULT_WORDS, WORD_BYTES), np.uint8)
"""What the result holds before a run. No result has one of these words but by a chance of less than 2**-300."""


class ImageNetAccelerator(Accelerator):
    """The core in ``FracNet``, with ``model``'s weights. One scratch memory, so a result is read before the next start.

    Other parameters and errors as for :class:`.accelerator.Accelerator`; ModelError for a model of another network.
    """

    network: Network = IMAGENET
    driver: ClassVar[type[HlsCore]] = ImageNetCore
    cycles: int = IMAGENET_CORE.cycles
    result_is_overwritten: ClassVar[bool] = True

    def __init__(
        self, overlay: Any, model: Model, *, design_mhz: float | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._model = model
        self._classifier = host_classifier(model)
        super().__init__(overlay, design_mhz=design_mhz, timeout_s=timeout_s)

    def result_codes(self, images: U8) -> U8:
        """The core's own results for pictures uint8 [N, 224, 224, 3]: codes uint8 [N, 1024, 7, 7], 0..15."""
        self.network.check_images(images)
        codes = np.empty((len(images), self.network.features, self.network.pool_size, self.network.pool_size), np.uint8)

        def take(index: int, result: U8) -> None:
            codes[index] = self._codes(result)

        self._owner.call(lambda job: self._batch(job, images, take))
        return codes

    def _allocate(self, buffers: Buffers) -> None:
        self._images = [buffers.allocate("an image", IMAGENET_IMAGE_SHAPE, np.uint32) for _ in range(2)]
        self._image_encoder = ImageEncoder([image.array for image in self._images])
        word, lanes = (WORD_BYTES,), (WORD_BYTES // 4,)
        self._weights = {
            "conv_weight_3x3_all_new": buffers.allocate("3x3 weights", (IMAGENET_CONV3X3_WORDS, *word), np.uint8),
            "conv_weight_1x1_all_new": buffers.allocate("1x1 weights", (IMAGENET_CONV1X1_WORDS, *word), np.uint8),
            "weights_all": buffers.allocate("parameters", (IMAGENET_PARAMETER_WORDS, *lanes), np.int32),
        }
        self._scratch = buffers.allocate("scratch memory", (IMAGENET_SCRATCH_WORDS, *word), np.uint8)
        self._result = self._scratch.part(IMAGENET_RESULT_WORDS)

    def _upload(self) -> None:
        for buffer, values in zip(self._weights.values(), pack_model(self._model), strict=True):
            buffer.array[...] = values
            buffer.flush()
        for argument, buffer in self._weights.items():
            self._core.set_address(argument, buffer.address)
        self._core.set_address("DDR_buf_pack", self._scratch.address)
        self._clear_result()
        # The kernel has zeroed this memory through the cache; lines written back later would hit the core's maps.
        self._scratch.flush()

    def _clear_result(self) -> None:
        self._result.array[...] = _UNWRITTEN
        self._result.flush()

    def _encoder(self, images: U8) -> Encode:
        self._image_encoder.take(images)
        return self._image_encoder.encode

    def _let_go(self) -> None:
        self._image_encoder.let_go()

    def _flush(self, slot: int) -> None:
        self._images[slot].flush()

    def _addresses(self, slot: int) -> Mapping[str, int]:
        return {"image_thermo": self._images[slot].address}

    def _read(self, slot: int) -> U8:
        self._result.invalidate()
        result = self._result.array.copy()
        self._clear_result()
        return result

    def _codes(self, result: U8) -> U8:
        untouched = int(np.count_nonzero((result == _UNWRITTEN).all(axis=1)))
        if untouched:
            raise AcceleratorError(
                f"{self._core.instance}: expected {len(result)} words of result, found {len(result) - untouched}: the "
                f"core has not written all of it",
                advice="try again; if it happens again, call reload()",
            )
        return unpack_imagenet_result(result)

    def _taker(self, logits: F32) -> Take:
        def take(index: int, result: U8) -> None:
            sums = self._codes(result).sum(axis=(1, 2), dtype=np.int64)
            logits[index] = self._classifier.logits_of_one(sums)

        return take
