"""This project's own accelerator on this machine: its bitstream for a board, the tools that simulate its hardware."""

from __future__ import annotations

from ..cores import ULTRA96V2
from ..engine.sources import CORE_VARIABLE, sources_folder
from ..errors import BackendError
from ..published import engine as overlay
from .checks import Check, isolated
from .environment import Machine
from .files import check_before_start

_SIMULATION = "simulated engine"
_TOOLS = ("verilator", "g++")


def bitstream_checks(machine: Machine) -> list[Check]:
    """One line: whether the engine's bitstream is here and fits its hand-off file and the board, or how to get it."""
    return isolated(overlay.NAME, _check_bitstream, machine)


def simulation_checks(machine: Machine) -> list[Check]:
    """One line: whether FRACBNN_SIM_CORE=rtl can build the simulated hardware, which is an error only where it is set;
    none on a board, where nobody needs it."""
    return [] if machine.is_board else isolated(_SIMULATION, _check_simulation, machine)


def _check_bitstream(machine: Machine) -> Check:
    bit = overlay.bitstream()
    missing = [path.name for path in (bit, bit.with_suffix(".hwh")) if not path.is_file()]
    if len(missing) == 1:
        return Check(overlay.NAME, "warning", f"{missing[0]} missing in {bit.parent}", overlay.BUILD_ADVICE)
    if missing:  # as everywhere, until somebody builds it
        return Check(overlay.NAME, "ok", "not built: fracbnn overlays build engine", overlay.BUILD_ADVICE)
    part = machine.board_part if machine.is_board else ULTRA96V2
    checks = check_before_start(bit, bit.with_suffix(".hwh"), board_part=part)
    worst = next((check for status in ("error", "warning") for check in checks if check.status == status), None)
    if worst is not None:
        return Check(overlay.NAME, worst.status, f"{worst.name}: {worst.found}", worst.advice)
    clock = next(check.found for check in checks if check.name == "design clock")
    return Check(overlay.NAME, "ok", f"built; {overlay.PART}, {clock}, core {overlay.INSTANCE}")


def _check_simulation(machine: Machine) -> Check:
    missing = {tool: f"apt-get install {tool}" for tool in _TOOLS if not machine.has_program(tool)}
    try:
        sources_folder()
    except BackendError as error:
        missing["a checkout"] = error.advice or error.message
    if not missing:
        return Check(_SIMULATION, "ok", f"model; hardware: {CORE_VARIABLE}=rtl")
    wanted = machine.environ.get(CORE_VARIABLE) == "rtl"  # most people want the model, and lack nothing
    found = f"model; hardware needs {', '.join(missing)}"
    return Check(_SIMULATION, "error" if wanted else "ok", found, "; ".join(missing.values()))
