"""Drawn pictures in every kind of source, and what one classifier says of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from fracbnn_pynq import Classifier
from fracbnn_pynq.pictures import load


@cache
def drawn(count: int, seed: int = 0) -> tuple[bytes, ...]:
    """JPEGs of a few coloured fields each."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((40, 34)).save(stream, "JPEG")
        made.append(stream.getvalue())
    return tuple(made)


def named(count: int, seed: int = 0) -> dict[str, bytes]:
    return {f"{number:05d}.jpg": data for number, data in enumerate(drawn(count, seed))}


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def logits_of(pictures: Iterable[bytes], arithmetic: str = "auto") -> np.ndarray:
    """float32 [N, 10] of the bundled model on the CPU engine, in one batch."""
    with Classifier.load("cifar10", backend="cpu", arithmetic=arithmetic) as classifier:
        return classifier.logits(np.stack([load(data, classifier.network) for data in pictures]))
