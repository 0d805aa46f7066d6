"""The accelerator for a network. Imports pynq."""

from __future__ import annotations

from typing import Any

from ..cores import ENGINE_VLNV
from ..model import Model
from ..networks import CIFAR10
from .accelerator import TIMEOUT_S, Accelerator
from .cifar10 import Cifar10Accelerator
from .engine import EngineAccelerator
from .imagenet import ImageNetAccelerator


def create_accelerator(
    overlay: Any, model: Model, *, design_mhz: float | None = None, timeout_s: float = TIMEOUT_S
) -> Accelerator:
    """The accelerator that runs ``model`` on a loaded overlay; see :class:`.accelerator.Accelerator`.

    A published CIFAR-10 overlay has its own weights built in: that they are the model's is for the caller to know.
    """
    if any(entry.get("type") == ENGINE_VLNV for entry in overlay.ip_dict.values()):
        return EngineAccelerator(overlay, model, design_mhz=design_mhz, timeout_s=timeout_s)
    if model.network.name == CIFAR10.name:
        return Cifar10Accelerator(overlay, design_mhz=design_mhz, timeout_s=timeout_s)
    return ImageNetAccelerator(overlay, model, design_mhz=design_mhz, timeout_s=timeout_s)
