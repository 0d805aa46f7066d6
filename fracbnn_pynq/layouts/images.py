"""How images and results lie in the memory the published accelerators read and write; weights: :mod:`.weights`.

Bit k of a 64-byte word is bit ``k % 8`` of its byte ``k // 8``; all integers are little-endian.
Source: the authors' HLS sources and host programs, checked against the weights, images and results they published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .. import native
from ..errors import AcceleratorError, PictureError
from ..networks import IMAGENET, INPUT_PLANES, THERMOMETER_LEVELS
from ..thermometer import LEVELS

W = TypeVar("W", np.uint32, np.uint64)
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
I8 = npt.NDArray[np.int8]

CIFAR10_IMAGE_SHAPE = (3, 32, 32)
"""uint64 words [colour, row, column]; level t is bit 63 - t, bits 31..0 are zero."""
CIFAR10_IMAGE_BYTES = 24_576
CIFAR10_RESULT_SHAPE = (10,)
"""float32 logits."""
CIFAR10_RESULT_BYTES = 40

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
    _check(words, np.uint64, CIFAR10_IMAGE_SHAPE, "image words")
    zeros = ~(words >> np.uint64(32)).astype(np.uint32)
    wrong = (zeros & (zeros + np.uint32(1)) != 0) | (words & np.uint64(0xFFFF_FFFF) != 0)
    return _checked_levels(THERMOMETER_LEVELS - _ones(zeros), wrong, words)


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
    _check(words, np.uint32, IMAGENET_IMAGE_SHAPE, "image words")
    return _checked_levels(_ones(words), words & (words + np.uint32(1)) != 0, words)


def imagenet_planes(words: U32) -> I8:
    """Input planes int8 [..., 96, 224, 224], +1 or -1, of any ImageNet image words uint32 [..., 3, 224, 224]."""
    _check(words, np.uint32, IMAGENET_IMAGE_SHAPE, "image words")
    return _planes(words, np.arange(THERMOMETER_LEVELS, dtype=np.uint32))


class ImageEncoder:
    """Pictures as words straight into an accelerator's buffers: :func:`pack_cifar10_image` or
    :func:`pack_imagenet_image`, picture by picture, and faster where there is native code.

    ``buffers``: all uint64 [3, 32, 32] for the CIFAR-10 core or uint32 [3, 224, 224] for the ImageNet core.
    ``encode(slot, index)`` writes a picture of those that :meth:`take` was given last into ``buffers[slot]``.
    """

    def __init__(self, buffers: Sequence[npt.NDArray[Any]]) -> None:
        small = buffers[0].dtype == np.uint64
        self._shape = (32, 32, 3) if small else (224, 224, 3)
        self._pack: Callable[[U8, Any], Any] = pack_cifar10_image if small else pack_imagenet_image
        self._buffers = buffers
        self._images = np.empty((0, *self._shape), np.uint8)
        self._words: native.WordEncoder | None = None
        self.encode: Callable[[int, int], object] = self._encode
        if native.available():
            self._words = native.WordEncoder(_CIFAR10_TABLE if small else _IMAGENET_TABLE, buffers)
            self.encode = self._words.encode

    def take(self, images: U8) -> None:
        """The pictures to encode from now on: uint8 [N, S, S, 3] RGB; raises PictureError where they are others."""
        _check(images, np.uint8, self._shape, "picture")
        self._images = images
        if self._words is not None:
            self._words.take(images)

    def let_go(self) -> None:
        """Hold no pictures any longer."""
        self._images = np.empty((0, *self._shape), np.uint8)
        if self._words is not None:
            self._words.let_go()

    def _encode(self, slot: int, index: int) -> None:
        self._pack(self._images[index], self._buffers[slot])


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


def _ones(low: U32) -> U8:
    """How many bits are 1 in words whose ones all lie below their zeros: uint8 of the same shape."""
    return np.frexp(low.astype(np.float64))[1].astype(np.uint8)


def _checked_levels(levels: U8, wrong: Bools, words: npt.NDArray[Any]) -> U8:
    """``levels`` [..., colour, row, column] as a picture [..., row, column, colour]."""
    if wrong.any():
        first = words[wrong].flat[0]
        raise PictureError(f"expected thermometer codes, found {np.count_nonzero(wrong)} other words, first {first:#x}")
    return np.ascontiguousarray(np.moveaxis(levels, -3, -1))


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
