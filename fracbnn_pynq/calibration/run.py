"""The one interface of the calibration."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import native
from .._version import __version__
from ..arithmetic import IMAGENET_2021
from ..backends.cpu import CpuBackend
from ..cpus import usable_cpus
from ..difference import Difference, difference
from ..draft import Draft
from ..errors import BackendError, ModelError, PictureError
from ..model import Model
from ..networks import IMAGENET
from .engine import LayerEngine
from .pipeline import Pictures, Progress, fingerprint, fit_model
from .recipe import Recipe
from .report import Report, Row, compare
from .samples import sample_positions
from .state import RunState
from .teacher import observe

FEWEST_PICTURES = 8


@dataclass(frozen=True)
class Calibration:
    """A calibrated model, what it changes of the one it was made from, and what was measured."""

    model: Model
    difference: Difference
    report: Report


def check_model(model: Model, arithmetic: str = IMAGENET_2021.name) -> None:
    """Raise where ``model`` cannot be calibrated for ``arithmetic``: ModelError, BackendError."""
    if arithmetic != IMAGENET_2021.name:
        raise BackendError(f"arithmetic: expected {IMAGENET_2021.name}, which calibration is for, found {arithmetic!r}")
    if model.network.name != IMAGENET.name:
        raise ModelError(f"expected a model of {IMAGENET.title}, found one of {model.network.title}")
    if model.arithmetic is not None:
        raise ModelError(
            f"this model's parameters are made for {model.arithmetic} already",
            advice="calibrate the model it was made from, with more pictures if it shall get better",
        )
    if not native.available():
        raise BackendError(native.MISSING, advice=native.MISSING_ADVICE)


def calibrate(
    model: Model,
    pictures: Pictures,
    *,
    held_out: float = 0.1,
    seed: int = 0,
    threads: int | None = None,
    recipe: Recipe | None = None,
    folder: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Calibration:
    """Parameters of ``model`` for the published ImageNet core, fitted on unlabelled pictures.

    ``pictures`` uint8 [N, 224, 224, 3], 8 at least; a share ``held_out`` of them (one at least) is not fitted on but
    measured on. ``threads``: ``None`` for every processor. ``folder`` keeps the state, so that the same call goes on
    where an interrupted one stopped; ``None``: nothing is kept. ``progress`` is called with what is being done and the
    share that is done. The same model, pictures, seed and recipe give the same numbers on every machine.

    Raises :class:`~fracbnn_pynq.errors.ModelError` for a model of another network or one that is calibrated already,
    :class:`~fracbnn_pynq.errors.PictureError` for too few pictures or copies of one, and
    :class:`~fracbnn_pynq.errors.BackendError` where the native kernels are missing.
    """
    check_model(model)
    _check_pictures(pictures)
    start = time.monotonic()
    threads = threads or usable_cpus()
    recipe = recipe or Recipe()
    watched, used = _split(len(pictures), held_out, seed)
    chosen = np.ascontiguousarray(pictures[used])
    if recipe.mirror:
        chosen = np.stack([chosen, chosen[:, :, ::-1]], axis=1).reshape(-1, *chosen.shape[1:])
    key = fingerprint(model, chosen, recipe, seed)
    fit = fit_model(
        model, chosen, recipe=recipe, seed=seed, threads=threads, state=RunState(folder, key), progress=progress
    )
    provenance: dict[str, Any] = {
        "calibrated_for": IMAGENET_2021.name,
        "calibrated_on": f"{len(used)} unlabelled pictures, seed {seed}, fracbnn_pynq {__version__}",
    }
    result = replace(fit.draft.model({**model.provenance, **provenance}), arithmetic=IMAGENET_2021.name)
    progress("measuring", 1.0)
    rows = _measure(model, result, pictures[watched], threads)
    report = Report(len(used), len(watched), rows, fit.layers, time.monotonic() - start)
    return Calibration(result, difference(model, fit.draft, fit.orders, fit.affine, provenance), report)


def _check_pictures(pictures: Pictures) -> None:
    expected = (IMAGENET.image_size, IMAGENET.image_size, 3)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != expected:
        raise PictureError(f"expected pictures uint8 [N, 224, 224, 3], found {pictures.dtype} {list(pictures.shape)}")
    if len(pictures) < FEWEST_PICTURES:
        raise PictureError(
            f"expected {FEWEST_PICTURES} pictures at least, found {len(pictures)}", advice="30 are enough, 300 better"
        )
    different = len({picture.tobytes() for picture in pictures})
    if different < FEWEST_PICTURES:
        raise PictureError(
            f"expected {FEWEST_PICTURES} different pictures at least, found {different} among {len(pictures)}",
            advice="use photographs of many things",
        )


def _split(count: int, held_out: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pictures to measure on, and pictures to fit on, both ascending."""
    order = np.argsort(np.random.default_rng(seed).random(count), kind="stable")
    watched = min(max(1, round(held_out * count)), count - FEWEST_PICTURES + 1)
    return np.sort(order[:watched]), np.sort(order[watched:])


def _measure(model: Model, result: Model, pictures: Pictures, threads: int) -> list[Row]:
    """Before and after, against the float network, on pictures that were not fitted on."""
    draft = Draft.of(model)
    with LayerEngine(threads) as engine:
        wanted = observe(engine, draft, pictures, sample_positions(draft.network, len(pictures), 1, 0)).logits
    rows = []
    for name, which, arithmetic in (
        ("before", model, IMAGENET_2021.name),
        ("after", result, IMAGENET_2021.name),
        ("faithful", model, "faithful"),
    ):
        backend = CpuBackend(which, arithmetic, threads=threads)
        rows.append(compare(name, backend.logits(pictures), wanted))
        backend.close()
    return rows
