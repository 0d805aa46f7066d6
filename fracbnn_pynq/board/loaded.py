"""Whether an overlay is still the one on the board."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

Stamp = tuple[int, int, int]


class LoadedCheck:
    """Made right after an overlay was loaded; :meth:`still` then says whether it is still there.

    pynq's ``is_loaded()`` knows of this process only. What other processes load shows in a file which pynq 3 and
    later write whenever any process loads a bitstream, so that is looked at too.
    """

    def __init__(self, overlay: Any, folder: Path | None = None) -> None:
        self._overlay = overlay
        folder = folder or _state_folder()
        paths = sorted(folder.glob("global_pl_state*.json")) if folder else []
        self._stamps = [(os.fspath(path), _stamp(os.fspath(path))) for path in paths]

    def still(self) -> bool:
        """Whether nothing else has been loaded since."""
        if not self._overlay.is_loaded():
            return False
        return all(_stamp(path) == stamp for path, stamp in self._stamps)


def _state_folder() -> Path | None:
    try:
        return Path(import_module("pynq.pl_server.global_state").STATE_DIR)
    except (ImportError, AttributeError):
        return None


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
