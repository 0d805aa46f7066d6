"""A NumPy ``.npz`` or a PyTorch state_dict with the authors' parameter names. No pickle is executed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..modelfile import Model
from ..networks import CIFAR10, Network
from .files import read_source
from .hls_tables import convolutions
from .parameters import build_model, default_classes

MAX_ARCHIVE_SIZE = 256 << 20
PACKED_CIFAR10 = "packed.conv_weight_all"


def import_npz(path: Path, network: Network, provenance: dict[str, Any], classes: tuple[str, ...] | None) -> Model:
    """A model from named arrays in an ``.npz``; packed CIFAR-10 convolutions are used where float ones are absent."""
    data = read_source(path, MAX_ARCHIVE_SIZE)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, AttributeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: expected a NumPy .npz of plain arrays, found something else ({error})") from None
    except (RuntimeError, MemoryError, SyntaxError, TypeError, OverflowError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise SourceError(f"{path}: damaged .npz ({error})") from None
    return _build(path, network, arrays, provenance, classes)


def import_state_dict(
    path: Path, network: Network, provenance: dict[str, Any], classes: tuple[str, ...] | None
) -> Model:
    """A model from a PyTorch checkpoint: a state_dict, or a mapping with one under ``state_dict`` or ``model``.

    Needs PyTorch (``pip install torch``); reads tensors only (``weights_only``).
    """
    try:
        import torch  # noqa: PLC0415 - an optional, large dependency
    except ImportError:
        raise SourceError(
            f"{path} is a PyTorch file and PyTorch is not installed: install torch, or save the parameters as .npz "
            "(numpy.savez with the same names)"
        ) from None
    data = read_source(path, MAX_ARCHIVE_SIZE)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers do
        raise SourceError(f"{path}: expected a PyTorch file of plain tensors, found something else ({error})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SourceError(f"{path}: expected a state_dict (names to tensors), found {type(state).__name__}")
    arrays = {str(name).removeprefix("module."): tensor.detach().double().numpy() for name, tensor in state.items()}
    return _build(path, network, arrays, provenance, classes)


def _build(
    path: Path,
    network: Network,
    arrays: dict[str, npt.NDArray[Any]],
    provenance: dict[str, Any],
    classes: tuple[str, ...] | None,
) -> Model:
    if network is CIFAR10 and "conv1.weight" not in arrays and PACKED_CIFAR10 in arrays:
        arrays.update(convolutions(arrays[PACKED_CIFAR10]))
    try:
        return build_model(network, arrays, classes or default_classes(network), provenance)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
