"""The authors' CIFAR-10 release: two C header files that hold array literals.

``conv_weights.h`` has the packed convolution words, ``conv_weight_all[45][16][3][3]`` (the 2021 release) or
``[90][8][3][3]`` (the sources of the public bitstream), hexadecimal. ``weights_fracnet_64.h`` has a decimal table per
one-dimensional parameter, ``layer1_0_bn1_weight_fix[4][16]`` and the like, channel c at [c / 16][c % 16], unused
entries zero. Decimal literals are read as doubles: rounded to float32 first, some would round to other fixed-point
numbers.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..classes import CIFAR10_CLASSES
from ..errors import ModelError, SourceError
from ..files import read_file
from ..layouts.weights import unpack_cifar10_weights
from ..model import Model
from ..networks import CIFAR10
from .parameters import build_model, parameter_sizes

CONVOLUTIONS = "conv_weight_all"
MAX_HEADER_SIZE = 8 << 20

# Each pattern takes time linear in the text, whatever the text: matches start at word boundaries only, and a comment
# that is never closed goes to the end.
_DECLARATION = re.compile(r"\b(\w+)\s*((?:\[\s*\d{1,9}\s*\]\s*){1,8})=\s*\{", re.ASCII)
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|//[^\n]*", re.DOTALL)
_HEXADECIMAL = re.compile(r"(0[xX][0-9a-fA-F]+)[uUlL]*")
_DECIMAL = re.compile(r"([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)[fFlLuU]*")


def import_hls_tables(paths: Iterable[Path], provenance: dict[str, Any]) -> Model:
    """A CIFAR-10 model from the two header files, in any order.

    Raises :class:`~fracbnn_pynq.errors.SourceError` if a table is missing, damaged or of another size.
    """
    tables: dict[str, npt.NDArray[Any]] = {}
    wanted = _wanted_names()
    for path in paths:
        text = read_file(path, MAX_HEADER_SIZE, SourceError).decode("utf-8", "replace")
        tables.update(read_tables(text, {CONVOLUTIONS, *wanted}, str(path)))
    if CONVOLUTIONS not in tables:
        raise SourceError(
            f"expected a table {CONVOLUTIONS} in one of the files, found none", advice="give both header files"
        )
    arrays = convolutions(tables.pop(CONVOLUTIONS))
    for c_name, table in tables.items():
        name, size = wanted[c_name]
        values = table.reshape(-1)
        if values.size < size or values[size:].any():
            raise SourceError(f"table {c_name}: expected {size} numbers and zeros, found {values.size} numbers")
        arrays[name] = table if values.size == size else values[:size]
    return build_model(CIFAR10, arrays, CIFAR10_CLASSES, provenance)


def convolutions(table: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The packed convolution table, uint64 [tiles, tile, 3, 3], as +-1 weights by parameter name."""
    try:
        stem, layers = unpack_cifar10_weights(np.asarray(table), tile=table.shape[1] if table.ndim == 4 else 0)
    except ModelError as error:
        raise SourceError(f"table {CONVOLUTIONS}: {error}") from None
    bits = {"conv1.weight": stem, **{f"{name}.weight": layer for name, layer in layers.items()}}
    return {name: np.moveaxis(2 * array.astype(np.int8) - 1, -1, 1) for name, array in bits.items()}


def _wanted_names() -> dict[str, tuple[str, int]]:
    """C name of every one-dimensional table, with its parameter name and size."""
    sizes = {name: size for name, size in parameter_sizes(CIFAR10).items() if "conv" not in name or "threshold" in name}
    return {name.replace(".", "_") + "_fix": (name, size) for name, size in sizes.items()}


def read_tables(text: str, wanted: Iterable[str], origin: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays called ``wanted`` among the array literals of a C source: uint64 if hexadecimal, else float64."""
    text = _COMMENT.sub(" ", text)
    names = set(wanted)
    tables = {}
    for match in _DECLARATION.finditer(text):
        name = match[1]
        if name in names:
            where = f"{origin}: table {name}"
            end = text.find(";", match.end())
            if end < 0:
                raise SourceError(f"{where}: expected a ';' after it, found the end of the file: is the file whole?")
            shape = [int(size) for size in re.findall(r"[0-9]+", match[2])]
            tables[name] = _literal(text[match.end() : end], shape, where)
    return tables


def _literal(text: str, shape: list[int], where: str) -> npt.NDArray[Any]:
    """The numbers of ``text``, which is what follows the first brace."""
    if text.count("{") + 1 != text.count("}"):
        raise SourceError(f"{where}: expected as many closing braces as opening ones, found others")
    numbers = [number for part in re.split(r"[{},]", text) if (number := part.strip())]
    if len(numbers) != math.prod(shape):
        raise SourceError(f"{where}: expected {math.prod(shape)} numbers for {shape}, found {len(numbers)}")
    words = [found[1] for number in numbers if (found := _HEXADECIMAL.fullmatch(number))]
    if words:
        if len(words) != len(numbers) or any(len(word) > len("0x") + 16 for word in words):
            raise SourceError(f"{where}: expected hexadecimal words of 64 bits, found something else")
        return np.array([int(word, 16) for word in words], np.uint64).reshape(shape)
    values = []
    for number in numbers:
        decimal = _DECIMAL.fullmatch(number)
        if decimal is None:
            raise SourceError(f"{where}: expected numbers, found {reprlib.repr(number)}")
        values.append(float(decimal[1]))
    return np.array(values).reshape(shape)
