"""What a layer is fitted on: sampled inputs of its channels as the core has them, and what should come out.

Real values travel as 16-bit numbers with 13 fraction bits, so that every sum and every decision is exact.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..arithmetic import IMAGENET_2021
from ..backends.published import ImageNetRules, two_thirds, with_third
from ..backends.rules import duplicated, float_layer, pooled_parts
from ..faithful import CODE_SCALE
from ..fixedpoint import Raw
from ..model import LayerParameters
from ..networks import GatedLayer, Network
from .engine import Codes, Int16, LayerEngine, Samples, Sums

Scalar = TypeVar("Scalar", bound=np.generic)

ONE = 1 << 13
"""1.0 as a 16-bit number."""
_LARGEST = 4 * ONE - 1
_MEAN_LIMIT = round(1.2 * ONE)
"""Means are taken of values limited to +-1.2: what lies further out is cut off by the code anyway."""
TARGET_UNIT = 16
"""Targets count sixteenths of a code."""
_CODES = 15
_ACTIVATION_STEPS = (-(2 * ONE) // 3 + 1, 0, (2 * ONE) // 3 + 1)
VALUE_OF_CODE = np.arange(_CODES + 1) / CODE_SCALE - 1


def sample_positions(network: Network, pictures: int, each: int, seed: int) -> dict[int, npt.NDArray[np.int32]]:
    """Positions (row * size + column) int32 [pictures, S] for every size of map: ``each``, or all of a small map."""
    sizes = sorted({network.stem.out_size, *(layer.out_size for layer in network.layers)}, reverse=True)
    random = np.random.default_rng(seed)
    found = {}
    for size in sizes:
        count = size * size
        if size == network.pool_size or count <= each:
            found[size] = np.tile(np.arange(count, dtype=np.int32), (pictures, 1))
        else:
            order = [np.argsort(random.random(count), kind="stable")[:each] for _ in range(pictures)]
            found[size] = np.sort(np.array(order, np.int32), axis=1)
    return found


def at(values: npt.NDArray[Scalar], positions: npt.NDArray[np.int32]) -> npt.NDArray[Scalar]:
    """Values [N, H, W, C] at ``positions`` [N, S]: [N, S, C]."""
    flat = values.reshape(len(values), -1, values.shape[-1])
    return np.take_along_axis(flat, positions[:, :, None].astype(np.int64), 1)


def as_int16(values: npt.NDArray[np.float64]) -> Int16:
    """Real values as 16-bit numbers, limited to +-4."""
    return np.clip(np.rint(values * ONE), -_LARGEST, _LARGEST).astype(np.int16)


def limited_sums(values: Int16) -> Raw:
    """Sums per channel of 16-bit numbers [..., C], each limited to +-1.2: int64 [C]."""
    limited = np.clip(values, -_MEAN_LIMIT, _MEAN_LIMIT).reshape(-1, values.shape[-1])
    return limited.sum(axis=0, dtype=np.int64)


def squares_under(layer: GatedLayer, codes: Codes, positions: npt.NDArray[np.int32]) -> Codes:
    """Input codes that make up the shortcut at output positions: [N, S, stride, stride, in channels]."""
    row, column = np.divmod(positions.astype(np.int64), layer.out_size)
    pictures = np.arange(len(codes))[:, None]
    step = layer.stride
    rows = [
        np.stack([codes[pictures, row * step + i, column * step + j] for j in range(step)], axis=2) for i in range(step)
    ]
    return np.stack(rows, axis=2)


def core_shortcut(rules: ImageNetRules, layer: GatedLayer, squares: Codes) -> Codes:
    """Shortcut codes as the core makes them from :func:`squares_under`: [N, S, out channels]."""
    if layer.stride == 2:
        n, positions, _, _, channels = squares.shape
        pooled = rules.pooled(squares.reshape(n * positions, 2, 2, channels).astype(np.int64))
        codes = pooled.reshape(n, positions, channels).astype(np.uint8)
    else:
        codes = squares[:, :, 0, 0]
    return duplicated(layer, codes).astype(np.uint8)


def real_shortcut(layer: GatedLayer, squares: Codes) -> npt.NDArray[np.float64]:
    """The same as the float network has it: the exact mean of four codes' values."""
    values = VALUE_OF_CODE[squares]
    if layer.stride == 2:
        n, positions, _, _, channels = squares.shape
        parts = pooled_parts(values.reshape(n * positions, 2, 2, channels))
        mean = (np.add.reduce(parts) / 4).reshape(n, positions, channels)
    else:
        mean = values[:, :, 0, 0]
    return duplicated(layer, mean)


def local_target(engine: LayerEngine, layer: GatedLayer, wanted: LayerParameters, sums: Sums, squares: Codes) -> Int16:
    """What the float layer would make of the core's own input: 16-bit numbers [N, S, C]. ``sums`` are exact."""

    def work(part: slice) -> Int16:
        shortcut = real_shortcut(layer, squares[part])
        return as_int16(float_layer(wanted, sums.msb[part], sums.lsb[part], shortcut)[1])

    step = max(1, (1 << 19) // (sums.msb.shape[1] * layer.out_channels))
    return np.concatenate(list(engine.map(work, [slice(i, i + step) for i in range(0, len(sums.msb), step)])))


def towards_teacher(target: Int16, teacher_sums: Raw) -> Int16:
    """The local target with each channel's mean moved to the teacher's; [N, S, C]."""
    count = target.shape[0] * target.shape[1]
    difference = teacher_sums - limited_sums(target)
    shift = (2 * difference + count) // (2 * count)
    return np.clip(target + shift, -_LARGEST, _LARGEST).astype(np.int16)


def make_samples(sums: Sums, shortcut: Codes, target: Int16) -> Samples:
    """Samples for :meth:`.engine.LayerEngine.fit`; ``sums`` as the core stores them, the others [N, S, C]."""
    closed, opened = branch_values(sums)
    wanted, activation = target_codes(by_channel(target))
    return Samples(closed, opened, by_channel(shortcut).astype(np.int16), wanted, activation)


def branch_values(sums: Sums) -> tuple[Int16, Int16]:
    """The core's feature numbers with the gate closed and open: int16 [C, N * S] each."""
    closed = two_thirds(IMAGENET_2021, by_channel(sums.msb).astype(np.int32))
    opened = with_third(IMAGENET_2021, closed, by_channel(sums.lsb).astype(np.int32))
    return closed.astype(np.int16), opened.astype(np.int16)


def target_codes(values: Int16) -> tuple[Int16, Int16]:
    """16-bit numbers as targets: codes in sixteenths, not rounded to whole ones, and activations."""
    limited = np.clip(values, -ONE, ONE).astype(np.int32)
    wanted = ((limited + ONE) * (_CODES * TARGET_UNIT) + ONE) // (2 * ONE)
    activation = np.searchsorted(_ACTIVATION_STEPS, limited, side="right")
    return wanted.astype(np.int16), activation.astype(np.int16)


def by_channel(values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """[N, S, C] to [C, N * S]."""
    return np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T)
