"""CIFAR-10's own batch files (the "python version"), read without executing what a pickle may say."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SourceError
from .importers.parameters import CIFAR10_CLASSES

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
EDGE = 32
ROW = 3 * EDGE * EDGE

# What NumPy arrays of plain numbers are made of, under the names of old and new NumPy releases.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles lists, dictionaries, strings, numbers and NumPy arrays, and refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def find_batches(folder: Path) -> list[Path]:
    """The training batches in ``folder``, or its test batch alone where there are none; [] if neither."""
    train = [folder / name for name in TRAIN_FILES if (folder / name).is_file()]
    test = folder / TEST_FILE
    return train or ([test] if test.is_file() else [])


def read_batches(files: Sequence[Path]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], tuple[str, ...]]:
    """Pictures uint8 [N, 32, 32, 3], labels int64 [N] and the names of the classes.

    Raises :class:`~fracbnn_pynq.errors.SourceError` for files that are something else.
    """
    pictures, labels = [], []
    for path in files:
        rows, own = _read(path)
        pictures.append(rows.reshape(-1, 3, EDGE, EDGE).transpose(0, 2, 3, 1))
        labels.append(own)
    return np.concatenate(pictures), np.concatenate(labels), CIFAR10_CLASSES


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
    except Exception as error:  # a damaged pickle makes its reader raise anything
        raise SourceError(f"{path}: expected a CIFAR-10 batch file, found something else ({error})") from None
    if labels.ndim != 1 or rows.dtype != np.uint8 or rows.shape != (len(labels), ROW):
        raise SourceError(
            f"{path}: expected rows of {ROW} bytes and a label for each, found {rows.dtype} {list(rows.shape)} and "
            f"labels {list(labels.shape)}"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(CIFAR10_CLASSES):
        raise SourceError(f"{path}: expected labels from 0 to 9, found {labels.min()} to {labels.max()}")
    return rows, labels
