"""How many clock cycles the engine takes, from the descriptors: the sequencer's own counts, and the memory port's.

Steps: a pass of a descriptor takes one cycle to begin, three for its header words and ``rows * groups * steps``, the
stem two groups more, and a descriptor one more cycle. What the memory port adds is modelled with a bandwidth and the
ring's size; the simulation of the hardware is what counts, and the tests compare the two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .descriptors import STEM, Descriptor
from .words import HEADER_WORDS, WORD_BYTES

RING_WORDS = 512
"""Words the engine's ring holds; an image with no more of them is loaded once and stays."""
_BEATS_PER_WORD = WORD_BYTES // 16


@dataclass(frozen=True)
class DescriptorCost:
    """Cycles of one descriptor in the middle of a batch, and bytes it reads from memory for a picture.

    ``steps``: cycles in which something is issued; ``begin``: beginnings of passes, headers, the stem's last groups;
    ``wait_weights``: cycles the ring is empty.
    """

    steps: int
    begin: int
    wait_weights: int
    ring_bytes: int

    @property
    def cycles(self) -> int:
        return self.steps + self.begin + self.wait_weights


def descriptor_costs(steps: list[Descriptor], *, resident: bool, bandwidth: float = 0.8) -> list[DescriptorCost]:
    """Cost of each descriptor of a picture in the middle of a batch.

    ``bandwidth``: beats a cycle the memory port delivers on average.
    """
    if resident:
        return [_cost(step, 0) for step in steps]
    return [_cost(step, wait) for step, wait in zip(steps, _weight_waits(steps, bandwidth=bandwidth), strict=True)]


def _cost(step: Descriptor, wait: int) -> DescriptorCost:
    work = step.passes * step.rows * step.groups * step.steps
    begin = 1 + step.passes * (1 + HEADER_WORDS + (2 * step.steps if step.kind == STEM else 0))
    words = step.passes * (HEADER_WORDS + step.slices)
    return DescriptorCost(work, begin, wait, words * WORD_BYTES)


def _weight_waits(steps: list[Descriptor], *, bandwidth: float) -> list[int]:
    """Waits for weights by descriptor, in the second of two pictures: the ring is filled ahead as far as it is free."""
    now = delivered = 0.0
    waits: list[int] = []
    held: deque[tuple[float, int]] = deque()  # when words come free, how many
    used = 0
    for _ in range(2):
        waits = []
        for step in steps:
            words = HEADER_WORDS + step.slices
            length = step.rows * step.groups * step.steps + (2 * step.steps if step.kind == STEM else 0)
            waited = 0.0
            now += 1
            for _ in range(step.passes):
                while used + words > RING_WORDS:
                    freed, count = held.popleft()
                    used -= count
                    delivered = max(delivered, freed)
                used += words
                delivered += words * _BEATS_PER_WORD / bandwidth
                waited += max(0.0, delivered - now)
                now = max(now, delivered) + 1 + HEADER_WORDS + length
                held.append((now, words))
            waits.append(round(waited))
    return waits
