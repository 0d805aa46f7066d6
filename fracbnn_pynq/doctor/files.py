"""Whether a bitstream and its hand-off file fit each other, this package's drivers and the board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..cores import CORES, ENGINE_VLNV, REACH
from .checks import Check, isolated

if TYPE_CHECKING:
    from .handoff import HandOff

_FETCH_AGAIN = "use the two files of one build; fracbnn overlays fetch NAME gets the published ones"


def check_before_start(bit: Path, hwh: Path, *, board_part: str | None) -> list[Check]:
    """Whether a bitstream and its hand-off file fit each other, this package's drivers and the board.

    ``board_part``: the board's device and package (``xczu3eg-sbva484``, more may follow), ``None`` where unknown.
    pynq itself checks nothing of this. Never raises; see :func:`raise_for_errors`.
    """
    return isolated("overlay", _check_files, Path(bit), Path(hwh), board_part)


def _check_files(bit: Path, hwh: Path, board_part: str | None) -> list[Check]:
    from . import handoff  # noqa: PLC0415 - not needed to choose a backend on a laptop

    checks = [_check_names(bit, hwh)]
    parts = {}

    def bitstream() -> Check:
        header = handoff.read_bit_header(bit)
        parts["bitstream"] = header.part
        return Check("bitstream", "ok", f"{bit.name}: {header.part}, {header.payload} bytes, built {header.date}")

    def hand_off() -> list[Check]:
        design = handoff.read_handoff(hwh)
        parts["hand-off file"] = design.part
        summary = f"{hwh.name}: {design.part}, Vivado {design.tool}"
        return [Check("hand-off file", "ok", summary), _check_core(design), _check_design_clock(design)]

    checks += isolated("bitstream", bitstream)
    checks += isolated("hand-off file", hand_off)
    for name, part in parts.items():
        parts[name] = handoff.device_and_package(part)
    checks.append(_check_parts(parts, board_part and handoff.device_and_package(board_part)))
    return checks


def _check_names(bit: Path, hwh: Path) -> Check:
    if bit.with_suffix(".hwh") == hwh and bit.suffix == ".bit":
        return Check("file names", "ok", f"{bit.name} and {hwh.name}")
    found = f"{bit} and {hwh}"
    return Check("file names", "error", found, "pynq wants NAME.bit with NAME.hwh beside it: rename or copy them")


def _check_parts(parts: dict[str, str], board: str | None) -> Check:
    found = ", ".join(f"{name} for {part}" for name, part in parts.items())
    if not parts:
        return Check("part", "error", "not known, see the lines before", _FETCH_AGAIN)
    if len(set(parts.values())) > 1:
        return Check("part", "error", found, _FETCH_AGAIN)
    part = next(iter(parts.values()))
    if board is None:
        return Check(
            "part", "warning", f"{found}; the board's own is not known", f"go on only if the board carries {part}"
        )
    if part != board:
        return Check(
            "part", "error", f"{found}, but the board carries {board}", "use an overlay that was built for this board"
        )
    return Check("part", "ok", f"{part}, as the board's")


def _check_core(design: HandOff) -> Check:
    known = [*(core.vlnv for core in CORES), ENGINE_VLNV]
    core = next((module for module in design.modules if module.vlnv in known), None)
    if core is None:
        return Check(
            "core",
            "error",
            f"none of {', '.join(known)}",
            "this is another overlay; use one with a FracBNN core",
        )
    low = [master.name for master in core.masters if master.low > 0 or master.high < REACH - 1]
    if not core.masters or low:
        found = f"{core.instance} cannot reach all memory ({', '.join(low) or 'no memory interface'})"
        advice = "buffers may lie where the core cannot read them, and then it refuses to start"
        return Check("core", "warning" if core.masters else "error", found, advice)
    reach = min(master.high for master in core.masters) + 1
    found = f"{core.instance} ({core.vlnv}), {len(core.masters)} masters reach the first {reach / 2**30:g} GiB"
    return Check("core", "ok", found)


def _check_design_clock(design: HandOff) -> Check:
    if design.clock_mhz is None:
        return Check("design clock", "error", "fabric clock 0 is off in the hand-off file", _FETCH_AGAIN)
    return Check("design clock", "ok", f"{design.clock_mhz:.6g} MHz")
