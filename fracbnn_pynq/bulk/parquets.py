"""Pictures in a Parquet file: a column of encoded pictures, of Hugging Face's ``{bytes, path}``, or of paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..files import open_regular
from .items import File, Item, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS = 32
"""Rows read together."""


class ParquetPictures:
    """The pictures of a column. ``column``: its name, or ``None`` for the only one that can be meant.

    Raises :class:`~fracbnn_pynq.errors.SourceError` where the file is no Parquet, or the column is not clear.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self._path = path
        with self._open() as file:
            self.rows: int = file.metadata.num_rows
            self.column = _column(path, file.schema_arrow, column)

    def items(self, source: str) -> Iterator[Item]:
        """Every row as an item. What cannot be read on ends in one item with the error."""
        folder = os.path.dirname(os.path.abspath(self._path))
        row = 0
        try:
            with self._open() as file:
                for batch in file.iter_batches(batch_size=_ROWS, columns=[self.column]):
                    for cell in batch.column(0):
                        yield _item(source, row, cell.as_py(), folder)
                        row += 1
        except SourceError as error:
            yield Item(source, f"row {row}", 0, Unreadable(str(error)))

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415

        with open_regular(self._path, SourceError, "Parquet file") as stream:
            try:
                with pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
                    yield file
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                text = " ".join(str(error).split())
                raise SourceError(f"{self._path}: expected a whole Parquet file, found {text:.200}") from None


def _item(source: str, row: int, value: Any, folder: str) -> Item:
    name = f"row {row}"
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes") or value.get("path")
        name = path if isinstance(path, str) and path else name
    if isinstance(value, bytes):
        return Item(source, name, len(value), value)
    if isinstance(value, str):
        path = os.path.join(folder, value)
        try:
            return Item(source, value, os.stat(path).st_size, File(path))
        except (OSError, ValueError):
            return Item(source, value, 0, Unreadable("expected a picture file, found no file of this name"))
    return Item(source, name, 0, Unreadable("expected a picture, found nothing"))


def _column(path: Path, schema: pa.Schema, wanted: str | None) -> str:
    names: list[str] = [name for name in schema.names if schema.names.count(name) == 1]
    kinds = {name: _kind(schema.field(name).type) for name in names}
    if wanted is not None:
        if kinds.get(wanted) is None:
            found = f"type {schema.field(wanted).type}" if wanted in kinds else f"columns {', '.join(names[:20])}"
            raise SourceError(f"{path}: expected a column {wanted!r} of bytes or paths, found {found:.300}")
        return wanted
    for kind in ("bytes", "paths"):
        fitting = [name for name in names if kinds[name] == kind]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            found = f"{', '.join(fitting):.300}"
            raise SourceError(
                f"{path}: expected one column of {kind}, found {found}", advice="choose one with --column"
            )
    raise SourceError(f"{path}: expected a column of encoded pictures or of paths, found {', '.join(names):.300}")


def _kind(kind: pa.DataType) -> str | None:
    import pyarrow as pa  # noqa: PLC0415 - as above

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        return "bytes" if {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)} else None
    if any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)):
        return "bytes"
    return "paths" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
