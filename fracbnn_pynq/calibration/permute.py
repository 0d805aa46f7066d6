"""Which channels the core's memory overlap damages is a question of their order, and the order is free.

Block 12 overwrites the shortcut of the channels at 256..351 before it reads it. The network's channels all descend from
32 base channels: at every doubling the shortcut is repeated, so that channel c of n becomes c and c + n. At each
doubling the two may be swapped, if all that follows is swapped along: the network computes the same, and three of the
sixteen descendants of every base channel, chosen by what their loss costs, come to lie where the damage is.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..draft import Draft, Order
from ..model import Real
from ..networks import Network

BASE = 32
DAMAGED = slice(256, 352)
"""Channels of block 12's 3x3 whose shortcut is overwritten: tiles 8 and 9, and part of tile 10."""
_PART_OF_TILE_10 = 0.64
_WIDTHS = (32, 64, 128, 256, 512)


def choose(cost: Real) -> dict[int, Order]:
    """Orders by number of channels (32 to 1024): place in the new order to channel in the old one.

    ``cost`` [512]: what it costs to damage each channel of block 12's 3x3. A channel is base + 32 a + 64 b + 128 c +
    256 d; places 256.., 288.. and 320.. of base are its descendants with a = 0, 1, 0 and b = 0, 0, 1, and d = 1.
    """
    swaps = {width: np.zeros(width, np.int64) for width in _WIDTHS[:-1]}
    leaves = cost.reshape(2, 2, 2, 2, BASE)  # [d][c][b][a][base]
    for base in range(BASE):
        first, (tile8, tile9, tile10) = _choose_leaves(leaves[..., base])
        swaps[32][base] = first
        for place, leaf in ((base, tile8), (base + 32, tile9)):
            swaps[64][place] = leaf[0]  # tile 10 is what tile 8 is not
        for place, leaf in ((base, tile8), (base + 32, tile9), (base + 64, tile10)):
            swaps[128][place] = leaf[1]
            swaps[256][place] = 1 - leaf[2]
    orders = {BASE: np.arange(BASE)}
    for width, wider in itertools.pairwise(_WIDTHS):
        before = orders[width]
        orders[wider] = np.concatenate([before + width * swaps[width], before + width * (1 - swaps[width])])
    orders[1024] = np.concatenate([orders[512], orders[512] + 512])
    return orders


def _choose_leaves(cost: Real) -> tuple[int, list[tuple[int, int, int]]]:
    """The cheapest three descendants of a base channel: which child (a) has two of them, and (b, c, d) of each."""
    choices = [(b, c, d) for b in (0, 1) for c in (0, 1) for d in (0, 1)]
    best: tuple[float, int, list[tuple[int, int, int]]] | None = None
    for first in (0, 1):

        def price(leaf: tuple[int, int, int], child: int) -> float:
            b, c, d = leaf
            return float(cost[d, c, b, child])

        pair = sorted(
            (min((price(leaf, first), leaf) for leaf in choices if leaf[0] == b) for b in (0, 1)),
        )
        other = min((price(leaf, 1 - first), leaf) for leaf in choices)
        total = pair[0][0] + _PART_OF_TILE_10 * pair[1][0] + other[0]
        if best is None or total < best[0]:
            best = total, first, [pair[0][1], other[1], pair[1][1]]
    assert best is not None  # noqa: S101 - for the type checker: there are two children
    return best[1], best[2]


def importance(draft: Draft, network: Network) -> Real:
    """How much each channel of block 12's 3x3 matters downstream, mean 1: float64 [512].

    The shortcut carries it to two channels of the last map; the product of the second batch norms' scales on the way,
    and the classifier's weights, say how much arrives.
    """
    names = [layer.name for layer in network.layers]
    gain = np.ones(network.features)
    for name in names[names.index("block12.conv1x1") :]:
        gain = gain * draft.layers[name].wanted[6]
    # Rounded before they are added up: then the sum does not depend on the order of the additions.
    weights = np.rint(draft.fc_weight**2 * (1 << 20)).astype(np.int64).sum(axis=0)
    both = gain**2 * weights
    pairs = both[: len(both) // 2] + both[len(both) // 2 :]
    total = int(np.rint(pairs).astype(np.int64).sum())
    return pairs * (len(pairs) / total) if total else np.ones_like(pairs)
