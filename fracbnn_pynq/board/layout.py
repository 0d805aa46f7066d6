"""How images, weights, parameters and results lie in the memory the published accelerators read and write.

Pure numpy. Bit k of a 64-byte word is bit ``k % 8`` of its byte ``k // 8``; all integers are little-endian. Weight
bits are 1 for +1 and 0 for -1, as arrays [out, row, column, in]; the stem's input channel is ``32 * colour + t``.
Source: the authors' HLS sources and host programs, checked against the weights, images and results they published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import AcceleratorError, ModelError, PictureError
from ..networks import (
    CIFAR10,
    IMAGENET,
    INPUT_PLANES,
    LAYER_PARAMETERS,
    THERMOMETER_LEVELS,
    GatedLayer,
    Network,
    Stem,
)
from ..thermometer import LEVELS

logger = logging.getLogger(__name__)

W = TypeVar("W", np.uint32, np.uint64)
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]

CIFAR10_IMAGE_SHAPE = (3, 32, 32)
"""uint64 words [colour, row, column]; level t is bit 63 - t, bits 31..0 are zero."""
CIFAR10_IMAGE_BYTES = 24_576
CIFAR10_RESULT_SHAPE = (10,)
"""float32 logits."""
CIFAR10_RESULT_BYTES = 40
CIFAR10_TILE_2021, CIFAR10_TILE_2020 = 16, 8
"""Output channels per tile of the convolution table, in the released sources and in the published bitstream."""

IMAGENET_IMAGE_SHAPE = (3, 224, 224)
"""uint32 words [colour, row, column]; level t is bit t."""
IMAGENET_IMAGE_BYTES = 602_112
WORD_BYTES = 64
"""Bytes of the ImageNet core's 512-bit memory word."""
IMAGENET_CONV3X3_WORDS, IMAGENET_CONV3X3_BYTES = 49_104, 3_142_656
IMAGENET_CONV1X1_WORDS, IMAGENET_CONV1X1_BYTES = 6_132, 392_448
IMAGENET_PARAMETER_WORDS, IMAGENET_PARAMETER_BYTES = 5_460, 349_440
IMAGENET_SCRATCH_WORDS, IMAGENET_SCRATCH_BYTES = 203_400, 13_017_600
IMAGENET_RESULT_WORDS = 448
"""The result is the first words of the scratch memory: block 13's map, 1024 x 7 x 7 codes of 4 bits."""
IMAGENET_PARAMETER_FRACTION_BITS = 26

TILE_CHANNELS = 32
"""Channels of one tile of the ImageNet core's weights and maps."""
BANK_TILES = 32
"""Tiles of one bank of the scratch memory: bank 0 holds stem and block outputs, bank 1 the 3x3 outputs."""

_LANES = 16
_CIFAR10_CODES = np.array([((1 << r) - 1) << (64 - r) for r in range(THERMOMETER_LEVELS + 1)], np.uint64)
_IMAGENET_CODES = np.array([(1 << r) - 1 for r in range(THERMOMETER_LEVELS + 1)], np.uint32)
_CIFAR10_TABLE: U64 = _CIFAR10_CODES[LEVELS]
_IMAGENET_TABLE: U32 = _IMAGENET_CODES[LEVELS]


# Images ---------------------------------------------------------------------------------------------------------------


def pack_cifar10_image(image: U8, out: U64 | None = None) -> U64:
    """Thermometer code of one picture or a batch, as the CIFAR-10 core reads it.

    ``image``: uint8 [..., 32, 32, 3] RGB. ``out``: uint64 [..., 3, 32, 32], written in place (an accelerator's buffer);
    a new array without it. Returns ``out``. Raises PictureError where shape or dtype are others.
    """
    return _pack_image(image, out, _CIFAR10_TABLE, CIFAR10_IMAGE_SHAPE)


def unpack_cifar10_image(words: U64) -> U8:
    """Thermometer levels uint8 [..., 32, 32, 3], 0..32, of CIFAR-10 image words uint64 [..., 3, 32, 32].

    Raises PictureError where a word is not a thermometer code; ``cifar10_planes`` reads those.
    """
    return _unpack_image(words, _CIFAR10_CODES, CIFAR10_IMAGE_SHAPE)


def cifar10_planes(words: U64) -> I8:
    """Input planes int8 [..., 96, 32, 32], +1 or -1, of any CIFAR-10 image words uint64 [..., 3, 32, 32].

    Raises PictureError where one of the bits 31..0 is set: those take part in the core's sums and have no plane.
    """
    _check(words, np.uint64, CIFAR10_IMAGE_SHAPE, "image words")
    if np.any(words & np.uint64(0xFFFF_FFFF)):
        raise PictureError("CIFAR-10 image words must have bits 31..0 zero; found words where they are not")
    return _planes(words, 63 - np.arange(THERMOMETER_LEVELS, dtype=np.uint64))


def pack_imagenet_image(image: U8, out: U32 | None = None) -> U32:
    """Thermometer code of one picture or a batch, as the ImageNet core reads it.

    ``image``: uint8 [..., 224, 224, 3] RGB. ``out``: uint32 [..., 3, 224, 224], written in place; a new array without
    it. Returns ``out``. Raises PictureError where shape or dtype are others.
    """
    return _pack_image(image, out, _IMAGENET_TABLE, IMAGENET_IMAGE_SHAPE)


def unpack_imagenet_image(words: U32) -> U8:
    """Thermometer levels uint8 [..., 224, 224, 3], 0..32, of ImageNet image words uint32 [..., 3, 224, 224].

    Raises PictureError where a word is not a thermometer code; ``imagenet_planes`` reads those.
    """
    return _unpack_image(words, _IMAGENET_CODES, IMAGENET_IMAGE_SHAPE)


def imagenet_planes(words: U32) -> I8:
    """Input planes int8 [..., 96, 224, 224], +1 or -1, of any ImageNet image words uint32 [..., 3, 224, 224]."""
    _check(words, np.uint32, IMAGENET_IMAGE_SHAPE, "image words")
    return _planes(words, np.arange(THERMOMETER_LEVELS, dtype=np.uint32))


def _check(array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int, ...], what: str) -> None:
    if array.dtype != dtype or array.shape[-len(shape) :] != shape:
        expected = f"{np.dtype(dtype).name} [..., {', '.join(map(str, shape))}]"
        raise PictureError(f"{what}: expected {expected}, found {array.dtype.name} {list(array.shape)}")


def _pack_image(image: U8, out: npt.NDArray[W] | None, table: npt.NDArray[W], shape: tuple[int, ...]) -> npt.NDArray[W]:
    _check(image, np.uint8, shape[1:] + shape[:1], "picture")
    if out is None:
        out = np.empty(image.shape[:-3] + shape, table.dtype)
    elif out.dtype != table.dtype or out.shape != image.shape[:-3] + shape:
        expected = f"{table.dtype.name} {list(image.shape[:-3] + shape)}"
        raise PictureError(f"buffer for image words: expected {expected}, found {out.dtype.name} {list(out.shape)}")
    # Any mode but "raise" lets take() write into `out` without a buffer between; 8-bit indices never leave the table.
    return table.take(image.swapaxes(-1, -2).swapaxes(-2, -3), out=out, mode="wrap")


def _unpack_image(words: npt.NDArray[Any], codes: npt.NDArray[Any], shape: tuple[int, ...]) -> U8:
    _check(words, codes.dtype, shape, "image words")
    levels = np.minimum(np.searchsorted(codes, words), THERMOMETER_LEVELS)
    wrong = codes[levels] != words
    if np.any(wrong):
        first = words[wrong].flat[0]
        raise PictureError(f"expected thermometer codes, found {np.count_nonzero(wrong)} other words, first {first:#x}")
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1), np.uint8)


def _planes(words: npt.NDArray[Any], shifts: npt.NDArray[Any]) -> I8:
    bits = (words[..., None, :, :] >> shifts[:, None, None]) & words.dtype.type(1)
    signs: I8 = bits.astype(np.int8) * np.int8(2) - np.int8(1)
    return signs.reshape(*words.shape[:-3], INPUT_PLANES, *words.shape[-2:])


# Maps and result of the ImageNet core ---------------------------------------------------------------------------------


def tile_words(size: int) -> int:
    """Words of a 32-channel tile of a map of ``size`` x ``size`` codes: four neighbouring columns share a word."""
    return size * -(-size // 4)


def tile_address(bank: int, tile: int, size: int) -> int:
    """First word of a tile in the scratch memory."""
    return (bank * BANK_TILES + tile) * tile_words(size)


def unpack_map(words: U8, size: int) -> U8:
    """Codes uint8 [32 * tiles, size, size], 0..15, of consecutive tiles uint8 [tiles * tile_words(size), 64]."""
    lanes = _map_lanes(words, size)
    codes = np.empty((lanes.shape[0], size, size, TILE_CHANNELS), np.uint8)
    used = lanes.reshape(lanes.shape[0], size, -1, _LANES)[:, :, :size]
    codes[..., 0::2] = used & 15
    codes[..., 1::2] = used >> 4
    return np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).reshape(-1, size, size)


def pack_map(codes: U8, out: U8 | None = None) -> U8:
    """The inverse of :func:`unpack_map`: codes uint8 [32 * tiles, size, size] into words uint8 [words, 64].

    Lanes of columns past ``size`` keep what ``out`` holds, as in the core's memory; without ``out`` they are zero.
    Raises AcceleratorError where a code exceeds 4 bits or a shape is another.
    """
    channels, size = codes.shape[0], codes.shape[-1]
    if codes.dtype != np.uint8 or codes.shape != (channels, size, size) or channels % TILE_CHANNELS:
        raise AcceleratorError(f"map: expected uint8 [32 * tiles, H, H], found {codes.dtype.name} {list(codes.shape)}")
    if np.any(codes > 15):
        raise AcceleratorError(f"map: expected codes 0..15, found {codes.max()}")
    tiles = channels // TILE_CHANNELS
    if out is None:
        out = np.zeros((tiles * tile_words(size), WORD_BYTES), np.uint8)
    lanes = _map_lanes(out, size)
    if lanes.shape[0] != tiles:
        raise AcceleratorError(f"map of {tiles} tiles: expected {tiles * tile_words(size)} words, found {len(out)}")
    pixels = codes.reshape(tiles, TILE_CHANNELS, size, size).transpose(0, 2, 3, 1)
    pairs = pixels[..., 0::2] | pixels[..., 1::2] << 4
    for lane in range(4):
        columns = pairs[:, :, lane::4]
        lanes[:, :, : columns.shape[2], lane] = columns
    return out


def unpack_imagenet_result(words: U8) -> U8:
    """Block 13's output codes uint8 [1024, 7, 7], 0..15 (value ``2 * q / 15 - 1``), of words uint8 [448, 64]."""
    if words.shape != (IMAGENET_RESULT_WORDS, WORD_BYTES):
        raise AcceleratorError(f"result: expected uint8 [448, 64], found {words.dtype.name} {list(words.shape)}")
    return unpack_map(words, IMAGENET.pool_size)


def pack_imagenet_result(codes: U8, out: U8 | None = None) -> U8:
    """The inverse of :func:`unpack_imagenet_result`; see :func:`pack_map` for ``out``."""
    if codes.shape != (IMAGENET.features, IMAGENET.pool_size, IMAGENET.pool_size):
        raise AcceleratorError(f"result: expected codes uint8 [1024, 7, 7], found {list(codes.shape)}")
    return pack_map(codes, out)


def _map_lanes(words: U8, size: int) -> U8:
    """View of a map's words as [tiles, row, word of the row, lane, 16 bytes]."""
    if words.dtype != np.uint8 or words.ndim != 2 or words.shape[1] != WORD_BYTES or len(words) % tile_words(size):
        expected = f"uint8 [n * {tile_words(size)}, 64]"
        raise AcceleratorError(f"map words: expected {expected}, found {words.dtype.name} {list(words.shape)}")
    if not words.flags.c_contiguous:
        raise AcceleratorError("map words: expected a C-contiguous array, found a strided view")
    return words.reshape(-1, size, -(-size // 4), 4, _LANES)


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
        logger.warning("%d parameters lie outside [-32, 32) and are saturated", np.count_nonzero(raw != scaled))
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
