"""Distillation: learning from another network's answers as well as from the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import Classifier
from ..errors import ModelError
from ..model import Model
from ..networks import Network
from ..selection import create_backend

Teacher = Callable[[Tensor], Tensor]
"""Takes pictures uint8 [N, 3, edge, edge], gives logits [N, classes]; any module that does so will do."""


def model_teacher(model: Model, network: Network, classes: tuple[str, ...]) -> Teacher:
    """A trained FracBNN model as the teacher, computed by this package's own integer engine.

    Raises :class:`~fracbnn_pynq.errors.ModelError` where its pictures or classes are others.
    """
    if model.network.image_size != network.image_size or model.classes != classes:
        raise ModelError(
            f"expected a teacher for {network.image_size}-pixel pictures of {', '.join(classes)}, found one for "
            f"{model.network.image_size}-pixel pictures of {', '.join(model.classes)}"
        )
    return _ModelTeacher(model)


class _ModelTeacher:
    """Answers as ``model`` does. ``fingerprint`` tells it from other models."""

    def __init__(self, model: Model) -> None:
        self._classifier = Classifier(model, create_backend(model, backend="cpu"))
        digest = hashlib.sha256(model.network.name.encode())
        for name, tensor in sorted(model.tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor).tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __call__(self, pictures: Tensor) -> Tensor:
        logits = self._classifier.logits(pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        return torch.from_numpy(logits).to(pictures.device)


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far ``logits`` are from what the teacher says: mean Kullback-Leibler divergence, softened.

    Scaled by the square of ``temperature``, which keeps the gradient's size. Source: Hinton, Vinyals, Dean, arXiv
    1503.02531.
    """
    divergence = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(taught / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2
