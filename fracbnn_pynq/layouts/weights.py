"""How weights and parameters lie in the published accelerators' memory: the ImageNet core's buffers, CIFAR-10's table.

Pure numpy. Bit k of a 64-byte word is bit ``k % 8`` of its byte ``k // 8``; all integers are little-endian. Weight
bits are 1 for +1 and 0 for -1, as arrays [out, row, column, in]; the stem's input channel is ``32 * colour + t``.
Source: the authors' HLS sources and host programs, checked against the weights they published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..model import Model
from ..networks import CIFAR10, IMAGENET, LAYER_PARAMETERS, GatedLayer, Network, Stem
from .images import IMAGENET_CONV1X1_WORDS, IMAGENET_CONV3X3_WORDS, IMAGENET_PARAMETER_WORDS, WORD_BYTES

log = logging.getLogger(__name__)

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]

CIFAR10_TILE_2021, CIFAR10_TILE_2020 = 16, 8
"""Output channels per tile of the convolution table, in the released sources and in the published bitstream."""
IMAGENET_PARAMETER_FRACTION_BITS = 26

_LANES = 16


# Weights of the ImageNet core -----------------------------------------------------------------------------------------


class ImageNetBuffers(NamedTuple):
    """The three weight buffers: uint8 [49104, 64], uint8 [6132, 64], int32 [5460, 16] with 26 fraction bits."""

    conv3x3: U8
    conv1x1: U8
    parameters: I32


class ImageNetWeights(NamedTuple):
    """Stem bits uint8 [32, 3, 3, 96], stem batch norm float64 [2, 32] (weight, bias), and per gated layer its bits
    uint8 [out, k, k, in] with its parameters float64 [8, out] in the order of ``networks.LAYER_PARAMETERS``."""

    stem_weight: U8
    stem_bn: F64
    layers: dict[str, tuple[U8, F64]]


def pack_imagenet_weights(stem_weight: Bits, stem_bn: F64, layers: Mapping[str, tuple[Bits, F64]]) -> ImageNetBuffers:
    """Buffers of a model; :class:`ImageNetWeights` describes the arrays. Raises ModelError where one does not fit."""
    words: dict[int, list[U8]] = {3: [], 1: []}
    arrays = {"stem": _expect("stem batch norm", stem_bn, (2, IMAGENET.stem.out_channels))}
    for name, (out, kernel, channels) in _weight_shapes(IMAGENET).items():
        bits = stem_weight if name == "stem" else _layer(layers, name)[0]
        words[kernel].append(_pack_tiles(_check_bits(name, bits, (out, kernel, kernel, channels))))
        if name != "stem":
            arrays[name] = _expect(f"{name} parameters", layers[name][1], (len(LAYER_PARAMETERS), out))
    values = np.concatenate([arrays[name][row] for name, row, _ in _parameter_slots()])
    return ImageNetBuffers(
        np.concatenate(words[3]),
        np.concatenate(words[1]),
        imagenet_parameter_raw(values).reshape(-1, _LANES),
    )


def pack_model(model: Model) -> ImageNetBuffers:
    """Buffers of an ImageNet model; raises ModelError for a model of another network."""
    if model.network.name != IMAGENET.name:
        raise ModelError(f"expected a model of {IMAGENET.title}, found one of {model.network.title}")

    def bits(packed: U8) -> U8:
        return np.unpackbits(packed, axis=-1, bitorder="little")

    layers = {name: (bits(layer.weight), layer.parameters) for name, layer in model.layers.items()}
    return pack_imagenet_weights(bits(model.stem_weight), model.stem_bn, layers)


def unpack_imagenet_weights(buffers: ImageNetBuffers) -> ImageNetWeights:
    """The inverse of :func:`pack_imagenet_weights`, exact. Raises ModelError where a buffer has another form."""
    remaining = {
        3: _expect("3x3 weights", buffers.conv3x3, (IMAGENET_CONV3X3_WORDS, WORD_BYTES), np.uint8),
        1: _expect("1x1 weights", buffers.conv1x1, (IMAGENET_CONV1X1_WORDS, WORD_BYTES), np.uint8),
    }
    raw = _expect("1-D parameters", buffers.parameters, (IMAGENET_PARAMETER_WORDS, _LANES), np.int32)
    bits = {}
    for name, (out, kernel, channels) in _weight_shapes(IMAGENET).items():
        count = out * channels * kernel * kernel // (8 * WORD_BYTES)
        bits[name] = _unpack_tiles(remaining[kernel][:count], out, kernel, channels)
        remaining[kernel] = remaining[kernel][count:]
    values = np.ldexp(raw.reshape(-1).astype(np.float64), -IMAGENET_PARAMETER_FRACTION_BITS)
    arrays = {name: np.empty((len(LAYER_PARAMETERS), len(weight))) for name, weight in bits.items()}
    start = 0
    for name, row, channels in _parameter_slots():
        arrays[name][row] = values[start : start + channels]
        start += channels
    layers = {name: (bits[name], arrays[name]) for name in bits if name != "stem"}
    return ImageNetWeights(bits["stem"], arrays["stem"][:2].copy(), layers)


def imagenet_parameter_raw(values: F64) -> I32:
    """1-D parameters as the ImageNet core is given them: int32 with 26 fraction bits, ties to even, saturated.

    Raises ModelError for values that are not finite; logs a warning where one lies outside [-32, 32).
    """
    if not np.all(np.isfinite(values)):
        raise ModelError("1-D parameters must be finite numbers; found infinities or NaN")
    scaled = np.rint(np.ldexp(np.asarray(values, np.float64), IMAGENET_PARAMETER_FRACTION_BITS))
    limits = np.iinfo(np.int32)
    raw = np.clip(scaled, limits.min, limits.max)
    if np.any(raw != scaled):
        log.warning("%d parameters lie outside [-32, 32) and are saturated", np.count_nonzero(raw != scaled))
    return raw.astype(np.int32)


def _parameter_slots() -> Iterator[tuple[str, int, int]]:
    """(layer, row of its parameter array, channels) in the order of the parameter buffer."""
    stem = IMAGENET.stem
    yield from ((stem.name, row, stem.out_channels) for row in range(2))
    groups = (("threshold", "bn1_weight", "bn1_bias"), ("shift_x", "shift_y", "slope"), ("bn2_weight", "bn2_bias"))
    for pair in zip(IMAGENET.layers[0::2], IMAGENET.layers[1::2], strict=True):
        for names in groups:
            for layer in pair:
                yield from ((layer.name, LAYER_PARAMETERS.index(name), layer.out_channels) for name in names)


def _pack_tiles(bits: Bits) -> U8:
    """[out, k, k, in] -> words by output tile, input tile, half of the output tile, kernel row, kernel column."""
    out, kernel, _, channels = bits.shape
    tiled = bits.reshape(out // 32, 2, _LANES, kernel, kernel, channels // 32, 32).transpose(0, 5, 1, 3, 4, 2, 6)
    return np.packbits(tiled, axis=-1, bitorder="little").reshape(-1, WORD_BYTES)


def _unpack_tiles(words: U8, out: int, kernel: int, channels: int) -> U8:
    tiled = np.unpackbits(words.reshape(-1, 4), axis=-1, bitorder="little")
    tiled = tiled.reshape(out // 32, channels // 32, 2, kernel, kernel, _LANES, 32).transpose(0, 2, 5, 3, 4, 1, 6)
    return np.ascontiguousarray(tiled).reshape(out, kernel, kernel, channels)


# Convolution table of the CIFAR-10 core -------------------------------------------------------------------------------


def pack_cifar10_weights(stem_weight: Bits, layers: Mapping[str, Bits], tile: int = CIFAR10_TILE_2021) -> U64:
    """Convolution table uint64 [720 / tile, tile, 3, 3], bit 63 - c for input channel c, of the canonical weight bits.

    ``stem_weight``: [16, 3, 3, 96]; ``layers``: [out, 3, 3, in] by layer name. ``tile``: output channels per tile, 16
    (released sources) or 8 (published bitstream). Raises ModelError where an array does not fit.
    """
    _check_tile(tile)
    tiles = []
    for name, (out, kernel, channels) in _weight_shapes(CIFAR10).items():
        bits = stem_weight if name == "stem" else _layer(layers, name)
        groups = 3 if name == "stem" else 1
        bits = _check_bits(name, bits, (out, kernel, kernel, channels))
        tiled = bits.reshape(out // tile, tile, 3, 3, groups, channels // groups).transpose(0, 4, 1, 2, 3, 5)
        padded = np.zeros((*tiled.shape[:-1], 64), np.uint8)
        padded[..., : tiled.shape[-1]] = tiled
        words = np.packbits(padded, axis=-1).view(">u8")
        tiles.append(words.reshape(-1, tile, 3, 3).astype(np.uint64))
    return np.concatenate(tiles)


def unpack_cifar10_weights(table: U64, tile: int = CIFAR10_TILE_2021) -> tuple[U8, dict[str, U8]]:
    """The inverse of :func:`pack_cifar10_weights`: stem bits and layer bits, uint8.

    Raises ModelError where the table has another form or has a bit set that stands for no channel.
    """
    _check_tile(tile)
    shapes = _weight_shapes(CIFAR10)
    count = {name: out * (3 if name == "stem" else 1) // tile for name, (out, _, _) in shapes.items()}
    table = _expect("convolution table", table, (sum(count.values()), tile, 3, 3), np.uint64)
    bits, start = {}, 0
    for name, (out, kernel, channels) in shapes.items():
        groups = 3 if name == "stem" else 1
        words = np.ascontiguousarray(table[start : start + count[name]], ">u8")
        start += count[name]
        tiled = np.unpackbits(words[..., None].view(np.uint8), axis=-1)
        if np.any(tiled[..., channels // groups :]):
            raise ModelError(f"{name}: expected only the {channels // groups} highest bits of a word set, found others")
        tiled = tiled[..., : channels // groups].reshape(out // tile, groups, tile, 3, 3, channels // groups)
        bits[name] = np.ascontiguousarray(tiled.transpose(0, 2, 3, 4, 1, 5)).reshape(out, kernel, kernel, channels)
    return bits.pop("stem"), bits


def _weight_shapes(network: Network) -> dict[str, tuple[int, int, int]]:
    """(output channels, kernel, input channels) of the stem and every gated layer, in network order."""
    layers: tuple[Stem | GatedLayer, ...] = (network.stem, *network.layers)
    return {layer.name: (layer.out_channels, layer.kernel, layer.in_channels) for layer in layers}


def _check_tile(tile: int) -> None:
    if tile not in (CIFAR10_TILE_2020, CIFAR10_TILE_2021):
        raise ModelError(f"tile: expected {CIFAR10_TILE_2020} or {CIFAR10_TILE_2021} output channels, found {tile}")


def _layer(layers: Mapping[str, Any], name: str) -> Any:
    try:
        return layers[name]
    except KeyError:
        raise ModelError(f"layer {name} is missing: found {', '.join(layers) or 'none'}") from None


def _check_bits(name: str, bits: Bits, shape: tuple[int, ...]) -> Bits:
    if bits.shape != shape or bits.dtype not in (np.uint8, np.bool_):
        raise ModelError(f"{name}: expected bool or uint8 {list(shape)}, found {bits.dtype.name} {list(bits.shape)}")
    if bits.dtype == np.uint8 and bits.max() > 1:
        raise ModelError(f"{name}: expected weight bits 0 and 1, found {bits.max()}")
    return bits


def _expect(what: str, array: Any, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> Any:
    if array.shape != shape or array.dtype != dtype:
        expected = f"{np.dtype(dtype).name} {list(shape)}"
        raise ModelError(f"{what}: expected {expected}, found {array.dtype.name} {list(array.shape)}")
    return array
