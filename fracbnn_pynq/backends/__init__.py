"""Engines that run a FracBNN network: one module per engine behind one small protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..arithmetic import Arithmetic
from ..networks import Network


class Backend(Protocol):
    """What every engine offers. Engines may be used from several threads.

    ``timings``: milliseconds per picture of the last call by stage; empty where the engine has no stages.
    """

    name: str
    network: Network
    arithmetic: Arithmetic

    @property
    def timings(self) -> Mapping[str, float]: ...

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 RGB pictures [N, S, S, 3] at the network's size to float32 logits [N, classes]."""

    def describe(self) -> dict[str, str]:
        """What computes, for people: ``backend``, ``arithmetic``, and what else there is to say (``board``, ``engine``,
        ``threads``)."""

    def counters(self) -> Mapping[str, int]:
        """What an accelerator counted in its last run, ``pictures`` and ``cycles`` first; empty where nothing does."""

    def close(self) -> None:
        """Free what the engine holds; it is of no use afterwards."""


@runtime_checkable
class Reloadable(Protocol):
    """An engine that can be made to work again after a fault."""

    def reload(self) -> None:
        """Bring the engine back to where it was after it was made. Raises what making it raises."""
