"""The network in PyTorch: its quantisers and their gradients, and that it is the network of the reference backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fracbnn_pynq.backends.reference import LayerTrace, ReferenceBackend  # noqa: E402
from fracbnn_pynq.backends.rules import quantise_unit  # noqa: E402
from fracbnn_pynq.datasets import Dataset  # noqa: E402
from fracbnn_pynq.errors import SourceError  # noqa: E402
from fracbnn_pynq.importers.archives import read_parameters  # noqa: E402
from fracbnn_pynq.importers.parameters import build_model  # noqa: E402
from fracbnn_pynq.model import Model, unpack_weight  # noqa: E402
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network  # noqa: E402
from fracbnn_pynq.thermometer import planes  # noqa: E402
from fracbnn_pynq.training.evaluate import answers, compare, float_logits, gates_open  # noqa: E402
from fracbnn_pynq.training.layers import BinaryConv2d, GatedConv2d, RPReLU, ThermometerEncoding, shortcut  # noqa: E402
from fracbnn_pynq.training.network import (  # noqa: E402
    ImageNetNet,
    build_network,
    gated_layers,
    load_parameters,
    named_arrays,
    set_binary,
)
from fracbnn_pynq.training.quantisers import (  # noqa: E402
    ACTIVATION_CLIP,
    GATE_SLOPE,
    WEIGHT_CLIP,
    binarise_weight,
    gated_sum,
    quantise_map,
    split_activation,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Arrays = dict[str, np.ndarray]
NUMBERS = st.floats(-3, 3, width=32)
FLOATS = st.lists(NUMBERS, min_size=1, max_size=50)


def tensor(values: Any, **options: Any) -> Any:
    return torch.tensor(values, dtype=torch.float64, **options)


def images(network: Network, count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures uint8 [N, H, W, 3], so that thermometer codes vary as those of photographs do."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 8, 8, 3))
    scale = network.image_size // 8
    fine = coarse.repeat(scale, axis=1).repeat(scale, axis=2) + rng.normal(0, 20, (count, scale * 8, scale * 8, 3))
    return fine.clip(0, 255).astype(np.uint8)


def channels_first(array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def channels_last(maps: Any) -> np.ndarray:
    return np.moveaxis(maps.numpy(), 1, -1)


def double(network: Network) -> nn.Module:
    """A module in evaluation and double precision, in which quantisers meet no ties by rounding."""
    module = build_network(network).double().eval()
    return module


def random_network(network: Network, seed: int) -> nn.Module:
    """Random parameters, and batch norms whose statistics are those of a random batch."""
    torch.manual_seed(seed)
    module = build_network(network)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "threshold" in name:
                parameter.normal_(std=8)
            elif parameter.dim() < 4 or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
        module.train()(pictures)
        module(pictures // 2)
    return module


# Quantisers, forward


@given(FLOATS)
def test_weights_become_their_signs(values: list[float]):
    found = binarise_weight(tensor(values)).numpy()
    assert np.array_equal(found, np.where(np.array(values) > 0, 1, -1))


def test_the_sign_of_zero_is_minus_one():
    assert binarise_weight(tensor([0.0, -0.0, 1e-300, -1e-300])).tolist() == [-1, -1, 1, -1]


@given(FLOATS)
def test_activations_become_two_bits(values: list[float]):
    array = np.array(values)
    code = quantise_unit(array, 3)
    most, least = (bit.numpy() for bit in split_activation(tensor(values)))
    assert set(most) | set(least) <= {-1.0, 1.0}
    assert np.array_equal((most + 1) + (least + 1) / 2, code)
    assert np.allclose(2 / 3 * most + 1 / 3 * least, 2 / 3 * code - 1, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_activations_between_two_codes_get_the_even_one(kind: str):
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0], dtype=getattr(torch, kind))
    most, least = split_activation(values)
    assert ((most + 1) + (least + 1) / 2).tolist() == [0, 0, 2, 3, 3]
    assert most.dtype == least.dtype == values.dtype


def test_activations_at_two_thirds_round_as_numpy_does():
    for kind in (np.float32, np.float64):
        around = [np.nextafter(kind(sign * 2 / 3), kind(end)) for sign in (-1, 1) for end in (-1, 1)]
        values = np.array([-2 / 3, 2 / 3, *around], kind)
        most, least = (bit.numpy() for bit in split_activation(torch.from_numpy(values)))
        expected = np.rint((values + kind(1)) * kind(1.5))
        assert np.array_equal((most + 1) + (least + 1) / 2, expected)
        assert set(expected) <= {0, 1, 2, 3}
    codes = [(m + 1) + (low + 1) / 2 for m, low in zip(*split_activation(tensor([-2 / 3, 0.0, 2 / 3])), strict=True)]
    assert codes == [0, 2, 2]


@given(FLOATS, st.integers(1, 8))
def test_maps_become_one_of_the_code_values(values: list[float], bits: int):
    steps = 2**bits - 1
    found = quantise_map(tensor(values), bits).numpy()
    assert np.array_equal(found, quantise_unit(np.array(values), steps) / (steps / 2) - 1)
    assert np.abs(found).max() <= 1


@given(st.data())
def test_gates(data: st.DataObject):
    shape = (2, 3, 2, 2)
    whole = st.integers(-864, 864)
    m, low = (np.array(data.draw(st.lists(whole, min_size=24, max_size=24))).reshape(shape) for _ in "ml")
    threshold = np.array(data.draw(st.lists(st.floats(-600, 600), min_size=3, max_size=3))).reshape(1, 3, 1, 1)
    found = gated_sum(tensor(m), tensor(low), tensor(threshold)).numpy()
    assert np.array_equal(found, (2 * m + np.where(2 * m > 3 * threshold, low, 0)) / 3)


def test_a_sum_at_the_threshold_leaves_the_gate_closed():
    sums = tensor([4.0, 6.0, 8.0]).view(1, 1, 1, 3)
    found = gated_sum(sums, torch.ones_like(sums), tensor([4.0]).view(1, 1, 1, 1))
    assert found.flatten().tolist() == [8 / 3, 4, 17 / 3]


# Quantisers, gradients


def gradients(function: Any, *inputs: Any, seed: int = 0) -> tuple[Any, list[np.ndarray]]:
    """A random gradient of ``function``'s output, and what comes back to each of ``inputs``."""
    given_inputs = [tensor(value, requires_grad=True) for value in inputs]
    output = function(*given_inputs)
    upstream = tensor(np.random.default_rng(seed).normal(size=output.shape))
    output.backward(upstream)
    return upstream.numpy(), [value.grad.numpy() for value in given_inputs]


EDGES = [-2.0, -np.nextafter(1.3, 2), -1.3, -np.nextafter(1, 2), -1.0, -0.3, 0.0, 0.5, 1.0, 1.3, np.nextafter(1.3, 2)]


def test_gradient_of_the_sign():
    upstream, (found,) = gradients(binarise_weight, EDGES)
    assert WEIGHT_CLIP == 1.3
    assert np.array_equal(found, upstream * (np.abs(EDGES) <= 1.3))
    assert 0 < (found == 0).sum() < len(EDGES)


def test_gradient_of_activations_goes_through_the_first_bit():
    upstream, (found,) = gradients(lambda x: split_activation(x)[0], EDGES)
    assert ACTIVATION_CLIP == 1
    assert np.array_equal(found, upstream * 1.5 * (np.abs(EDGES) <= 1))
    # (2/3) m + (1/3) l: slope one inside, as a straight-through quantiser has.
    value = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    upstream, (found,) = gradients(lambda x: torch.stack(split_activation(x), -1) @ value, EDGES)
    assert np.allclose(found, upstream * (np.abs(EDGES) <= 1), rtol=1e-15)
    assert not split_activation(tensor(EDGES, requires_grad=True))[1].requires_grad


def test_gradient_of_a_map():
    upstream, (found,) = gradients(lambda x: quantise_map(x, 4), EDGES)
    assert np.array_equal(found, upstream * (np.abs(EDGES) <= 1))


def test_gradient_of_the_gate():
    rng = np.random.default_rng(1)
    most, least = (rng.integers(-6, 7, (2, 3, 4, 5)).astype(float) for _ in "ml")
    threshold = rng.normal(0, 1, (1, 3, 1, 1))
    upstream, found = gradients(gated_sum, most, least, threshold)
    soft = 1 / (1 + np.exp(-GATE_SLOPE * (2 / 3 * most - threshold)))
    slope = GATE_SLOPE * soft * (1 - soft)
    expected = (
        upstream * (2 / 3 + least / 3 * slope * 2 / 3),
        upstream * np.where(2 / 3 * most > threshold, 1 / 3, 0),
        (-upstream * least / 3 * slope).sum(axis=(0, 2, 3), keepdims=True),
    )
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.allclose(one, other, rtol=1e-5, atol=1e-9)  # the threshold's sum is taken in float32
        assert np.abs(other).max() > 0.01


# Layers


def test_thermometer_codes_of_every_value():
    values = np.arange(256, dtype=np.uint8)
    pictures = np.stack([values, values[::-1], np.roll(values, 99)], axis=-1).reshape(1, 16, 16, 3)
    encoder = ThermometerEncoding()
    for given_pictures in (channels_first(pictures), channels_first(pictures).float()):
        found = encoder(given_pictures)
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), planes(pictures))
    assert not encoder.state_dict()


def test_a_binary_convolution_counts_signs_only():
    torch.manual_seed(0)
    convolution = BinaryConv2d(4, 6, 3, 2)
    maps = torch.randint(0, 2, (2, 4, 8, 8)) * 2.0 - 1
    found = convolution(maps)
    with torch.no_grad():
        convolution.weight *= torch.rand_like(convolution.weight) + 0.1
    assert torch.equal(convolution(maps), found)
    assert found.shape == (2, 6, 4, 4)
    assert set(torch.unique(found % 1).tolist()) == {0.0}


def test_real_weights_keep_the_scale_of_binary_ones():
    torch.manual_seed(0)
    convolution = BinaryConv2d(4, 6, 3, 1)
    with torch.no_grad():
        convolution.weight[5] = 0
    convolution.binary = False
    weight = convolution.effective_weight()
    assert torch.allclose(weight.abs().mean(dim=(1, 2, 3)), torch.tensor([1.0] * 5 + [0.0]))
    assert torch.equal(weight.sign(), convolution.weight.sign())


def test_set_binary_reaches_every_convolution():
    module = build_network(CIFAR10)
    for binary in (False, True):
        set_binary(module, binary)
        found = [part.binary for part in module.modules() if isinstance(part, BinaryConv2d)]
        assert found == [binary] * (1 + len(CIFAR10.layers))


def test_rprelu():
    layer = RPReLU(2)
    with torch.no_grad():
        layer.shift_x.bias[0, 0] = 1
        layer.shift_y.bias[0, 1] = -2
        layer.prelu.weight[1] = 0.5
    maps = torch.tensor([-3.0, 4.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    assert layer(maps).flatten().tolist() == [-0.5, 5, -3.5, 2]


def test_shortcuts():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    by_name = {layer.name: layer for layer in CIFAR10.layers}
    assert shortcut(maps, by_name["layer1.0.conv1"]) is maps
    found = shortcut(maps, by_name["layer2.0.conv1"])
    assert found.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]] * 2]


# The network is the reference backend's


def check_layers(module: nn.Module, traces: list[LayerTrace]) -> None:
    """Every gated layer, given the reference's own input map, has the reference's sums and gates: ==."""
    layers = gated_layers(module)
    assert len(layers) == len(traces) - 1
    gates = set()
    for before, trace, layer in zip(traces, traces[1:], layers, strict=False):
        with torch.no_grad():
            most, least = layer.sums(channels_first(before.output))
            total = layer(channels_first(before.output))
        gate = 2 * most > 3 * layer.threshold
        assert np.array_equal(channels_last(most), trace.msb), trace.name
        assert np.array_equal(channels_last(least), trace.lsb), trace.name
        assert np.array_equal(channels_last(gate), trace.gate), trace.name
        assert torch.equal(total, (2 * most + torch.where(gate, least, 0)) / 3), trace.name
        gates |= set(gate.unique().tolist())
    assert gates == {False, True}


def check_logits(module: nn.Module, traces: list[LayerTrace], pictures: np.ndarray) -> None:
    """``module`` in double has the logits of the reference backend before it rounds them to float32."""
    with torch.no_grad():
        found = module(channels_first(pictures)).numpy()
    arrays = named_arrays(module)
    fc = "linear" if "linear.bias" in arrays else "fc"
    expected = traces[-1].output.mean(axis=(1, 2)) @ arrays[f"{fc}.weight"].T + arrays[f"{fc}.bias"]
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() < 1e-9
    assert np.ptp(expected) > 0.1


def check_sums(module: nn.Module, traces: list[LayerTrace], pictures: np.ndarray) -> None:
    """M and L of every gated layer, fed by the layer before it in ``module``, are the reference's: ==."""
    expected = iter(traces[1:])

    def check(layer: Any, inputs: tuple[Any, ...], _: Any) -> None:
        trace = next(expected)
        for found, sums in zip(layer.sums(inputs[0]), (trace.msb, trace.lsb), strict=True):
            assert np.array_equal(channels_last(found), sums), trace.name

    hooks = [layer.register_forward_hook(check) for layer in gated_layers(module)]
    with torch.no_grad():
        module(channels_first(pictures))
    for hook in hooks:
        hook.remove()
    assert next(expected, None) is None


def reference(model: Model, pictures: np.ndarray) -> list[LayerTrace]:
    return ReferenceBackend(model, "float").logits(pictures, layers=True)[1]


@pytest.fixture(scope="module")
def cifar10_arrays(shared: Path) -> Arrays:
    return read_parameters(shared / "golden" / "cifar10_upstream_weights.npz", CIFAR10)


@pytest.fixture
def in_double(cifar10_arrays: Arrays) -> nn.Module:
    module = double(CIFAR10)
    load_parameters(module, cifar10_arrays)
    return module


@pytest.mark.slow
def test_authors_network_is_as_accurate_as_published(cifar10_arrays: Arrays, shared: Path):
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as data:
        pictures, labels = data["images"].transpose(0, 3, 1, 2), data["labels"].astype(np.int64)
    dataset = Dataset(np.ascontiguousarray(pictures), labels, tuple("abcdefghij"), "originals")
    module = build_network(CIFAR10)
    load_parameters(module, cifar10_arrays)
    found, truth = answers(float_logits(module), dataset)
    assert len(truth) == 1017
    assert abs((found == truth).mean() - 0.886) < 0.002


def test_authors_network_layer_by_layer(in_double: nn.Module, cifar10_release: Model):
    pictures = images(CIFAR10, 4)
    traces = reference(cifar10_release, pictures)
    check_layers(in_double, traces)
    check_logits(in_double, traces, pictures)


def test_authors_network_as_a_whole(in_double: nn.Module, cifar10_release: Model, shared: Path):
    with np.load(shared / "data" / "cifar10_lossless_1017.npz") as data:
        pictures = data["images"][:4]
    traces = reference(cifar10_release, pictures)
    check_sums(in_double, traces, pictures)
    check_logits(in_double, traces, pictures)


@pytest.mark.slow
def test_authors_imagenet_network_layer_by_layer(shared: Path):
    arrays = read_parameters(shared / "golden" / "imagenet_authors_weights.npz", IMAGENET)
    module = double(IMAGENET)
    load_parameters(module, arrays)
    model = build_model(IMAGENET, arrays, tuple(f"class {index}" for index in range(1000)), {})
    pictures = images(IMAGENET, 1)
    traces = reference(model, pictures)
    check_layers(module, traces)
    check_logits(module, traces, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("network", [CIFAR10, CIFAR10.with_classes(3), IMAGENET.with_classes(7)])
def test_a_module_and_the_model_built_from_it(network: Network):
    """Batch norms as they are in the module, and folded in the model."""
    arrays = named_arrays(random_network(network, 4))
    classes = tuple(f"class {index}" for index in range(network.classes))
    model = build_model(network, arrays, classes, {})
    assert (model.network, model.classes) == (network, classes)
    pictures = images(network, 1)
    module = double(network)
    load_parameters(module, arrays)
    check_logits(module, reference(model, pictures), pictures)
    stem = arrays["conv1.weight" if network.name == "cifar10" else "model.0.0.weight"]
    assert np.array_equal(np.moveaxis(unpack_weight(model.stem_weight), -1, 1), np.where(stem > 0, 1, -1))


def test_parameters_survive_the_way_out_and_in():
    module, other = random_network(CIFAR10, 1), build_network(CIFAR10)
    load_parameters(other, named_arrays(module))
    for (name, one), two in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert all(array.dtype == np.float64 for name, array in named_arrays(module).items() if "tracked" not in name)


def test_folded_batch_norms_are_loaded_as_they_are():
    arrays = named_arrays(random_network(CIFAR10, 2))
    folded = {name: array for name, array in arrays.items() if "running" not in name and "tracked" not in name}
    module = double(CIFAR10)
    load_parameters(module, folded)
    maps = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    weight, bias = (torch.tensor(folded[f"bn1.{part}"]).view(-1, 1, 1) for part in ("weight", "bias"))
    assert torch.allclose(module.bn1(maps), maps * weight + bias, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("linear.bias", None, "expected a parameter 'linear.bias', found none; is this the right --network"),
        ("linear.bias", np.zeros(9), r"'linear.bias': expected shape \[10\], found \[9\]"),
        ("linear.weight", np.zeros((64, 10)), r"'linear.weight': expected shape \[10, 64\], found \[64, 10\]"),
        ("conv1.weight", np.zeros((96, 16, 3, 3)), r"expected shape \[16, 96, 3, 3\], found \[96, 16, 3, 3\]"),
    ],
)
def test_parameters_of_another_form(name: str, value: np.ndarray | None, message: str):
    module = build_network(CIFAR10)
    arrays = {**named_arrays(module), name: value}
    with pytest.raises(SourceError, match=message):
        load_parameters(module, {key: array for key, array in arrays.items() if array is not None})


def test_parameters_in_other_shapes_of_the_same_order():
    module = build_network(CIFAR10)
    arrays = {name: array.ravel() if array.ndim != 4 else array for name, array in named_arrays(module).items()}
    other = build_network(CIFAR10)
    load_parameters(other, arrays)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_networks_take_other_sizes_and_numbers_of_classes():
    for network, edge in ((CIFAR10.with_classes(37), 16), (IMAGENET.with_classes(1), 64)):
        module = build_network(network).eval()
        with torch.no_grad():
            assert module(torch.zeros(2, 3, edge, edge, dtype=torch.uint8)).shape == (2, network.classes)
        assert len(gated_layers(module)) == len(network.layers)


def test_the_imagenet_module_needs_codes():
    with pytest.raises(ValueError, match="whose shortcuts travel as codes, found cifar10"):
        ImageNetNet(CIFAR10)


# Evaluation


def random_dataset(count: int, classes: int) -> Dataset:
    rng = np.random.default_rng(3)
    pictures = np.ascontiguousarray(images(CIFAR10, count).transpose(0, 3, 1, 2))
    return Dataset(pictures, rng.integers(0, classes, count), tuple(map(str, range(classes))), "random")


@pytest.mark.parametrize("threshold", [-1e4, 1e4])
def test_gates_that_are_all_open_or_closed(threshold: float):
    module = build_network(CIFAR10)
    with torch.no_grad():
        for layer in gated_layers(module):
            layer.threshold.fill_(threshold)
    assert gates_open(module, random_dataset(3, 10)) == (threshold < 0)


def test_gates_open_is_the_share_that_the_reference_finds():
    module = random_network(CIFAR10, 5)
    model = build_model(CIFAR10, named_arrays(module), tuple("abcdefghij"), {})
    dataset = random_dataset(3, 10)
    _, traces = ReferenceBackend(model, "float").logits(images(CIFAR10, 3), layers=True)
    opened = sum(trace.gate.sum() for trace in traces[1:] if trace.gate is not None)
    outputs = sum(trace.msb.size for trace in traces[1:])
    assert gates_open(module, dataset) == pytest.approx(opened / outputs, abs=1e-3)  # float32 maps differ a little
    assert not any(layer._forward_hooks for layer in gated_layers(module))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 12))
def test_answers_go_through_a_data_set_in_parts(count: int, batch: int):
    dataset = random_dataset(count, 4)
    seen = []

    def logits(pictures: np.ndarray) -> np.ndarray:
        seen.append(len(pictures))
        return np.eye(4, dtype=np.float32)[pictures[:, 0, 0, 0] % 4]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fracbnn_pynq.training.evaluate.BATCH_PIXELS", batch * 32 * 32)
        found, truth = answers(logits, dataset)
    assert max(seen) <= batch
    assert np.array_equal(found, dataset.pictures[:, 0, 0, 0] % 4)
    assert np.array_equal(truth, dataset.labels)


def test_comparison_of_float_and_integers():
    module = random_network(CIFAR10, 6)
    set_binary(module, False)  # as a run that ends with real weights leaves it
    dataset = random_dataset(16, 10)
    model = build_model(CIFAR10, named_arrays(module), dataset.classes, {})
    found = compare(module, model, dataset)
    in_float, truth = answers(float_logits(module), dataset)
    in_integers = ReferenceBackend(model, "faithful").logits(images(CIFAR10, 16)).argmax(axis=1)
    assert found.pictures == 16
    assert found.float_accuracy == (in_float == truth).mean()
    assert found.integer_accuracy == (in_integers == truth).mean()
    assert found.agreement == (in_float == in_integers).mean() > 0.5
    assert 0 < found.gates_open < 1
    assert isinstance(gated_layers(module)[0], GatedConv2d)
    assert gated_layers(module)[0].binary
