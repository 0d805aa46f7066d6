"""What the simulated cores compute: the seam between register models and the network's arithmetic.

A CIFAR-10 core is a function from image words to logits; an ImageNet core one from weight buffers to a function from
image words to the result map. Both run the CPU engine where the words are thermometer codes, which is always so for
real pictures, and the reference engine for any other words, or where the CPU engine's kernels are not installed. The
two engines give the same bits.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, PictureError
from ..layouts import images as layout
from ..layouts import weights as weightlayout
from ..model import LayerParameters, Model
from ..networks import IMAGENET

log = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

Cifar10Compute = Callable[[U64], F32]
"""Image words uint64 [3, 32, 32] to logits float32 [10]."""
ImageNetNetwork = Callable[[U32], U8]
"""Image words uint32 [3, 224, 224] to result codes uint8 [1024, 7, 7], 0..15."""
ImageNetCompute = Callable[[bytes, bytes, bytes], ImageNetNetwork]
"""The 3x3, 1x1 and parameter buffers to the network they describe."""

CIFAR10_ARITHMETIC = "cifar10-2020"
"""Arithmetic of the core in the public CIFAR-10 bitstream."""
IMAGENET_ARITHMETIC = "imagenet-2021"


class _Fast(Protocol):
    """What is used of the CPU engine."""

    def logits_from_levels(self, levels: U8) -> F32: ...

    def result_map_from_levels(self, levels: U8) -> U8: ...


class _Engines:
    """The CPU and the reference engine of one model and arithmetic, each made when first needed."""

    def __init__(self, model: Model, arithmetic: str) -> None:
        self._model, self._arithmetic = model, arithmetic
        self._fast: _Fast | None = None
        self._has_fast = True
        self._reference: Any = None

    @property
    def fast(self) -> _Fast | None:
        """The CPU engine; ``None`` where it cannot run here, which is logged once."""
        if self._fast is None and self._has_fast:
            try:
                cpu = import_module("..backends.cpu", __package__)
                self._fast = cpu.CpuBackend(self._model, arithmetic=self._arithmetic, threads=1)
            except (ImportError, BackendError) as error:
                log.warning("the simulated core computes slowly: the CPU engine cannot run here (%s)", error)
                self._has_fast = False
        return self._fast

    @property
    def reference(self) -> Any:
        if self._reference is None:
            from ..backends.reference import ReferenceBackend  # noqa: PLC0415 - as above

            self._reference = ReferenceBackend(self._model, self._arithmetic)
        return self._reference


class Cifar10Network:
    """The CIFAR-10 core with ``model``'s weights built in. ``model`` may be a function that loads it when needed."""

    def __init__(self, model: Model | Callable[[], Model], arithmetic: str = CIFAR10_ARITHMETIC) -> None:
        self._model = model
        self._arithmetic = arithmetic
        self._engines: _Engines | None = None

    def __call__(self, words: U64) -> F32:
        engines = self._load()
        levels = _levels(layout.unpack_cifar10_image, words)
        logits: F32
        if levels is not None and engines.fast is not None:
            logits = engines.fast.logits_from_levels(levels[None])[0]
        else:
            logits = engines.reference.logits_from_planes(layout.cifar10_planes(words)[None])[0]
        return logits

    def _load(self) -> _Engines:
        if self._engines is None:
            model = self._model if isinstance(self._model, Model) else self._model()
            self._engines = _Engines(model, self._arithmetic)
        return self._engines


class ImageNetNetworks:
    """Makes networks of weight buffers, keeping the last few: a driver that flushes the same weights costs a hash."""

    KEPT = 2

    def __init__(self, arithmetic: str = IMAGENET_ARITHMETIC) -> None:
        self._arithmetic = arithmetic
        self._kept: dict[bytes, ImageNetNetwork] = {}

    def __call__(self, conv3x3: bytes, conv1x1: bytes, parameters: bytes) -> ImageNetNetwork:
        digest = hashlib.sha256(conv3x3 + conv1x1 + parameters).digest()
        network = self._kept.pop(digest, None)
        if network is None:
            network = _UnpackedNetwork(imagenet_model(conv3x3, conv1x1, parameters), self._arithmetic)
        self._kept[digest] = network
        while len(self._kept) > self.KEPT:
            del self._kept[next(iter(self._kept))]
        return network


class _UnpackedNetwork:
    def __init__(self, model: Model, arithmetic: str) -> None:
        self._engines = _Engines(model, arithmetic)

    def __call__(self, words: U32) -> U8:
        levels = _levels(layout.unpack_imagenet_image, words)
        codes: U8
        if levels is not None and self._engines.fast is not None:
            codes = self._engines.fast.result_map_from_levels(levels[None])[0]
        else:
            codes = self._engines.reference.result_map_from_planes(layout.imagenet_planes(words)[None])[0]
        return codes


def imagenet_model(conv3x3: bytes, conv1x1: bytes, parameters: bytes) -> Model:
    """The model the three weight buffers describe; its fully connected layer, which the core has not, is zero."""
    buffers = weightlayout.ImageNetBuffers(
        np.frombuffer(conv3x3, np.uint8).reshape(-1, layout.WORD_BYTES),
        np.frombuffer(conv1x1, np.uint8).reshape(-1, layout.WORD_BYTES),
        np.frombuffer(parameters, np.int32).reshape(-1, 16),
    )
    weights = weightlayout.unpack_imagenet_weights(buffers)
    return Model(
        network=IMAGENET,
        stem_weight=_packed(weights.stem_weight),
        stem_bn=weights.stem_bn,
        layers={name: LayerParameters(_packed(bits), values) for name, (bits, values) in weights.layers.items()},
        fc_weight=np.zeros((IMAGENET.classes, IMAGENET.features)),
        fc_bias=np.zeros(IMAGENET.classes),
        classes=tuple(f"class {i}" for i in range(IMAGENET.classes)),
        provenance={"description": "weights found in the memory of a simulated board"},
    )


def _levels(unpack: Callable[[Any], U8], words: U32 | U64) -> U8 | None:
    """Thermometer levels of image words; ``None`` where they are not thermometer codes."""
    try:
        return unpack(words)
    except PictureError:
        return None


def _packed(bits: U8) -> U8:
    return np.packbits(bits, axis=-1, bitorder="little")
