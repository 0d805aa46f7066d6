"""The state of a run on disk: replaced atomically, so that a run killed at any moment finds a whole one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import SourceError
from ..files import read_file, write_file

MAX_CHECKPOINT_SIZE = 2 << 30
"""Bytes; a run of the larger network has 0.1 GB."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them; the file is the old one or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_file(path, buffer.getvalue(), SourceError)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote; nothing in the file is executed.

    Raises :class:`~fracbnn_pynq.errors.SourceError` where ``path`` is something else.
    """
    try:
        content = io.BytesIO(read_file(path, MAX_CHECKPOINT_SIZE, SourceError, "checkpoint"))
        state = torch.load(content, map_location="cpu", weights_only=True)
    except SourceError:
        raise
    except Exception as error:  # torch.load raises whatever its readers do
        raise _other(path, first_line(error)) from None
    if not isinstance(state, dict):
        raise SourceError(f"{path}: expected a checkpoint of a training run, found {type(state).__name__}")
    return state


def check_settings(path: Path, saved: Any, own: Mapping[str, Any]) -> None:
    """Raise SourceError unless a checkpoint's settings are those of this run."""
    for name, value in own.items():
        found = saved.get(name) if isinstance(saved, dict) else None
        if _plain(found) != _plain(value):
            raise SourceError(
                f"{path}: this run was started with {name} {found}, not {value}",
                advice="start it with the same settings, or give --restart to begin anew",
            )


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what a state of another shape or kind makes its takers raise into one SourceError."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _other(path, first_line(error)) from None


def first_line(error: BaseException) -> str:
    """The first line of what an error says, bounded; PyTorch says much."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _other(path: Path, what: str) -> SourceError:
    return SourceError(
        f"{path}: expected a checkpoint of a training run, found something else ({what})",
        advice="give --restart to begin anew",
    )


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
