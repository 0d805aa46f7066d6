"""Model files: every number comes back, and every kind of damage is one clear error."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fracbnn_pynq import modelfile
from fracbnn_pynq.classes import imagenet_classes
from fracbnn_pynq.errors import ModelError
from fracbnn_pynq.model import (
    LayerParameters,
    Model,
    pack_weight,
    quantise_rows,
    random_model,
    tensor_layout,
    unpack_weight,
)
from fracbnn_pynq.modelfile import MAX_FILE_SIZE, load_model, parse_model, save_model
from fracbnn_pynq.models import MODELS
from fracbnn_pynq.networks import CIFAR10, IMAGENET, LAYER_PARAMETERS, Network

Header = dict[str, Any]
Tensors = dict[str, np.ndarray]
BOTH = pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)


def equal(one: Model, other: Model) -> bool:
    same = [
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
    ]
    return (
        all(same)
        and one.tensors().keys() == other.tensors().keys()
        and (one.network, one.classes, one.provenance) == (other.network, other.classes, other.provenance)
    )


def single_precision(model: Model) -> Model:
    """The model with every real number rounded to float32."""

    def single(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32).astype(np.float64)

    return replace(
        model,
        stem_bn=single(model.stem_bn),
        layers={name: replace(layer, parameters=single(layer.parameters)) for name, layer in model.layers.items()},
        fc_weight=single(model.fc_weight),
        fc_bias=single(model.fc_bias),
    )


def on_the_grid(weight: np.ndarray) -> np.ndarray:
    integers, exponent = quantise_rows(weight)
    return np.ldexp(integers.astype(np.float64), -exponent[:, None].astype(np.int64))


@pytest.fixture(scope="module")
def model() -> Model:
    return single_precision(random_model(CIFAR10, 1))


@pytest.fixture(scope="module")
def content(model: Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(model, path)
    return path.read_bytes()


def opened(content: bytes) -> tuple[Header, Tensors]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["fracbnn"]), load(content)


def closed(header: Header | str, tensors: Tensors, *, sign: bool = True) -> bytes:
    """A file with this description; ``sign``: with the checksum that belongs to it."""
    if sign and isinstance(header, dict):
        unsigned = {key: value for key, value in header.items() if key != "checksum"}
        header = {**unsigned, "checksum": modelfile._checksum(unsigned, tensors)}
    text = header if isinstance(header, str) else json.dumps(header)
    return save({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, {"fracbnn": text})


# Round trips


@BOTH
def test_round_trip_is_exact(network: Network, tmp_path: Path):
    model = random_model(network, 3)
    assert any((tensor.astype(np.float32) != tensor).any() for tensor in (model.stem_bn, model.fc_bias))
    save_model(model, tmp_path / "m.safetensors")
    assert equal(load_model(tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize("classes", [1, 3, 37, 1000])
@BOTH
def test_round_trip_with_other_numbers_of_classes(network: Network, classes: int, tmp_path: Path):
    model = random_model(network.with_classes(classes), classes)
    assert model.fc_weight.shape == (classes, network.features)
    save_model(model, tmp_path / "m.safetensors")
    found = load_model(tmp_path / "m.safetensors")
    assert equal(found, model)
    assert found.network.classes == len(found.classes) == classes


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), single=st.booleans(), grid=st.booleans())
def test_round_trip_of_any_model(seed: int, single: bool, grid: bool, tmp_path_factory: pytest.TempPathFactory):
    model = random_model(CIFAR10, seed)
    if single:
        model = single_precision(model)
    if grid:
        model = replace(model, fc_weight=on_the_grid(model.fc_weight))
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_model(model, path)
    assert equal(load_model(path), model)
    stored = load(path.read_bytes())
    assert stored["stem.bn"].dtype == (np.float32 if single else np.float64)
    assert ("fc.exponent" in stored) == grid
    assert stored["fc.weight"].dtype == (np.int16 if grid else np.float32 if single else np.float64)


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, 2.0**-1030, 1e-45, 0.1, 999999.0, -999999.5])
def test_extreme_numbers_come_back(value: float, model: Model, tmp_path: Path):
    bias = np.full(10, value)
    weight = np.full((10, 64), value)
    save_model(replace(model, fc_bias=bias, fc_weight=weight), tmp_path / "m.safetensors")
    found = load_model(tmp_path / "m.safetensors")
    assert np.array_equal(found.fc_bias, bias)
    assert np.array_equal(found.fc_weight, weight)


def test_save_is_deterministic(model: Model, content: bytes, tmp_path: Path):
    save_model(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == content


PROVENANCE = {
    "name": "Größe 例 🐈",
    "accuracy": {"test set": 0.7695, "pictures": 10000},
    "steps": [1, 2.5, None, True, "…"],
    "empty": {},
}


def test_provenance_and_classes_come_back(model: Model, tmp_path: Path):
    changed = replace(model, provenance=PROVENANCE, classes=tuple("äßç日本語ñøλж"))
    save_model(changed, tmp_path / "m.safetensors")
    assert equal(load_model(tmp_path / "m.safetensors"), changed)


def test_the_arithmetic_comes_back(model: Model, tmp_path: Path):
    assert load_model(_saved(model, tmp_path)).arithmetic is None
    assert load_model(_saved(replace(model, arithmetic="imagenet-2021"), tmp_path)).arithmetic == "imagenet-2021"


def _saved(model: Model, folder: Path) -> Path:
    save_model(model, folder / "m.safetensors")
    return folder / "m.safetensors"


def test_rows_lie_end_to_end_whatever_their_order_in_memory(model: Model, tmp_path: Path):
    turned = {
        name: replace(layer, parameters=np.asfortranarray(layer.parameters)) for name, layer in model.layers.items()
    }
    assert equal(load_model(_saved(replace(model, layers=turned), tmp_path)), model)


def test_provenance_comes_back_as_json(model: Model, tmp_path: Path):
    save_model(replace(model, provenance={10: "ten", 9: ("a", "b")}), tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").provenance == {"10": "ten", "9": ["a", "b"]}


def circular() -> dict[str, Any]:
    provenance: dict[str, Any] = {}
    provenance["self"] = provenance
    return provenance


@pytest.mark.parametrize("provenance", [{"when": b"bytes"}, {("a", "b"): 1}, {"x": {1, 2}}, circular()])
def test_provenance_that_is_no_json_is_refused(provenance: dict[str, Any], model: Model, tmp_path: Path):
    with pytest.raises(ModelError, match="provenance: expected a mapping that JSON can hold"):
        save_model(replace(model, provenance=provenance), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_packed_weights_come_back(out: int, eighths: int, kernel: int, seed: int):
    weights = np.random.default_rng(seed).normal(size=(out, 8 * eighths, kernel, kernel))
    packed = pack_weight(weights)
    assert (packed.shape, packed.dtype) == ((out, kernel, kernel, eighths), np.uint8)
    assert np.array_equal(unpack_weight(packed), np.where(np.moveaxis(weights, 1, -1) > 0, 1, -1))


def test_bit_order_of_packed_weights():
    weights = np.full((1, 16, 1, 1), -1.0)
    weights[0, [1, 8, 15]] = 1
    weights[0, 0] = 0  # counts as -1
    assert pack_weight(weights).tolist() == [[[[0b10, 0b1000_0001]]]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_quantised_rows_use_the_finest_step(rows: list[list[float]]):
    weights = np.array(rows)
    integers, exponent = quantise_rows(weights)
    restored = np.ldexp(integers.astype(np.float64), -exponent[:, None].astype(np.int64))
    step = np.ldexp(1.0, -exponent.astype(np.int64))
    assert (np.abs(restored - weights) <= step[:, None] / 2).all()
    coarse = np.abs(weights).max(axis=1) * 2 >= 32767.5 * step  # one step finer would not hold the row
    assert (coarse | (exponent == 100) | ~weights.any(axis=1)).all()


# Sizes


def test_the_bundled_model_is_small():
    assert MODELS["cifar10"].path.stat().st_size < 120_000
    assert load_model(MODELS["cifar10"].path).network is CIFAR10


def test_an_imagenet_model_is_small(tmp_path: Path):
    model = single_precision(random_model(IMAGENET, 5))
    model = replace(model, fc_weight=on_the_grid(model.fc_weight), classes=imagenet_classes())
    save_model(model, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < 6_000_000
    assert equal(load_model(tmp_path / "m.safetensors"), model)


# Models in memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, stem_bn=m.stem_bn.astype(np.float32)), "expected float64 .* found float32"),
        (lambda m: replace(m, stem_weight=m.stem_weight[:1]), r"expected uint8 \[16, 3, 3, 12\], found uint8 \[1, "),
        (lambda m: replace(m, fc_bias=np.full(10, np.nan)), "'fc.bias': expected finite numbers"),
        (lambda m: replace(m, fc_bias=np.full(10, -np.inf)), "'fc.bias': expected finite numbers"),
        (lambda m: replace(m, fc_bias=np.full(10, 1e6)), "below a million"),
        (lambda m: replace(m, layers={}), "found a difference at 'layer1.0.conv1.parameters'"),
        (lambda m: replace(m, network=IMAGENET), "expected the layers of ImageNet"),
        (lambda m: replace(m, classes=("a", "b")), "expected 10 class names for CIFAR-10 .* found 2"),
        (lambda m: replace(m, classes=("",) * 10), "printable characters, found ''"),
        (lambda m: replace(m, classes=("a\x1b[2J",) * 10), "printable characters"),
        (lambda m: replace(m, classes=("\ud800",) * 10), "printable characters"),
        (lambda m: replace(m, classes=(7,) * 10), "printable characters, found 7"),
    ],
)
def test_what_is_no_model_is_refused(change: Callable[[Model], Model], message: str, model: Model):
    with pytest.raises(ModelError, match=message):
        change(model)


def test_layer_parameters_by_name(model: Model):
    layer = model.layers["layer1.0.conv1"]
    for row, name in enumerate(LAYER_PARAMETERS):
        assert np.array_equal(getattr(layer, name), layer.parameters[row])
    with pytest.raises(AttributeError, match="nothing"):
        layer.nothing  # noqa: B018


def test_models_compare_by_identity(model: Model):
    assert model == model
    assert model != replace(model)
    assert len({model, replace(model)}) == 2
    assert isinstance(hash(model.layers["layer1.0.conv1"]), int)


# Damage: the file


def refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        parse_model(data)
    assert len(str(caught.value)) < 400


def test_any_flipped_bit_is_found(model: Model, content: bytes):
    header_end = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, header_end, 250), *rng.integers(header_end, len(content), 150)]
    places += [header_end - 1, header_end, len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        try:
            found = parse_model(bytes(damaged))
        except ModelError:
            continue
        # White space for padding, or the case of an escaped character: it still is the same model.
        assert place < header_end, place
        assert equal(found, model), place


def test_any_truncation_is_found(content: bytes):
    lengths = {*range(300), *range(300, len(content), 997), len(content) - 1}
    for length in lengths:
        refused(content[:length], "expected a complete .safetensors file, found something else .*fetch or export")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a text file, with some lines\n" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"\xff" * 100,
        bytes(100),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100 << 20) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 2000) + b"[" * 2000,
    ],
    ids=["empty", "text", "png", "ones", "zeros", "long header", "100 MB header", "list", "null", "nested"],
)
def test_other_files_are_refused(data: bytes):
    refused(data, "expected a complete .safetensors file, found something else")


def test_surplus_bytes_are_refused(content: bytes):
    refused(content + b"\0", "expected a complete .safetensors file")


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ModelError, match=r"cannot read model file .*no\.safetensors: No such file"):
        load_model(tmp_path / "no.safetensors")
    with pytest.raises(ModelError, match="expected a model file, found a folder or a device"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="found a folder or a device"):
        load_model("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="found a folder or a device"):
        load_model(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as stream:
        stream.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(ModelError, match=f"at most {MAX_FILE_SIZE} bytes, found {MAX_FILE_SIZE + 1}"):
        load_model(tmp_path / "huge")


def test_errors_name_the_file(tmp_path: Path):
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=re.escape(f"{tmp_path / 'broken.safetensors'}: expected a complete")):
        load_model(tmp_path / "broken.safetensors")


# Damage: the description


def describe(content: bytes, **changes: Any) -> bytes:
    header, tensors = opened(content)
    header.update(changes)
    return closed({key: value for key, value in header.items() if value is not ...}, tensors)


def test_the_helper_makes_valid_files(content: bytes, model: Model):
    assert equal(parse_model(describe(content)), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "expected fracbnn-model version 1, found version 99: .*newer fracbnn_pynq; upgrade"),
        ({"version": 10**4000}, "found version 1000.*newer"),
        ({"version": "1"}, "expected a fracbnn-model file, found 'fracbnn-model' version '1'"),
        ({"version": -1}, "version -1"),
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"version": 1.0}, r"version 1\.0"),
        ({"version": None}, "version None"),
        ({"version": ...}, "without its description"),
        ({"format": "other"}, "found 'other' version 1"),
        ({"format": "x" * 100_000}, r"found 'xxx.*\.\.\..*' version 1"),
        ({"format": ...}, "without its description"),
        ({"network": "mnist"}, "unknown network 'mnist'"),
        ({"network": 3}, "expected 'network' in the file's description as str"),
        ({"network": "imagenet"}, "expected the tensors of ImageNet"),
        ({"classes": "ten"}, "expected 'classes' in the file's description as list"),
        ({"classes": []}, "expected 1 to 65536 classes, found 0"),
        ({"classes": ["a"] * 65537}, "expected 1 to 65536 classes, found 65537"),
        ({"classes": ["a"] * 9}, r"'fc\.(weight|bias)': expected .* \[9"),
        ({"classes": [None] * 10}, "class names of printable characters, found None"),
        ({"classes": ["a\nb"] * 10}, "printable characters"),
        ({"provenance": ["x"]}, "expected 'provenance' in the file's description as dict"),
        ({"provenance": ...}, "expected 'provenance'"),
        ({"arithmetic": 3}, "expected 'arithmetic' in the file's description as str"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_descriptions(changes: Header, message: str, content: bytes):
    refused(describe(content, **changes), message)


@pytest.mark.parametrize("checksum", [..., None, 5, "", "0" * 64, ["a"]])
def test_bad_checksums(checksum: Any, content: bytes):
    header, tensors = opened(content)
    header["checksum"] = checksum
    header = {key: value for key, value in header.items() if value is not ...}
    refused(closed(header, tensors, sign=False), "checksum")


def test_checksum_of_another_content(content: bytes, tmp_path: Path):
    save_model(random_model(CIFAR10, 77), tmp_path / "other.safetensors")
    header, tensors = opened(content)
    other, other_tensors = opened((tmp_path / "other.safetensors").read_bytes())
    refused(closed({**header, "checksum": other["checksum"]}, tensors, sign=False), "checksum does not match")
    refused(closed(header, other_tensors, sign=False), "checksum does not match")
    refused(closed({**header, "provenance": {"licence": "forged"}}, tensors, sign=False), "checksum does not match")


@pytest.mark.parametrize("text", ["", "no json", "[]", "null", "7", '"text"', "{", "[" * 100_000, '{"version": 1}'])
def test_descriptions_that_are_no_json_object(text: str, content: bytes):
    refused(closed(text, opened(content)[1]), "without its description")


def test_no_description(content: bytes):
    refused(save(opened(content)[1]), "without its description")
    refused(save(opened(content)[1], {"pytorch": "yes"}), "without its description")


def test_deeply_nested_description(content: bytes):
    header, tensors = opened(content)
    for depth in (*range(900, 1000, 3), 10_000, 50_000):
        # Whether this depth can be parsed depends on Python; that it is refused does not.
        nested = json.dumps({**header, "provenance": {}}).replace(
            '"provenance": {}', f'"provenance": {{"a": {"[" * depth}{"]" * depth}}}'
        )
        refused(closed(nested, tensors), "checksum does not match|without its description")


def test_numbers_too_long_to_parse(content: bytes):
    header, tensors = opened(content)
    text = json.dumps({**header, "version": 0}).replace('"version": 0', f'"version": {"9" * 100_000}')
    refused(closed(text, tensors), "without its description|newer")


def test_duplicate_keys_do_not_get_past_the_checks(content: bytes, model: Model):
    header, tensors = opened(content)
    text = json.dumps(header)
    assert equal(parse_model(closed('{"version": 99, ' + text[1:], tensors)), model)  # the last one counts
    refused(closed(text[:-1] + ', "version": 99}', tensors), "found version 99")
    refused(closed(text[:-1] + ', "provenance": {}, "network": "imagenet"}', tensors), "checksum does not match")


def test_duplicate_tensors_do_not_get_past_the_checks(content: bytes, model: Model):
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    entry = re.search(rb'"stem\.bn":(\{[^}]*\})', header)
    assert entry is not None
    doubled = header.replace(entry[0], entry[0] + b"," + entry[0])
    try:
        found = parse_model(struct.pack("<Q", len(doubled)) + doubled + content[8 + size :])
    except ModelError:
        return
    assert equal(found, model)


# Damage: the tensors, with a checksum that fits


def retensor(content: bytes, **changes: np.ndarray | None) -> bytes:
    header, tensors = opened(content)
    renamed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    kept = {name: tensor for name, tensor in {**tensors, **renamed}.items() if tensor is not None}
    return closed(header, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc__bias": None}, "found a difference at 'fc.bias'"),
        ({"extra": np.zeros(3)}, "found a difference at 'extra'"),
        ({"../../etc/passwd": np.zeros(3)}, r"found a difference at '\.\./\.\./etc/passwd'"),
        ({"/tmp/x": np.zeros(3)}, "found a difference at '/tmp/x'"),
        ({"fc__bias": np.full(10, np.nan)}, "'fc.bias': expected finite numbers"),
        ({"fc__bias": np.full(10, np.inf, np.float32)}, "'fc.bias': expected finite numbers"),
        ({"fc__bias": np.full(10, 0x7F800001, np.uint32).view(np.float32)}, "'fc.bias': expected finite numbers"),
        ({"fc__bias": np.full(10, 1e300)}, "below a million"),
        ({"fc__bias": np.zeros(10, np.float16)}, "'fc.bias': expected float64 or float32 .*found float16"),
        ({"fc__bias": np.zeros(10, np.int64)}, "'fc.bias': expected float64 or float32 .*found int64"),
        ({"fc__bias": np.zeros((10, 1))}, r"'fc.bias': expected .*\[10\], found float64 \[10, 1\]"),
        ({"fc__bias": np.zeros(0)}, r"found float64 \[0\]"),
        ({"fc__bias": np.zeros(())}, r"found float64 \[\]"),
        ({"fc__weight": np.zeros((64, 10))}, r"\[10, 64\], found float64 \[64, 10\]"),
        ({"fc__weight": np.zeros((10, 64), np.int16)}, "'fc.weight': expected float64 or float32"),
        ({"fc__exponent": np.zeros(10, np.int16)}, "'fc.weight': expected int16"),
        ({"stem__weight": np.zeros((16, 3, 3, 12), np.int8)}, "'stem.weight': expected uint8"),
        ({"stem__weight": np.zeros((16, 3, 3, 12), bool)}, "'stem.weight': expected uint8"),
        ({"stem__weight": np.zeros((16, 3, 12, 3), np.uint8)}, "'stem.weight': expected uint8"),
    ],
)
def test_bad_tensors(changes: dict[str, np.ndarray | None], message: str, content: bytes):
    refused(retensor(content, **changes), message)


@pytest.mark.parametrize("value", [101, -101, 32767, -32768])
def test_bad_exponents(value: int, content: bytes):
    changes = {"fc__weight": np.ones((10, 64), np.int16), "fc__exponent": np.full(10, value, np.int16)}
    refused(retensor(content, **changes), "'fc.exponent': expected exponents between -100 and 100")


def test_tensors_of_types_numpy_does_not_have(content: bytes):
    for kind in (b'"BF16"', b'"F8_E4M3"', b'"F4"', b'"X"'):
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size].replace(b'"F32"', kind)
        assert header.count(kind) > 1
        refused(struct.pack("<Q", len(header)) + header + content[8 + size :], "expected a complete .safetensors file")


def test_tensors_of_the_other_network(content: bytes, tmp_path: Path):
    header, _ = opened(content)
    other = {name: np.zeros(shape, np.uint8) for name, shape in tensor_layout(IMAGENET).items() if len(shape) == 1}
    refused(closed(header, other), r"expected the tensors of CIFAR-10 .*found a difference at ")


# Damage: anything

CHUNK = st.binary(max_size=20)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_fuzz(data: st.DataObject, content: bytes, model: Model):
    end = 8 + int.from_bytes(content[:8], "little")
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        limit = data.draw(st.sampled_from([8, end, len(damaged)]))
        start = data.draw(st.integers(0, min(limit, len(damaged))))
        damaged[start : start + data.draw(st.integers(0, 20))] = data.draw(CHUNK)
    try:
        found = parse_model(bytes(damaged))
    except ModelError as error:
        assert str(error)
    else:
        assert equal(found, model)


@settings(max_examples=examples(100), deadline=None)
@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_fuzz_of_description_values(value: Any, content: bytes, model: Model):
    for key in ("format", "version", "network", "classes", "provenance"):
        try:
            found = parse_model(describe(content, **{key: value}))
        except ModelError:
            continue
        assert (key, value) == ("version", 1)
        assert equal(found, model)


# Writing


def test_an_unwritable_target(model: Model, tmp_path: Path):
    with pytest.raises(ModelError, match=r"cannot write .*no/m\.safetensors: No such file"):
        save_model(model, tmp_path / "no" / "m.safetensors")
    with pytest.raises(ModelError, match=r"cannot write .*File name too long"):
        save_model(model, tmp_path / ("x" * 300))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=r"cannot write .*found a folder or a device"):
        save_model(model, tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"cannot write .*found a folder or a device"):
        save_model(model, tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file(
    error: BaseException, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"the old one")

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(modelfile.os, "replace", fails)
    with pytest.raises((ModelError, KeyboardInterrupt)) as caught:
        save_model(model, path)
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]


def test_a_new_file_has_ordinary_permissions(model: Model, tmp_path: Path):
    umask = os.umask(0o027)
    try:
        save_model(model, tmp_path / "m.safetensors")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o640


def test_a_file_is_replaced(model: Model, tmp_path: Path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"the old one")
    save_model(model, path)
    assert equal(load_model(path), model)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_random_models_are_reproducible():
    assert equal(random_model(CIFAR10, 4), random_model(CIFAR10, 4))
    assert not equal(random_model(CIFAR10, 4), random_model(CIFAR10, 5))
    layer = random_model(CIFAR10, 4).layers["layer2.0.conv1"]
    assert isinstance(layer, LayerParameters)
    assert layer.weight.shape == (32, 3, 3, 2)
