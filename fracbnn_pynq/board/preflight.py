"""What must fit before an accelerator is started: files, board, clock, memory, and the model with the core.

:func:`check_before_start` and :func:`raise_for_errors` guard every first start; :func:`ready` decides for
``backend="auto"``; :func:`full_report` is what ``fracbnn doctor`` prints. Checks never raise and never load anything
onto a board.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .catalog import OVERLAYS, OverlayArtifact, get_overlay
from .checks import NOTHING_TO_DO, Check, Status, isolated, raise_for_errors
from .environment import ULTRA96V2, Machine, board_checks, computer_checks, pynq_check, pynq_installed
from .filechecks import check_before_start

if TYPE_CHECKING:
    from ..modelfile import Model

__all__ = [
    "Check",
    "Group",
    "check_before_start",
    "check_clock",
    "check_pairing",
    "contiguous_bytes",
    "full_report",
    "overlay_checks",
    "raise_for_errors",
    "ready",
    "state_checks",
]

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
    from . import fetch  # noqa: PLC0415 - as above

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


def state_checks(machine: Machine, read_clock: bool = True) -> list[Check]:
    """The board as it is now: free contiguous memory and, with ``read_clock``, the clock of the fabric."""
    checks = isolated("contiguous memory", _check_memory, machine)
    if read_clock:
        checks += isolated("fabric clock", _check_clock_now)
    return checks


def contiguous_bytes(network: str) -> int:
    """Contiguous memory a network's driver allocates, in bytes: each buffer rounded up as pynq does at most.

    Images exist twice, because one picture is encoded while another one runs, and so do CIFAR-10's results.
    """
    from . import layout  # noqa: PLC0415 - as above

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


def _check_clock_now() -> Check:
    from .clock import read_pl_clock_mhz  # noqa: PLC0415 - as above

    return check_clock(read_pl_clock_mhz(), min(overlay.clock_mhz for overlay in OVERLAYS))


def check_clock(pl_mhz: float, design_mhz: float) -> Check:
    """Whether the fabric clock (MHz) is at most what the design was built for.

    Hand-off files give divisors for the designer's PLL; the boot image may have chosen another one, and pynq up to
    3.1.2 then runs a 250 MHz design at 375 MHz.
    """
    from .clock import TOLERANCE  # noqa: PLC0415 - as above

    found = f"{pl_mhz:.6g} MHz, the design is for {design_mhz:.6g} MHz"
    if pl_mhz > design_mhz * (1 + TOLERANCE):
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
    if overlay.model is None:
        advice = "where accuracy matters use backend cpu with arithmetic faithful: it agrees with the float network"
        return Check(name, "warning", f"{found}. {overlay.note}", advice)
    if model_name not in (None, overlay.model):
        found = f"holds the weights of {overlay.model}, not of {model_name}"
        return Check(name, "error", found, f"use model {overlay.model}, or backend cpu")
    advice = f"use it with model {overlay.model}; others run on backend cpu"
    return Check(name, "ok", f"{found}, holds the weights of {overlay.model} and no others", advice)


def ready(model: Model, model_name: str | None, arithmetic: str) -> bool:
    """Whether ``backend="auto"`` should run a model on this machine's board. Never raises; off a board costs nothing.

    True on a real board, as root, with pynq and what it needs, the published overlay of the model's network fetched,
    and a core that computes this model in this arithmetic. On a board the log says why not.
    """
    try:
        machine = Machine()
        if not machine.is_board:
            return False
        reason = _why_not(machine, get_overlay(model.network.name), model_name, arithmetic)
    except Exception as error:  # choosing a backend must not fail because looking for a better one did
        reason = f"{type(error).__name__}: {error}"
    if reason is not None:
        log.warning("this is a board, but its overlay is not used: %s", reason)
    return reason is None


def _why_not(machine: Machine, overlay: OverlayArtifact, model_name: str | None, arithmetic: str) -> str | None:
    if not machine.is_root:
        return "pynq needs root"
    if not machine.xrt:
        return "XILINX_XRT is not set (source /etc/profile.d/xrt_setup.sh)"
    if not pynq_installed():
        return "pynq is not installed in this Python"
    pairing = check_pairing(overlay, model_name or "an unnamed model", arithmetic)
    if pairing.status == "error":
        return f"{pairing.name} {pairing.found}"
    checks = overlay_checks(overlay, machine)
    fetched = any(check.name == "files" and check.status == "ok" for check in checks)
    wrong = [check for check in checks if check.status == "error" or not fetched]
    return f"{overlay.name}: {wrong[0].found} ({wrong[0].advice})" if wrong else None


# Report ---------------------------------------------------------------------------------------------------------------


def full_report(asked: str = "auto", machine: Machine | None = None) -> list[Group]:
    """Every check of this machine, by group. ``asked``: the board that is wanted, "auto", "real" or "simulated".

    Whatever a wanted board cannot do without is an error where it is missing, else a warning.
    """
    machine = machine or Machine()
    groups = [Group("This computer", tuple(computer_checks()))]
    board = isolated("pynq", pynq_check, asked)
    if asked != "simulated":
        board += board_checks(machine, asked)
        if machine.is_board:
            board += state_checks(machine, machine.is_root and machine.xrt is not None and pynq_installed())
    groups.append(Group("Board", tuple(board)))
    if asked != "simulated":
        groups.append(Group("Published overlays", tuple(_overlay_lines(machine, asked))))
    return groups


def _overlay_lines(machine: Machine, asked: str) -> list[Check]:
    """Two lines for each published overlay: its files, and model and arithmetic of its core."""
    lines = []
    for overlay in OVERLAYS:
        checks = overlay_checks(overlay, machine)
        worst = next((c for s in ("error", "warning") for c in checks if c.status == s), None)
        if worst is None:
            found = f"fetched; {overlay.part}-{overlay.package}, {overlay.clock_mhz:g} MHz, core {overlay.instance}"
            lines.append(Check(overlay.name, "ok", found, NOTHING_TO_DO))
        else:
            lines.append(Check(overlay.name, worst.status, worst.found, worst.advice))
    if asked == "real" and all(line.status != "ok" for line in lines):
        lines[0] = Check(lines[0].name, "error", lines[0].found, lines[0].advice)
    return lines + [check_pairing(overlay) for overlay in OVERLAYS]
