"""What the float network makes of the pictures: the reference that the core is brought close to.

The convolutions are exact integers from the native kernels, what follows them is the package's own float rules, so that
maps equal the reference backend's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.rules import duplicated, float_layer, pooled_parts, quantise_unit
from ..draft import Draft
from ..faithful import CODE_MAX
from ..fixedpoint import Raw
from ..thermometer import levels
from .engine import Codes, Int16, LayerEngine, StemSums, unpack_sums
from .samples import VALUE_OF_CODE, as_int16, at, limited_sums

STEM = "stem"
LAST_UNIT = 256
"""The last layer's values are kept in steps of 1/256: they reach from -3 to 14."""


@dataclass
class Teacher:
    """Observations of the float network.

    ``logits``: float32 [N, classes]. ``sums``: per layer, int64 [C], its values at the sampled positions as 16-bit
    numbers, limited and added up. ``kept``: such values int16 [N, S, C] of some layers. ``last``: the last layer's
    values int16 [N, positions, C] in 1/256.
    """

    logits: npt.NDArray[np.float32]
    sums: dict[str, Raw]
    kept: dict[str, Int16]
    last: Int16


def observe(
    engine: LayerEngine,
    draft: Draft,
    pictures: npt.NDArray[np.uint8],
    positions: dict[int, npt.NDArray[np.int32]],
    keep: Collection[str] = (),
    progress: Callable[[int], Any] = lambda _: None,
) -> Teacher:
    """Run the float network on ``pictures`` uint8 [N, size, size, 3]; ``progress`` is called with 1 after each.

    ``positions``: where to look, see :func:`.samples.sample_positions`; ``keep``: layers whose values are wanted.
    """
    stem = StemSums(draft.network.stem, draft.stem_weight)
    plans = {layer.name: engine.exact_plan(layer, draft.layers[layer.name]) for layer in draft.network.layers}

    def work(index: int) -> tuple[npt.NDArray[np.float64], dict[str, Raw], dict[str, Int16], Int16]:
        one = slice(index, index + 1)
        weight, bias = draft.stem_wanted
        values = stem(levels(pictures[one])) * weight + bias
        seen = as_int16(np.asarray(at(values, positions[draft.network.stem.out_size][one])))
        sums, kept = {STEM: limited_sums(seen)}, {STEM: seen} if STEM in keep else {}
        for layer in draft.network.layers:
            codes = quantise_unit(values, CODE_MAX).astype(np.uint8)
            found = unpack_sums(engine.all_sums(plans[layer.name], layer, codes), exact=True)
            _, values = float_layer(draft.wanted(layer), found.msb, found.lsb, _shortcut(layer, codes))
            seen = as_int16(np.asarray(at(values, positions[layer.out_size][one])))
            sums[layer.name] = limited_sums(seen)
            if layer.name in keep:
                kept[layer.name] = seen
        last = np.clip(np.rint(values * LAST_UNIT), -32767, 32767).astype(np.int16)
        progress(1)
        return values.mean(axis=(1, 2)), sums, kept, last.reshape(1, -1, last.shape[-1])

    parts = list(engine.map(work, range(len(pictures))))
    pooled = np.concatenate([part[0] for part in parts])
    return Teacher(
        # einsum adds in an order of its own, unlike BLAS always the same for a row
        (np.einsum("nc,kc->nk", pooled, draft.fc_weight) + draft.fc_bias).astype(np.float32),
        {name: np.add.reduce([part[1][name] for part in parts]) for name in parts[0][1]},
        {name: np.concatenate([part[2][name] for part in parts]) for name in keep},
        np.concatenate([part[3] for part in parts]),
    )


def _shortcut(layer: Any, codes: Codes) -> npt.NDArray[np.float64]:
    values = VALUE_OF_CODE[codes]
    if layer.stride == 2:
        values = np.add.reduce(pooled_parts(values)) / 4
    return duplicated(layer, values)
