"""Layer descriptors and the memory image's header, field by field, written once.

A descriptor is 16 little-endian words of 32 bits; it tells the engine one layer, or one strip of rows of a layer.
The SystemVerilog header and the tables in docs/accelerator.md are generated from :data:`FIELDS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import ModelError

WORDS = 16
CHECK = 0xD5
"""Constant in every descriptor; the engine refuses one without it."""
MAX_DESCRIPTORS = 64
STEM, CONV3X3, CONV1X1 = 0, 1, 2
KIND_NAMES = {STEM: "stem", CONV3X3: "3x3", CONV1X1: "1x1"}


@dataclass(frozen=True)
class Field:
    """A bit field: ``width`` bits from bit ``low`` of word ``word``."""

    name: str
    word: int
    low: int
    width: int
    meaning: str


FIELDS = (
    Field("kind", 0, 0, 2, "0 stem, 1 3x3, 2 1x1"),
    Field("stride2", 0, 2, 1, "stride 2"),
    Field("wide", 0, 3, 1, "maps are also kept as 16-bit numbers, in B, for the shortcut"),
    Field("codes", 0, 4, 1, "the layer's output is 4-bit codes (else 16-bit numbers with a 2-bit activation)"),
    Field("final", 0, 5, 1, "the output is added up over the map and written to memory"),
    Field("last", 0, 6, 1, "last descriptor of a picture"),
    Field("wait", 0, 7, 1, "wait for rows: of the picture (stem), of the descriptor before (others)"),
    Field("to_b", 0, 8, 1, "codes are written to B (else to A)"),
    Field("pad_top", 0, 9, 1, "the row above the first output row's is outside the map"),
    Field("pad_bottom", 0, 10, 1, "the row below the last output row's is outside the map"),
    Field("src_row", 0, 11, 2, "row bank of the first row read"),
    Field("dst_row", 0, 13, 2, "row bank of the first row written"),
    Field("src_split", 0, 15, 2, "1x1: log2 of the column groups in a row of B's banks"),
    Field("dst_split", 0, 17, 2, "the same where codes are written to B"),
    Field("check", 0, 24, 8, "0xD5"),
    Field("steps", 1, 0, 7, "cycles of a group of X (stem: 2X) pixels"),
    Field("slices", 1, 8, 7, "weight words of a pass; a slice is 16 input channels (1x1: 128)"),
    Field("passes", 1, 16, 7, "passes: output channels / 16"),
    Field("groups", 1, 24, 7, "groups in a row"),
    Field("rows", 2, 0, 8, "output rows"),
    Field("last_pixels", 2, 8, 3, "pixels of the last group in a row (of its second half, for the stem)"),
    Field("sc_slices", 2, 16, 7, "slices of the shortcut: input channels / 16"),
    Field("release", 2, 24, 4, "stem: groups of four picture rows that are free afterwards"),
    Field("need_first", 3, 0, 8, "rows that must be there for the first output row"),
    Field("need_max", 3, 8, 8, "and never more than this"),
    Field("src_base", 4, 0, 12, "address of the first row read, column 0"),
    Field("src_row_step", 4, 16, 12, "words from a row (A, picture: group of four rows) to the next"),
    Field("src_col_step", 5, 0, 7, "words from a group of columns to the next"),
    Field("dst_col_step", 5, 8, 7, "the same where codes are written"),
    Field("sc_col_step", 5, 16, 7, "the same where the 16-bit shortcut is read"),
    Field("wide_col_step", 5, 24, 7, "the same where 16-bit numbers are written"),
    Field("dst_base", 6, 0, 12, "address of the first row of codes written"),
    Field("dst_row_step", 6, 16, 12, "words from a row (A: group of four rows) to the next"),
    Field("sc_base", 7, 0, 12, "address of the first row of the 16-bit shortcut"),
    Field("sc_row_step", 7, 16, 12, "words from a row of it to the next"),
    Field("wide_base", 8, 0, 12, "address of the first row of 16-bit numbers written"),
    Field("wide_row_step", 8, 16, 12, "words from a row of them to the next"),
    Field("release_words", 9, 0, 12, "stem: words of a picture bank that are free afterwards"),
    Field("layer", 15, 0, 8, "number of the layer (0: the stem); for people, the engine does not read it"),
)


@dataclass(frozen=True)
class Descriptor:
    """One descriptor; the attributes are the fields of :data:`FIELDS`, which has their meaning."""

    kind: int
    steps: int
    slices: int
    passes: int
    groups: int
    rows: int
    last_pixels: int
    sc_slices: int = 1
    stride2: int = 0
    wide: int = 0
    codes: int = 0
    final: int = 0
    last: int = 0
    wait: int = 0
    to_b: int = 0
    pad_top: int = 0
    pad_bottom: int = 0
    src_row: int = 0
    dst_row: int = 0
    src_split: int = 0
    dst_split: int = 0
    check: int = CHECK
    release: int = 0
    need_first: int = 0
    need_max: int = 0
    src_base: int = 0
    src_row_step: int = 0
    src_col_step: int = 0
    dst_base: int = 0
    dst_row_step: int = 0
    dst_col_step: int = 0
    sc_base: int = 0
    sc_row_step: int = 0
    sc_col_step: int = 0
    wide_base: int = 0
    wide_row_step: int = 0
    wide_col_step: int = 0
    release_words: int = 0
    layer: int = 0

    def pack(self) -> npt.NDArray[np.uint32]:
        """The descriptor's words, uint32 [16]; :class:`~fracbnn_pynq.errors.ModelError` where a field does not fit."""
        words = [0] * WORDS
        for field in FIELDS:
            value = getattr(self, field.name)
            if not 0 <= value < 1 << field.width:
                raise ModelError(
                    f"descriptor field {field.name!r}: expected 0 to {(1 << field.width) - 1}, found {value}; "
                    "the engine cannot run this layer"
                )
            words[field.word] |= value << field.low
        return np.array(words, "<u4")

    def with_(self, **changes: int) -> Descriptor:
        """A copy with other values in some fields."""
        return replace(self, **changes)


def unpack(words: npt.NDArray[np.uint32]) -> Descriptor:
    """Inverse of :meth:`Descriptor.pack`; :class:`~fracbnn_pynq.errors.ModelError` for words that are not one."""
    values = {f.name: int(words[f.word]) >> f.low & ((1 << f.width) - 1) for f in FIELDS}
    if values["check"] != CHECK:
        raise ModelError(f"descriptor: expected the check byte {CHECK:#x}, found {values['check']:#x}")
    descriptor = Descriptor(**values)
    if not np.array_equal(descriptor.pack(), words):
        raise ModelError("descriptor: expected zeros outside its fields, found other bits")
    return descriptor


IMAGE_MAGIC = 0x454E_4246
"""First word of a memory image: "FBNE"."""
IMAGE_VERSION = 1
HEADER_WORDS = 16
HEADER = (
    ("magic", 'IMAGE_MAGIC, the bytes "FBNE"'),
    ("version", "version of this format: 1"),
    ("parameters", "as the register PARAMETERS: P, S and X of the engine it is for"),
    ("descriptors", "number of layer descriptors, 1 to 64; they follow this header"),
    ("ring_words", "number of ring words of a picture"),
    ("resident", "1: all ring words stay in the engine; 0: they are read again for every picture"),
    ("ring_offset", "bytes from the start of the image to the first ring word, a multiple of 16"),
    ("total_bytes", "length of the image in bytes"),
    ("checksum", "CRC-32 of the whole image with this word as 0; never 0"),
    ("picture_size", "edge of a picture in pixels, a multiple of 4"),
    ("picture_beats", "beats of one picture: size * size * 3 / 16"),
    ("picture_row_step", "words of a picture bank from a group of four rows to the next"),
    ("features", "channels of the last map; a result is so many int32 sums"),
    ("network", "1 CIFAR-10, 2 ImageNet"),
    ("reserved0", "0"),
    ("reserved1", "0"),
)
"""Names and meanings of the 16 words of a memory image's header, in order."""
