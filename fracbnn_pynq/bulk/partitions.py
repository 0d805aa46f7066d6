"""The pictures of all sources, cut into partitions: one task and one file each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .items import Item, Place
from .sources import Source

PICTURES = 512
"""Pictures of a partition, unless said otherwise."""
MOST_BYTES = 8 << 20
"""Encoded bytes of a partition, where it is not one larger picture."""


@dataclass(frozen=True)
class Partition:
    """Some pictures in a row, the ``number``-th of all such rows."""

    number: int
    items: tuple[Item, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the pictures are."""
        return tuple(item.place for item in self.items)

    @property
    def held(self) -> int:
        """Bytes of pictures that are in memory."""
        return sum(len(item.place) for item in self.items if isinstance(item.place, bytes))


def partitions(sources: Iterable[Source], most: int = PICTURES) -> Iterator[Partition]:
    """All pictures of ``sources`` in their order, at most ``most`` and :data:`MOST_BYTES` at a time.

    Which partition a picture is in depends on ``sources`` and ``most`` alone, not on how pictures reach workers.
    """
    number, size, items = 0, 0, list[Item]()
    for source in sources:
        for item in source.items():
            if items and (len(items) == most or size + item.size > MOST_BYTES):
                yield Partition(number, tuple(items))
                number, size, items = number + 1, 0, []
            items.append(item)
            size += item.size
    if items:
        yield Partition(number, tuple(items))
