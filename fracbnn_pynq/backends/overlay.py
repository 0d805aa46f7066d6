"""The overlay engine: a published accelerator on an Ultra96-V2, or on the simulated one.

Which board and which bitstream is for :mod:`fracbnn_pynq.selection` to say.
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..arithmetic import arithmetic_for, get_arithmetic
from ..doctor.checks import raise_for_errors
from ..doctor.environment import Machine, board_checks, pynq_advice, pynq_check, pynq_installed
from ..doctor.files import check_before_start
from ..errors import BackendError, OverlayError
from ..model import Model

if TYPE_CHECKING:
    from ..board.accelerator import Accelerator

log = logging.getLogger(__name__)


class OverlayBackend:
    """Runs a model on an accelerator. May be used from several threads.

    Made by :meth:`load`, or by :func:`fracbnn_pynq.selection.open_overlay`, which finds bitstream and board.

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
        self._finalizer = weakref.finalize(self, _close, os.getpid(), resources)

    @classmethod
    def load(
        cls,
        bit: Path,
        model: Model,
        arithmetic: str,
        *,
        part: str | None,
        design_mhz: float | None = None,
        timeout_s: float | None = None,
        simulated: bool = False,
        resources: contextlib.ExitStack,
    ) -> OverlayBackend:
        """Load a bitstream onto the board and make its accelerator ready for ``model``.

        ``part``: the board's device and package, ``None`` where unknown. ``design_mhz``: the clock the bitstream was
        built for (``None``: what its hand-off file says). ``timeout_s``: how long a run may take. ``resources`` are
        taken over, and closed after the accelerator; where this raises they stay the caller's.

        Raises :class:`~fracbnn_pynq.errors.BackendError`, saying what to do, where the files do not fit the board, it
        cannot be used, or pynq is missing.
        """
        arithmetic_for(model, arithmetic)  # raises before anything is taken over
        accelerator = _accelerate(bit, part, model, design_mhz, timeout_s, simulated)
        owned = contextlib.ExitStack()
        owned.push(resources.pop_all())
        owned.callback(accelerator.close)  # which comes first: it needs them
        return cls(accelerator, arithmetic, owned, simulated=simulated)

    @property
    def timings(self) -> Mapping[str, float]:
        """Milliseconds per picture of the last call, by stage; see :data:`fracbnn_pynq.board.stages.STAGES`."""
        return self.accelerator.timings

    def counters(self) -> Mapping[str, int]:
        """See :class:`~fracbnn_pynq.backends.Backend`; the published cores count nothing."""
        return self.accelerator.counters()

    def describe(self) -> dict[str, str]:
        """What computes: ``backend``, ``arithmetic`` and ``board``, "real" or "simulated"."""
        board = "simulated" if self.simulated else "real"
        return {"backend": self.name, "arithmetic": self.arithmetic.name, "board": board}

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


def _close(process: int, resources: contextlib.ExitStack) -> None:
    """Give back what ``process`` has; in one forked from it there is nothing to give back."""
    if process == os.getpid():
        resources.close()
    else:
        _others.append(resources)


_others: list[contextlib.ExitStack] = []
"""What belongs to the process this one was forked from, kept from being collected, which would close it."""


def _check_before_start(bit: Path, part: str | None) -> None:
    """Refuse what pynq would load without a look: files for another part, core or memory."""
    checks = check_before_start(bit, bit.with_suffix(".hwh"), board_part=part)
    for check in checks:
        if check.status == "warning":
            log.warning("%s: %s (%s)", check.name, check.found, check.advice)
    raise_for_errors(checks)


def _what_is_missing(simulated: bool) -> str:
    """What the checks of this machine find, as advice; where they find nothing, what else there is to look at."""
    if simulated:
        return pynq_advice() if not pynq_installed() else ""
    machine = Machine()
    checks = (pynq_check("real", machine), *board_checks(machine, "real"))
    wrong = [f"{check.name}: {check.found} ({check.advice})" for check in checks if check.status == "error"]
    return "; ".join(wrong) or (
        "what a board needs is here, so look at what the kernel says (dmesg), and try again after ending other "
        "programs that use pynq"
    )


def _accelerate(
    bit: Path, part: str | None, model: Model, design_mhz: float | None, timeout_s: float | None, simulated: bool
) -> Accelerator:
    """Load the bitstream onto a board with ``part`` and make the accelerator for ``model``'s network."""
    try:
        import_module("pynq")
        accelerators = import_module("..board.accelerators", __package__)
        loading = import_module("..board.loading", __package__)
    except Exception as error:  # on a board pynq imports XRT's module, which fails in ways of its own
        raise BackendError(
            f"the overlay backend needs pynq: {type(error).__name__}: {error}", advice=_what_is_missing(simulated)
        ) from error
    make: Callable[..., Accelerator] = accelerators.create_accelerator
    _check_before_start(bit, part)
    try:
        overlay = loading.load_overlay(bit)
    except OverlayError as error:
        if error.advice:
            raise
        raise OverlayError(error.message, advice=_what_is_missing(simulated)) from error.__cause__
    options: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}
    return make(overlay, model, design_mhz=design_mhz, **options)
