"""The overlay engine: a published accelerator on an Ultra96-V2, or on the simulated one.

The public CIFAR-10 bitstream has its weights built in, those of ``cifar10-authors``; the ImageNet one is given its
weights at run time. The simulated board builds its CIFAR-10 bitstream from whatever model it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..arithmetic import IMAGENET_2021, get_arithmetic
from ..board.catalog import OverlayArtifact, get_overlay
from ..board.checks import raise_for_errors
from ..board.environment import Machine
from ..board.fetch import locate
from ..board.filechecks import check_before_start
from ..board.lock import BoardLock
from ..errors import BackendError, DownloadError, FracBNNError, OverlayError
from ..modelfile import Model

if TYPE_CHECKING:
    from ..board.accelerator import Accelerator

log = logging.getLogger(__name__)

LATENCY_VARIABLE = "FRACBNN_SIM_LATENCY"
SIMULATED_TIMEOUT_S = 10.0
"""A simulated core computes on this machine's processor, where its first run takes a second or two."""

_BUILDS = {"cifar10": ("cifar10-2020", "cifar10-2021"), "imagenet": ("imagenet-2021",)}
"""Arithmetics of the builds the simulated board has, the published overlay's first."""

_simulation = threading.Lock()
"""Held while a simulated board exists: pynq has one active device per process."""


class OverlayBackend:
    """Runs a model on an accelerator. Use :meth:`open`. May be used from several threads.

    ``accelerator``: the accelerator itself; ``simulated``: whether the board is.
    """

    name = "overlay"

    def __init__(
        self, accelerator: Accelerator, arithmetic: str, resources: contextlib.ExitStack, *, simulated: bool
    ) -> None:
        self.accelerator = accelerator
        self.network = accelerator.network
        self.arithmetic = get_arithmetic(arithmetic, self.network)
        self.simulated = simulated
        # Also when nobody holds this any more, and at the end of the process: a core must not be left running.
        self._finalizer = weakref.finalize(self, resources.close)

    @classmethod
    def open(
        cls,
        model: Model,
        *,
        model_name: str | None,
        board: str = "auto",
        arithmetic: str = "auto",
        timeout_s: float | None = None,
        lock: Path | str | None = None,
        simulation: Mapping[str, Any] | None = None,
    ) -> OverlayBackend:
        """Load the overlay for ``model`` and make its accelerator ready.

        ``model_name``: the name under which a bitstream may have the model built in. ``board``: ``real``,
        ``simulated``, or ``auto`` for the real one if this is one. ``arithmetic``: ``auto``, or the core's own name for
        it. ``timeout_s``: how long a run may take. ``lock``: the lock file by which processes keep apart (``None``: the
        usual one on a real board, none on a simulated one, which every process has of its own). ``simulation``: options
        for :func:`fracbnn_pynq.simulator.install`; FRACBNN_SIM_LATENCY gives its latency.

        Raises :class:`~fracbnn_pynq.errors.BackendError`, saying what to do, where that cannot be: another model's
        weights are in the bitstream, the overlay has not been fetched, this is no board, pynq is missing, the board is
        in use. A process can have one board at a time, real or simulated.
        """
        overlay = get_overlay(model.network.name)
        if IMAGENET_2021.network == model.network.name:
            log.warning("the accelerator computes in %s: %s", IMAGENET_2021.name, IMAGENET_2021.summary)
        if board == "auto":
            board = _detected_board()
        chosen = _core_arithmetic(overlay, board, arithmetic)
        with contextlib.ExitStack() as resources:
            part: str | None
            if board == "simulated":
                bit, part = _simulate(resources, model, chosen, dict(simulation or {}))
                if lock is not None:
                    resources.callback(BoardLock(lock).release)
                timeout_s = timeout_s or SIMULATED_TIMEOUT_S
            else:
                _check_built_in(overlay, model_name)
                bit, part = _fetched(overlay), Machine().board_part
                resources.callback(BoardLock(lock).release)
            design_mhz = None if board == "simulated" else overlay.clock_mhz
            accelerator = _accelerate(bit, part, model, design_mhz, timeout_s)
            resources.callback(accelerator.close)
            return cls(accelerator, chosen, resources.pop_all(), simulated=board == "simulated")

    @property
    def timings(self) -> Mapping[str, float]:
        """Milliseconds per picture of the last call, by stage; see :data:`fracbnn_pynq.board.stages.STAGES`."""
        return self.accelerator.timings

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 RGB pictures [N, S, S, 3] to float32 logits [N, classes].

        Raises :class:`~fracbnn_pynq.errors.AcceleratorError` and its subclasses; see ``Accelerator.logits``.
        """
        return self.accelerator.logits(images)

    def reload(self) -> None:
        """Load the overlay again, after an error that asked for it."""
        self.accelerator.reload()

    def close(self) -> None:
        """Free the accelerator and let other processes have the board. Idempotent."""
        self._finalizer()


def _detected_board() -> str:
    if Machine().is_board:
        return "real"
    raise BackendError(
        "board: expected a board, found a machine without programmable logic; for the simulated Ultra96-V2 use "
        "--board simulated (or FRACBNN_BOARD=simulated), without an accelerator --backend cpu"
    )


def _core_arithmetic(overlay: OverlayArtifact, board: str, arithmetic: str) -> str:
    possible = _BUILDS[overlay.network] if board == "simulated" else (overlay.arithmetic,)
    chosen = overlay.arithmetic if arithmetic == "auto" else arithmetic
    if chosen not in possible:
        raise BackendError(
            f"arithmetic: the {overlay.network} core computes in {' or '.join(possible)}, not in {arithmetic!r}; leave "
            f"it at auto, or use --backend cpu"
        )
    return chosen


def _check_built_in(overlay: OverlayArtifact, model_name: str | None) -> None:
    if overlay.model is not None and model_name != overlay.model:
        raise BackendError(
            f"the bitstream of {overlay.name} has the weights of {overlay.model} built in and cannot run "
            f"{model_name or 'another model'}; use --model {overlay.model}, or --backend cpu"
        )


def _fetched(overlay: OverlayArtifact) -> Path:
    try:
        return locate(overlay)["bitstream"]
    except DownloadError as error:
        raise BackendError(f"{error}: run 'fracbnn overlays fetch {overlay.name}'") from error


def _simulate(
    resources: contextlib.ExitStack, model: Model, arithmetic: str, options: dict[str, Any]
) -> tuple[Path, str]:
    """Put a simulated board into place until ``resources`` are closed: its bitstream for ``model``, and its part."""
    from .. import simulator  # noqa: PLC0415 - boards do not need it

    if not _simulation.acquire(blocking=False):
        raise BackendError(
            "the simulated board is in use by this process: close the classifier that uses it first (with "
            "Classifier.close() or a with block); a process can have one board at a time"
        )
    resources.callback(_simulation.release)
    options.setdefault("latency", os.environ.get(LATENCY_VARIABLE) or "published")
    device = resources.enter_context(simulator.install(model=model, **options))
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="fracbnn-simulated-"))
    return simulator.write_overlay(folder, model.network.name, arithmetic=arithmetic), device.part


def _check_before_start(bit: Path, part: str | None) -> None:
    """Refuse what pynq would load without a look: files for another part, core or memory."""
    checks = check_before_start(bit, bit.with_suffix(".hwh"), board_part=part)
    for check in checks:
        if check.status == "warning":
            log.warning("%s: %s (%s)", check.name, check.found, check.advice)
    raise_for_errors(checks)


def _accelerate(
    bit: Path, part: str | None, model: Model, design_mhz: float | None, timeout_s: float | None
) -> Accelerator:
    """Load the bitstream onto a board with ``part`` and make the accelerator for ``model``'s network."""
    try:
        pynq = import_module("pynq")
        accelerators = import_module("..board.accelerators", __package__)
    except ImportError as error:
        message = f"the overlay backend needs pynq: {error}; install it with: pip install 'fracbnn-pynq[board]'"
        raise BackendError(message) from error
    make: Callable[..., Accelerator] = accelerators.create_accelerator
    _check_before_start(bit, part)
    try:
        overlay = pynq.Overlay(os.fspath(bit))
    except FracBNNError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise OverlayError(
            f"{bit} could not be loaded: {error}. Run as root, with XILINX_XRT set (source "
            f"/etc/profile.d/xrt_setup.sh), on the board the bitstream was made for; 'fracbnn doctor' checks this"
        ) from error
    options: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
    return make(overlay, model, design_mhz=design_mhz, **options)
