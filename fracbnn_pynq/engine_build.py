"""The engine's bitstream: find Vivado, run the scripts of overlays/engine/vivado, and show what they are doing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .cpus import usable_cpus
from .engine.sources import sources_folder
from .errors import BackendError
from .files import cache_directory
from .published.engine import STEM

VIVADO_VARIABLE = "XILINX_VIVADO"
INSTALL_ADVICE = (
    "install Vivado 2020.2 or later on an x86-64 computer: the free edition (ML Standard, before 2021 WebPACK) will "
    f"do, with Zynq UltraScale+ MPSoC among its devices; put it on PATH, set {VIVADO_VARIABLE}, or install it in "
    "/tools/Xilinx or /opt/Xilinx"
)
ROOTS = (Path("/tools/Xilinx"), Path("/opt/Xilinx"))
"""Where installers put it."""
_MARK = "fracbnn: "
_ERROR = _MARK + "error: "


def find_vivado(roots: Sequence[Path] | None = None) -> Path:
    """The program ``vivado``: from PATH, else of the folder XILINX_VIVADO, else the newest in ``roots`` (``None``:
    :data:`ROOTS`).

    Raises :class:`~fracbnn_pynq.errors.BackendError`, which says what to install, where there is none.
    """
    if found := shutil.which("vivado"):
        return Path(found)
    if given := os.environ.get(VIVADO_VARIABLE):
        program = Path(given) / "bin" / "vivado"
        if program.is_file():
            return program
        raise BackendError(f"{VIVADO_VARIABLE}: expected {program}, found none", advice=INSTALL_ADVICE)
    # Until 2024 in Vivado/VERSION, later in VERSION/Vivado.
    folders = ROOTS if roots is None else roots
    programs = [
        path for root in folders for form in ("Vivado/*", "*/Vivado") for path in root.glob(f"{form}/bin/vivado")
    ]
    if not programs:
        raise BackendError("expected Vivado, AMD's tool for its FPGAs, found none", advice=INSTALL_ADVICE)
    return max(programs, key=_version)


def _version(program: Path) -> tuple[int, ...]:
    numbers = re.findall(r"(?:^|/)(\d+)\.(\d+)(?=/)", str(program))
    return tuple(map(int, numbers[-1])) if numbers else (0,)


def build_overlay(
    out: Path, *, clock_mhz: int, pixels: int, show: Callable[[str], None], vivado: Path | None = None
) -> Path:
    """Build bitstream and hand-off file of the engine into ``out``; returns the bitstream's path.

    ``clock_mhz``, ``pixels`` (X): as the scripts allow. ``show`` is called with each step as it begins, and each fact
    of the result. ``vivado``: the program (default: :func:`find_vivado`). All that Vivado says goes into ``<stem>.log``
    in ``out``, with two reports beside it; it works in the cache folder. An hour is usual.

    Raises :class:`~fracbnn_pynq.errors.BackendError`, which names the log, where it fails: also where the design does
    not reach its clock.
    """
    script = sources_folder() / "vivado" / "build.tcl"
    program = vivado or find_vivado()
    out = out.resolve()
    work = cache_directory().resolve() / "engine" / f"build-x{pixels}-{clock_mhz}"
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    log = out / f"{STEM}.log"
    options = {"out": out, "work": work, "clock": clock_mhz, "pixels": pixels, "jobs": usable_cpus()}
    command = [str(program), "-mode", "batch", "-nojournal", "-nolog", "-notrace", "-source", str(script), "-tclargs"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    show(f"{program}; its log is {log}")
    reason = _run(command, work, log, show)
    bit = out / f"{STEM}.bit"
    if reason is not None:
        raise BackendError(f"building the engine failed: {reason}", advice=f"the log says more: {log}")
    return bit


def _run(command: Sequence[str], work: Path, log: Path, show: Callable[[str], None]) -> str | None:
    """Run Vivado; what went wrong, or ``None``."""
    reason = None
    try:
        with (
            log.open("w", encoding="utf-8") as stream,
            subprocess.Popen(  # noqa: S603 - a fixed command
                command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    stream.write(line)
                    stream.flush()
                    if line.startswith(_ERROR):
                        reason = line[len(_ERROR) :].strip()
                    elif line.startswith(_MARK):
                        show(line[len(_MARK) :].strip())
            except BaseException:
                process.terminate()  # an hour's work that nobody waits for
                raise
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if process.returncode and reason is None:
        return f"Vivado ended with status {process.returncode}"
    return reason
