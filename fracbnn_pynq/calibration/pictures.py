"""Unlabelled pictures to calibrate with: a folder, patterns, or an ``.npz``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..cpus import usable_cpus
from ..datasets import MAX_ARCHIVE_SIZE, encoded_pictures
from ..errors import PictureError
from ..networks import Network
from ..npz import read_npz
from ..picturefiles import find_pictures
from ..pictures import load
from .pipeline import Pictures


def read_pictures(paths: Sequence[Path], network: Network) -> tuple[Pictures, list[str]]:
    """Pictures as ``network`` reads them, uint8 [N, edge, edge, 3], and what is wrong with those left out.

    ``paths``: picture files, folders, patterns, or ``.npz`` files with ``images`` or ``jpeg`` and ``offsets``. Raises
    :class:`~fracbnn_pynq.errors.PictureError` where none can be read, SourceError for a damaged archive.
    """
    sources: list[tuple[str, Any]] = []
    for path in paths:
        if path.suffix == ".npz":
            found = encoded_pictures(path, read_npz(path, MAX_ARCHIVE_SIZE))
            sources += [(f"{path}, picture {index}", picture) for index, picture in enumerate(found)]
        else:
            sources += [(str(file), file) for file in find_pictures([path])]

    def read(source: tuple[str, Any]) -> Any:
        try:
            return load(source[1], network)
        except PictureError as error:
            text = str(error)
            return text if source[0] in text else f"{source[0]}: {text}"

    with ThreadPoolExecutor(usable_cpus()) as pool:
        results = list(pool.map(read, sources))
    wrong = [result for result in results if isinstance(result, str)]
    good = [result for result in results if not isinstance(result, str)]
    if not good:
        raise PictureError(
            f"expected pictures, found none that can be read: {wrong[0] if wrong else 'the file is empty'}"
        )
    return np.stack(good), wrong
