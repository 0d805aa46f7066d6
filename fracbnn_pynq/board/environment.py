"""What this machine is: a laptop or a board, which board, and what pynq needs there. Imports no pynq."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .._version import __version__
from .checks import NOTHING_TO_DO, Check, Status, isolated

TESTED_PYNQ = ("3.0.1", "3.1.2", "4.0.0")
OLDEST_PYNQ, NEWEST_PYNQ = (3, 0), 4
"""First release, and last major one, that this package is known to work with."""
ULTRA96V2 = "xczu3eg-sbva484"
"""Device and package of the Ultra96-V2."""
_ULTRA96 = "ultra96"


@dataclass(frozen=True)
class Machine:
    """The machine seen through its files and environment; ``root`` and the others can be replaced in tests."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    architecture: str = field(default_factory=platform.machine)
    user: int = field(default_factory=lambda: os.geteuid() if hasattr(os, "geteuid") else -1)

    @property
    def is_board(self) -> bool:
        """Whether this is a 64-bit ARM with programmable logic that Linux can configure."""
        return self.architecture == "aarch64" and (self.root / "sys/class/fpga_manager/fpga0").exists()

    @property
    def is_root(self) -> bool:
        return self.user == 0

    @property
    def xrt(self) -> str | None:
        """The variable XILINX_XRT, without which pynq finds no device."""
        return self.environ.get("XILINX_XRT") or None

    @property
    def board_name(self) -> str | None:
        """What the PYNQ image (variable BOARD), else the device tree, calls the board; ``None`` off a board."""
        if not self.is_board:
            return None
        if name := self.environ.get("BOARD"):
            return name
        try:
            return (self.root / "proc/device-tree/model").read_bytes().rstrip(b"\0").decode("ascii", "replace") or None
        except OSError:
            return None

    @property
    def board_part(self) -> str | None:
        """Device and package of the board, ``None`` where it is not known to be an Ultra96-V2.

        PYNQ images call both versions of the Ultra96 by the same name; both carry the same part.
        """
        name = self.board_name
        return ULTRA96V2 if name is not None and _ULTRA96 in name.lower().replace("-", "") else None

    @property
    def render_nodes(self) -> list[str]:
        """Device files of the zocl driver, through which XRT allocates memory."""
        return sorted(path.name for path in (self.root / "dev/dri").glob("renderD*"))

    def contiguous_memory(self) -> tuple[int, int] | None:
        """Free and all bytes of contiguous memory (CMA) by /proc/meminfo; ``None`` where there is none."""
        values = {}
        try:
            for line in (self.root / "proc/meminfo").read_text(encoding="ascii").splitlines():
                name, _, rest = line.partition(":")
                if name in ("CmaFree", "CmaTotal"):
                    values[name] = int(rest.split()[0]) << 10
        except (OSError, ValueError, IndexError):
            return None
        return (values["CmaFree"], values["CmaTotal"]) if values.get("CmaTotal") else None


def pynq_installed() -> bool:
    """Whether pynq can be imported, without importing it (which takes a second)."""
    try:
        return find_spec("pynq") is not None
    except (ImportError, ValueError):
        return False


# Checks ---------------------------------------------------------------------------------------------------------------


def computer_checks() -> list[Check]:
    """What any machine needs: Python, this package, NumPy, the native kernels, models."""
    return [
        check
        for name, function in (
            ("Python", _check_python),
            ("NumPy", _check_numpy),
            ("kernels", _check_kernels),
            ("models", _check_models),
        )
        for check in isolated(name, function)
    ]


def pynq_check(asked: str) -> Check:
    """Whether pynq is here in a version this package is known to work with; needed where a board was ``asked`` for."""
    needed: Status = "warning" if asked == "auto" else "error"
    if not pynq_installed():
        return Check(
            "pynq",
            needed,
            "not installed",
            "for a simulated board: pip install 'fracbnn-pynq[board]'; on a board use the PYNQ image's own Python: "
            "source /etc/profile.d/pynq_venv.sh",
        )
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, and not needed to load a model

    found = version("pynq")
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    tested = f"tested with {', '.join(TESTED_PYNQ)}"
    if numbers < OLDEST_PYNQ:
        return Check("pynq", needed, f"{found}, too old", f"use a PYNQ image with 3.0.1 or later; {tested}")
    if numbers[0] > NEWEST_PYNQ:
        return Check("pynq", "warning", f"{found}, newer than known", f"should it fail, use another: {tested}")
    return Check("pynq", "ok", f"{found}, {'tested' if found in TESTED_PYNQ else tested}")


def board_checks(machine: Machine, asked: str) -> list[Check]:
    """What the real board needs besides pynq. Where there is no board, one check says so."""
    if not machine.is_board:
        status: Status = "error" if asked == "real" else "warning"
        found = f"none: {machine.architecture} without an FPGA manager"
        return [Check("board", status, found, "to use one: an Ultra96-V2 with Avnet's PYNQ image 3.0.1")]
    functions = (
        ("board", _check_board),
        ("root", _check_root),
        ("XILINX_XRT", _check_xrt),
        ("XRT device", _check_nodes),
    )
    return [check for name, function in functions for check in isolated(name, function, machine)]


def _check_python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok", f"{found}, fracbnn-pynq {__version__}")


def _check_numpy() -> Check:
    import numpy as np  # noqa: PLC0415 - a broken NumPy is a finding, not a crash

    return Check("NumPy", "ok", np.__version__)


def _check_kernels() -> Check:
    from ..backends import cpu  # noqa: PLC0415 - as above

    engines = cpu.engines()
    if not engines:
        return Check(
            "kernels",
            "warning",
            "not built: only the slow NumPy reference runs",
            "install gcc and the Python headers, then reinstall this package",
        )
    others = f" (also {', '.join(engines[1:])})" if engines[1:] else ""
    return Check("kernels", "ok", f"{engines[0]}{others}, {cpu.usable_cpus()} threads")


def _check_models() -> Check:
    from ..models import MODELS  # noqa: PLC0415 - as above

    here = [name for name, model in MODELS.items() if model.available]
    missing = [name for name in MODELS if name not in here]
    if not here:
        return Check("models", "error", "none, not even the bundled one", "reinstall this package")
    found = ", ".join(here) + (f"; not fetched: {', '.join(missing)}" if missing else "")
    return Check("models", "ok", found, "fracbnn models fetch NAME" if missing else NOTHING_TO_DO)


def _check_board(machine: Machine) -> Check:
    name = machine.board_name
    if machine.board_part is None:
        return Check(
            "board",
            "warning",
            f"{name or 'unknown'}, not known to be an Ultra96-V2",
            f"the published overlays fit {ULTRA96V2} only; on an Ultra96-V2 set BOARD=Ultra96",
        )
    return Check("board", "ok", f"{name}, {machine.board_part}")


def _check_root(machine: Machine) -> Check:
    if machine.is_root:
        return Check("root", "ok", "yes")
    return Check("root", "error", f"user {machine.user}, not root", "pynq needs root: start with sudo -E, or sudo su")


def _check_xrt(machine: Machine) -> Check:
    if machine.xrt:
        return Check("XILINX_XRT", "ok", machine.xrt)
    advice = "without it pynq finds no device; as root: source /etc/profile.d/xrt_setup.sh (plain sudo drops it)"
    return Check("XILINX_XRT", "error", "not set", advice)


def _check_nodes(machine: Machine) -> Check:
    nodes = machine.render_nodes
    if nodes:
        return Check("XRT device", "ok", ", ".join(f"/dev/dri/{node}" for node in nodes))
    advice = "the kernel's zocl driver makes it; a board without it cannot allocate buffers: use a PYNQ image"
    return Check("XRT device", "warning", "no /dev/dri/renderD*", advice)
