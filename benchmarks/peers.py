"""The peers: the usual float networks of the same two tasks, quantised to 8 bits, in the usual engines.

ResNet-20 (CIFAR-10) and MobileNetV2 1.0 (ImageNet) are built as ONNX graphs with random weights of sane size: the
speed of dense kernels does not depend on the values. Every graph takes what this package takes, uint8 pictures
[N, H, W, 3], and gives float32 logits [N, classes]; transposition and normalisation are part of the graph.

Each engine is given what makes it fastest; the measurements behind the choices are in README.md.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

OPSET = 17
MEAN, DEVIATION = 128.0, 64.0
"""The same for the three colours, so that 8-bit pictures are already the quantised input of the first layer."""

PREAMBLE_NODES = 4
"""Transpose, Cast, Sub, Mul: what stands between the pictures and the first convolution."""

CALIBRATION_BATCH = 4
PEER_NETWORKS = {"cifar10": "ResNet-20", "imagenet": "MobileNetV2 1.0"}
IMAGE_SIZES = {"cifar10": 32, "imagenet": 224}


@dataclass
class GraphBuilder:
    """Collects nodes and random parameters of a convolutional network. All tensors are [N, C, H, W]."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def constant(self, values: npt.NDArray[Any]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, channels: int, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], f"n{len(self.nodes)}_{kind}", **attributes))
        self.channels[output] = channels
        return output

    def conv(self, x: str, channels: int, kernel: int, stride: int = 1, *, groups: int = 1, gain: float = 2.0) -> str:
        """Convolution with the batch norm already folded in: random weights (He et al. 2015) and a small bias."""
        fan_in = self.channels[x] // groups * kernel * kernel
        shape = (channels, self.channels[x] // groups, kernel, kernel)
        weights = self._random.normal(0.0, (gain / fan_in) ** 0.5, shape).astype(np.float32)
        bias = self._random.normal(0.0, 0.1, channels).astype(np.float32)
        return self.node(
            "Conv",
            x,
            self.constant(weights),
            self.constant(bias),
            channels=channels,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", x, channels=self.channels[x])

    def relu6(self, x: str) -> str:
        limits = (self.constant(np.float32(value).reshape(())) for value in (0.0, 6.0))
        return self.node("Clip", x, *limits, channels=self.channels[x])

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y, channels=self.channels[x])

    def classifier(self, x: str, classes: int) -> str:
        features = self.channels[x]
        pooled = self.node("GlobalAveragePool", x, channels=features)
        flat = self.node("Flatten", pooled, channels=features, axis=1)
        weights = self._random.normal(0.0, features**-0.5, (features, classes)).astype(np.float32)
        bias = np.zeros(classes, dtype=np.float32)
        return self.node("Gemm", flat, self.constant(weights), self.constant(bias), channels=classes)


def _resnet20(g: GraphBuilder, x: str) -> str:
    """He et al. 2016, section 4.2, with 1x1 convolutions where the shape changes."""
    x = g.relu(g.conv(x, 16, 3))
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            y = g.conv(g.relu(g.conv(x, width, 3, stride)), width, 3, gain=0.5)
            shortcut = g.conv(x, width, 1, stride, gain=1.0) if stride == 2 else x
            x = g.relu(g.add(y, shortcut))
    return g.classifier(x, 10)


def _mobilenetv2(g: GraphBuilder, x: str) -> str:
    """Sandler et al. 2018, table 2, width multiplier 1.0."""
    x = g.relu6(g.conv(x, 32, 3, 2))
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, repeats, first_stride in rows:
        for repeat in range(repeats):
            inner = expansion * g.channels[x]
            y = g.relu6(g.conv(x, inner, 1)) if expansion > 1 else x
            y = g.relu6(g.conv(y, inner, 3, 1 if repeat else first_stride, groups=inner))
            y = g.conv(y, width, 1, gain=1.0)
            x = g.add(x, y) if repeat else y
    return g.classifier(g.relu6(g.conv(x, 1280, 1)), 1000)


_BODIES: dict[str, Callable[[GraphBuilder, str], str]] = {"cifar10": _resnet20, "imagenet": _mobilenetv2}


def float_model(network: str, batch: int) -> onnx.ModelProto:
    """The float32 graph: input ``pictures`` uint8 [batch, H, W, 3], output ``logits`` float32 [batch, classes]."""
    g = GraphBuilder()
    size = IMAGE_SIZES[network]
    planes = g.node("Transpose", "pictures", channels=3, perm=[0, 3, 1, 2])
    numbers = g.node("Cast", planes, channels=3, to=TensorProto.FLOAT)
    centred = g.node("Sub", numbers, g.constant(np.float32(MEAN).reshape(())), channels=3)
    x = g.node("Mul", centred, g.constant(np.float32(1 / DEVIATION).reshape(())), channels=3)
    x = _BODIES[network](g, x)
    g.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        g.nodes,
        network,
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, [batch, size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, g.channels[x]])],
        g.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


class _RandomPictures(CalibrationDataReader):  # type: ignore[misc]
    """Two batches of random pictures for the calibration of activation ranges."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        random = np.random.default_rng(1)
        self._batches = iter([{"pictures": random.integers(0, 256, shape, dtype=np.uint8)} for _ in range(2)])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


@functools.cache
def _quantised(network: str) -> onnx.ModelProto:
    """The 8-bit graph at a batch of ``CALIBRATION_BATCH``: uint8 activations, int8 weights per output channel, QDQ."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        model = float_model(network, CALIBRATION_BATCH)
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _RandomPictures((CALIBRATION_BATCH, IMAGE_SIZES[network], IMAGE_SIZES[network], 3)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node[:PREAMBLE_NODES]],
        )
        return onnx.load(target)


def int8_model(network: str, batch: int, *, direct: bool) -> onnx.ModelProto:
    """The 8-bit graph with the inputs and outputs of :func:`float_model`.

    ``direct``: the pictures themselves are the first layer's quantised input. Otherwise they are normalised in float
    and quantised again, which gives the same numbers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(_quantised(network))
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    if direct:
        _bypass_normalisation(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _bypass_normalisation(graph: onnx.GraphProto) -> None:
    """Connect the transposed pictures to what follows the first QuantizeLinear."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    followers = {node.input[0]: node for node in graph.node if node.op_type != "DequantizeLinear"}
    transpose = followers["pictures"]
    chain = [followers[transpose.output[0]]]
    while chain[-1].op_type != "QuantizeLinear":
        chain.append(followers[chain[-1].output[0]])
    scale, zero_point = (constants[name] for name in chain[-1].input[1:])
    if scale != 1 / DEVIATION or zero_point != MEAN:
        raise ValueError(f"expected scale {1 / DEVIATION} and zero point {MEAN}, found {scale} and {zero_point}")
    quantised = chain[-1].output[0]
    unused = {name for node in chain for name in node.input[1:]} - {chain[-1].input[1], chain[-1].input[2]}
    for node in chain:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [transpose.output[0] if name == quantised else name for name in node.input]
    for tensor in [tensor for tensor in graph.initializer if tensor.name in unused]:
        graph.initializer.remove(tensor)


class OnnxRuntimePeer:
    """A graph in ONNX Runtime's CPU engine, for pictures of one shape; ``convolutions`` counts them as executed."""

    def __init__(self, network: str, batch: int, threads: int, precision: str) -> None:
        self.name = f"ONNX Runtime {precision}"
        self.int8 = precision == "int8"
        model = int8_model(network, batch, direct=True) if self.int8 else float_model(network, batch)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Its threads must not keep spinning while the next contender is measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            executed = onnx.load(options.optimized_model_filepath).graph.node
        self.convolutions = Counter("i8" if n.op_type == "QLinearConv" else "f32" for n in executed if _is_conv(n))

    def run(self, images: Images) -> Logits:
        logits: Logits = self._session.run(None, {"pictures": images})[0]
        return logits


def _is_conv(node: onnx.NodeProto) -> bool:
    return node.op_type.endswith("Conv")


class OpenVinoPeer:
    """A graph in OpenVINO's CPU engine, for pictures of one shape; ``convolutions`` counts them as executed."""

    def __init__(self, network: str, batch: int, threads: int, precision: str) -> None:
        self.name = f"OpenVINO {precision}"
        self.int8 = precision == "int8"
        model = int8_model(network, batch, direct=False) if self.int8 else float_model(network, batch)
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            },
        )
        self._request = compiled.create_infer_request()
        executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        primitives = [str(info["primitiveType"].value) for info in executed if info["layerType"].value == "Convolution"]
        self.convolutions = Counter(name.rsplit("_", 1)[-1].lower() for name in primitives)

    def run(self, images: Images) -> Logits:
        """Logits in the engine's own memory: valid until the next call."""
        logits: Logits = self._request.infer([images], share_inputs=True, share_outputs=True)[0]
        return logits


Peer = OnnxRuntimePeer | OpenVinoPeer


def peers(network: str, batch: int, threads: int, *, floats: bool = False) -> list[Peer]:
    """The 8-bit peers of ``network``, with ``floats`` also the float ones, in bfloat16 where the core has it."""
    chosen: list[Peer] = [
        OnnxRuntimePeer(network, batch, threads, "int8"),
        OpenVinoPeer(network, batch, threads, "int8"),
    ]
    if floats:
        chosen.append(OnnxRuntimePeer(network, batch, threads, "fp32"))
        chosen.append(OpenVinoPeer(network, batch, threads, "fp32"))
        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            chosen.append(OpenVinoPeer(network, batch, threads, "bf16"))
    return chosen
