"""A simulated Ultra96-V2: unmodified pynq, and every driver written for it, runs against models of the hardware.

Real here: pynq itself (Overlay, MMIO, register maps, buffers, clocks, interrupts) and the bits the
cores compute. Modelled: registers, addresses, caches, clocks, the time a core takes. Not there at all: the FPGA
manager, XRT, AXI timing, and anything electrical. A driver that passes here may still fail on a board; one that fails
here would fail there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..doctor.environment import pynq_advice
from ..errors import BackendError
from .faults import Fault, FaultKind, FaultPlan
from .handoff import write_overlay
from .leftovers import remove_leftovers
from .memory import BusError

if TYPE_CHECKING:
    from ..model import Model
    from .device import SimulatedDevice

__all__ = ["BusError", "Fault", "FaultKind", "import_pynq", "install", "write_overlay"]

LATENCIES = ("published", "none")


def install(
    *,
    model: Model | Callable[[], Model] | None = None,
    latency: str = "published",
    strict_cache: bool = True,
    faults: Iterable[Fault | str] = (),
    **options: Any,
) -> SimulatedDevice:
    """Create a simulated Ultra96-V2 and make it pynq's ``Device.active_device``.

    ``model``: the model whose weights are inside CIFAR-10 bitstreams (``None``: the one their tag names, or the
    bundled one). ``latency``: "published", a run takes as many clock cycles as the paper gives for the core, or "none",
    it is over as soon as it is computed. ``strict_cache``: keep the CPU's and DRAM's copy of every buffer apart.
    ``faults``: see :mod:`.faults`; those of the environment variable ``FRACBNN_FAULTS`` are added. ``options``:
    ``cma_base`` and ``cma_size`` of the contiguous memory, and what :class:`.fabric.Fabric` takes.

    Folders of overlays that killed processes have left behind are removed (:mod:`.leftovers`).

    ``close()`` of the device, or leaving its ``with`` block, undoes it. Raises
    :class:`~fracbnn_pynq.errors.BackendError` where pynq is not installed or an option is unknown.
    """
    if latency not in LATENCIES:
        raise BackendError(f"latency: expected one of {', '.join(LATENCIES)}, found {latency!r}")
    plan = FaultPlan.from_environment(faults)
    import_pynq()
    from . import device, pynqapi  # noqa: PLC0415 - everything else here works without pynq

    board = device.SimulatedDevice(
        plan=plan, timed=latency == "published", strict_cache=strict_cache, model=model, **options
    )
    pynqapi.activate(board)
    remove_leftovers()
    return board


def import_pynq() -> ModuleType:
    """Import pynq, without the warnings it gives where it is not imported on a board; returns the module.

    ``install`` does this by itself. Tests in which warnings are errors must call it before anything else imports
    pynq. Raises :class:`~fracbnn_pynq.errors.BackendError` where pynq is not, or not completely, installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # unknown processor, no HDMI library
            warnings.simplefilter("ignore", DeprecationWarning)  # pkg_resources and others, in what pynq imports
            pynq = import_module("pynq")
            import_module("pynq.lib")  # what pynq imports with the first overlay
            import_module("pynq.pl_server.embedded_device")
    except ImportError as error:
        raise BackendError(f"the simulated board needs pynq: {error}", advice=pynq_advice()) from error
    return pynq
