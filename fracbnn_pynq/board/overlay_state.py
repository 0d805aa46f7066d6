"""Whether an overlay is still the one on the board."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

Stamp = tuple[int, int, int]

FIRMWARE = Path("/lib/firmware")


class LoadedCheck:
    """Made right after an overlay was loaded; :meth:`still` then says whether it is still there.

    pynq's ``is_loaded()`` knows of this process only. What other processes load shows in two files: a record of what is
    loaded, which pynq 3 and later do not write again for the bitstream that is there already; and the firmware that
    pynq makes of a bitstream before the kernel is given its name. A process that loads once more what it has loaded
    before may write neither; that leaves the core's registers, see :meth:`.drivers.HlsCore.check_addresses`.

    ``folder``: where pynq keeps its record; ``firmware``: where the kernel looks for firmware.
    """

    def __init__(self, overlay: Any, folder: Path | None = None, firmware: Path = FIRMWARE) -> None:
        self._is_loaded = overlay.is_loaded
        folder = folder or _state_folder()
        paths = sorted(folder.glob("global_pl_state*.json")) if folder else []
        self._records = _stamps(paths)
        name = getattr(overlay, "binfile_name", None)
        self._firmware = _stamps([firmware / name] if name else [])

    def still(self, *, closely: bool = False) -> bool:
        """Whether nothing else has been loaded since.

        ``closely``: look at the firmware, too, which takes as long again. Its time only tells of the same bitstream,
        after which the core is still there and its registers can be read without harm.
        """
        if not self._is_loaded():
            return False
        # Before every run: all() of a generator costs as much again.
        for path, stamp in self._records + self._firmware if closely else self._records:
            if _stamp(path) != stamp:
                return False
        return True


def _state_folder() -> Path | None:
    try:
        return Path(import_module("pynq.pl_server.global_state").STATE_DIR)
    except (ImportError, AttributeError):
        return None


def _stamps(paths: list[Path]) -> list[tuple[str, Stamp | None]]:
    return [(os.fspath(path), _stamp(os.fspath(path))) for path in paths]


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
