"""The ``faithful`` arithmetic (:mod:`fracbnn_pynq.faithful`) in ONNX's standard operators, bit for bit.

All values are whole numbers, or halves, that float32 holds exactly, up to the one multiply-add of each element, which
is float64. So nothing is rounded anywhere but where the arithmetic rounds, and the order in which a runtime adds does
not matter. What must not happen is that a runtime computes a float64 operator in float32, or moves a factor through a
``Floor``; ONNX Runtime's CPU provider does neither.

Two things make it fast enough. One convolution serves both bit planes, with numbers to a large base: the sum of
``base * most + least`` is ``base * M + L``. And steps are ``Clip``, not comparisons: of whole numbers, ``x >= k`` is
``Clip(x - k + 1, 0, 1)``.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, checker, helper

from .. import faithful
from .._version import __version__
from ..arithmetic import FAITHFUL
from ..errors import ModelError
from ..faithful import FusedLayer
from ..model import Bits, Model
from ..networks import INPUT_PLANES, THERMOMETER_LEVELS, GatedLayer, Stem
from ..thermometer import LEVELS
from .graph import DOUBLE, Graph

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "pictures", "logits"
PREPROCESSING = (
    "uint8 RGB [N, size, size, 3] as decoded, scaled so that the shorter edge has the wanted size and cropped to the "
    "middle; no normalisation: the thermometer code is part of the graph"
)
_MANTISSA = 1 << 24
"""Whole numbers up to this are exact in float32."""


def onnx_model(model: Model) -> ModelProto:
    """``model`` as an ONNX model: uint8 pictures [N, size, size, 3] to float32 logits [N, classes].

    Raises :class:`~fracbnn_pynq.errors.ModelError` where the parameters are made for a published core's arithmetic.
    """
    if model.arithmetic not in (None, FAITHFUL.name):
        raise ModelError(
            f"this model's parameters are made for {model.arithmetic}, ONNX is written for {FAITHFUL.name}",
            advice="export the model it was made from",
        )
    network = model.network
    graph = _Network(model).graph
    size = network.image_size
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"fracbnn-{network.name}",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", network.classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fracbnn_pynq",
        producer_version=__version__,
        doc_string=f"FracBNN (arXiv 2012.12206) for {network.title} in the arithmetic {FAITHFUL.name} of fracbnn_pynq",
    )
    facts = {
        "fracbnn.network": network.name,
        "fracbnn.arithmetic": FAITHFUL.name,
        "fracbnn.classes": json.dumps(list(model.classes)),
        "fracbnn.preprocessing": PREPROCESSING,
        "fracbnn.provenance": json.dumps(dict(model.provenance)),
    }
    helper.set_model_props(proto, facts)
    checker.check_model(proto, full_check=True)
    return proto


class _Network:
    """Makes the graph of a whole network."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tables = faithful.fuse(model)
        self._codes = model.network.shortcut_bits is not None
        self.graph = Graph()
        graph, network = self.graph, model.network
        with graph.layer(network.stem.name):
            sums = graph.add("Conv", self._planes(), self._weight(model.stem_weight, 1), **_geometry(network.stem))
            maps = self._rounded(self._tables.stem, graph.affine(*self._stem_terms(sums), DOUBLE))
        for layer in network.layers:
            with graph.layer(layer.name):
                maps = self._gated(layer, maps)
        with graph.layer("classifier"):
            self._classifier(maps)

    def _planes(self) -> str:
        """The thermometer code of the pictures, +1 and -1, [N, 96, size, size]."""
        graph, size = self.graph, self._model.network.image_size
        first_lit = [int(np.argmax(level < LEVELS)) for level in range(THERMOMETER_LEVELS)]
        values = graph.cast(graph.add("Transpose", INPUT, perm=[0, 3, 1, 2]), np.float32)
        doubled = graph.add("Unsqueeze", graph.add("Add", values, values), graph.constant([2], np.int64))
        past = graph.add("Sub", doubled, graph.channels(2 * np.array(first_lit) - 1))  # odd: never 0
        return graph.add("Reshape", graph.clip(past, -1, 1), graph.constant([-1, INPUT_PLANES, size, size], np.int64))

    def _weight(self, packed: Bits, magnitude: float) -> str:
        """Weights of this magnitude, a power of two, [out, in, k, k]; kept as packed bits, unpacked by the runtime."""
        graph = self.graph
        out, kernel, _, octets = packed.shape
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        signs = graph.constant((2.0 * bits - 1) * magnitude)
        index = graph.cast(graph.constant(packed, np.uint8), np.int32)
        unpacked = graph.add("Gather", signs, index, axis=0)
        shape = graph.constant([out, kernel, kernel, 8 * octets], np.int64)
        return graph.add("Transpose", graph.add("Reshape", unpacked, shape), perm=[0, 3, 1, 2])

    def _stem_terms(self, sums: str) -> tuple[str, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        table = self._tables.stem
        step = np.ldexp(1.0, -table.shift)
        return self.graph.cast(sums, np.float64), table.alpha[0] * step, table.beta[0] * step

    def _gated(self, layer: GatedLayer, maps: str) -> str:
        """A gated layer with all that follows it."""
        graph, table = self.graph, self._tables.layers[layer.name]
        half = self._half_sum(layer, maps)
        shortcut, parts = self._shortcut(layer, maps)
        # 1/2 on the side of the knee that has index 0. Sums end far before the limits of the knee.
        knee = np.clip(table.knee, -_MANTISSA // 4, _MANTISSA // 4)
        side = graph.clip(graph.add("Add", half, graph.channels((1 - knee) / 2)), 0, 0.5)
        step = np.ldexp(1.0, -table.shift)
        alpha, beta = 2 * table.alpha * step, table.beta * step  # of half the sum
        exact = graph.cast(half, np.float64)
        other = graph.affine(exact, alpha[1], beta[1], DOUBLE)
        more = graph.affine(exact, 2 * (alpha[0] - alpha[1]), 2 * (beta[0] - beta[1]), DOUBLE)
        value = graph.add("Add", other, graph.add("Mul", more, graph.cast(side, np.float64)))
        gamma = graph.channels(table.gamma * step * parts, DOUBLE)
        return self._rounded(table, graph.add("Add", value, graph.add("Mul", graph.cast(shortcut, np.float64), gamma)))

    def _half_sum(self, layer: GatedLayer, maps: str) -> str:
        """S / 2 = M + (gate ? L / 2 : 0)."""
        graph = self.graph
        table, packed = self._tables.layers[layer.name], self._model.layers[layer.name].weight
        products = layer.in_channels * layer.kernel**2
        both = self._activation(maps)  # most + least / 2
        half_most = graph.clip(both, -0.5, 0.5)
        base = 1 << (2 * products + 1).bit_length()  # |L| is below half of it
        if (base + 1) * products < _MANTISSA:
            digits = graph.add("Add", graph.add("Mul", half_most, graph.constant(base - 2)), both)
            sums = graph.add("Conv", digits, self._weight(packed, 2 / base), **_geometry(layer))  # M + L / base
            most = graph.add("Floor", graph.add("Add", sums, graph.constant(0.5)))
            least, unit = graph.add("Sub", sums, most), base / 2
        else:
            weight = self._weight(packed, 2)
            most = graph.add("Conv", half_most, weight, **_geometry(layer))
            half_least = graph.add("Sub", both, graph.add("Add", half_most, half_most))
            least, unit = graph.add("Conv", half_least, weight, **_geometry(layer)), 0.5
        gate_at = np.clip(table.gate_at, -products - 1, products + 1)
        gate = graph.clip(graph.affine(most, unit, (1 - gate_at) * unit), 0, unit)
        return graph.add("Add", most, graph.add("Mul", gate, least))

    def _activation(self, maps: str) -> str:
        """The 2-bit activation less 3/2, which is ``most + least / 2`` with both as +1 and -1."""
        graph = self.graph
        if self._codes:  # never near a whole number, so that the rounding of 1/5 does not matter
            fifths = graph.add("Mul", graph.add("Add", maps, graph.constant(-7.5)), graph.constant(0.2))
            return graph.add("Add", graph.add("Floor", fifths), graph.constant(0.5))
        thirds = graph.add("Floor", graph.add("Mul", maps, graph.constant(3 / 1024)))
        return graph.clip(graph.add("Add", thirds, graph.constant(0.5)), -1.5, 1.5)

    def _shortcut(self, layer: GatedLayer, maps: str) -> tuple[str, int]:
        """The shortcut, and how many parts of the integer r one of its units is."""
        graph, parts = self.graph, 1
        if layer.stride == 2:
            maps = graph.add("AveragePool", maps, kernel_shape=[2, 2], strides=[2, 2])
            if self._codes:
                parts = 4  # r is the sum of four codes
            else:
                maps = graph.add("Floor", graph.add("Add", maps, graph.constant(0.5)))
        if layer.duplicates:
            maps = graph.add("Concat", maps, maps, axis=1)
        return maps, parts

    def _rounded(self, table: FusedLayer, value: str) -> str:
        """The shifted sum as a map: cut off to whole numbers, and limited."""
        low, high = (0, faithful.CODE_MAX) if table.codes else (-faithful.INT16_MAX - 1, faithful.INT16_MAX)
        return self.graph.clip(self.graph.cast(self.graph.add("Floor", value), np.float32), low, high)

    def _classifier(self, maps: str) -> None:
        """The steps of :func:`fracbnn_pynq.faithful.classifier_logits`."""
        graph, tables = self.graph, self._tables
        sums = graph.add("ReduceSum", maps, graph.constant([2, 3], np.int64), keepdims=0)
        weight = graph.cast(graph.constant(np.ascontiguousarray(tables.fc_weight.T), np.int16), np.float64)
        products = graph.add("MatMul", graph.cast(sums, np.float64), weight)
        unit = np.ldexp(1.0, -(tables.fc_exponent.astype(np.int64) + faithful.FRACTION))
        means = graph.add("Mul", products, graph.constant(unit, DOUBLE))
        means = graph.add("Div", means, graph.constant(float(self._model.network.pool_size**2), DOUBLE))
        graph.cast(graph.add("Add", means, graph.constant(tables.fc_bias, DOUBLE)), np.float32, OUTPUT)


def _geometry(layer: Stem | GatedLayer) -> dict[str, Any]:
    return {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.kernel // 2] * 4,
    }
