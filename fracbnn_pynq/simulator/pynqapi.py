"""Where pynq's versions differ, and where it keeps state per process that a new board must not inherit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pynq.ps
from pynq.interrupt import _InterruptController
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import RuntimeMetadataParser
from pynq.uio import UioController
from pynqmetadata.frontends import Metadata

from ..cores import REACH
from ..errors import OverlayError
from .interrupts import UioLine


def parse_handoff(path: Path) -> Any:
    """pynq's view of a hand-off file. Raises OverlayError where the file is missing."""
    if not path.is_file():
        raise OverlayError(f"expected a hardware hand-off file beside the bitstream, found no {path}")
    parser = RuntimeMetadataParser(Metadata(input=path))
    parser.refresh_hierarchy_dict()
    # A board's device learns of its DDR memory from a container it makes with xclbinutil; here it is just known.
    parser.mem_dict["PSDDR"] = {
        "raw_type": 0,
        "used": 1,
        "base_address": 0,
        "size": REACH,
        "type": "DDR4",
        "streaming": False,
        "idx": 0,
        "tag": "PSDDR",
    }
    return parser


def activate(device: Any) -> None:
    """Make ``device`` the one pynq uses where none is named."""
    if not hasattr(pynq.ps.Clocks, "device"):
        # pynq 3.0 asks the machine it runs on, not the device, which kind of clock registers there are.
        pynq.ps.CPU_ARCH = device.arch
    Device.active_device = device
    _forget_clocks()


def deactivate(device: Any) -> None:
    """Undo :func:`activate`, unless another device has been made active meanwhile."""
    if getattr(Device, "_active_device", None) is not device:
        return
    del Device._active_device
    if not hasattr(pynq.ps.Clocks, "device"):
        pynq.ps.CPU_ARCH = platform.machine()
    _forget_clocks()


def _forget_clocks() -> None:
    """pynq keeps the clock registers of the first device it met for good."""
    if hasattr(pynq.ps.Clocks, "device"):
        pynq.ps.Clocks.device = None
    if hasattr(pynq.ps.Clocks, "_real_instance"):
        del pynq.ps.Clocks._real_instance


class _Uio(UioController):  # type: ignore[misc]  # pynq has no type information
    """pynq's own UIO driver, with an end: pynq's ``__del__`` looks for an event loop that may be gone."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_event_loop()  # where there is none this raises, as on a board, before a file is open
        # Opened by its path it would become the controlling terminal of a process that leads a session, as Jupyter's
        # kernels do, and its end would end the process. pynq hands on to open() whatever it is given.
        super().__init__(os.open(path, os.O_RDWR | os.O_NOCTTY))

    def __del__(self) -> None:
        self.end()

    def end(self) -> None:
        if hasattr(self, "uio") and not self.uio.closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self.uio)
            self.uio.close()


class UioDevices(dict[int, Any]):
    """pynq's table of opened interrupt lines, which opens the simulated ones when they are first asked for.

    On a board pynq finds the device files in /proc and /sys; it looks into this table before.
    """

    def __init__(self, lines: Mapping[int, UioLine]) -> None:
        super().__init__()
        self._lines = lines
        self._previous: Any = None

    def __contains__(self, number: object) -> bool:
        return number in self._lines

    def __missing__(self, number: int) -> Any:
        self[number] = _Uio(self._lines[number].path)
        return self[number]

    def install(self) -> None:
        """Become pynq's table, with no line open: a new overlay is loaded."""
        self._end_all()
        if _InterruptController._uio_devices is not self:
            self._previous = _InterruptController._uio_devices
            _InterruptController._uio_devices = self
        _InterruptController._controllers.clear()

    def remove(self) -> None:
        """Give pynq its own table back."""
        self._end_all()
        if _InterruptController._uio_devices is self:
            _InterruptController._uio_devices = self._previous

    def _end_all(self) -> None:
        for controller in self.values():
            controller.end()
        self.clear()
