"""Archives of plain arrays (``.npz``) from anybody: nothing is allocated or executed on the word of the file."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SourceError
from .files import open_regular

Arrays = dict[str, npt.NDArray[Any]]


def read_npz(path: Path, limit: int) -> Arrays:
    """The arrays of an ``.npz``, of together at most ``limit`` bytes, by name.

    Raises :class:`~fracbnn_pynq.errors.SourceError` for what is no regular file, too large, damaged, or holds anything
    but plain arrays of numbers or text.
    """
    with open_regular(path, SourceError) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read_members(archive, limit)
        except SourceError as error:
            raise SourceError(f"{path}: {error}") from None
        except Exception as error:  # a damaged archive makes its readers raise anything
            raise SourceError(f"{path}: expected an .npz of plain arrays, found something else ({error})") from None


def _read_members(archive: zipfile.ZipFile, limit: int) -> Arrays:
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > limit:
        raise SourceError(f"expected at most {limit} bytes of arrays, found {size}")
    return {
        member.filename.removesuffix(".npy"): _read_npy(member.filename, archive.read(member)) for member in members
    }


def _read_npy(name: str, data: bytes) -> npt.NDArray[Any]:
    stream = io.BytesIO(data)
    # Version 1.0 holds every plain array. The others have headers too long to parse without care.
    if np.lib.format.read_magic(stream) != (1, 0):
        raise SourceError(f"array {name!r}: expected .npy version 1.0, found another")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or dtype.names is not None:
        raise SourceError(f"array {name!r}: expected plain numbers, found Python objects or records")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise SourceError(f"array {name!r}: expected {dtype} {list(shape)}, found {len(data) - stream.tell()} bytes")
    return np.ndarray(shape, dtype, data, stream.tell(), order="F" if fortran else "C")
