"""CIFAR-10's own batch files (the "python version"), read without executing what a pickle may say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .classes import CIFAR10_CLASSES
from .errors import SourceError
from .files import read_file
from .plainpickle import NotPlainError, read_plain

TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
EDGE = 32
ROW = 3 * EDGE * EDGE
MAX_BATCH_SIZE = 256 << 20
"""Larger files are refused unread, in bytes; the published batches have 31 MB."""


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
        rows, own = parse_batch(read_file(path, MAX_BATCH_SIZE, SourceError, "CIFAR-10 batch file"), str(path))
        pictures.append(rows.reshape(-1, 3, EDGE, EDGE).transpose(0, 2, 3, 1))
        labels.append(own)
    return np.concatenate(pictures), np.concatenate(labels), CIFAR10_CLASSES


def parse_batch(content: bytes, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Rows uint8 [N, 3072] and labels int64 [N] of the bytes of a batch file; ``name`` stands for it in errors."""
    try:
        batch = read_plain(content)
        rows, labels = _rows(_entry(batch, "data")), _labels(_entry(batch, "labels"))
    except NotPlainError as error:
        raise SourceError(f"{name}: expected a CIFAR-10 batch file, found something else ({error})") from None
    if labels.ndim != 1 or rows.dtype != np.uint8 or rows.shape != (len(labels), ROW):
        raise SourceError(
            f"{name}: expected rows of {ROW} bytes and a label for each, found {rows.dtype} {list(rows.shape)} and "
            f"labels {list(labels.shape)}"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(CIFAR10_CLASSES):
        raise SourceError(f"{name}: expected labels from 0 to 9, found {labels.min()} to {labels.max()}")
    return rows, labels


def _entry(batch: Any, name: str) -> Any:
    """An entry under its name as Python 2 wrote it, in bytes, or as Python 3 does."""
    for key in (name.encode(), name):
        if type(batch) is dict and key in batch:
            return batch[key]
    raise NotPlainError(f"no dictionary with {name!r}")


def _rows(value: Any) -> npt.NDArray[np.uint8]:
    if not isinstance(value, np.ndarray):
        raise NotPlainError("'data' is no array")
    return value  # of which type is checked with its shape


def _labels(value: Any) -> npt.NDArray[np.int64]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int64)
    if type(value) is not list or any(type(label) is not int or abs(label) >= 1 << 31 for label in value):
        raise NotPlainError("'labels' is no list of numbers")
    return np.array(value, np.int64)
