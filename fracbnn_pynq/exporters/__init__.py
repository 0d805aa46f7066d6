"""Models in the formats of others: ONNX graphs, and the parameters under the authors' names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from .. import extras
from ..errors import ModelError
from ..files import write_file
from ..importers.parameters import named_parameters
from ..model import Model

FORMATS = ("onnx", "npz")


def export_model(model: Model, path: Path, kind: str) -> None:
    """Write ``model`` to ``path`` in one of :data:`FORMATS`, the whole file or nothing.

    ``onnx``: the network with the bits of the ``faithful`` arithmetic, see :mod:`.faithful_graph`. ``npz``: its
    parameters as ``fracbnn import`` and PyTorch's ``load_state_dict`` take them: float arrays under the authors' names,
    weights +1 and -1, batch norms folded.

    Raises :class:`~fracbnn_pynq.errors.ModelError` for another format, where the package onnx is missing, for ONNX of
    a model whose parameters are made for a published core, and where the file cannot be written.
    """
    if kind not in FORMATS:
        raise ModelError(f"expected one of the formats {', '.join(FORMATS)}, found {kind!r}")
    write_file(path, _onnx(model) if kind == "onnx" else _npz(model), ModelError)


def _onnx(model: Model) -> bytes:
    try:
        from .faithful_graph import onnx_model  # noqa: PLC0415 - an optional package
    except ImportError as error:
        if error.name != "onnx":
            raise
        raise ModelError(
            "writing ONNX needs the package onnx", advice=f"install it with: {extras.install_line('onnx')}"
        ) from None
    return onnx_model(model).SerializeToString()


def _npz(model: Model) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = named_parameters(model)
    np.savez(buffer, **arrays)
    return buffer.getvalue()
