"""What the simulated cores compute, against the engines it comes from and the authors' own results."""

from __future__ import annotations

import numpy as np
import pytest

from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.errors import PictureError
from fracbnn_pynq.layouts import images as layout
from fracbnn_pynq.layouts import weights as weightlayout
from fracbnn_pynq.model import random_model, unpack_weight
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.simulator.compute import Cifar10Network, ImageNetNetworks, imagenet_model


@pytest.fixture(scope="module")
def cifar10():
    return random_model(CIFAR10, seed=1)


@pytest.fixture(scope="module")
def imagenet():
    return random_model(IMAGENET, seed=2)


def buffers_of(model):
    bits = {name: (unpack_weight(p.weight) > 0, p.parameters) for name, p in model.layers.items()}
    packed = weightlayout.pack_imagenet_weights(unpack_weight(model.stem_weight) > 0, model.stem_bn, bits)
    return tuple(np.ascontiguousarray(part).tobytes() for part in packed)


@pytest.mark.parametrize("arithmetic", ["cifar10-2020", "cifar10-2021"])
def test_pictures_give_the_engines_logits(cifar10, arithmetic):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    network = Cifar10Network(cifar10, arithmetic)
    logits = np.stack([network(words) for words in layout.pack_cifar10_image(images)])
    assert np.array_equal(logits, ReferenceBackend(cifar10, arithmetic).logits(images))


def test_words_that_are_no_thermometer_code_are_computed_too(cifar10):
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 32, layout.CIFAR10_IMAGE_SHAPE, dtype=np.uint64) << np.uint64(32)
    expected = ReferenceBackend(cifar10, "cifar10-2020").logits_from_planes(layout.cifar10_planes(words)[None])[0]
    assert np.array_equal(Cifar10Network(cifar10)(words), expected)


def test_imagenet_words_that_are_no_thermometer_code_are_computed_too(imagenet):
    buffers = buffers_of(imagenet)
    words = np.random.default_rng(0).integers(0, 1 << 32, layout.IMAGENET_IMAGE_SHAPE, dtype=np.uint32)
    engine = ReferenceBackend(imagenet_model(*buffers), "imagenet-2021")
    expected = engine.result_map_from_planes(layout.imagenet_planes(words)[None])[0]
    assert np.array_equal(ImageNetNetworks()(*buffers)(words), expected)


def test_words_the_core_has_no_planes_for_are_refused(cifar10):
    words = np.full(layout.CIFAR10_IMAGE_SHAPE, 0xA5A5_A5A5_A5A5_A5A5, np.uint64)
    with pytest.raises(PictureError, match="bits 31"):
        Cifar10Network(cifar10)(words)


def test_a_model_is_loaded_when_first_needed(cifar10):
    loads = []

    def load():
        loads.append(1)
        return cifar10

    network = Cifar10Network(load)
    assert loads == []
    words = layout.pack_cifar10_image(np.zeros((32, 32, 3), np.uint8))
    network(words)
    network(words)
    assert loads == [1]


def test_weight_buffers_give_back_the_model(imagenet):
    found = imagenet_model(*buffers_of(imagenet))
    assert np.array_equal(found.stem_weight, imagenet.stem_weight)
    for name, layer in imagenet.layers.items():
        assert np.array_equal(found.layers[name].weight, layer.weight)
        raw = weightlayout.imagenet_parameter_raw(layer.parameters)
        assert np.array_equal(found.layers[name].parameters, raw * 2.0**-26)


def test_equal_weights_are_unpacked_once_and_the_last_two_are_kept(imagenet):
    first = buffers_of(imagenet)
    others = [(first[0], first[1], bytes([i]) + first[2][1:]) for i in range(1, 3)]
    networks = ImageNetNetworks()
    kept = networks(*first)
    assert networks(*first) is kept
    assert networks(*others[0]) is not kept
    assert networks(*first) is kept
    networks(*others[0])
    networks(*others[1])
    assert networks(*first) is not kept


def test_the_authors_cifar10_results(shared):
    """The results of the C model the public bitstream was built from, with the weights it holds."""
    model = authors_cifar10(shared)
    golden = np.load(shared / "golden" / "cifar10_prebuilt_csim.npz")
    network = Cifar10Network(model)
    for words, logits in zip(golden["packed"][:4], golden["csim_logits"][:4], strict=True):
        assert np.array_equal(network(words), logits.astype(np.float32))


def test_the_authors_imagenet_result(imagenet_release):
    """The C model's result for the authors' own sample, from the very bytes their host program loads."""
    names = ("conv_weight_3x3_all_new", "conv_weight_1x1_all_new", "weights_all")
    network = ImageNetNetworks()(*(imagenet_release[f"packed.{name}"].tobytes() for name in names))
    assert np.array_equal(network(imagenet_release["sample.image_thermo"]), imagenet_release["sample.result_q4"])


def authors_cifar10(shared):
    """The model file form of the authors' CIFAR-10 weights, built here from the arrays they published."""
    from fracbnn_pynq.model import LayerParameters, Model, pack_weight

    arrays = np.load(shared / "golden" / "cifar10_prebuilt_weights.npz")

    def exact(name):
        return np.ldexp(arrays[f"fixed.{name}"].astype(np.float64).reshape(-1), -16)

    layers = {}
    for layer in CIFAR10.layers:
        block, conv = layer.name.rsplit(".conv", 1)
        first, second = (1, 3) if conv == "1" else (2, 4)
        rows = (
            f"{block}.conv{conv}.threshold",
            f"{block}.bn{first}.weight",
            f"{block}.bn{first}.bias",
            f"{block}.rprelu{conv}.shift_x.bias",
            f"{block}.rprelu{conv}.prelu.weight",
            f"{block}.rprelu{conv}.shift_y.bias",
            f"{block}.bn{second}.weight",
            f"{block}.bn{second}.bias",
        )
        weight = pack_weight(arrays[f"{layer.name}.weight"])
        layers[layer.name] = LayerParameters(weight, np.stack([exact(row) for row in rows]))
    return Model(
        network=CIFAR10,
        stem_weight=pack_weight(arrays["conv1.weight"]),
        stem_bn=np.stack([exact("bn1.weight"), exact("bn1.bias")]),
        layers=layers,
        fc_weight=exact("linear.weight").reshape(10, 64),
        fc_bias=exact("linear.bias"),
        classes=tuple(f"class {i}" for i in range(10)),
    )
