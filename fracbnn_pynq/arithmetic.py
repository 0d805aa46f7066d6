"""The named arithmetics: number formats, and how a model's parameters are quantised for each.

FracBNN networks are trained in float and computed in integers, and how an engine rounds is part of its result.

* ``faithful``: this project's own. Exact gates, exact PReLU knees, one rounding per element (docs/arithmetic.md).
* ``cifar10-2021``: the released CIFAR-10 C model; ``cifar10-2020``: the core in the public CIFAR-10 bitstream;
  ``imagenet-2021``: the ImageNet core, with its wraps and its memory overlap. Bit for bit.
* ``float``: the network as trained, in float64; for comparison, computed by the reference backend only.

An arithmetic is data here; backends compute with it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import figures
from .errors import BackendError
from .fixedpoint import Format, Raw
from .model import Model
from .networks import Network

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arithmetic:
    """One way to round. ``network`` is the only network it is defined for, or ``None`` for both."""

    name: str
    summary: str
    network: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedArithmetic(Arithmetic):
    """A published core's arithmetic.

    ``feature`` and ``parameter`` are its number formats; ``third`` is 1/3 and ``two_thirds`` 2/3 as raw numbers with
    ``parameter.fraction`` fraction bits. ``gate_rounded``: whether the gate compares the rounded feature-map value of
    2/3 M instead of the exact product. ``overlap``: whether block 12 of the ImageNet core reads part of its shortcut
    after having overwritten it. ``transfer_fraction``: fraction bits in which the host hands parameters to the core,
    which rounds them again (``None``: parameters are part of the bitstream, rounded once).
    """

    feature: Format
    parameter: Format
    two_thirds: int = 171
    third: int = 85
    gate_rounded: bool = False
    overlap: bool = False
    transfer_fraction: int | None = None


FAITHFUL = Arithmetic("faithful", "this project's own: agrees with the float network, one rounding per element")
FLOAT = Arithmetic("float", "the network as trained, in float64 (reference backend only)")
CIFAR10_2021 = PublishedArithmetic(
    name="cifar10-2021",
    summary="the authors' released CIFAR-10 C model, bit for bit",
    network="cifar10",
    feature=Format(16, 9),
    parameter=Format(12, 4),
)
CIFAR10_2020 = PublishedArithmetic(
    name="cifar10-2020",
    summary="the core in the public CIFAR-10 bitstream, bit for bit",
    network="cifar10",
    feature=Format(24, 9),
    parameter=Format(20, 4),
    two_thirds=43691,
    third=21845,
    gate_rounded=True,
)
IMAGENET_2021 = PublishedArithmetic(
    name="imagenet-2021",
    summary=f"the published ImageNet core, bit for bit: {figures.IMAGENET.published} % top-1 on "
    f"{figures.IMAGENET.pictures} with its authors' parameters, where float has {figures.IMAGENET.floating} %",
    network="imagenet",
    feature=Format(13, 9),
    parameter=Format(14, 6),
    gate_rounded=True,
    overlap=True,
    transfer_fraction=26,
)
ARITHMETICS = {a.name: a for a in (FAITHFUL, CIFAR10_2021, CIFAR10_2020, IMAGENET_2021, FLOAT)}


def get_arithmetic(name: str, network: Network) -> Arithmetic:
    """The arithmetic called ``name``, checked to be defined for ``network``.

    Raises :class:`~fracbnn_pynq.errors.BackendError` otherwise.
    """
    usable = [a.name for a in ARITHMETICS.values() if a.network in (None, network.name)]
    if name not in usable:
        raise BackendError(f"arithmetic for {network.title}: expected one of {', '.join(usable)}, found {name!r}")
    return ARITHMETICS[name]


def arithmetic_for(model: Model, name: str) -> Arithmetic:
    """The arithmetic called ``name``, checked to be one that ``model`` can be run in.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where it is not defined for the model's network, or where the
    model's parameters were made for another one: in this one they would be another network.
    """
    found = get_arithmetic(name, model.network)
    if model.arithmetic not in (None, name):
        raise BackendError(
            f"this model's parameters are for the arithmetic {model.arithmetic}; expected that one, found {name!r}",
            advice="use arithmetic auto, or the model it was made from",
        )
    return found


@dataclass(frozen=True)
class PublishedTables:
    """A model's parameters as a published core holds them: raw numbers of ``arithmetic.parameter``.

    ``stem`` int64 [2, C]; ``layers`` int64 [8, C] by layer name; ``fc_weight`` and ``fc_bias`` int64, raw in the
    *feature* format, empty where the classifier runs on the host (ImageNet). ``clipped``: how many numbers did not
    fit and were saturated.
    """

    arithmetic: PublishedArithmetic
    stem: Raw
    layers: dict[str, Raw]
    fc_weight: Raw
    fc_bias: Raw
    clipped: int


def quantise_published(model: Model, arithmetic: PublishedArithmetic) -> PublishedTables:
    """Round a model's parameters to the formats of a published core; clipping is counted and logged."""
    clipped = 0

    def raw(values: npt.NDArray[np.float64]) -> Raw:
        nonlocal clipped
        if arithmetic.transfer_fraction is not None:
            values = np.ldexp(np.rint(np.ldexp(values, arithmetic.transfer_fraction)), -arithmetic.transfer_fraction)
        numbers, count = arithmetic.parameter.quantise(values)
        clipped += count
        return numbers

    stem = raw(model.stem_bn)
    layers = {name: raw(layer.parameters) for name, layer in model.layers.items()}
    if arithmetic.transfer_fraction is None:
        # The linear layer is held in the parameter format, and converted to the feature format, one bit less.
        fc_weight, fc_bias = ((raw(values) + 1) >> 1 for values in (model.fc_weight, model.fc_bias))
    else:
        fc_weight, fc_bias = np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
    report_clipping(arithmetic, clipped)
    return PublishedTables(arithmetic, stem, layers, fc_weight, fc_bias, clipped)


def report_clipping(arithmetic: Arithmetic, clipped: int) -> None:
    """Log how many parameters an arithmetic's formats cannot hold."""
    if clipped:
        log.warning(
            "%d parameters of the model exceed the formats of the %s arithmetic and were saturated; "
            "expect a loss of accuracy",
            clipped,
            arithmetic.name,
        )
