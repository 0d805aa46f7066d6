"""The output: a folder with a Parquet file for each partition, and a manifest that says of what it is.

A partition's file appears whole or not at all, so the files that are there say where a run goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FracBNNError, SourceError
from ..files import open_regular, read_file, write_file, write_stream
from .items import Item
from .tasks import Labelled

MANIFEST = "_fracbnn-bulk.json"
"""Readers of Parquet folders leave out names that begin with an underscore or a dot."""
FORMAT = "fracbnn-bulk"
VERSION = 1
MAX_MANIFEST = 64 << 20
_ERRORS = b"fracbnn.errors"


class DatasetError(FracBNNError, OSError):
    """The output cannot be written."""


class LabelDataset:
    """The folder ``path``, made where it is not there; a context manager that holds it for this process alone.

    ``classes``: the names of the classes; ``logits``: rows have them, too. Raises
    :class:`~fracbnn_pynq.errors.SourceError` where the folder holds something else or another run writes to it, and
    :class:`DatasetError` where it cannot be written.
    """

    def __init__(self, path: Path, classes: Sequence[str], *, logits: bool) -> None:
        self.path = path
        self._classes = [_text(name) for name in classes]
        self._schema = _schema(logits)
        self._made = False
        self._lock = self._hold()
        try:
            self._check_own()
            for stale in path.glob(".part-*.parquet.*"):  # of a run that was killed
                stale.unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise

    def agree(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest of a new run, or check that it is the one of the run that is continued.

        Raises :class:`~fracbnn_pynq.errors.SourceError` that names the first difference.
        """
        about = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **manifest}))
        path = self.path / MANIFEST
        if not path.exists():
            write_file(path, json.dumps(about, indent=1).encode(), DatasetError)
            return
        there = self._manifest()
        if there.get("format") != FORMAT or there.get("version") != VERSION:
            raise SourceError(f"{path}: expected {FORMAT} version {VERSION}, found another file", advice=_OTHER)
        different = next((key for key in about if there.get(key) != about[key]), None)
        if different is not None:
            was, now = _difference(there.get(different), about[different])
            raise SourceError(
                f"{self.path}: expected the run that began it, with {different} {was:.300}, found {now:.300}",
                advice=_OTHER,
            )

    def partition_path(self, number: int) -> Path:
        """Where a partition's file is or will be."""
        return self.path / f"part-{number:05d}.parquet"

    def errors_of(self, number: int, count: int) -> int | None:
        """How many of a partition's ``count`` pictures could not be read; ``None`` where it is not there yet.

        Raises :class:`~fracbnn_pynq.errors.SourceError` for a file that is not this partition.
        """
        path = self.partition_path(number)
        if not os.path.lexists(path):
            return None
        try:
            with open_regular(path, SourceError, "partition") as stream:
                metadata = pq.read_metadata(stream)
            errors = int((metadata.metadata or {})[_ERRORS])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{path}: expected a partition of labels, found another file", advice=_REMOVE) from None
        if metadata.num_rows != count:
            raise SourceError(f"{path}: expected {count} pictures, found {metadata.num_rows}", advice=_REMOVE)
        return errors

    def write(self, number: int, items: Sequence[Item], found: Labelled) -> None:
        """Write a partition's file."""
        table = _table(self._schema, self._classes, items, found)
        table = table.replace_schema_metadata({_ERRORS: str(len(found.errors)).encode()})
        with write_stream(self.partition_path(number), DatasetError) as stream:
            pq.write_table(table, stream)

    def close(self) -> None:
        """Let others write; a folder that was made for nothing is taken away. Idempotent."""
        lock, self._lock = self._lock, -1
        if lock != -1:
            os.close(lock)
            if self._made:
                with suppress(OSError):  # not empty
                    self.path.rmdir()

    def __enter__(self) -> LabelDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self) -> int:
        try:
            if not os.path.lexists(self.path):
                self.path.mkdir()
                self._made = True
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            raise SourceError(f"{self.path}: expected a folder or a free name, found a file") from None
        except OSError as error:
            raise DatasetError(f"cannot write {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SourceError(f"{self.path}: another run is writing to it", advice="wait for it") from None
        except OSError:  # a file system without locks
            pass
        return lock

    def _check_own(self) -> None:
        if not (self.path / MANIFEST).exists() and any(self.path.iterdir()):
            raise SourceError(f"{self.path}: expected an empty folder or one of fracbnn bulk, found others' files")

    def _manifest(self) -> dict[str, Any]:
        try:
            found = json.loads(read_file(self.path / MANIFEST, MAX_MANIFEST, SourceError, "manifest"))
        except (ValueError, RecursionError) as error:
            if isinstance(error, SourceError):
                raise
            found = None
        return found if isinstance(found, dict) else {}


_OTHER = "give the same sources and options, or another --out"
_REMOVE = "remove it, and it is made again"


def _difference(was: Any, now: Any) -> tuple[str, str]:
    """What differs, as short as it can be said: of lists the first items that do."""
    if isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            return f"of {len(was)}", f"{len(now)}"
        was, now = next((a, b) for a, b in zip(was, now, strict=True) if a != b)
    return json.dumps(was), json.dumps(now)


def _schema(logits: bool) -> pa.Schema:
    fields = [
        pa.field("source", pa.string()),
        pa.field("name", pa.string()),
        pa.field("label", pa.string()),
        pa.field("class_index", pa.int32()),
        pa.field("score", pa.float64()),
        pa.field("top_labels", pa.list_(pa.string())),
        pa.field("top_scores", pa.list_(pa.float64())),
        pa.field("error", pa.string()),
    ]
    return pa.schema(fields + ([pa.field("logits", pa.list_(pa.float32()))] if logits else []))


def _table(schema: pa.Schema, classes: Sequence[str], items: Sequence[Item], found: Labelled) -> pa.Table:
    """Rows for ``items``, in their order; of what could not be read all but its name and the error is null."""
    places: list[int | None] = []
    good = 0
    for number in range(len(items)):
        failed = number in found.errors
        places.append(None if failed else good)
        good += not failed
    rows = pa.array(places, pa.int64())
    names = pa.array(classes, pa.string())
    count, top = found.classes.shape
    labels = names.take(pa.array(found.classes.ravel()))
    firsts = pa.array([None if place is None else place * top for place in places], pa.int64())
    columns = {
        "source": pa.array([_text(item.source) for item in items], pa.string()),
        "name": pa.array([_text(item.name) for item in items], pa.string()),
        "label": labels.take(firsts),
        "class_index": pa.array(found.classes.ravel()).take(firsts),
        "score": pa.array(found.scores.ravel()).take(firsts),
        "top_labels": _lists(labels, count, top).take(rows),
        "top_scores": _lists(pa.array(found.scores.ravel()), count, top).take(rows),
        "error": pa.array(
            [_text(found.errors[n]) if n in found.errors else None for n in range(len(items))], pa.string()
        ),
    }
    if found.logits is not None:
        columns["logits"] = _lists(pa.array(found.logits.ravel()), *found.logits.shape).take(rows)
    return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _lists(values: pa.Array, count: int, length: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(range(0, count * length + 1, length), pa.int32()), values)


def _text(text: str) -> str:
    """Names of files need not be text; what is none is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
