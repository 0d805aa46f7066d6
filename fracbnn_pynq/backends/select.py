"""Which engine runs a model: the one asked for, or the best that works here."""

from __future__ import annotations

import logging
import os

from ..arithmetic import FAITHFUL
from ..errors import BackendError
from ..modelfile import Model
from . import Backend

log = logging.getLogger(__name__)

BACKENDS = ("auto", "overlay", "cpu", "reference")
BOARDS = ("auto", "real", "simulated")
BACKEND_VARIABLE = "FRACBNN_BACKEND"
BOARD_VARIABLE = "FRACBNN_BOARD"


def create_backend(
    model: Model,
    *,
    backend: str = "auto",
    board: str = "auto",
    arithmetic: str = "auto",
    threads: int | None = None,
    model_name: str | None = None,
) -> Backend:
    """An engine for ``model``; ``"auto"`` reads FRACBNN_BACKEND and FRACBNN_BOARD, then takes the best that works.

    ``model_name``: the name under which an overlay may have the model built in.
    Raises :class:`~fracbnn_pynq.errors.BackendError` for unknown names, or if what was asked for does not work here.
    """
    backend = _choice("backend", backend, BACKENDS, BACKEND_VARIABLE)
    board = _choice("board", board, BOARDS, BOARD_VARIABLE)
    if backend == "overlay" or (backend == "auto" and board != "auto"):
        return _overlay(model, model_name, board, arithmetic)
    if backend == "auto" and _real_board_ready(model, model_name, arithmetic):
        log.info("backend overlay: this is a board and the overlay for this model has been fetched")
        return _overlay(model, model_name, "real", arithmetic)
    return _software(model, backend, FAITHFUL.name if arithmetic == "auto" else arithmetic, threads)


def _choice(what: str, value: str, allowed: tuple[str, ...], variable: str) -> str:
    chosen = os.environ.get(variable) or value if value == "auto" else value
    if chosen not in allowed:
        origin = f" in {variable}" if chosen != value else ""
        raise BackendError(f"{what}: expected one of {', '.join(allowed)}, found {chosen!r}{origin}")
    return chosen


def _software(model: Model, backend: str, arithmetic: str, threads: int | None) -> Backend:
    from .cpu import CpuBackend, available  # noqa: PLC0415 - the engines load only when they are used

    if backend == "cpu" or (backend == "auto" and available() and arithmetic != "float"):
        return CpuBackend(model, arithmetic, threads=threads)
    from .reference import ReferenceBackend  # noqa: PLC0415

    if backend == "auto" and arithmetic != "float":
        log.warning(
            "running the slow NumPy reference: the native kernels are missing, because this package was installed "
            "without a C compiler; install gcc and reinstall it"
        )
    return ReferenceBackend(model, arithmetic)


def _real_board_ready(model: Model, model_name: str | None, arithmetic: str) -> bool:
    """Whether this is a board with a fetched overlay for the model. Never raises; costs nothing on a laptop."""
    try:
        from ..board.preflight import ready  # noqa: PLC0415
    except ImportError:
        return False
    return ready(model, model_name, arithmetic)


def _overlay(model: Model, model_name: str | None, board: str, arithmetic: str) -> Backend:
    from .overlay import OverlayBackend  # noqa: PLC0415 - pynq is an extra

    return OverlayBackend.open(model, model_name=model_name, board=board, arithmetic=arithmetic)
