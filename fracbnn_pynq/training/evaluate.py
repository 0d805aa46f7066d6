"""How well a network does on labelled pictures: as trained in float, and as a model in the integers it will run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..datasets import Dataset
from ..errors import BackendError
from ..model import Model
from ..selection import create_backend
from .layers import GatedConv2d
from .network import gated_layers, set_binary

BATCH_PIXELS = 250 * 32 * 32
"""Pixels that are evaluated at once; the float network needs about 2 kB for each."""
GATE_PICTURES = 250

Logits = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Pictures uint8 [N, 3, edge, edge] to logits [N, classes]."""


@dataclass(frozen=True)
class Comparison:
    """Shares of test pictures: right in float, right in integers, same answer in both; and of gates open."""

    pictures: int
    float_accuracy: float
    integer_accuracy: float
    agreement: float
    gates_open: float


def float_logits(module: nn.Module) -> Logits:
    """The float network in evaluation, float32."""
    device = next(module.parameters()).device

    def answer(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        module.eval()
        with torch.no_grad():
            logits: npt.NDArray[np.float32] = module(torch.from_numpy(pictures).to(device)).float().cpu().numpy()
        return logits

    return answer


def integer_logits(model: Model) -> Logits:
    """``model`` in the ``faithful`` arithmetic, by the native engine where there is one."""
    try:
        engine = create_backend(model, backend="cpu", arithmetic="faithful")
    except BackendError:
        engine = create_backend(model, backend="reference", arithmetic="faithful")
    return lambda pictures: engine.logits(np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)))


def answers(logits: Logits, dataset: Dataset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Best class of every picture of ``dataset``, and its label: int64 [N] each."""
    return _answers(logits, dataset, np.arange(len(dataset)))


def _answers(
    logits: Logits, dataset: Dataset, which: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    best, truth = [], []
    count = max(1, BATCH_PIXELS // dataset.pictures.shape[-1] ** 2)
    for start in range(0, len(which), count):
        pictures, labels = dataset.take(which[start : start + count])
        best.append(logits(pictures).argmax(axis=1))
        truth.append(labels)
    return np.concatenate(best), np.concatenate(truth)


def compare(module: nn.Module, model: Model, dataset: Dataset) -> Comparison:
    """The float network, with binary weights, beside the model exported from it, on all of ``dataset``."""
    set_binary(module, True)
    in_float, truth = answers(float_logits(module), dataset)
    in_integers, _ = answers(integer_logits(model), dataset)
    return Comparison(
        pictures=len(truth),
        float_accuracy=float((in_float == truth).mean()),
        integer_accuracy=float((in_integers == truth).mean()),
        agreement=float((in_float == in_integers).mean()),
        gates_open=gates_open(module, dataset),
    )


def gates_open(module: nn.Module, dataset: Dataset) -> float:
    """Share of the outputs of all gated layers whose gate is open, over the first pictures of ``dataset``."""
    opened, outputs = 0.0, 0.0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        nonlocal opened, outputs
        assert isinstance(layer, GatedConv2d)  # noqa: S101 - for the type checker
        most, _least = layer.sums(inputs[0])
        opened += float((2 * most > 3 * layer.threshold).sum())
        outputs += most.numel()

    hooks = [layer.register_forward_hook(count) for layer in gated_layers(module)]
    try:
        stride = max(1, len(dataset) // GATE_PICTURES)
        _answers(float_logits(module), dataset, np.arange(0, len(dataset), stride)[:GATE_PICTURES])
    finally:
        for hook in hooks:
            hook.remove()
    return opened / outputs


def quick_accuracy(module: nn.Module, model: Model, dataset: Dataset, *, binary: bool) -> float:
    """Accuracy on ``dataset`` while training; in float, on a part of it, as long as weights are not ``binary`` yet."""
    if binary:
        best, truth = answers(integer_logits(model), dataset)
    else:
        set_binary(module, False)
        part = np.arange(0, len(dataset), max(1, len(dataset) // 500))
        best, truth = _answers(float_logits(module), dataset, part)
    return float((best == truth).mean())
