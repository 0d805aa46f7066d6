"""What a training run does when: settings, and the schedule as a function of the run's progress."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of a run. Fractions are of the run's progress, from 0 to 1.

    * ``peak_rate``: learning rate of Adam after ``warm_up``; from there it falls along a cosine to nothing.
    * ``float_until``: weights are real until then, binary afterwards.
    * ``sizes``: (from progress, edge of the pictures as a share of the network's own edge), ascending.
    * ``gate_target``, ``gate_pull``: thresholds are pulled towards the target with this L2 weight. A higher target
      closes more gates, which makes the network sparser and a little less accurate.
    * ``teacher_share``: share of the loss that is distillation; ``temperature``: of its softmax.
    * ``smoothing``: label smoothing of the other share.
    * ``in_place_from``: from then on pictures are no longer moved or zoomed, as they will not be when they are
      classified.
    * ``shift``: pictures are moved by up to this share of their edge; ``zoom``: smallest share of a picture's edge
      that a random crop keeps; ``flip``: whether pictures are mirrored at random.
    """

    batch: int = 64
    peak_rate: float = 2e-3
    warm_up: float = 0.03
    float_until: float = 0.25
    sizes: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.25, 0.75), (0.45, 1.0))
    gate_target: float = 0.0
    gate_pull: float = 1e-3
    teacher_share: float = 0.5
    temperature: float = 3.0
    smoothing: float = 0.0
    shift: float = 0.125
    zoom: float = 1.0
    flip: bool = True
    in_place_from: float = 0.7

    def rate(self, progress: float) -> float:
        """Learning rate at ``progress``."""
        if progress < self.warm_up:
            return self.peak_rate * max(progress / self.warm_up, 0.01)
        done = min((progress - self.warm_up) / (1 - self.warm_up), 1.0)
        return self.peak_rate * max((1 + math.cos(math.pi * done)) / 2, 1e-3)

    def size(self, progress: float, full: int, multiple: int) -> int:
        """Edge of the pictures at ``progress``, in pixels: a multiple of ``multiple``, at most ``full``."""
        share = [share for start, share in self.sizes if progress >= start][-1]
        return min(full, max(multiple, round(full * share / multiple) * multiple))

    def binary(self, progress: float) -> bool:
        """Whether weights are binary at ``progress``."""
        return progress >= self.float_until

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain numbers, for checkpoints and model files."""
        return asdict(self)
