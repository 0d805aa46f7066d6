"""Parameters under the authors' names in one file: ``.npz``, ``.safetensors`` or a PyTorch checkpoint. Nothing in it
is executed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..classes import default_classes
from ..errors import SourceError
from ..files import read_file
from ..model import Model
from ..networks import CIFAR10, Network
from ..npz import read_npz
from .checkpoints import read_checkpoint
from .hls_tables import convolutions
from .names import canonical_names, listed
from .parameters import build_model, known_names

log = logging.getLogger(__name__)

ENDINGS = frozenset({".npz", ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar"})
"""Last endings of files that are read here; ``.tar`` is that of ``.pth.tar``."""

MAX_ARCHIVE_SIZE = 256 << 20
PACKED_CIFAR10 = "packed.conv_weight_all"
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "I8": "|i1", "U8": "|u1"},
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (16, 32, 64)},
}


def import_archive(path: Path, network: Network, provenance: dict[str, Any], classes: tuple[str, ...] | None) -> Model:
    """A model from the parameters that :func:`read_parameters` finds."""
    arrays = read_parameters(path, network)
    try:
        return build_model(network, arrays, classes or default_classes(network), provenance)
    except SourceError as error:
        raise SourceError(f"{path}: {error.message}", advice=error.advice) from None


def read_parameters(path: Path, network: Network) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a file by the authors' names, whatever prefixes and wrappers it has them in.

    Packed CIFAR-10 convolutions are unpacked where float ones are absent. Entries that are no parameters are left out,
    with a line of the log. Raises :class:`~fracbnn_pynq.errors.SourceError`.
    """
    given = _READERS.get(path.suffix.lower(), read_checkpoint)(path, MAX_ARCHIVE_SIZE)
    try:
        arrays, ignored = canonical_names(given, known_names(network))
        if ignored:
            log.warning("%s: ignored beside the parameters: %s", path, listed(ignored))
        if network.name == CIFAR10.name and "conv1.weight" not in arrays and PACKED_CIFAR10 in arrays:
            arrays.update(convolutions(arrays[PACKED_CIFAR10]))
    except SourceError as error:
        raise SourceError(f"{path}: {error.message}", advice=error.advice) from None
    return arrays


def is_model_file(path: Path) -> bool:
    """Whether a ``.safetensors`` file holds a model of this package rather than plain parameters."""
    return "fracbnn" in _metadata(read_file(path, MAX_ARCHIVE_SIZE, SourceError))


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (ValueError, RecursionError, OverflowError):
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


def _read_safetensors(path: Path, limit: int) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError, deserialize  # noqa: PLC0415 - only the reader that is used is loaded

    data = read_file(path, limit, SourceError)
    if "fracbnn" in _metadata(data):
        raise SourceError(f"{path}: expected parameters to import, found a model file", advice="give it to --model")
    try:
        return {name: _tensor(name, facts) for name, facts in deserialize(data)}  # type: ignore[no-untyped-call]
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except (SafetensorError, ValueError, OverflowError, MemoryError) as error:
        raise SourceError(f"{path}: expected a .safetensors file, found something else ({error})") from None


def _tensor(name: str, facts: dict[str, Any]) -> npt.NDArray[Any]:
    kind, data, shape = facts["dtype"], facts["data"], facts["shape"]
    if kind == "BF16":  # the upper half of a float32
        halves = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return halves.view(np.float32).reshape(shape)
    if kind not in _DTYPES:
        raise SourceError(f"tensor {name!r}: expected real numbers, found {kind}")
    return np.frombuffer(data, _DTYPES[kind]).reshape(shape)


_READERS = {".npz": read_npz, ".safetensors": _read_safetensors}
