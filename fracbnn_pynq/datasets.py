"""Labelled pictures to train and to measure on, from a folder, an ``.npz`` or CIFAR-10's own files.

Whatever the source, the result is one uint8 array [N, 3, edge, edge] of pictures as the network would be given them,
decoded once. It may lie in a file and be larger than memory.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .cifar_files import find_batches, read_batches
from .errors import PictureError, SourceError
from .files import write_file
from .networks import Network
from .picturefiles import find_pictures
from .pictures import load
from .resizing import Pixels

DECODE_CHUNK = 256


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
            raise SourceError(f"{self.name}, picture {index}: {error}; take it out, or replace it") from None

    def batches(self, network: Network) -> Iterator[tuple[slice, npt.NDArray[np.uint8]]]:
        """All pictures as ``network`` reads them, uint8 [n, edge, edge, 3], and which they are; read by all cores.

        Raises :class:`~fracbnn_pynq.errors.SourceError` naming the first picture that cannot be read.
        """
        count = len(self.pictures)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, count, DECODE_CHUNK):
                part = range(start, min(start + DECODE_CHUNK, count))
                pixels = np.stack(list(pool.map(lambda index: self.read(index, network), part)))
                yield slice(part.start, part.stop), pixels

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

    def take(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Pictures and labels at ``indices``, each 0 to ``len(self) - 1``."""
        rows = indices if self.which is None else self.which[indices]
        return np.asarray(self.pictures[rows]), self.labels[rows]


def open_source(path: Path) -> Source:
    """What ``path`` holds: a folder of one folder per class, a folder of CIFAR-10's batch files, or an ``.npz``.

    An ``.npz`` has ``images`` uint8 [N, H, W, 3] or ``jpeg`` (all files end to end) with ``offsets``, further
    ``labels`` and, if there are names, ``classes``. Raises :class:`~fracbnn_pynq.errors.SourceError`.
    """
    if path.is_dir():
        batches = find_batches(path)
        if batches:
            images, labels, classes = read_batches(batches)
            return Source(images, labels, classes, path.name)
        return _folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _archive(path)
    raise SourceError(f"{path}: expected a folder with one folder of pictures per class, or an .npz; found neither")


def _folder(path: Path) -> Source:
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise SourceError(f"{path}: expected one folder of pictures per class, found {len(classes)} folders")
    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        own = find_pictures([path / name])
        files += own
        labels += [index] * len(own)
    return Source(files, np.array(labels, np.int64), tuple(classes), path.name)


def _archive(path: Path) -> Source:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        labels = arrays["labels"].astype(np.int64)
        classes = tuple(str(name) for name in arrays.get("classes", ()))
        if "images" in arrays:
            pictures: Any = arrays["images"]
        else:
            data, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
            pictures = [data[first:end] for first, end in itertools.pairwise(offsets)]
        count = len(pictures)
    except KeyError as error:
        raise SourceError(f"{path}: expected arrays 'labels' and 'images', or 'jpeg' and 'offsets'; {error}") from None
    except Exception as error:  # a damaged archive makes its readers raise anything
        raise SourceError(f"{path}: expected an .npz of plain arrays, found something else ({error})") from None
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
    target = np.lib.format.open_memmap(store, "w+", np.uint8, (count, 3, edge, edge))
    with tqdm(total=count, desc="decoding", disable=not progress) as bar:
        for part, pixels in source.batches(network):
            target[part] = pixels.transpose(0, 3, 1, 2)
            bar.update(len(pixels))
    target.flush()


def split(dataset: Dataset, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """``dataset`` without a random share ``held_out`` of its pictures, and that share."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = max(1, round(held_out * len(order)))
    test, train = np.sort(order[:count]), np.sort(order[count:])
    return _part(dataset, train), _part(dataset, test)


def _part(dataset: Dataset, which: npt.NDArray[np.int64]) -> Dataset:
    rows = which if dataset.which is None else dataset.which[which]
    return Dataset(dataset.pictures, dataset.labels, dataset.classes, dataset.name, rows)
