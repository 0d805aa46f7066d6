"""Which engine runs a model: the one asked for, or the best that works here."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import native
from .arithmetic import FAITHFUL, IMAGENET_2021
from .backends import Backend
from .board.lock import BoardLock
from .cpus import check_threads
from .doctor.environment import Machine, check_numpy_for_pynq
from .doctor.preflight import ready
from .errors import BackendError, DownloadError, UnknownNameError
from .model import Model
from .published import engine as engine_overlay
from .published.catalog import IMAGENET_OVERLAY, OVERLAYS, OverlayArtifact, get_overlay
from .published.fetch import locate

if TYPE_CHECKING:
    from .backends.overlay import OverlayBackend

log = logging.getLogger(__name__)

BACKENDS = ("auto", "overlay", "cpu", "reference")
BOARDS = ("auto", "real", "simulated")
OVERLAY_CHOICES = ("auto", engine_overlay.NAME, *(overlay.name for overlay in OVERLAYS))
BACKEND_VARIABLE = "FRACBNN_BACKEND"
BOARD_VARIABLE = "FRACBNN_BOARD"
OVERLAY_VARIABLE = "FRACBNN_OVERLAY"


def create_backend(
    model: Model,
    *,
    backend: str = "auto",
    board: str = "auto",
    overlay: str = "auto",
    arithmetic: str = "auto",
    threads: int | None = None,
    model_name: str | None = None,
    verify: float = 0.0,
    verify_all: bool = True,
) -> Backend:
    """An engine for ``model``; ``"auto"`` reads FRACBNN_BACKEND and FRACBNN_BOARD, then takes the best that works.

    ``overlay``: see :func:`open_overlay`; naming one asks for the overlay engine. ``model_name``: the name under which
    an overlay may have the model built in. ``verify``: the share of an overlay's results that the CPU checks, and
    ``verify_all``: whether calls wait for that; see :class:`~fracbnn_pynq.backends.verified.VerifiedBackend`.

    Raises :class:`~fracbnn_pynq.errors.BackendError` for unknown names, or if what was asked for does not work here.
    """
    engine = _engine(model, backend, board, overlay, arithmetic, threads, model_name)
    if not verify:
        return engine
    with contextlib.ExitStack() as resources:
        resources.callback(engine.close)
        if engine.name != "overlay":
            raise BackendError(
                f"verify: expected the overlay backend, whose results the CPU checks, found backend {engine.name}",
                advice="leave it out, or ask for --backend overlay",
            )
        from .backends.verified import VerifiedBackend  # noqa: PLC0415 - the engines load only when they are used

        verified = VerifiedBackend(
            engine, _software(model, "auto", engine.arithmetic.name, threads=1), verify, wait=verify_all
        )
        resources.pop_all()
        return verified


def _engine(
    model: Model,
    backend: str,
    board: str,
    overlay: str,
    arithmetic: str,
    threads: int | None,
    model_name: str | None,
) -> Backend:
    threads = None if threads is None else check_threads(threads)
    backend, board = _asked_for(backend, board, overlay)
    if backend == "overlay":
        return open_overlay(model, model_name=model_name, board=board, overlay=overlay, arithmetic=arithmetic)
    if backend == "auto" and _real_board_ready(model, model_name, arithmetic):
        log.info("backend overlay: this is a board and the overlay for this model has been fetched")
        return open_overlay(model, model_name=model_name, board="real", arithmetic=arithmetic)
    own = model.arithmetic or FAITHFUL.name
    return _software(model, backend, own if arithmetic == "auto" else arithmetic, threads)


def planned_backend(
    model: Model, *, backend: str, board: str, overlay: str, arithmetic: str, model_name: str, here: bool
) -> tuple[str, str]:
    """The engine that :func:`create_backend` would take, without making it, and its board: ``overlay`` and ``auto``,
    ``real`` or ``simulated``, else ``cpu`` or ``reference`` and ``auto``.

    ``here``: on this machine, else on others, on which ``auto`` takes an overlay only where it is asked for. Raises
    :class:`~fracbnn_pynq.errors.BackendError` for unknown names and what contradicts itself.
    """
    backend, board = _asked_for(backend, board, overlay)
    if backend == "auto" and here and _real_board_ready(model, model_name, arithmetic):
        return "overlay", "real"
    if backend == "overlay":
        return backend, board
    return _software_name(backend, arithmetic), "auto"


def _asked_for(backend: str, board: str, overlay: str) -> tuple[str, str]:
    """Backend and board by the arguments and the environment; ``auto`` for the backend where either will do."""
    backend = _choice("backend", backend, BACKENDS, BACKEND_VARIABLE)
    board = _choice("board", board, BOARDS, BOARD_VARIABLE)
    _check_overlay(overlay)
    if overlay != "auto" and backend not in ("auto", "overlay"):
        raise BackendError(f"overlay {overlay}: backend {backend} uses none", advice="leave out one of the two")
    if backend == "auto" and (board != "auto" or overlay != "auto"):
        return "overlay", board
    return backend, board


def _choice(what: str, value: str, allowed: tuple[str, ...], variable: str) -> str:
    chosen = os.environ.get(variable) or value if value == "auto" else value
    if chosen not in allowed:
        origin = f" in {variable}" if chosen != value else ""
        raise UnknownNameError(f"{what}: expected one of {', '.join(allowed)}, found {chosen!r}{origin}")
    return chosen


def _software(model: Model, backend: str, arithmetic: str, threads: int | None) -> Backend:
    if _software_name(backend, arithmetic) == "cpu":
        from .backends.cpu import CpuBackend  # noqa: PLC0415 - the engines load only when they are used

        log.info("backend cpu: arithmetic %s, kernels %s", arithmetic, next(iter(native.engines()), "none"))
        return CpuBackend(model, arithmetic, threads=threads)
    from .backends.reference import ReferenceBackend  # noqa: PLC0415

    return ReferenceBackend(model, arithmetic)


def _software_name(backend: str, arithmetic: str) -> str:
    """``cpu`` or ``reference``: ``auto`` as what works here, with a warning where that is the slow one for want of
    kernels."""
    if backend != "auto":
        return backend
    if arithmetic == "float":
        return "reference"
    if native.available():
        return "cpu"
    log.warning("running the slow NumPy reference: %s; %s", native.MISSING, native.MISSING_ADVICE)
    return "reference"


def _real_board_ready(model: Model, model_name: str | None, arithmetic: str) -> bool:
    """Whether this is a board with a fetched overlay for the model. Never raises; costs nothing on a laptop."""
    return ready(model, model_name, arithmetic)


def open_overlay(
    model: Model,
    *,
    model_name: str | None,
    board: str = "auto",
    overlay: str = "auto",
    arithmetic: str = "auto",
    timeout_s: float | None = None,
    lock: Path | str | None = None,
    simulation: Mapping[str, Any] | None = None,
) -> OverlayBackend:
    """Load an overlay that runs ``model`` and make its accelerator ready.

    ``overlay``: ``engine`` for the project's own, which runs any model; a published overlay's name; or ``auto``: the
    one FRACBNN_OVERLAY names, else the engine on a real board that has its bitstream, else the published overlay of the
    model's network. The public
    CIFAR-10 bitstream has its weights built in, those of ``cifar10-authors``; the ImageNet one is given its weights at
    run time. The simulated board builds its CIFAR-10 bitstream from whatever model it is asked for.

    ``model_name``: the name under which a bitstream may have the model built in. ``board``: ``real``, ``simulated``,
    or ``auto`` for the real one if this is one. ``arithmetic``: ``auto``, or the core's own name for it. ``timeout_s``:
    how long a run may take. ``lock``: the lock file by which processes keep apart (``None``: the usual one on a real
    board, none on a simulated one, which every process has of its own). ``simulation``: options for
    :func:`fracbnn_pynq.simulator.install`.

    Raises :class:`~fracbnn_pynq.errors.BackendError`, saying what to do, where that cannot be: another model's weights
    are in the bitstream, the overlay has not been fetched, this is no board, pynq is missing, the board is in use. A
    process can have one board at a time, real or simulated.
    """
    from .backends.overlay import OverlayBackend  # noqa: PLC0415 - the engines load only when they are used

    check_numpy_for_pynq()
    overlay = _choice("overlay", overlay, OVERLAY_CHOICES, OVERLAY_VARIABLE)
    if board == "auto":
        board = _detected_board()
    if arithmetic == "auto" and model.arithmetic is not None:
        arithmetic = model.arithmetic
    site = _engine_site() if _wants_engine(overlay, board, arithmetic) else _published_site(overlay, model, board)
    if IMAGENET_2021.name in site.arithmetics and model.arithmetic is None:
        log.warning(
            "the accelerator computes in %s, and this model's parameters are not made for it: %s; use model %s, or "
            "calibrate yours ('fracbnn calibrate')",
            IMAGENET_2021.name,
            IMAGENET_2021.summary,
            IMAGENET_OVERLAY.default_model,
        )
    chosen = _core_arithmetic(site, arithmetic)
    with contextlib.ExitStack() as resources:
        if simulated := board == "simulated":
            from .simulator.overlay import TIMEOUT_S, simulated_overlay  # noqa: PLC0415 - boards do not need it

            part: str | None
            bit, part = resources.enter_context(simulated_overlay(model, chosen, kind=site.kind, **(simulation or {})))
            timeout_s = timeout_s or TIMEOUT_S
        else:
            bit, part = site.locate(model_name), Machine().board_part
        if lock is not None or not simulated:
            resources.callback(BoardLock(lock).release)
        return OverlayBackend.load(
            bit,
            model,
            chosen,
            part=part,
            design_mhz=None if simulated else site.clock_mhz,
            timeout_s=timeout_s,
            simulated=simulated,
            resources=resources,
        )


def default_model(overlay: str) -> str | None:
    """The model that is meant where only an overlay is named: the one whose parameters are made for its core."""
    _check_overlay(overlay)
    return None if overlay in ("auto", engine_overlay.NAME) else get_overlay(overlay).default_model


def _check_overlay(overlay: str) -> None:
    if overlay not in OVERLAY_CHOICES:
        raise BackendError(f"overlay: expected one of {', '.join(OVERLAY_CHOICES)}, found {overlay!r}")


def _detected_board() -> str:
    if Machine().is_board:
        return "real"
    raise BackendError(
        "board: expected a board, found a machine without programmable logic",
        advice="for the simulated Ultra96-V2 use "
        "--board simulated (or FRACBNN_BOARD=simulated), without an accelerator --backend cpu",
    )


@dataclass(frozen=True)
class _Site:
    """Where an overlay comes from. ``kind``: what the simulated board calls it; ``arithmetics``: those it may be built
    for, its usual one first; ``clock_mhz``: its design's, ``None``: as its hand-off file says; ``locate``: its
    bitstream, for a model's name."""

    name: str
    kind: str
    arithmetics: tuple[str, ...]
    clock_mhz: float | None
    locate: Callable[[str | None], Path]


def _wants_engine(overlay: str, board: str, arithmetic: str) -> bool:
    if overlay != "auto":
        return overlay == engine_overlay.NAME
    return board == "real" and engine_overlay.preferred(arithmetic)


def _engine_site() -> _Site:
    def locate(_model_name: str | None) -> Path:
        if not engine_overlay.built():
            path = engine_overlay.bitstream()
            raise BackendError(
                f"overlay engine: expected {path} with its .hwh, found none", advice=engine_overlay.BUILD_ADVICE
            )
        return engine_overlay.bitstream()

    return _Site(engine_overlay.NAME, "engine", (FAITHFUL.name,), None, locate)


def _published_site(name: str, model: Model, board: str) -> _Site:
    network = model.network.name
    overlay = get_overlay(network if name == "auto" else name)
    if overlay.network != network:
        raise BackendError(
            f"overlay {overlay.name}: it runs the {overlay.network} network, not {network}",
            advice=f"use --overlay {get_overlay(network).name} or engine, or leave it at auto",
        )

    def locate(model_name: str | None) -> Path:
        _check_built_in(overlay, model_name)
        return _fetched(overlay)

    arithmetics = overlay.core.arithmetics if board == "simulated" else (overlay.arithmetic,)
    return _Site(overlay.name, network, arithmetics, overlay.clock_mhz, locate)


def _core_arithmetic(site: _Site, arithmetic: str) -> str:
    chosen = site.arithmetics[0] if arithmetic == "auto" else arithmetic
    if chosen not in site.arithmetics:
        raise BackendError(
            f"arithmetic: the {site.kind} core computes in {' or '.join(site.arithmetics)}, not in {arithmetic!r}",
            advice="leave it at auto, or use --backend cpu",
        )
    return chosen


def _check_built_in(overlay: OverlayArtifact, model_name: str | None) -> None:
    if overlay.model is not None and model_name != overlay.model:
        raise BackendError(
            f"the bitstream of {overlay.name} has the weights of {overlay.model} built in and cannot run "
            f"{model_name or 'another model'}",
            advice=f"use --model {overlay.model}, or --backend cpu",
        )


def _fetched(overlay: OverlayArtifact) -> Path:
    try:
        return locate(overlay)["bitstream"]
    except DownloadError as error:
        raise BackendError(f"{error}: run 'fracbnn overlays fetch {overlay.name}'") from error
