"""Beginning with trained parameters: another run's, an importer's source, or those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ModelError, SourceError
from ..importers.archives import ENDINGS, is_model_file, read_parameters
from ..importers.parameters import named_parameters
from ..models import find_model
from ..networks import Network
from .layers import WEIGHT_SPREAD, BinaryConv2d
from .network import load_parameters, named_arrays

Arrays = Mapping[str, npt.NDArray[Any]]


def read_start(source: str, network: Network) -> Arrays:
    """Named parameters of ``network`` from an ``.npz`` or PyTorch file, or of a model by its name or file.

    Raises :class:`~fracbnn_pynq.errors.SourceError` or :class:`~fracbnn_pynq.errors.ModelError`.
    """
    path = Path(source)
    if path.suffix.lower() in ENDINGS and not (path.suffix.lower() == ".safetensors" and is_model_file(path)):
        return read_parameters(path, network)
    model = find_model(source)
    if model.network.name != network.name:
        raise ModelError(f"{source}: expected a model of {network.title}, found one of {model.network.title}")
    return named_parameters(model)


def start_with(module: nn.Module, arrays: Arrays, classes: int, pictures: Tensor) -> bool:
    """Begin with ``arrays`` and go on learning; whether the fully connected layer was taken, too.

    That layer is left as it is where ``arrays`` have another number of classes. Weights of which only signs are given
    get the size that random ones have, so that they can change. Folded batch norms are unfolded with the statistics
    of ``pictures`` uint8 [N, 3, edge, edge], so that the network computes the same as before.
    """
    own = named_arrays(module)
    fc = next(name.removesuffix(".bias") for name in own if name in ("linear.bias", "fc.bias"))
    if f"{fc}.bias" not in arrays:
        raise SourceError(f"expected a parameter '{fc}.bias', found none", advice="is this the right --network?")
    same = np.size(arrays[f"{fc}.bias"]) == classes
    given = dict(arrays) if same else {**arrays, **{name: own[name] for name in (f"{fc}.weight", f"{fc}.bias")}}
    load_parameters(module, given)
    for part in module.modules():
        if isinstance(part, BinaryConv2d) and bool((part.weight.abs() == 1).all()):
            part.weight.data.mul_(WEIGHT_SPREAD)
    if not any(name.endswith("running_var") for name in arrays):
        _unfold(module, pictures)
    return same


def _unfold(module: nn.Module, pictures: Tensor) -> None:
    """Give every batch norm, now a scale and an offset, statistics of its own without changing what it computes."""

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - for the type checker
        measured[norm] = torch.var_mean(inputs[0].double(), dim=(0, 2, 3), correction=0)

    measured: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}
    hooks = [part.register_forward_hook(measure) for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    try:
        with torch.no_grad():
            module.eval()(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for norm, (variance, mean) in measured.items():
            assert norm.running_mean is not None  # noqa: S101 - for the type checker
            assert norm.running_var is not None  # noqa: S101
            scale = norm.weight.double()
            norm.bias.copy_(norm.bias.double() + scale * mean)
            norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
