"""What the tests of training share: pictures that are easy to tell apart, and settings that train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fracbnn_pynq.datasets import Dataset
from fracbnn_pynq.training.recipe import Recipe

COLOURS = ("red", "green", "blue")
QUICK = Recipe(batch=16, peak_rate=5e-3, float_until=0.3, sizes=((0.0, 0.5), (0.3, 1.0)), flip=True)


def pictures(count: int, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of which one colour is brighter than the others: uint8 [N, 32, 32, 3], and which one: int64 [N]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    images = rng.integers(0, 140, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 100
    return images.astype(np.uint8), labels


def dataset(count: int, classes: int = 3, seed: int = 0, name: str = "colours") -> Dataset:
    images, labels = pictures(count, classes, seed)
    return Dataset(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, COLOURS[:classes], name)


def folder_of_pictures(folder: Path, count: int, classes: int = 3, seed: int = 0) -> Path:
    """``count`` .png files, in a folder for each class."""
    for index, (image, label) in enumerate(zip(*pictures(count, classes, seed), strict=True)):
        own = folder / COLOURS[label]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(own / f"{index:03}.png")
    return folder


def archive_of_pictures(path: Path, count: int, **changes: Any) -> Path:
    images, labels = pictures(count)
    arrays = {"images": images, "labels": labels, "classes": np.array(COLOURS), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
