"""The authors' ImageNet release: the five .bin files their host program hands to the core and to the classifier.

Three buffers in the core's layout (3x3 weights, 1x1 weights, one-dimensional parameters) and the fully connected
layer's weight and bias as float32. Each has a size of its own, by which it is recognised, whatever its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..classes import imagenet_classes
from ..errors import ModelError, SourceError
from ..files import read_file
from ..layouts.images import (
    IMAGENET_CONV1X1_WORDS,
    IMAGENET_CONV3X3_WORDS,
    IMAGENET_PARAMETER_WORDS,
    WORD_BYTES,
)
from ..layouts.weights import ImageNetBuffers, unpack_imagenet_weights
from ..model import LayerParameters, Model
from ..networks import IMAGENET
from .parameters import rounded_classifier

SIZES = {
    IMAGENET_CONV3X3_WORDS * WORD_BYTES: "3x3 weights",
    IMAGENET_CONV1X1_WORDS * WORD_BYTES: "1x1 weights",
    IMAGENET_PARAMETER_WORDS * WORD_BYTES: "parameters",
    IMAGENET.classes * IMAGENET.features * 4: "fully connected weights",
    IMAGENET.classes * 4: "fully connected biases",
}
"""What a file of a given size, in bytes, holds."""


def import_host_files(paths: Iterable[Path], provenance: dict[str, Any]) -> Model:
    """An ImageNet model from the five files, in any order.

    Raises :class:`~fracbnn_pynq.errors.SourceError` if one is missing or of another size.
    """
    found = {}
    for path in paths:
        data = read_file(path, max(SIZES), SourceError)
        if len(data) not in SIZES:
            expected = ", ".join(f"{size} ({what})" for size, what in SIZES.items())
            raise SourceError(f"{path}: expected a file of one of these sizes: {expected}; found {len(data)} bytes")
        what = SIZES[len(data)]
        if what in found:
            raise SourceError(f"{path}: expected one file with the {what}, found a second one")
        found[what] = data
    missing = [what for what in SIZES.values() if what not in found]
    if missing:
        raise SourceError(f"expected five files, found none with the {', '.join(missing)}")
    buffers = ImageNetBuffers(
        np.frombuffer(found["3x3 weights"], np.uint8).reshape(-1, WORD_BYTES),
        np.frombuffer(found["1x1 weights"], np.uint8).reshape(-1, WORD_BYTES),
        np.frombuffer(found["parameters"], "<i4").reshape(-1, WORD_BYTES // 4).astype(np.int32),
    )
    return model_from_buffers(
        buffers,
        np.frombuffer(found["fully connected weights"], "<f4").reshape(IMAGENET.classes, -1),
        np.frombuffer(found["fully connected biases"], "<f4"),
        provenance,
    )


def model_from_buffers(
    buffers: ImageNetBuffers, fc_weight: npt.NDArray[Any], fc_bias: npt.NDArray[Any], provenance: dict[str, Any]
) -> Model:
    """An ImageNet model from the core's buffers and the host's fully connected layer."""
    weights = unpack_imagenet_weights(buffers)

    def packed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.packbits(bits, axis=-1, bitorder="little")

    if not (np.isfinite(fc_weight).all() and np.isfinite(fc_bias).all()):
        raise SourceError("fully connected layer: expected finite numbers, found NaN or infinity")
    try:
        return Model(
            network=IMAGENET,
            stem_weight=packed(weights.stem_weight),
            stem_bn=weights.stem_bn,
            layers={name: LayerParameters(packed(bits), rows) for name, (bits, rows) in weights.layers.items()},
            fc_weight=rounded_classifier(IMAGENET, fc_weight.astype(np.float64)),
            fc_bias=fc_bias.astype(np.float64),
            classes=imagenet_classes(),
            provenance=provenance,
        )
    except ModelError as error:
        raise SourceError(str(error)) from None
