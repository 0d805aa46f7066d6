"""What this machine is: a laptop or a board, which board, and what pynq needs there. Imports no pynq."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .. import native
from .._version import __version__
from ..cores import ULTRA96V2
from ..cpus import usable_cpus
from ..errors import BackendError
from ..extras import install_line
from .checks import NOTHING_TO_DO, Check, Status, isolated

TESTED_PYNQ = ("3.0.1", "3.1.2", "4.0.0")
OLDEST_PYNQ, NEWEST_PYNQ = (3, 0), 4
"""First release, and last major one, that this package is known to work with."""
PYXRT_PYNQ = (3, 1)
"""First release that reaches XRT through its Python module, and looks for a mark in the device tree before it does."""
BOARD_MARK = "proc/device-tree/chosen/pynq_board"
_ULTRA96 = "ultra96"
_NUMPY_WITH_DEVICE = 2
_IMAGE_PYTHON = "use the PYNQ image's own Python, as root: source /etc/profile.d/pynq_venv.sh"
_XRT_SETUP = "source /etc/profile.d/xrt_setup.sh"
_XRT_MISSING = "XRT comes with the PYNQ image and nowhere else"


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

    def has_program(self, name: str) -> bool:
        """Whether a program is on the search path."""
        return shutil.which(name, path=self.environ.get("PATH", os.defpath)) is not None

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


def check_numpy_for_pynq() -> None:
    """Raise BackendError where NumPy 2 stands beside a pynq that does not work with it, which pip does not prevent.

    pynq's buffers are a subclass of NumPy's array and set an attribute ``device`` on it, which NumPy 2 has taken.
    """
    import numpy as np  # noqa: PLC0415 - a broken NumPy is a finding, not a crash

    if int(np.__version__.split(".")[0]) < _NUMPY_WITH_DEVICE or not pynq_installed():
        return
    found, numbers = _pynq_version()
    if numbers[0] <= NEWEST_PYNQ:
        raise BackendError(
            f"expected NumPy 1 beside pynq {found}, whose buffers do not work with NumPy 2; found {np.__version__}",
            advice=f"{sys.executable} -m pip install 'numpy<2'",
        )


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


def pynq_advice(machine: Machine | None = None) -> str:
    """What to do where pynq is missing: on a board it is in the image, and another one must not be installed."""
    return _IMAGE_PYTHON if (machine or Machine()).is_board else f"install it with: {install_line('board')}"


def pynq_check(asked: str, machine: Machine | None = None) -> Check:
    """Whether pynq is here in a version this package is known to work with; needed where a board was ``asked`` for."""
    needed: Status = "warning" if asked == "auto" else "error"
    if not pynq_installed():
        return Check("pynq", needed, "not installed", pynq_advice(machine))
    found, numbers = _pynq_version()
    try:
        check_numpy_for_pynq()
    except BackendError as error:
        return Check("pynq", needed, error.message, error.advice)
    tested = f"tested with {', '.join(TESTED_PYNQ)}"
    if numbers < OLDEST_PYNQ:
        return Check("pynq", needed, f"{found}, too old", f"use a PYNQ image with 3.0.1 or later; {tested}")
    if numbers[0] > NEWEST_PYNQ:
        return Check("pynq", "warning", f"{found}, newer than known", f"should it fail, use another: {tested}")
    return Check("pynq", "ok", f"{found}, {'tested' if found in TESTED_PYNQ else tested}")


def _pynq_version() -> tuple[str, tuple[int, ...]]:
    """pynq's version as text and as numbers; without an import of pynq."""
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, and not needed to load a model

    found = version("pynq")
    return found, tuple(int(part) for part in re.findall(r"\d+", found)[:3])


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
        ("XRT", _check_xrt_parts),
    )
    return [check for name, function in functions for check in isolated(name, function, machine)]


def _check_python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", "ok", f"{found}, fracbnn-pynq {__version__}")


def _check_numpy() -> Check:
    import numpy as np  # noqa: PLC0415 - a broken NumPy is a finding, not a crash

    return Check("NumPy", "ok", np.__version__)


def _check_kernels() -> Check:
    engines = list(native.engines())
    if not engines:
        return Check(
            "kernels",
            "warning",
            "not built: only the slow NumPy reference runs",
            native.MISSING_ADVICE,
        )
    others = f" (also {', '.join(engines[1:])})" if engines[1:] else ""
    return Check("kernels", "ok", f"{engines[0]}{others}, {usable_cpus()} threads")


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
    advice = f"without it pynq finds no device; as root: {_XRT_SETUP} (plain sudo drops it)"
    return Check("XILINX_XRT", "error", "not set", advice)


def _check_nodes(machine: Machine) -> Check:
    nodes = machine.render_nodes
    if nodes:
        return Check("XRT device", "ok", ", ".join(f"/dev/dri/{node}" for node in nodes))
    advice = "the kernel's zocl driver makes it; a board without it cannot allocate buffers: use a PYNQ image"
    return Check("XRT device", "warning", "no /dev/dri/renderD*", advice)


def _check_xrt_parts(machine: Machine) -> Iterator[Check]:
    """The parts of XRT that the installed pynq uses, by whose absence it fails with errors that name something else."""
    if machine.has_program("xclbinutil"):
        yield Check("xclbinutil", "ok", "on the search path")
    else:
        advice = f"pynq makes a file with it before it loads an overlay: {_XRT_SETUP}; {_XRT_MISSING}"
        yield Check("xclbinutil", "error", "not on the search path", advice)
    if not pynq_installed():
        return  # which is what the check of pynq says
    if _pynq_version()[1] >= PYXRT_PYNQ:
        yield _check_mark(machine)
        yield _check_pyxrt()
        return
    if machine.xrt:  # without it pynq does not look for a library, which is what another check says
        yield _check_library(machine, machine.xrt)
    if not machine.has_program("xbutil"):
        advice = f"pynq 3.0 asks it for the version of XRT when it is imported: {_XRT_SETUP}; {_XRT_MISSING}"
        yield Check("xbutil", "error", "not on the search path", advice)


def _check_mark(machine: Machine) -> Check:
    if (machine.root / BOARD_MARK).is_file():
        return Check("device tree", "ok", f"/{BOARD_MARK}")
    advice = (
        "without it pynq takes this for no board and does not load XRT: the boot image of a PYNQ release has it; to an "
        'image of your own add pynq_board = "Ultra96" to the device tree\'s chosen node'
    )
    return Check("device tree", "error", f"no /{BOARD_MARK}", advice)


def _check_pyxrt() -> Check:
    if find_spec("pyxrt") is not None:
        return Check("pyxrt", "ok", "XRT's Python module")
    advice = (
        f"pynq from {'.'.join(map(str, PYXRT_PYNQ))} on allocates memory through it: {_XRT_SETUP}, and "
        f"{_IMAGE_PYTHON}; it is no package that pip could install"
    )
    return Check("pyxrt", "error", "XRT's Python module is not there", advice)


def _check_library(machine: Machine, xrt: str) -> Check:
    name = f"{xrt.rstrip('/')}/lib/libxrt_core.so"
    if (machine.root / name.lstrip("/")).is_file():
        return Check("XRT library", "ok", name)
    return Check("XRT library", "error", f"no {name}", f"XILINX_XRT names XRT's folder: {_XRT_SETUP}; {_XRT_MISSING}")
