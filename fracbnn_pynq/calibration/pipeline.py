"""The whole calibration: observe the float network, fit every layer on the core's own maps, fold the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..backends.published import overlaps
from ..draft import Draft
from ..model import Model
from ..thermometer import levels
from .engine import Codes, LayerEngine, StemSums
from .recipe import Recipe
from .samples import at, sample_positions
from .state import RunState
from .stem import fit_stem
from .steps import fit_layer
from .teacher import STEM, Teacher, observe
from .work import LayerReport, Work

Pictures = npt.NDArray[np.uint8]
Progress = Callable[[str, float], Any]


@dataclass
class Fit:
    """A finished calibration: the draft, what each layer's step did, and what the difference file needs."""

    draft: Draft
    layers: list[LayerReport]
    orders: dict[int, npt.NDArray[np.int64]] | None
    affine: npt.NDArray[np.int32]


def fit_model(
    model: Model,
    pictures: Pictures,
    *,
    recipe: Recipe,
    seed: int,
    threads: int,
    state: RunState,
    progress: Progress = lambda *_: None,
) -> Fit:
    """Fit ``model`` to the published core on ``pictures`` uint8 [N, 224, 224, 3].

    ``state`` keeps what is done, so that an interrupted call goes on there. ``progress`` is called with what is being
    done and the share that is done. The result depends on the model, the pictures, the recipe and the seed alone.
    """
    with LayerEngine(threads) as engine:
        draft = Draft.of(model)
        network = draft.network
        positions = sample_positions(network, len(pictures), recipe.positions, seed)
        teacher = state.teacher(lambda: _observe(engine, draft, pictures, positions, progress))
        work = Work(engine, draft, recipe, teacher, positions, np.zeros(0, np.uint8))
        reports = state.restore(work)
        if not reports:
            reports.append(_fit_stem(work, pictures))
            state.save(work, reports)
        work.codes = _codes(work, pictures, len(reports) - 1)
        for index in range(len(reports) - 1, len(network.layers)):
            layer = network.layers[index]
            progress(f"fitting {layer.name}", _TEACHER_SHARE + (1 - _TEACHER_SHARE) * index / len(network.layers))
            reports.append(fit_layer(work, layer))
            state.save(work, reports)
        progress("fitted", 1.0)
    assert work.affine is not None  # noqa: S101 - the last layer's step sets it; for the type checker
    return Fit(draft, reports, work.orders, work.affine)


_TEACHER_SHARE = 0.2
_CHUNK = 8


def fingerprint(model: Model, pictures: Pictures, recipe: Recipe, seed: int) -> str:
    """What a calibration's result depends on, as a short text."""
    digest = hashlib.sha256(f"{__version__} {recipe} {seed} {pictures.shape}".encode())
    digest.update(np.ascontiguousarray(pictures).data)
    for name, tensor in model.tensors().items():
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()[:32]


def _observe(
    engine: LayerEngine,
    draft: Draft,
    pictures: Pictures,
    positions: dict[int, npt.NDArray[np.int32]],
    progress: Progress,
) -> Teacher:
    done = 0

    def count(pictures_done: int) -> None:
        nonlocal done
        done += pictures_done
        progress("running the float network", _TEACHER_SHARE * done / len(pictures))

    keep = [layer.name for layer in draft.network.layers if overlaps(layer)]
    keep.append(STEM)
    return observe(engine, draft, pictures, positions, keep, count)


def _fit_stem(work: Work, pictures: Pictures) -> LayerReport:
    stem = work.draft.network.stem
    if not work.recipe.fit:
        return LayerReport(STEM, 0.0, 0.0)
    sums = StemSums(stem, work.draft.stem_weight)
    where = work.positions[stem.out_size]

    def sample(index: int) -> npt.NDArray[np.int16]:
        one = slice(index, index + 1)
        return np.asarray(at(sums(levels(pictures[one])), where[one]), np.int16)

    found = np.concatenate(list(work.engine.map(sample, range(len(pictures)))))
    before, after = fit_stem(work.draft, found, work.teacher.kept[STEM])
    return LayerReport(STEM, before, after)


def _codes(work: Work, pictures: Pictures, done: int) -> Codes:
    """The core's maps after the stem and the first ``done`` gated layers."""
    draft = work.draft
    sums, rules = StemSums(draft.network.stem, draft.stem_weight), work.rules()

    def first(start: int) -> Codes:
        found = sums(levels(pictures[start : start + _CHUNK]))
        return rules.stem(found.astype(np.int64)).astype(np.uint8)

    codes = np.concatenate(list(work.engine.map(first, range(0, len(pictures), _CHUNK))))
    for layer in draft.network.layers[:done]:
        codes = work.engine.run(layer, draft.layers[layer.name], codes)
    return codes
