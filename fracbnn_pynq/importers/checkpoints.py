"""PyTorch's checkpoints, of which only tensors are read: what else is in them is not made, let alone executed.

``torch.load(weights_only=True)`` refuses a whole file for one object beside its tensors, such as the arguments of the
run that wrote it. Such objects are taken for inert stand-ins here, whatever their class was to be.
"""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ..errors import SourceError
from ..files import read_file
from .names import listed, unwrap

log = logging.getLogger(__name__)

_HARMFUL = frozenset(
    {
        *(
            "os",
            "posix",
            "nt",
            "subprocess",
            "commands",
            "sys",
            "shutil",
            "socket",
            "ctypes",
            "multiprocessing",
            "asyncio",
        ),
        *("runpy", "importlib", "code", "codeop", "pickle", "marshal", "pty", "webbrowser", "pip", "setuptools"),
    }
)
"""Modules that no honest checkpoint asks for: a file that does is refused, though what it asks for would not be done.
``commands`` is what pickles for Python 2 call ``subprocess``."""

_HARMLESS_BUILTINS = frozenset({"set", "frozenset", "slice", "range", "complex", "bytearray", "object", "getattr"})
_LONGEST_REASON = 200


class _StandIn:
    """An object of a checkpoint that is not made: takes whatever it is given and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass


def read_checkpoint(path: Path, limit: int) -> dict[str, npt.NDArray[Any]]:
    """Tensors of the state_dict in a PyTorch file of at most ``limit`` bytes, plain or in a wrapper, by their names.

    What else the file holds is named in one line of the log. Needs PyTorch. Raises
    :class:`~fracbnn_pynq.errors.SourceError`.
    """
    try:
        import torch  # noqa: PLC0415 - an optional, large dependency
    except ImportError:
        raise SourceError(
            f"{path} is a PyTorch file and PyTorch is not installed",
            advice="install torch, or save the parameters as .npz (numpy.savez with the same names)",
        ) from None
    data = read_file(path, limit, SourceError)
    _check_unpacked(path, data, limit)
    state, ignored = unwrap(_load(torch, path, data))
    if not isinstance(state, dict):
        raise SourceError(
            f"{path}: expected a state_dict (names to tensors), found {_kind(state)}",
            advice="save model.state_dict() rather than the model itself",
        )
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    ignored += [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if not tensors:
        raise SourceError(f"{path}: expected a state_dict (names to tensors), found none among: {listed(ignored)}")
    if ignored:
        log.warning("%s: ignored beside the parameters: %s", path, listed(ignored))
    # A tensor may be a view that is larger than what it views, and many may view the same.
    if sum(tensor.numel() * 8 for tensor in tensors.values()) > 2 * limit:
        raise SourceError(f"{path}: expected at most {2 * limit} bytes of parameters as float64, found more")
    return {name: _array(path, name, tensor) for name, tensor in tensors.items()}


def _load(torch: ModuleType, path: Path, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers do
        try:
            return _load_with_stand_ins(torch, data)
        except SourceError as refusal:
            raise SourceError(f"{path}: {refusal}") from None
        except Exception:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:_LONGEST_REASON]
            raise SourceError(
                f"{path}: expected a PyTorch file of plain tensors, found something else ({reason})",
                advice="where it was written, load it and save model.state_dict() alone",
            ) from None


def _load_with_stand_ins(torch: ModuleType, data: bytes) -> Any:
    """As ``torch.load``, with a stand-in for each class or function that it would refuse to make or call."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    for name in names:
        root, _, rest = name.partition(".")
        if root in _HARMFUL or (root in ("builtins", "__builtin__") and rest not in _HARMLESS_BUILTINS):
            raise SourceError(f"expected a PyTorch file of plain tensors, found one that asks for {name}")
    stand_ins = [(type(name.rpartition(".")[2], (_StandIn,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _check_unpacked(path: Path, data: bytes, limit: int) -> None:
    """Refuse a file that unpacks to more than its limit; PyTorch itself packs nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except Exception:  # not a zip file, or a damaged one, which its reader will say
        return
    if size > limit:
        raise SourceError(f"{path}: expected at most {limit} bytes of tensors, found {size}")


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"a whole object of class {name}" if isinstance(value, _StandIn) else name


def _array(path: Path, name: str, tensor: Any) -> npt.NDArray[Any]:
    try:
        exact = tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
        array: npt.NDArray[Any] = exact.numpy()
    except (TypeError, ValueError, RuntimeError) as error:  # sparse, quantised or empty of data
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{path}: parameter {name!r}: expected a plain tensor ({reason})") from None
    return array
