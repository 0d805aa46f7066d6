"""Named parameter arrays (the authors' PyTorch names) into a model; the one place that folds batch norms.

Every importer ends here. Names and shapes are those of the authors' PyTorch modules: CIFAR-10 ``conv1.weight``,
``layer1.0.conv1.threshold``, ``layer1.0.rprelu1.shift_x.bias``, ...; ImageNet ``model.3.conv3x3.0.weight``,
``model.3.shiftbn1.bias``, .... A batch norm with ``running_mean`` and ``running_var`` is folded into a scale and an
offset; one without is taken as folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, SourceError
from ..model import LayerParameters, Model, pack_weight, quantise_rows, unpack_weight
from ..networks import CIFAR10, IMAGENET, LAYER_PARAMETERS, GatedLayer, Network, Stem
from .names import listed, nearest

BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default, used by the authors and by this project."""

FIXED_FRACTION = 16
"""Fraction bits of ``fixed.`` arrays: the parameter format <20,4> of the core in the public CIFAR-10 bitstream."""

Arrays = Mapping[str, npt.NDArray[Any]]
Real = npt.NDArray[np.float64]


_WEIGHTLESS = (
    "num_batches_tracked",  # PyTorch's step counter
    "encoder.placeholder",
    "img_mean",
    "img_std",
    "packed.",
    "sample.",
    "teacher.",
)


def build_model(network: Network, arrays: Arrays, classes: tuple[str, ...], provenance: Mapping[str, Any]) -> Model:
    """A model from named arrays; raises :class:`~fracbnn_pynq.errors.SourceError` for missing or left-over names.

    The fully connected layer has as many rows as there are ``classes``, which need not be as many as ``network`` has.
    """
    _check_classes(arrays, f"{_module_names(network)['fc']['weight']}.bias", classes)
    network = network.with_classes(len(classes))
    reader = _Reader(network, arrays)
    names = _module_names(network)
    stem = names["stem"]
    stem_weight = reader.signs(stem["weight"], (network.stem.out_channels, network.stem.in_channels, 3, 3))
    stem_bn = np.stack(reader.batch_norm(stem["bn1"], network.stem.out_channels))
    layers = {layer.name: _layer(reader, layer, names[layer.name]) for layer in network.layers}
    fc = names["fc"]["weight"]
    fc_weight = reader.matrix(f"{fc}.weight", (network.classes, network.features))
    fc_bias = reader.real(f"{fc}.bias", network.classes)
    reader.check_all_used()
    fc_weight = rounded_classifier(network, fc_weight)
    try:
        return Model(network, pack_weight(stem_weight), stem_bn, layers, fc_weight, fc_bias, classes, provenance)
    except ModelError as error:
        raise SourceError(str(error)) from None


def _check_classes(arrays: Arrays, bias: str, classes: tuple[str, ...]) -> None:
    outputs = next((np.size(arrays[name]) for name in (bias, f"fixed.{bias}") if name in arrays), len(classes))
    if outputs != len(classes):
        raise SourceError(
            f"expected a class name for each of the network's {outputs} outputs, found {len(classes)} names: give them "
            "in a file with --classes"
        )


def named_parameters(model: Model) -> dict[str, npt.NDArray[Any]]:
    """What :func:`build_model` would make ``model`` from: weights +-1 [out, in, k, k], batch norms folded."""
    names = _module_names(model.network)

    def signs(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
        return np.moveaxis(unpack_weight(packed), -1, 1)

    stem, fc = names["stem"], names["fc"]["weight"]
    arrays: dict[str, npt.NDArray[Any]] = {stem["weight"]: signs(model.stem_weight)}
    arrays[f"{stem['bn1']}.weight"], arrays[f"{stem['bn1']}.bias"] = model.stem_bn
    for layer in model.network.layers:
        own, given = names[layer.name], model.layers[layer.name]
        arrays[own["weight"]] = signs(given.weight)
        bn1, rprelu, bn2 = own["bn1"], own["rprelu"], own["bn2"]
        rows = (
            own["threshold"],
            f"{bn1}.weight",
            f"{bn1}.bias",
            f"{rprelu}.shift_x.bias",
            f"{rprelu}.prelu.weight",
            f"{rprelu}.shift_y.bias",
            f"{bn2}.weight",
            f"{bn2}.bias",
        )
        arrays |= dict(zip(rows, given.parameters, strict=True))  # in the order of LAYER_PARAMETERS
    return {**arrays, f"{fc}.weight": model.fc_weight, f"{fc}.bias": model.fc_bias}


def rounded_classifier(network: Network, weight: Real) -> Real:
    """The fully connected weights as a model of ``network`` keeps them, float64 [classes, features].

    A thousand classes in float32 would be two thirds of the file, so ImageNet's are rounded to 16 bits a weight;
    docs/models.md has what that does to the logits.
    """
    if network.name != IMAGENET.name:
        return weight
    integers, exponent = quantise_rows(weight)
    return np.ldexp(integers.astype(np.float64), -exponent[:, None].astype(np.int64))


def parameter_sizes(network: Network) -> dict[str, int]:
    """Name and number of elements of every parameter that a folded model has."""
    sizes: dict[str, int] = {}
    names = _module_names(network)
    every: tuple[Stem | GatedLayer, ...] = (network.stem, *network.layers)
    for layer in every:
        own, out = names[layer.name], layer.out_channels
        sizes[own["weight"]] = out * layer.in_channels * layer.kernel**2
        for norm in ("bn1", "bn2"):
            if norm in own:
                sizes |= {f"{own[norm]}.weight": out, f"{own[norm]}.bias": out}
        if "threshold" in own:
            sizes[own["threshold"]] = out
            sizes |= {f"{own['rprelu']}.{part}": out for part in ("shift_x.bias", "shift_y.bias", "prelu.weight")}
    fc = names["fc"]["weight"]
    return sizes | {f"{fc}.weight": network.classes * network.features, f"{fc}.bias": network.classes}


def known_names(network: Network) -> frozenset[str]:
    """Every name that :func:`build_model` knows: of parameters, of statistics, and of raw integers."""
    names = set(parameter_sizes(network))
    norms = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    names |= {f"{norm}.{statistic}" for norm in norms for statistic in ("running_mean", "running_var")}
    return frozenset(names | {f"fixed.{name}" for name in names})


def _layer(reader: _Reader, layer: GatedLayer, names: Mapping[str, str]) -> LayerParameters:
    out = layer.out_channels
    weight = reader.signs(names["weight"], (out, layer.in_channels, layer.kernel, layer.kernel))
    bn1_weight, bn1_bias = reader.batch_norm(names["bn1"], out)
    bn2_weight, bn2_bias = reader.batch_norm(names["bn2"], out)
    rows = {
        "threshold": reader.real(names["threshold"], out),
        "bn1_weight": bn1_weight,
        "bn1_bias": bn1_bias,
        "shift_x": reader.real(f"{names['rprelu']}.shift_x.bias", out),
        "slope": reader.real(f"{names['rprelu']}.prelu.weight", out),
        "shift_y": reader.real(f"{names['rprelu']}.shift_y.bias", out),
        "bn2_weight": bn2_weight,
        "bn2_bias": bn2_bias,
    }
    return LayerParameters(pack_weight(weight), np.stack([rows[name] for name in LAYER_PARAMETERS]))


def _module_names(network: Network) -> dict[str, dict[str, str]]:
    """For every layer, the source's names of its parts."""
    if network.name == CIFAR10.name:
        names = {"stem": {"weight": "conv1.weight", "bn1": "bn1"}, "fc": {"weight": "linear"}}
        for layer in network.layers:
            block, conv = layer.name.rsplit(".", 1)
            half = int(conv[-1])
            names[layer.name] = {
                "weight": f"{layer.name}.weight",
                "threshold": f"{layer.name}.threshold",
                "bn1": f"{block}.bn{half}",
                "rprelu": f"{block}.rprelu{half}",
                "bn2": f"{block}.bn{half + 2}",
            }
        return names
    names = {"stem": {"weight": "model.0.0.weight", "bn1": "model.0.1"}, "fc": {"weight": "fc"}}
    for layer in network.layers:
        block, conv = layer.name.split(".")
        prefix = f"model.{block.removeprefix('block')}"
        module, half = (f"{prefix}.conv3x3", 1) if conv == "conv3x3" else (f"{prefix}.pointwise", 2)
        names[layer.name] = {
            "weight": f"{module}.0.weight",
            "threshold": f"{module}.0.threshold",
            "bn1": f"{module}.1",
            "rprelu": f"{prefix}.rprelu{half}",
            "bn2": f"{prefix}.shiftbn{half}",
        }
    return names


def real_of(raw: Real) -> Real:
    """Value of raw numbers with :data:`FIXED_FRACTION` fraction bits."""
    values: Real = np.ldexp(raw, -FIXED_FRACTION)
    return values


class _Reader:
    """Takes arrays by name, checks them and remembers which were used."""

    def __init__(self, network: Network, arrays: Arrays) -> None:
        self._network = network
        self._arrays = arrays
        self._used: set[str] = set()

    def take(self, name: str, size: int) -> npt.NDArray[Any]:
        if name not in self._arrays:
            left = [other for other in self._arrays if other not in self._used]
            raise SourceError(
                f"expected a parameter {name!r} for {self._network.title}, found none{nearest(name, left)}; there are "
                f"{len(self._arrays)}: {listed(self._arrays)}",
                advice="is this the right --network?",
            )
        array = np.asarray(self._arrays[name])
        if array.dtype.kind not in "fiu" or array.size != size:
            raise SourceError(f"parameter {name!r}: expected {size} numbers, found {array.dtype} {list(array.shape)}")
        self._used.add(name)
        return array

    def real(self, name: str, size: int) -> Real:
        if f"fixed.{name}" in self._arrays:
            return self._fixed(name, size)
        values: Real = self.take(name, size).astype(np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise SourceError(f"parameter {name!r}: expected finite numbers, found NaN or infinity")
        return values

    def matrix(self, name: str, shape: tuple[int, int]) -> Real:
        """A matrix, or its rows one after the other."""
        values = self.real(name, shape[0] * shape[1])
        found = np.shape(self._arrays[name if name in self._arrays else f"fixed.{name}"])
        if len(found) != 1 and found != shape:
            raise SourceError(f"parameter {name!r}: expected shape {list(shape)}, found {list(found)}")
        return values.reshape(shape)

    def _fixed(self, name: str, size: int) -> Real:
        """A parameter whose raw integers in a core are given, too.

        A float32 parameter on a rounding tie does not say to which raw number its decimal literal rounds; the raw
        number does. So the float value is kept where it rounds to the given number, else moved to the nearest one that
        does. Without a float value the raw number is all there is.
        """
        raw = self.take(f"fixed.{name}", size)
        if raw.dtype.kind not in "iu":
            raise SourceError(f"parameter 'fixed.{name}': expected raw integers, found {raw.dtype}")
        exact = raw.astype(np.float64).reshape(-1)
        if name not in self._arrays:
            self._used.add(name)
            return real_of(exact)
        values = np.ldexp(self.take(name, size).astype(np.float64).reshape(-1), FIXED_FRACTION)
        kept = np.clip(values, exact - 0.5, np.nextafter(exact + 0.5, -np.inf))
        if not np.abs(kept - values).max() < 1:
            raise SourceError(f"parameter {name!r}: expected the numbers of 'fixed.{name}', found others")
        return real_of(kept)

    def signs(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A convolution's weights, of which only the sign counts (0 as -1)."""
        weight = self.take(name, int(np.prod(shape)))
        if weight.shape != shape:
            raise SourceError(f"parameter {name!r}: expected shape {list(shape)}, found {list(weight.shape)}")
        if not np.isfinite(weight).all():
            raise SourceError(f"parameter {name!r}: expected finite numbers, found NaN or infinity")
        return weight

    def batch_norm(self, name: str, size: int) -> tuple[Real, Real]:
        """Scale and offset of a batch norm, folded if it comes with running statistics."""
        weight, bias = self.real(f"{name}.weight", size), self.real(f"{name}.bias", size)
        if f"{name}.running_var" not in self._arrays:
            return weight, bias
        mean, variance = self.real(f"{name}.running_mean", size), self.real(f"{name}.running_var", size)
        if (variance < 0).any():
            raise SourceError(f"parameter {name + '.running_var'!r}: expected variances, found negative numbers")
        with np.errstate(over="ignore", invalid="ignore"):  # the model refuses what comes of it
            scale = weight / np.sqrt(variance + BATCH_NORM_EPSILON)
            return scale, bias - mean * scale

    def check_all_used(self) -> None:
        left = [
            name for name in self._arrays if name not in self._used and not any(part in name for part in _WEIGHTLESS)
        ]
        if left:
            raise SourceError(
                f"expected the parameters of {self._network.title} only, found {len(left)} others: {listed(left)}"
                f"{nearest(left[0], known_names(self._network))}",
                advice="is this the right --network?",
            )
