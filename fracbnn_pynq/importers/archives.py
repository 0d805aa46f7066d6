"""A NumPy ``.npz`` or a PyTorch state_dict with the authors' parameter names. No pickle is executed."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..files import read_file
from ..modelfile import Model
from ..networks import CIFAR10, Network
from .hls_tables import convolutions
from .parameters import build_model, default_classes

MAX_ARCHIVE_SIZE = 256 << 20
PACKED_CIFAR10 = "packed.conv_weight_all"


def import_archive(path: Path, network: Network, provenance: dict[str, Any], classes: tuple[str, ...] | None) -> Model:
    """A model from the parameters that :func:`read_parameters` finds."""
    arrays = read_parameters(path, network)
    try:
        return build_model(network, arrays, classes or default_classes(network), provenance)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None


def read_parameters(path: Path, network: Network) -> dict[str, npt.NDArray[Any]]:
    """Named arrays of an ``.npz`` or of a PyTorch file; packed CIFAR-10 convolutions where float ones are absent."""
    arrays = _npz_arrays(path) if path.suffix.lower() == ".npz" else _state_dict_arrays(path)
    try:
        if network.name == CIFAR10.name and "conv1.weight" not in arrays and PACKED_CIFAR10 in arrays:
            arrays.update(convolutions(arrays[PACKED_CIFAR10]))
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    return arrays


def _npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    data = read_file(path, MAX_ARCHIVE_SIZE, SourceError)
    try:
        return _read_npz(data)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except Exception as error:  # a damaged archive makes its readers raise anything
        raise SourceError(f"{path}: expected a NumPy .npz of plain arrays, found something else ({error})") from None


def _read_npz(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an ``.npz``; nothing is allocated or executed on the word of the file."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > MAX_ARCHIVE_SIZE:
            raise SourceError(f"expected at most {MAX_ARCHIVE_SIZE} bytes of arrays, found {size}")
        for member in members:
            arrays[member.filename.removesuffix(".npy")] = _read_npy(member.filename, archive.read(member))
    return arrays


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


def _state_dict_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a PyTorch file: a state_dict, or a mapping with one under ``state_dict`` or ``model``.

    Needs PyTorch (``pip install torch``); reads tensors only (``weights_only``).
    """
    try:
        import torch  # noqa: PLC0415 - an optional, large dependency
    except ImportError:
        raise SourceError(
            f"{path} is a PyTorch file and PyTorch is not installed: install torch, or save the parameters as .npz "
            "(numpy.savez with the same names)"
        ) from None
    data = read_file(path, MAX_ARCHIVE_SIZE, SourceError)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers do
        raise SourceError(f"{path}: expected a PyTorch file of plain tensors, found something else ({error})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SourceError(f"{path}: expected a state_dict (names to tensors), found {type(state).__name__}")
    arrays = {}
    for name, tensor in state.items():
        try:
            exact = tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
            arrays[str(name).removeprefix("module.")] = exact.numpy()
        except (TypeError, ValueError, RuntimeError) as error:  # sparse, quantised or empty of data
            raise SourceError(f"{path}: parameter {name!r}: expected a plain tensor ({error})") from None
    return arrays
