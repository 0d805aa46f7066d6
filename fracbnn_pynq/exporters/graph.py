"""An ONNX graph while it is being put together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

FLOAT, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


class Graph:
    """Nodes and constants so far. Values are strings: ONNX's names of them, the layer's name first."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._named: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._scope = ""

    @contextmanager
    def layer(self, name: str) -> Iterator[None]:
        """What is added within belongs to this layer."""
        outer, self._scope = self._scope, name
        yield
        self._scope = outer

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = FLOAT) -> str:
        """A constant; equal ones are kept once."""
        array = np.ascontiguousarray(values, dtype).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._named:
            self._named[key] = f"{self._scope}/constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._named[key]))
        return self._named[key]

    def channels(self, values: npt.ArrayLike, dtype: npt.DTypeLike = FLOAT) -> str:
        """A constant of one number a channel, to be used with maps [N, C, H, W]."""
        return self.constant(np.asarray(values, np.float64).reshape(-1, 1, 1), dtype)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node; its one output."""
        name = f"{self._scope}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output or name], name, **attributes))
        return output or name

    def cast(self, value: str, dtype: npt.DTypeLike, output: str | None = None) -> str:
        """``value`` in another type."""
        return self.add("Cast", value, output=output, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def clip(self, value: str, low: float, high: float) -> str:
        """``value``, float32, limited."""
        return self.add("Clip", value, self.constant(low), self.constant(high))

    def affine(self, value: str, factor: npt.ArrayLike, offset: npt.ArrayLike, dtype: npt.DTypeLike = FLOAT) -> str:
        """``factor`` * ``value`` + ``offset`` per channel, as the batch norm that runtimes have a fast kernel for."""
        offset = np.asarray(offset, np.float64)
        rows = (np.broadcast_to(factor, offset.shape), offset, np.zeros(offset.shape), np.ones(offset.shape))
        return self.add("BatchNormalization", value, *(self.constant(row, dtype) for row in rows), epsilon=0.0)
