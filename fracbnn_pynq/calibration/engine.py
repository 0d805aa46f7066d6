"""Layers of the published ImageNet core one at a time, on all pictures, by the package's own kernels.

Maps are 4-bit codes, uint8 [N, size, size, channels]. Nothing here depends on the processor or on how many threads
work: sums and codes are exact integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .. import native
from ..backends.plan import LayerPlan, stem_lookup
from ..draft import LayerDraft
from ..fixedpoint import Raw, wrap
from ..model import Bits, Real, unpack_weight
from ..networks import GatedLayer, Stem

Codes = npt.NDArray[np.uint8]
Int16 = npt.NDArray[np.int16]
Result = TypeVar("Result")

CHUNK_BYTES = 16 << 20
"""Sums computed at a time: few enough to stay near the processor."""
_PART, _FIRST = 4, 2000
"""The search from several starts looks at one sample in four, but at two thousand where there are so many."""


@dataclass(frozen=True)
class Sums:
    """Convolution sums at sampled positions: M and L, int16 [N, positions, channels]."""

    msb: Int16
    lsb: Int16


@dataclass(frozen=True)
class Samples:
    """What a layer's channels are fitted on; int16 [channels, n], contiguous.

    ``closed`` and ``open``: the core's feature number of 2/3 M, and of it plus 1/3 L; ``shortcut``: codes; ``target``:
    the wanted code in 1/16 (last layer: the wanted value in 1/256); ``activation``: the wanted one, 0..3.
    """

    closed: Int16
    open: Int16
    shortcut: Int16
    target: Int16
    activation: Int16 | None

    def channels(self, which: slice) -> Samples:
        """The samples of some channels."""
        activation = None if self.activation is None else self.activation[which]
        return Samples(self.closed[which], self.open[which], self.shortcut[which], self.target[which], activation)


@dataclass(frozen=True)
class Fitted:
    """Best parameters raw int64 [8, C]; losses a sample of the first start and of the best [C]; affine map [2, C]."""

    raw: Raw
    before: Real
    after: Real
    affine: Real


class LayerEngine:
    """Runs and fits layers with ``threads`` threads. Use as a context manager."""

    def __init__(self, threads: int) -> None:
        self._name, self._layout = next(iter(native.engines().items()))
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fracbnn-calibrate")

    def __enter__(self) -> LayerEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[..., Result], *arguments: Any) -> Iterator[Result]:
        """``map(work, *arguments)`` on the engine's threads."""
        return self._pool.map(work, *arguments)

    def sums(
        self, layer: GatedLayer, draft: LayerDraft, codes: Codes, positions: npt.NDArray[np.int32], *, exact: bool
    ) -> Sums:
        """Sums of ``layer`` at ``positions`` int32 [N, S] of its output (row * size + column).

        ``exact``: as the network defines them; else as the core stores them, in 10 bits that wrap.
        """
        plan = LayerPlan(layer, draft.signs(), layout=self._layout, exact=exact)

        def work(part: slice) -> Sums:
            chosen, where = codes[part], positions[part]
            found = self.all_sums(plan, layer, chosen).reshape(len(chosen), -1, layer.out_channels)
            packed = np.take_along_axis(found, where[:, :, None].astype(np.int64), 1)
            return unpack_sums(packed, exact=exact)

        parts = list(self.map(work, self._chunks(layer, len(codes))))
        return Sums(np.concatenate([p.msb for p in parts]), np.concatenate([p.lsb for p in parts]))

    def all_sums(self, plan: LayerPlan, layer: GatedLayer, codes: Codes) -> npt.NDArray[np.int32]:
        """Packed sums of every output, int32 [N, size, size, channels], computed by the calling thread."""
        found = np.empty((len(codes), layer.out_size, layer.out_size, layer.out_channels), np.int32)
        self._run(plan, codes, found, None)
        return found

    def exact_plan(self, layer: GatedLayer, draft: LayerDraft) -> LayerPlan:
        """What :meth:`all_sums` needs for exact sums."""
        return LayerPlan(layer, draft.signs(), layout=self._layout, exact=True)

    def run(self, layer: GatedLayer, draft: LayerDraft, codes: Codes) -> Codes:
        """The layer's output codes as the core computes them, memory overlap included."""
        plan = LayerPlan(layer, draft.signs(), draft.raw, layout=self._layout)
        output = np.empty((len(codes), layer.out_size, layer.out_size, layer.out_channels), np.uint8)

        def work(part: slice) -> None:
            self._run(plan, codes[part], None, output[part])

        for _ in self.map(work, self._chunks(layer, len(codes))):
            pass
        return output

    def fit(
        self, samples: Samples, starts: npt.NDArray[np.int32], *, kept: int, passes: int, positions: int = 0
    ) -> Fitted:
        """The best parameters per channel from ``starts`` int32 [C, S, 8] (native/fit.c has the search).

        ``positions``: how many a picture has, for the last layer, which is fitted on pooled values; else 0.
        """
        channels, n = samples.closed.shape
        activation = samples.closed if samples.activation is None else samples.activation
        arrays = (samples.closed, samples.open, samples.shortcut, samples.target, activation)
        plan = native.FitPlan(
            [_mixed(array) if not positions else np.ascontiguousarray(array) for array in arrays],
            np.ascontiguousarray(starts),
            first=n if positions else min(n, max(_FIRST, n // _PART)),
            positions=positions,
            kept=kept,
            passes=passes,
        )
        step = max(1, -(-channels // (8 * self.threads)))
        for _ in self.map(lambda first: plan.fit(first, min(first + step, channels)), range(0, channels, step)):
            pass
        unit = 1.0 if positions else 1.0 / (1024 * n)
        before, after = (plan.losses * unit).T
        return Fitted(plan.best.T.astype(np.int64), before, after, plan.affine.T.copy())

    def _chunks(self, layer: GatedLayer, count: int) -> list[slice]:
        size = max(1, CHUNK_BYTES // (4 * layer.out_size**2 * layer.out_channels))
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    def _run(self, plan: LayerPlan, codes: Codes, sums: npt.NDArray[np.int32] | None, output: Codes | None) -> None:
        native.run_layer(self._name, plan.words, np.ascontiguousarray(codes), sums=sums, output=output)


def _mixed(array: Int16) -> Int16:
    """Samples [C, n] with every fourth one first, so that the first ones stand for all."""
    return np.ascontiguousarray(np.concatenate([array[:, part::_PART] for part in range(_PART)], axis=1))


def unpack_sums(packed: npt.NDArray[np.int32], *, exact: bool) -> Sums:
    """M and L from halved pairs; ``exact``: not wrapped to the core's 10 bits."""
    whole = packed.astype(np.int64)
    msb, lsb = 2 * (whole >> 16), 2 * packed.astype(np.int16).astype(np.int64)
    if not exact:
        msb, lsb = wrap(msb, 10), wrap(lsb, 10)
    return Sums(msb.astype(np.int16), lsb.astype(np.int16))


class StemSums:
    """The first layer's sums by look-up: a table of what each tap and colour adds at each thermometer level."""

    def __init__(self, stem: Stem, weight: Bits) -> None:
        self._stem = stem
        self._lookup = stem_lookup(unpack_weight(weight))

    def __call__(self, levels: npt.NDArray[np.uint8]) -> Int16:
        """Levels (0..32) uint8 [N, size, size, 3] to sums int16 [N, size, size, channels] of the output's size."""
        stride, out = self._stem.stride, self._stem.out_size
        border = self._lookup.shape[1] - 1
        padded = np.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
        total = np.zeros((len(levels), out, out, self._stem.out_channels), np.int16)
        for tap in range(9):
            row, column = divmod(tap, 3)
            seen = padded[:, row : row + stride * out : stride, column : column + stride * out : stride]
            for colour in range(3):
                total += self._lookup[3 * tap + colour][seen[..., colour]]
        return total
