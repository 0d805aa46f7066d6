"""What must fit before an accelerator is started: files, board, clock, memory, and the model with the core.

:func:`ready` decides for ``backend="auto"``; :func:`full_report` is what ``fracbnn doctor`` prints. Checks never raise
and never load anything onto a board.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..cores import CLOCK_TOLERANCE, ULTRA96V2
from ..layouts import images as layout
from ..published import engine as engine_overlay
from ..published import fetch
from ..published.catalog import OVERLAYS, OverlayArtifact, get_overlay
from .checks import NOTHING_TO_DO, Check, Status, isolated
from .engine import bitstream_checks, simulation_checks
from .environment import Machine, board_checks, check_numpy_for_pynq, computer_checks, pynq_check, pynq_installed
from .files import check_before_start

if TYPE_CHECKING:
    from ..model import Model

log = logging.getLogger(__name__)

_SMALLEST_BUFFER, _PAGE = 8192, 4096


@dataclass(frozen=True)
class Group:
    """Checks that belong together, under a title."""

    title: str
    checks: tuple[Check, ...]


# The published overlays and this machine ------------------------------------------------------------------------------


def overlay_checks(overlay: OverlayArtifact, machine: Machine | None = None) -> list[Check]:
    """Whether a published overlay is here and complete and, where it is, its :func:`check_before_start`."""
    machine = machine or Machine()
    return isolated(overlay.network, _check_overlay, overlay, machine)


def _check_overlay(overlay: OverlayArtifact, machine: Machine) -> list[Check]:
    states = {file.name: state for file, state in fetch.status(overlay)}
    wrong = [f"{name} {state}" for name, state in states.items() if state != "ok"]
    if wrong:
        damaged = "damaged" in states.values()
        found = ", ".join(wrong) if damaged or len(wrong) < len(states) else "not fetched"
        advice = f"fracbnn overlays fetch {overlay.network} (on a board without internet: with --from DIR)"
        return [Check("files", "error" if damaged else "warning", found, advice)]
    files = fetch.locate(overlay)
    part = machine.board_part if machine.is_board else ULTRA96V2
    names = ", ".join(path.name for path in files.values())
    return [
        Check("files", "ok", f"{names}: as published"),
        *check_before_start(files["bitstream"], files["handoff"], board_part=part),
    ]


def state_checks(machine: Machine, read_clock_mhz: Callable[[], float] | None = None) -> list[Check]:
    """The board as it is now: free contiguous memory and, where it can be read, the clock of the fabric in MHz."""
    checks = isolated("contiguous memory", _check_memory, machine)
    if read_clock_mhz is not None:
        slowest = min(overlay.clock_mhz for overlay in OVERLAYS)
        checks += isolated("fabric clock", lambda: check_clock(read_clock_mhz(), slowest))
    return checks


def contiguous_bytes(network: str) -> int:
    """Contiguous memory a network's driver allocates, in bytes: each buffer rounded up as pynq does at most.

    Images exist twice, because one picture is encoded while another one runs, and so do CIFAR-10's results.
    """
    buffers = {
        "cifar10": [layout.CIFAR10_IMAGE_BYTES, layout.CIFAR10_RESULT_BYTES] * 2,
        "imagenet": [
            *[layout.IMAGENET_IMAGE_BYTES] * 2,
            layout.IMAGENET_CONV3X3_BYTES,
            layout.IMAGENET_CONV1X1_BYTES,
            layout.IMAGENET_PARAMETER_BYTES,
            layout.IMAGENET_SCRATCH_BYTES,
        ],
    }
    return sum(max(_SMALLEST_BUFFER, -(-size // _PAGE) * _PAGE) for size in buffers[network])


def _check_memory(machine: Machine) -> Check:
    memory = machine.contiguous_memory()
    if memory is None:
        return Check(
            "contiguous memory",
            "warning",
            "the kernel reports no CMA pool",
            "buffers may come from elsewhere; if not, boot with cma=256M",
        )
    free, total = memory
    needs = {overlay.network: contiguous_bytes(overlay.network) for overlay in OVERLAYS}
    short = [network for network, need in needs.items() if need > free]
    wanted = ", ".join(f"{network} needs {need / 2**20:.2f}" for network, need in needs.items())
    found = f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free; {wanted}"
    if not short:
        return Check("contiguous memory", "ok", found)
    status: Status = "error" if len(short) == len(needs) else "warning"
    advice = "end other processes that hold pynq buffers (Jupyter kernels), or boot with cma=256M"
    return Check("contiguous memory", status, found, advice)


def check_clock(pl_mhz: float, design_mhz: float) -> Check:
    """Whether the fabric clock (MHz) is at most what the design was built for.

    Hand-off files give divisors for the designer's PLL; the boot image may have chosen another one, and pynq up to
    3.1.2 then runs a 250 MHz design at 375 MHz.
    """
    found = f"{pl_mhz:.6g} MHz, the design is for {design_mhz:.6g} MHz"
    if pl_mhz > design_mhz * (1 + CLOCK_TOLERANCE):
        advice = (
            "too fast gives wrong results: this package lowers it after loading an overlay; code of your own must "
            "set pynq.Clocks.fclk0_mhz itself, because the boot image divides another PLL than the design"
        )
        return Check("fabric clock", "warning", found, advice)
    return Check("fabric clock", "ok", found)


# Model and core -------------------------------------------------------------------------------------------------------


def check_pairing(overlay: OverlayArtifact, model_name: str | None = None, arithmetic: str = "auto") -> Check:
    """Whether a published core computes a model (its name; ``None``: any) in an arithmetic, and what that costs."""
    name = f"{overlay.network} core"
    found = f"computes in {overlay.arithmetic}"
    if arithmetic not in ("auto", overlay.arithmetic):
        return Check(name, "error", f"{found}, not in {arithmetic}", "use arithmetic auto, or backend cpu")
    if overlay.model is None and overlay.default_model == model_name:
        return Check(name, "ok", f"{found}, for which the parameters of {model_name} are made")
    if overlay.model is None:
        advice = (
            f"use model {overlay.default_model}; where accuracy matters most, backend cpu with arithmetic faithful, "
            "which agrees with the float network"
        )
        return Check(name, "warning", f"{found}. {overlay.note}", advice)
    if model_name not in (None, overlay.model):
        found = f"holds the weights of {overlay.model}, not of {model_name}"
        return Check(name, "error", found, f"use model {overlay.model}, or backend cpu")
    advice = f"use it with model {overlay.model}; others run on backend cpu"
    return Check(name, "ok", f"{found}, holds the weights of {overlay.model} and no others", advice)


def ready(model: Model, model_name: str | None, arithmetic: str) -> bool:
    """Whether ``backend="auto"`` should run a model on this machine's board. Never raises; off a board costs nothing.

    True on a real board, as root, with pynq and what it needs, and an overlay that computes this model in this
    arithmetic: this project's own where its bitstream is, else the published one of the model's network, fetched. On a
    board the log says why not.
    """
    try:
        machine = Machine()
        if not machine.is_board:
            return False
        wanted = (model.arithmetic or arithmetic) if arithmetic == "auto" else arithmetic
        reason = _why_not(machine, get_overlay(model.network.name), model_name, wanted)
    except Exception as error:  # choosing a backend must not fail because looking for a better one did
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        log.warning("this is a board, but its overlay is not used: %s", reason)
    return reason is None


def _why_not(machine: Machine, overlay: OverlayArtifact, model_name: str | None, arithmetic: str) -> str | None:
    if not pynq_installed():
        return "pynq is not installed in this Python"
    check_numpy_for_pynq()
    if lacking := next((check for check in board_checks(machine, "real") if check.status == "error"), None):
        return f"{lacking.name}: {lacking.found} ({lacking.advice})"
    if engine_overlay.preferred(arithmetic):
        wrong = [check for check in bitstream_checks(machine) if check.status == "error"]
        return f"{engine_overlay.NAME}: {wrong[0].found} ({wrong[0].advice})" if wrong else None
    pairing = check_pairing(overlay, model_name or "an unnamed model", arithmetic)
    if pairing.status == "error":
        return f"{pairing.name} {pairing.found}"
    checks = overlay_checks(overlay, machine)
    fetched = any(check.name == "files" and check.status == "ok" for check in checks)
    wrong = [check for check in checks if check.status == "error" or not fetched]
    return f"{overlay.name}: {wrong[0].found} ({wrong[0].advice})" if wrong else None


# Report ---------------------------------------------------------------------------------------------------------------


def full_report(
    asked: str = "auto", machine: Machine | None = None, read_clock_mhz: Callable[[], float] | None = None
) -> list[Group]:
    """Every check of this machine, by group. ``asked``: the board that is wanted, "auto", "real" or "simulated".
    ``read_clock_mhz`` reads the fabric's clock; it is called on a board only, and only where pynq can work.

    Whatever a wanted board cannot do without is an error where it is missing, else a warning.
    """
    machine = machine or Machine()
    groups = [Group("This computer", tuple(computer_checks()))]
    board = isolated("pynq", pynq_check, asked, machine)
    if asked != "simulated":
        board += board_checks(machine, asked)
        if machine.is_board:
            can_read = pynq_installed() and not any(check.status == "error" for check in board)
            board += state_checks(machine, read_clock_mhz if can_read else None)
    else:
        board += simulation_checks(machine)
    groups.append(Group("Board", tuple(board)))
    if asked != "simulated":
        lines = _overlay_lines(machine, asked) + bitstream_checks(machine)
        groups.append(Group("Overlays", tuple(lines + (simulation_checks(machine) if asked == "auto" else []))))
    return groups


def _overlay_lines(machine: Machine, asked: str) -> list[Check]:
    """Two lines for each published overlay: its files, and model and arithmetic of its core."""
    lines = []
    for overlay in OVERLAYS:
        checks = overlay_checks(overlay, machine)
        worst = next((c for s in ("error", "warning") for c in checks if c.status == s), None)
        if worst is None:
            found = f"fetched; {overlay.part}, {overlay.clock_mhz:g} MHz, core {overlay.core.instance}"
            lines.append(Check(overlay.name, "ok", found, NOTHING_TO_DO))
        else:
            lines.append(Check(overlay.name, worst.status, worst.found, worst.advice))
    if asked == "real" and all(line.status != "ok" for line in lines) and not engine_overlay.built():
        lines[0] = Check(lines[0].name, "error", lines[0].found, lines[0].advice)
    return lines + [check_pairing(overlay) for overlay in OVERLAYS]
