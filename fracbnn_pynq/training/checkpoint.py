"""The state of a run on disk: replaced atomically, so that a run killed at any moment finds a whole one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from ..errors import SourceError
from ..files import write_file


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
        state = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its readers do
        raise SourceError(f"{path}: expected a checkpoint of a training run, found something else ({error})") from None
    if not isinstance(state, dict):
        raise SourceError(f"{path}: expected a checkpoint of a training run, found {type(state).__name__}")
    return state
