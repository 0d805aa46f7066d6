"""What the steps of a calibration share, and what several of them do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..arithmetic import IMAGENET_2021
from ..backends.published import ImageNetRules
from ..draft import Draft, LayerDraft
from ..networks import GatedLayer
from .engine import Codes, Fitted, LayerEngine, Samples, Sums
from .recipe import Recipe
from .starts import Starts, make_starts, with_extra
from .teacher import Teacher


@dataclass
class LayerReport:
    """What a step did: the loss a sample with rounded parameters and with fitted ones, in squared codes."""

    name: str
    before: float
    after: float
    notes: list[str] = field(default_factory=list)


@dataclass
class Work:
    """What the steps share. ``codes``: the core's maps before the next layer; ``affine``: see :mod:`.last`."""

    engine: LayerEngine
    draft: Draft
    recipe: Recipe
    teacher: Teacher
    positions: dict[int, npt.NDArray[np.int32]]
    codes: Codes
    orders: dict[int, npt.NDArray[np.int64]] | None = None
    affine: npt.NDArray[np.int32] | None = None

    def rules(self) -> ImageNetRules:
        """The core's arithmetic with the draft's parameters as they are now."""
        return ImageNetRules(self.draft.model({}), IMAGENET_2021)


def core_sums(work: Work, layer: GatedLayer) -> Sums:
    """The layer's sums at its sampled positions, as the core stores them."""
    return work.engine.sums(
        layer, work.draft.layers[layer.name], work.codes, work.positions[layer.out_size], exact=False
    )


def fit_samples(
    work: Work, draft: LayerDraft, samples: Samples, *, amplified: bool = False, extra: Starts | None = None
) -> Fitted:
    """The best parameters for ``samples``, found from the usual starts and ``extra`` ones."""
    starts = make_starts(draft, samples.closed.mean(axis=1), amplified=amplified)
    if extra is not None:
        starts = with_extra(starts, extra)
    return work.engine.fit(samples, starts, kept=work.recipe.kept, passes=work.recipe.passes)
