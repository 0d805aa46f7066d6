"""Block 12's 3x3, whose shortcut the core overwrites before it has read all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..model import Real
from ..networks import GatedLayer
from .engine import Codes, Samples, Sums
from .permute import DAMAGED, choose, importance
from .repair import rewire
from .samples import branch_values, by_channel
from .starts import Starts
from .work import LayerReport, Work, core_sums, fit_samples

_FEW = 3
"""Costs of damage are estimated on every third sample."""
_OTHER_CHANNEL = 37
"""The garbage a cost is estimated with: the shortcut of a channel so far away, in a random order."""
_TILE_10 = slice(320, 352)
_ROUNDS = (slice(256, 320), _TILE_10, _TILE_10)
"""Channels in the order in which what they read is settled; tile 10 reads what it has just written itself."""
_LEAST_WEIGHT = 0.3
_PICTURES = 16


def fit_overlapped(work: Work, layer: GatedLayer, samples: Samples, report: LayerReport) -> tuple[Real, Real]:
    """Fit the layer's channels; their losses before and after, float64 [C] each."""
    if work.recipe.permute:
        samples = _choose_damaged(work, layer, samples, report)
    draft = work.draft.layers[layer.name]
    before, after = np.zeros(layer.out_channels), np.zeros(layer.out_channels)

    def fit(channels: slice, samples: Samples, extra: Starts | None = None, *, amplified: bool = False) -> None:
        own = samples.channels(channels)
        fitted = fit_samples(work, draft.part(channels), own, amplified=amplified, extra=extra)
        draft.raw[:, channels] = fitted.raw
        before[channels] = np.where(before[channels] == 0, fitted.before, before[channels])
        after[channels] = fitted.after

    for intact in (slice(0, DAMAGED.start), slice(DAMAGED.stop, layer.out_channels)):
        fit(intact, samples)
    extra = _rewire(work, layer, report)
    sums = core_sums(work, layer)
    closed, opened = branch_values(sums)
    samples = replace(samples, closed=closed, open=opened)
    for channels in _ROUNDS:
        shortcut = by_channel(_shortcut_read(work, layer, sums)).astype(np.int16)
        own = None if extra is None else extra[channels.start - DAMAGED.start : channels.stop - DAMAGED.start]
        fit(channels, replace(samples, shortcut=shortcut), own, amplified=True)
    return before, after


def _choose_damaged(work: Work, layer: GatedLayer, samples: Samples, report: LayerReport) -> Samples:
    """Permute the channels so that the damage is done where it costs least; the samples in the new order."""
    draft = work.draft.layers[layer.name]
    few = Samples(*(np.ascontiguousarray(part[:, ::_FEW]) for part in vars(samples).values()))
    clean = fit_samples(work, draft, few)
    garbage = np.roll(few.shortcut, -_OTHER_CHANNEL, axis=0)[:, _shuffled(few.shortcut.shape[1])]
    damaged = fit_samples(work, draft, replace(few, shortcut=np.ascontiguousarray(garbage)), amplified=True)
    weight = _LEAST_WEIGHT + (1 - _LEAST_WEIGHT) * importance(work.draft, work.draft.network)
    cost = np.maximum(damaged.after - clean.after, 0) * weight
    work.orders = choose(cost)
    order = work.orders[layer.out_channels]
    report.notes.append(
        f"cost of the overlap {cost[DAMAGED].sum():.1f} in the published order of channels, "
        f"{cost[order[DAMAGED]].sum():.1f} in the chosen one"
    )
    draft.raw = clean.raw
    work.draft.permute(work.orders)
    teacher = work.teacher
    names = [each.name for each in work.draft.network.layers]
    for each in work.draft.network.layers[names.index(layer.name) :]:
        own = work.orders[each.out_channels]
        teacher.sums[each.name] = teacher.sums[each.name][own]
        if each.name in teacher.kept:
            teacher.kept[each.name] = np.ascontiguousarray(teacher.kept[each.name][..., own])
    teacher.last = np.ascontiguousarray(teacher.last[..., work.orders[work.draft.network.features]])
    work.codes = np.ascontiguousarray(work.codes[..., order])
    return Samples(*(np.ascontiguousarray(part[order]) for part in vars(samples).values()))


def _rewire(work: Work, layer: GatedLayer, report: LayerReport) -> Starts | None:
    """New weights for the damaged channels where there are enough pictures; starts that suit them."""
    pictures = np.arange(len(work.codes)) // work.recipe.copies
    if not work.recipe.repair or int(pictures[-1]) + 1 < work.recipe.repair_from:
        return None
    channels = np.arange(DAMAGED.start, DAMAGED.stop)
    wanted = work.teacher.kept[layer.name]
    repaired = rewire(
        work.engine, work.draft.layers[layer.name], layer, work.codes, wanted, channels, pictures % 4 == 3
    )
    report.notes.append(
        f"{len(channels)} channels rewired: their sums' correlation with what they should give was "
        f"{repaired.before:.2f}, is {repaired.after:.2f}"
    )
    return repaired.starts


def _shortcut_read(work: Work, layer: GatedLayer, sums: Sums) -> Codes:
    """The codes that the core reads as this layer's shortcut: uint8 [N, positions, C]."""
    rules = work.rules()
    size = layer.out_size

    def read(part: slice) -> Codes:
        msb, lsb = (
            each[part].reshape(-1, size, size, layer.out_channels).astype(np.int64) for each in vars(sums).values()
        )
        seen = rules.shortcut_read(layer, msb, lsb, work.codes[part].astype(np.int64))
        return seen.reshape(len(seen), size * size, -1).astype(np.uint8)

    parts = [slice(start, start + _PICTURES) for start in range(0, len(work.codes), _PICTURES)]
    return np.concatenate(list(work.engine.map(read, parts)))


def _shuffled(count: int) -> npt.NDArray[np.int64]:
    return np.argsort(np.random.default_rng(0).random(count), kind="stable")
