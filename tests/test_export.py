"""Exported models: ONNX with the CPU engine's bits in ONNX Runtime, and parameters that come back as they went."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from fracbnn_pynq import native
from fracbnn_pynq.backends.cpu import CpuBackend
from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.exporters import export_model
from fracbnn_pynq.importers import import_model
from fracbnn_pynq.importers.parameters import rounded_classifier
from fracbnn_pynq.model import LayerParameters, Model, random_model
from fracbnn_pynq.modelfile import load_model
from fracbnn_pynq.models import find_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network
from fracbnn_pynq.pictures import load

pytestmark = pytest.mark.timeout(300)
needs_kernels = pytest.mark.skipif(not native.available(), reason="the native kernels were not built")
Session = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx")


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Session]:
    """Makes ONNX Runtime run a model's export."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    def make(model: Model, threads: int = 1, optimise: bool = True) -> Session:
        path = tmp_path / "exported.onnx"
        export_model(model, path, "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        if not optimise:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        made = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda pictures: made.run(["logits"], {"pictures": pictures})[0]

    return make


def random_pictures(network: Network, count: int, seed: int = 0) -> np.ndarray:
    size = network.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def expected(model: Model, pictures: np.ndarray) -> np.ndarray:
    return CpuBackend(model, threads=1).logits(pictures)


# ONNX


@needs_kernels
@pytest.mark.parametrize("name", ["cifar10_release", "cifar10_authors"])
def test_golden_cifar10_pictures(name: str, shared: Path, session: Callable[..., Session], request):
    model = request.getfixturevalue(name)
    with np.load(shared / "golden" / "cifar10_csim_64.npz") as golden:
        few = golden["images"]
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as golden:
        many = golden["images"]
    pictures = np.concatenate([few, many])
    assert len(pictures) == 64 + 1017
    assert np.array_equal(session(model, threads=2)(pictures), expected(model, pictures))


@needs_kernels
def test_golden_photographs(shared: Path, imagenet_authors: Model, session: Callable[..., Session]):
    """The four that the authors' C model was run on, and a dozen of others."""
    with np.load(shared / "golden" / "imagenet_csim_4.npz") as golden:
        photographs = golden["images"]
    with np.load(shared / "data" / "imagenet_photos_125.npz") as others:
        jpeg = others["jpeg"].tobytes()
        files = [jpeg[a:b] for a, b in itertools.pairwise(others["offsets"][:13])]
    photographs = np.concatenate([photographs, *(load(file, IMAGENET)[None] for file in files)])
    assert len(photographs) == 16
    assert np.array_equal(session(imagenet_authors, threads=2)(photographs), expected(imagenet_authors, photographs))


@needs_kernels
@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_pictures(count: int, optimise: bool, session: Callable[..., Session]):
    model, pictures = find_model("cifar10"), random_pictures(CIFAR10, count)
    found = session(model, optimise=optimise)(pictures)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected(model, pictures))


def unusual(model: Model, seed: int) -> Model:
    """``model`` with gates, knees and slopes at and beyond their limits in some channels."""
    random = np.random.default_rng(seed)
    layers = {}
    for name, layer in model.layers.items():
        rows = layer.parameters.copy()
        for row, values in enumerate(([-1e4, 0, 1e4], [0, -1e-3, 50], [-900, 900], [-30, 30], [0, -2, 8], [-40, 40])):
            chosen = random.random(rows.shape[1]) < 0.15
            rows[row, chosen] = random.choice(values, chosen.sum())
        layers[name] = LayerParameters(layer.weight, rows)
    return replace(model, layers=layers)


@settings(max_examples=6)
@given(seed=st.integers(0, 1000), extreme=st.booleans())
def test_random_cifar10_models(seed: int, extreme: bool):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from fracbnn_pynq.exporters.faithful_graph import onnx_model

    model, pictures = random_model(CIFAR10, seed), random_pictures(CIFAR10, 2, seed)
    if extreme:
        model = unusual(model, seed)
    data = onnx_model(model).SerializeToString()
    made = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert np.array_equal(made.run(None, {"pictures": pictures})[0], ReferenceBackend(model).logits(pictures))


@needs_kernels
@pytest.mark.parametrize("extreme", [False, True])
def test_random_imagenet_models(extreme: bool, session: Callable[..., Session]):
    model, pictures = random_model(IMAGENET, 4), random_pictures(IMAGENET, 1)
    if extreme:
        model = unusual(model, 4)
    assert np.array_equal(session(model)(pictures), expected(model, pictures))


@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=["cifar10", "imagenet"])
def test_the_file_explains_itself(network: Network, onnx, tmp_path: Path):
    model = replace(random_model(network), provenance={"licence": "none", "name": "any"})
    export_model(model, tmp_path / "a.onnx", "onnx")
    found = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 17)]
    facts = {entry.key: entry.value for entry in found.metadata_props}
    assert json.loads(facts["fracbnn.classes"]) == list(model.classes)
    assert json.loads(facts["fracbnn.provenance"]) == model.provenance
    assert (facts["fracbnn.network"], facts["fracbnn.arithmetic"]) == (network.name, "faithful")
    assert facts["fracbnn.preprocessing"].startswith("uint8 RGB [N, size, size, 3]")
    # Walked from the output back to the pictures, every layer is met, and nothing is left over.
    made_by = {output: node for node in found.graph.node for output in node.output}
    constants = {constant.name for constant in found.graph.initializer}
    reached, todo = set(), ["logits"]
    while todo:
        value = todo.pop()
        if value == "pictures" or value in constants or value in reached:
            continue
        reached.add(value)
        todo.extend(made_by[value].input)
    assert reached == set(made_by)
    names = [node.name for node in found.graph.node]
    assert len(set(names)) == len(names)
    order = list(dict.fromkeys(name.partition("/")[0] for name in names))
    assert order == ["stem", *(layer.name for layer in network.layers), "classifier"]
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in found.graph.input
    }
    assert shapes == {"pictures": ["N", network.image_size, network.image_size, 3]}
    inferred = onnx.shape_inference.infer_shapes(found, strict_mode=True)
    assert [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim][1:] == [network.classes]


def test_a_model_for_a_published_core_is_refused(onnx, imagenet_calibrated: Model, tmp_path: Path):
    with pytest.raises(ModelError, match="made for imagenet-2021, ONNX is written for faithful") as caught:
        export_model(imagenet_calibrated, tmp_path / "a.onnx", "onnx")
    assert "export the model it was made from" in caught.value.advice
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_onnx(tmp_path: Path):
    script = "import sys; sys.modules['onnx'] = None\nfrom fracbnn_pynq.cli import main\nmain()"
    command = [sys.executable, "-c", script, "export", "cifar10", "--out", str(tmp_path / "a.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: writing ONNX needs the package onnx")
    assert "onnx" in done.stderr.partition("install it with: ")[2]
    assert list(tmp_path.iterdir()) == []


# Parameters


def same_model(one: Model, other: Model) -> bool:
    mine, others = one.tensors(), other.tensors()
    return mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)


@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=["cifar10", "imagenet"])
def test_parameters_come_back_as_they_went(network: Network, tmp_path: Path):
    model = random_model(network, 7)
    export_model(model, tmp_path / "a.npz", "npz")
    back = import_model([tmp_path / "a.npz"], network)
    # Of ImageNet's classifier an import keeps 16 bits a weight, which is all that models have that were imported once.
    assert same_model(back, replace(model, fc_weight=rounded_classifier(network, model.fc_weight)))
    export_model(back, tmp_path / "b.npz", "npz")
    assert same_model(import_model([tmp_path / "b.npz"], network), back)
    pictures = random_pictures(network, 1)
    assert np.array_equal(ReferenceBackend(model).logits(pictures), ReferenceBackend(back).logits(pictures))


def test_the_bundled_model_comes_back_as_it_went(run: Run, tmp_path: Path):
    assert run("export", "cifar10", "--out", tmp_path / "a.npz").code == 0
    assert run("import", tmp_path / "a.npz", "--network", "cifar10", "--out", tmp_path / "b.safetensors").code == 0
    assert same_model(load_model(tmp_path / "b.safetensors"), find_model("cifar10"))


# The command


def test_the_command(onnx, run: Run, tmp_path: Path):
    said = run("export", "cifar10", "--to", "onnx", "--out", tmp_path / "model")
    size = (tmp_path / "model").stat().st_size
    assert (said.code, said.out) == (0, f"{tmp_path / 'model'}: {CIFAR10.title} as onnx, {size} bytes\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10", "--out", "a.bin"], "expected a name that ends in .onnx or .npz, or --to, found 'a.bin'"),
        (["cifar10", "--to", "tflite", "--out", "a"], "'tflite' is not one of"),
        (["nothing", "--out", "a.npz"], "nothing"),
        (["cifar10", "--out", "missing/a.npz"], "missing/a.npz"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run("export", *arguments)
    assert done.code == 2
    assert message in done.err
    assert list(tmp_path.iterdir()) == []
