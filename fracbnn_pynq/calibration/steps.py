"""One gated layer after the other, on the core's own maps: the steps of the recipe in their order."""

from __future__ import annotations

import numpy as np

from ..backends.published import overlaps
from ..model import LayerParameters
from ..networks import GatedLayer
from .engine import Codes, Int16, Samples
from .last import affine_of, last_starts
from .overlap import fit_overlapped
from .recentre import Recentred, recentre
from .samples import (
    branch_values,
    by_channel,
    core_shortcut,
    local_target,
    make_samples,
    squares_under,
    towards_teacher,
)
from .teacher import LAST_UNIT
from .work import LayerReport, Work, core_sums, fit_samples

_LAST_PASSES = 2


def fit_layer(work: Work, layer: GatedLayer) -> LayerReport:
    """Calibrate ``layer`` and run it: ``work.codes`` become its output."""
    if layer is work.draft.network.layers[-1]:
        return _fit_last(work, layer)
    report = LayerReport(layer.name, 0.0, 0.0)
    if not work.recipe.fit:
        work.codes = work.engine.run(layer, work.draft.layers[layer.name], work.codes)
        return report
    squares = squares_under(layer, work.codes, work.positions[layer.out_size])
    target = _target(work, layer, squares, report)
    sums = core_sums(work, layer)
    samples = make_samples(sums, core_shortcut(work.rules(), layer, squares), target)
    if overlaps(layer):
        before, after = fit_overlapped(work, layer, samples, report)
    else:
        fitted = fit_samples(work, work.draft.layers[layer.name], samples)
        work.draft.layers[layer.name].raw = fitted.raw
        before, after = fitted.before, fitted.after
    report.before, report.after = float(before.mean()), float(after.mean())
    work.codes = work.engine.run(layer, work.draft.layers[layer.name], work.codes)
    return report


def _target(work: Work, layer: GatedLayer, squares: Codes, report: LayerReport) -> Int16:
    """What the layer should give on the core's input. Recentres its sums on the way: the target needs the old ones."""
    draft, positions = work.draft.layers[layer.name], work.positions[layer.out_size]
    exact = work.engine.sums(layer, draft, work.codes, positions, exact=True)
    wanted = LayerParameters(np.zeros(0, np.uint8), draft.wanted.copy())
    target = local_target(work.engine, layer, wanted, exact, squares)
    target = towards_teacher(target, work.teacher.sums[layer.name])
    if work.recipe.recentre and layer.kernel == 3 and layer.in_channels >= work.recipe.recentre_from:
        moved = recentre(draft, work.codes, exact.msb.reshape(-1, layer.out_channels))
        if moved != Recentred(0, 0):
            report.notes.append(f"{moved.channels} channels recentred by {moved.flips} flipped weights")
    return target


def _fit_last(work: Work, layer: GatedLayer) -> LayerReport:
    """The last layer for the smallest error of the pooled values, and the classifier for what its codes then mean."""
    draft = work.draft.layers[layer.name]
    squares = squares_under(layer, work.codes, work.positions[layer.out_size])
    closed, opened = branch_values(core_sums(work, layer))
    shortcut = by_channel(core_shortcut(work.rules(), layer, squares)).astype(np.int16)
    wanted = by_channel(work.teacher.last)
    samples = Samples(closed, opened, shortcut, wanted, None)
    starts, passes = last_starts(draft, wanted), _LAST_PASSES
    if not work.recipe.fit_last:
        starts, passes = starts[:, :1], 0
    fitted = work.engine.fit(samples, starts, kept=1, passes=passes, positions=layer.out_size**2)
    draft.raw = fitted.raw
    work.affine = affine_of(fitted.affine)
    work.draft.fold(work.affine)
    unit = LAST_UNIT**2
    return LayerReport(layer.name, float(fitted.before.mean()) / unit, float(fitted.after.mean()) / unit)
