"""The reference engine: integer NumPy, written to be read. The executable specification of every arithmetic.

It walks the network layer by layer: convolution sums (exact integers, the same in every arithmetic but for the wraps
of the ImageNet core), then the arithmetic's own rules (:mod:`.rules`, :mod:`.published`). It is slow; the
``cpu`` engine computes the same bits many times faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from ..arithmetic import FAITHFUL, FLOAT, IMAGENET_2021, PublishedArithmetic, arithmetic_for
from ..errors import BackendError
from ..fixedpoint import Raw
from ..model import Model, unpack_weight
from ..networks import GatedLayer, Stem
from ..thermometer import planes
from .published import Cifar10Rules, ImageNetRules
from .rules import FaithfulRules, FloatRules, Rules

MAP_BYTES_PER_CHUNK = 256 << 20


@dataclass(frozen=True)
class LayerTrace:
    """What one layer computed. Arrays are [N, H, W, C] at the layer's output size.

    ``msb`` and ``lsb``: convolution sums M and L (int64; the stem has ``msb`` only and no ``gate``); ``gate``: where
    the LSB sum was added; ``output``: the map the layer hands on, in the arithmetic's own numbers.
    """

    name: str
    msb: Raw
    lsb: Raw | None
    gate: npt.NDArray[np.bool_] | None
    output: npt.NDArray[Any]

    @property
    def gate_fraction(self) -> float:
        """Part of the outputs whose LSB sum was added, 0..1 (0 for the stem)."""
        return 0.0 if self.gate is None else float(self.gate.mean())


class ReferenceBackend:
    """Runs ``model`` in the arithmetic called ``arithmetic``.

    Raises :class:`~fracbnn_pynq.errors.BackendError` if the arithmetic is not defined for the model's network.
    """

    name = "reference"

    def __init__(self, model: Model, arithmetic: str = "faithful") -> None:
        self.network = model.network
        self.arithmetic = arithmetic_for(model, arithmetic)
        self._rules = _make_rules(model, self.arithmetic)
        self._stem_weight = unpack_weight(model.stem_weight)
        self._weights = {name: unpack_weight(layer.weight) for name, layer in model.layers.items()}

    @overload
    def logits(self, images: npt.NDArray[np.uint8], *, layers: Literal[False] = False) -> npt.NDArray[np.float32]: ...

    @overload
    def logits(
        self, images: npt.NDArray[np.uint8], *, layers: Literal[True]
    ) -> tuple[npt.NDArray[np.float32], list[LayerTrace]]: ...

    def logits(
        self, images: npt.NDArray[np.uint8], *, layers: bool = False
    ) -> npt.NDArray[np.float32] | tuple[npt.NDArray[np.float32], list[LayerTrace]]:
        """uint8 RGB pictures [N, S, S, 3] to float32 logits [N, classes].

        With ``layers``, also what every layer computed, in network order; keep the batch small, all of it is in memory.
        """
        self.network.check_images(images)
        if layers:
            traces = list(self._walk(planes(images)))
            return self._rules.logits(traces[-1].output), traces
        parts = [self.logits_from_planes(planes(chunk)) for chunk in self._chunks(images)]
        return np.concatenate(parts) if parts else np.zeros((0, self.network.classes), np.float32)

    def logits_from_planes(self, inputs: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
        """As :meth:`logits`, from input planes int8 [N, 96, S, S] of any +1 and -1 (not only thermometer codes)."""
        return self._rules.logits(self._last_map(inputs))

    def result_map_from_planes(self, inputs: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
        """The published ImageNet core's result: 4-bit codes uint8 [N, 1024, 7, 7] (``imagenet-2021`` only)."""
        if self.arithmetic.name != IMAGENET_2021.name:
            raise BackendError(f"the result map exists in {IMAGENET_2021.name} only, not in {self.arithmetic.name}")
        return np.ascontiguousarray(self._last_map(inputs).transpose(0, 3, 1, 2).astype(np.uint8))

    @property
    def timings(self) -> Mapping[str, float]:
        """Empty: this engine has no stages."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """Empty: nothing counts here."""
        return {}

    def describe(self) -> dict[str, str]:
        """See :class:`~fracbnn_pynq.backends.Backend`."""
        return {"backend": self.name, "arithmetic": self.arithmetic.name}

    def close(self) -> None:
        """Nothing to free."""

    def _last_map(self, inputs: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
        last = None
        for layer in self._walk(inputs):
            last = layer.output
        assert last is not None  # noqa: S101 - a network has layers; this tells the type checker
        return last

    def _walk(self, inputs: npt.NDArray[np.int8]) -> Iterator[LayerTrace]:
        rules = self._rules
        sums = _sums(np.moveaxis(inputs, 1, -1), self._stem_weight, self.network.stem)
        current = rules.stem(sums)
        yield LayerTrace("stem", sums, None, None, current)
        for layer in self.network.layers:
            bits = rules.activations(current)
            weight = self._weights[layer.name]
            msb = self._conv(2 * (bits >> 1) - 1, weight, layer)
            lsb = self._conv(2 * (bits & 1) - 1, weight, layer)
            gate, current = rules.gated(layer, msb, lsb, current)
            yield LayerTrace(layer.name, msb, lsb, gate, current)

    def _conv(self, signs: npt.NDArray[np.int8], weight: npt.NDArray[np.int8], layer: GatedLayer) -> Raw:
        limit = self._rules.pointwise_tile
        if layer.kernel == 1 and limit is not None:
            # Tile by tile of input channels, because the core stores each tile's sum in a few bits.
            tiles = range(0, layer.in_channels, limit.channels)
            parts = [_sums(signs[..., t : t + 32], weight[..., t : t + 32], layer) for t in tiles]
            return self._rules.wrap_sums(np.add.reduce([limit.wrap(part) for part in parts]))
        return self._rules.wrap_sums(_sums(signs, weight, layer))

    def _chunks(self, images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
        stem = self.network.stem
        per_image = stem.out_size**2 * stem.in_channels * stem.kernel**2 * 4  # the widest matrix, float32
        step = max(1, MAP_BYTES_PER_CHUNK // per_image)
        for start in range(0, len(images), step):
            yield images[start : start + step]


def _make_rules(model: Model, arithmetic: Any) -> Rules:
    if arithmetic is FLOAT:
        return FloatRules(model)
    if arithmetic is FAITHFUL:
        return FaithfulRules(model)
    assert isinstance(arithmetic, PublishedArithmetic)  # noqa: S101 - the registry holds nothing else
    if arithmetic.network == model.network.name == "cifar10":
        return Cifar10Rules(model, arithmetic)
    return ImageNetRules(model, arithmetic)


def _sums(signs: npt.NDArray[np.int8], weight: npt.NDArray[np.int8], layer: GatedLayer | Stem) -> Raw:
    """Exact sums of a binary convolution with zero padding (a padded tap adds nothing).

    ``signs`` int8 [N, H, W, in], ``weight`` int8 [out, k, k, in], both +1/-1. Returns int64 [N, H/s, W/s, out]. Centres
    lie at even positions where the stride is 2.
    """
    k, stride = layer.kernel, layer.stride
    pad = k // 2
    padded = np.pad(signs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    # [N, h, w, in, k, k] -> columns in the weight's order. float32 holds these sums (below 2**24) exactly, and its
    # matrix product is the one NumPy has a fast routine for.
    n, h, w = windows.shape[:3]
    columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1).astype(np.float32)
    product = columns @ weight.reshape(len(weight), -1).astype(np.float32).T
    return product.astype(np.int64).reshape(n, h, w, -1)
