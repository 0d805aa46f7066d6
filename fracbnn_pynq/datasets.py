"""Labelled pictures to train and to measure on, from a folder, an ``.npz`` or CIFAR-10's own files.

Whatever the source, the result is one uint8 array [N, 3, edge, edge] of pictures as the network would be given them,
decoded once. It may lie in a file and be larger than memory.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .cifar_files import find_batches, read_batches
from .cpus import usable_cpus
from .errors import PictureError, SourceError
from .files import write_file, write_stream
from .networks import Network
from .npz import Arrays, read_npz
from .picturefiles import LeftOut, is_clutter, pictures_below, refuse_url
from .pictures import load
from .resizing import Pixels

DECODE_CHUNK = 256
MAX_ARCHIVE_SIZE = 8 << 30
"""Bytes of all arrays of an ``.npz``."""
MOST_HASHED = 1 << 30
"""Bytes of pictures that a fingerprint is made of; more take longer than a run's start should."""

_PARTS = frozenset(
    {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation", "holdout"}
)
"""Names of folders that hold a part of a data set, not a class."""


@dataclass(frozen=True)
class Source:
    """Labelled pictures not decoded yet: ``pictures`` are paths, encoded bytes or arrays, one per label.

    ``named``: whether the names of the classes were given; else they are made from their numbers.
    """

    pictures: Sequence[Any] | npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    named: bool = True

    def labels_for(self, classes: Sequence[str]) -> npt.NDArray[np.int64]:
        """Labels as places in ``classes``, by name, or as they are where there are no names: int64 [N].

        Raises :class:`~fracbnn_pynq.errors.SourceError` where a class of this source is none of ``classes``.
        """
        places = {name: index for index, name in enumerate(classes)}
        own = self.classes if self.named else classes[: len(self.classes)]
        unknown = [name for name in own if name not in places] or self.classes[len(own) :]
        if unknown:
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise SourceError(f"{self.name}: expected pictures of {known}; found a class {unknown[0]!r}")
        return np.array([places[name] for name in own], np.int64)[self.labels]

    def read(self, index: int, network: Network) -> Pixels:
        """Picture ``index`` as ``network`` reads it, uint8 [edge, edge, 3].

        Raises :class:`~fracbnn_pynq.errors.SourceError` naming a picture that cannot be read.
        """
        try:
            return load(self.pictures[index], network)
        except PictureError as error:
            raise SourceError(f"{self.name}, picture {index}: {error}", advice="take it out, or replace it") from None

    def batches(
        self, network: Network, leave_out: Callable[[SourceError], object] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
        """All pictures as ``network`` reads them, uint8 [n, edge, edge, 3], and which they are, int64 [n]; read by all
        cores.

        ``leave_out`` is told of each picture that cannot be read, which is left out then. Without it the first one
        raises :class:`~fracbnn_pynq.errors.SourceError`.
        """

        def attempt(index: int) -> Pixels | SourceError:
            try:
                return self.read(index, network)
            except SourceError as error:
                if leave_out is None:
                    raise
                return error

        count = len(self.pictures)
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for start in range(0, count, DECODE_CHUNK):
                part = range(start, min(start + DECODE_CHUNK, count))
                good, pixels = [], []
                for index, found in zip(part, pool.map(attempt, part), strict=True):
                    if isinstance(found, SourceError):
                        assert leave_out is not None  # noqa: S101 - for the type checker
                        leave_out(found)
                    else:
                        good.append(index)
                        pixels.append(found)
                if good:
                    yield np.array(good, np.int64), np.stack(pixels)

    def fingerprint(self) -> str:
        """Changes when the pictures or labels do (files by name, size and time of change)."""
        digest = hashlib.sha256(repr((self.classes, len(self.labels))).encode())
        digest.update(self.labels.tobytes())
        for picture in self.pictures:
            if isinstance(picture, Path):
                status = picture.stat()
                digest.update(f"{picture}\0{status.st_size}\0{status.st_mtime_ns}".encode())
            else:
                digest.update(picture if isinstance(picture, bytes) else picture.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """Decoded pictures uint8 [N, 3, edge, edge], their labels int64 [N], and the names of the classes."""

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    name: str
    which: npt.NDArray[np.int64] | None = None
    """The part of the arrays that belongs to this data set, ascending indices; ``None`` for all."""

    def __len__(self) -> int:
        return len(self.labels) if self.which is None else len(self.which)

    def fingerprint(self) -> str:
        """Changes when the pictures or labels do; of a very large set, when those of a part spread over it do."""
        rows = np.arange(len(self.labels)) if self.which is None else self.which
        digest = hashlib.sha256(repr((self.classes, self.pictures.shape[1:])).encode())
        digest.update(rows.astype(np.int64).tobytes())
        digest.update(self.labels[rows].astype(np.int64).tobytes())
        size = int(np.prod(self.pictures.shape[1:]))
        for row in rows[:: max(1, len(rows) * size // MOST_HASHED)]:
            digest.update(self.pictures[row].tobytes())
        return digest.hexdigest()[:16]

    def take(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Pictures and labels at ``indices``, each 0 to ``len(self) - 1``."""
        rows = indices if self.which is None else self.which[indices]
        return np.asarray(self.pictures[rows]), self.labels[rows]


def open_source(path: Path) -> Source:
    """What ``path`` holds: a folder of one folder per class, a folder of CIFAR-10's batch files, or an ``.npz``.

    An ``.npz`` has ``images`` uint8 [N, H, W, 3] or ``jpeg`` (all files end to end) with ``offsets``, further
    ``labels`` and, if there are names, ``classes``. Raises :class:`~fracbnn_pynq.errors.SourceError`.
    """
    source = _open(path)
    for name in source.classes:
        if not (name and name.isprintable()):
            raise SourceError(
                f"{path}: expected class names of printable characters, found {name!r:.100}", advice="rename that class"
            )
    return source


def _open(path: Path) -> Source:
    if os.path.isdir(path):
        batches = find_batches(path)
        if batches:
            images, labels, classes = read_batches(batches)
            return Source(images, labels, classes, path.name)
        return _folder(path)
    if path.suffix == ".npz" and os.path.isfile(path):
        return _archive(path)
    expected = f"{path}: expected a folder with one folder of pictures per class, or an .npz"
    try:
        refuse_url(path)
    except PictureError as error:
        raise SourceError(error.message, advice=error.advice) from None
    raise SourceError(f"{expected}; found {'neither' if os.path.lexists(path) else 'no such file'}")


def _folder(path: Path) -> Source:
    left_out = LeftOut()
    classes = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not is_clutter(entry.name):
            classes.append(entry.name)
        elif not entry.is_dir():
            left_out.add(entry.name)
    _check_no_parts(path, classes)
    if len(classes) < 2:
        raise SourceError(f"{path}: expected one folder of pictures per class, found {len(classes)} folders")
    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        own = pictures_below(path / name, left_out)
        files += own
        labels += [index] * len(own)
    left_out.report(str(path))
    return Source(files, np.array(labels, np.int64), tuple(classes), path.name)


def _check_no_parts(path: Path, folders: Sequence[str]) -> None:
    """Refuse a data set's parts as classes: a network would learn to tell its training pictures from the others."""
    parts = [name for name in folders if name.lower() in _PARTS]
    if len(parts) > 1 or (parts and len(folders) == 1):
        raise SourceError(
            f"{path}: expected one folder of pictures per class, found the parts of a data set: {', '.join(parts)}",
            advice=f"give {path / parts[0]}, and the other one where labelled pictures to measure on are asked for "
            "(fracbnn train: --test)",
        )


def encoded_pictures(path: Path, arrays: Arrays) -> Any:
    """The pictures among an archive's arrays: ``images``, or byte strings cut from ``jpeg`` at ``offsets``."""
    try:
        return _pictures_among(arrays)
    except KeyError as error:
        raise SourceError(f"{path}: expected arrays 'images', or 'jpeg' and 'offsets'; {error}") from None
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {_PLAIN} ({error})") from None


def _pictures_among(arrays: Arrays) -> Any:
    if "images" in arrays:
        if arrays["images"].ndim == 0:
            raise TypeError("images: a single number")
        return arrays["images"]
    data, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
    return [data[first:end] for first, end in itertools.pairwise(offsets)]


_PLAIN = "expected an .npz of plain arrays, found something else"


def _archive(path: Path) -> Source:
    arrays = read_npz(path, MAX_ARCHIVE_SIZE)
    try:
        labels = arrays["labels"].astype(np.int64)
        classes = tuple(str(name) for name in arrays.get("classes", ()))
        pictures = _pictures_among(arrays)
    except KeyError as error:
        raise SourceError(f"{path}: expected arrays 'labels' and 'images', or 'jpeg' and 'offsets'; {error}") from None
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {_PLAIN} ({error})") from None
    count = len(pictures)
    if labels.shape != (count,) or labels.min(initial=0) < 0:
        raise SourceError(f"{path}: expected a label from 0 up for each of {count} pictures")
    named = bool(classes)
    classes = classes or tuple(f"class {index}" for index in range(int(labels.max(initial=0)) + 1))
    if labels.max(initial=0) >= len(classes):
        raise SourceError(f"{path}: expected labels below {len(classes)}, the number of classes; found {labels.max()}")
    return Source(pictures, labels, classes, path.name, named)


def decode(source: Source, network: Network, store: Path, *, progress: bool = True) -> Dataset:
    """``source`` as ``network`` reads it; kept in the file ``store`` (.npy), where a second call finds it.

    Raises :class:`~fracbnn_pynq.errors.SourceError` naming the first picture that cannot be read.
    """
    key = f"{network.name} {source.fingerprint()}"
    marker = store.with_suffix(".source")
    if not (store.exists() and marker.exists() and marker.read_text(encoding="utf-8") == key):
        marker.unlink(missing_ok=True)
        _decode_into(store, source, network, progress)
        write_file(marker, key.encode(), SourceError)
    return Dataset(np.load(store, mmap_mode="r"), source.labels, source.classes, source.name)


def _decode_into(store: Path, source: Source, network: Network, progress: bool) -> None:
    edge = network.image_size
    count = len(source.pictures)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, edge, edge)}
    # Written rather than mapped into memory: a full disk is an error of write(), but of a mapping it ends the process.
    with write_stream(store, SourceError) as stream, tqdm(total=count, desc="decoding", disable=not progress) as bar:
        np.lib.format.write_array_header_1_0(stream, header)
        for part, pixels in source.batches(network):
            stream.write(pixels.transpose(0, 3, 1, 2).tobytes())
            bar.update(len(part))


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """``dataset`` without a random share ``held_out`` of its pictures, and that share."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = max(1, round(held_out * len(order)))
    test, train = np.sort(order[:count]), np.sort(order[count:])
    return _part(dataset, train), _part(dataset, test)


def _part(dataset: Dataset, which: npt.NDArray[np.int64]) -> Dataset:
    rows = which if dataset.which is None else dataset.which[which]
    return Dataset(dataset.pictures, dataset.labels, dataset.classes, dataset.name, rows)
