"""Importers: other people's files become the right model, or one clear error; nothing in them is executed."""

from __future__ import annotations

import io
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from traps import Malicious

from fracbnn_pynq.classes import CIFAR10_CLASSES, imagenet_classes
from fracbnn_pynq.errors import SourceError
from fracbnn_pynq.importers import archives, import_model
from fracbnn_pynq.importers.hls_tables import read_tables
from fracbnn_pynq.importers.parameters import (
    build_model,
    named_parameters,
    parameter_sizes,
    rounded_classifier,
)
from fracbnn_pynq.layouts.weights import pack_cifar10_weights, pack_imagenet_weights
from fracbnn_pynq.model import Model, random_model, unpack_weight
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network

Arrays = dict[str, np.ndarray]


def equal(one: Model, other: Model) -> bool:
    pairs = zip(one.tensors().items(), other.tensors().items(), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs) and one.classes == other.classes


def bits(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, bitorder="little")


def one_dimensional(model: Model) -> dict[str, np.ndarray]:
    """A CIFAR-10 model's parameters other than convolution weights, under the authors' names."""
    arrays = {"bn1.weight": model.stem_bn[0], "bn1.bias": model.stem_bn[1]}
    for name, layer in model.layers.items():
        block, half = name[: -len(".conv1")], int(name[-1])
        arrays |= {
            f"{name}.threshold": layer.threshold,
            f"{block}.bn{half}.weight": layer.bn1_weight,
            f"{block}.bn{half}.bias": layer.bn1_bias,
            f"{block}.rprelu{half}.shift_x.bias": layer.shift_x,
            f"{block}.rprelu{half}.prelu.weight": layer.slope,
            f"{block}.rprelu{half}.shift_y.bias": layer.shift_y,
            f"{block}.bn{half + 2}.weight": layer.bn2_weight,
            f"{block}.bn{half + 2}.bias": layer.bn2_bias,
        }
    return arrays | {"linear.weight": model.fc_weight, "linear.bias": model.fc_bias}


def convolutions(model: Model) -> Arrays:
    weights = {"conv1.weight": model.stem_weight, **{f"{n}.weight": layer.weight for n, layer in model.layers.items()}}
    return {name: np.moveaxis(unpack_weight(packed), -1, 1) for name, packed in weights.items()}


@pytest.fixture(scope="module")
def model() -> Model:
    return replace(random_model(CIFAR10, 11), classes=CIFAR10_CLASSES)


@pytest.fixture(scope="module")
def arrays(model: Model) -> Arrays:
    return {**convolutions(model), **one_dimensional(model)}


# C headers


def literal(array: np.ndarray, show: Callable[[Any], str]) -> str:
    if array.ndim == 0:
        return show(array[()])
    return "{" + ", ".join(literal(part, show) for part in array) + "}"


def declaration(kind: str, name: str, array: np.ndarray, show: Callable[[Any], str]) -> str:
    return f"{kind} {name}{''.join(f'[{size}]' for size in array.shape)} = {literal(array, show)};\n"


def convolution_header(model: Model, tile: int) -> str:
    table = pack_cifar10_weights(bits(model.stem_weight), {n: bits(x.weight) for n, x in model.layers.items()}, tile)
    return (
        "#ifndef CONV_WEIGHTS_H\n#define CONV_WEIGHTS_H\n#include <ap_int.h>\n// packed[64] = {0x1};\n"
        "const int other[2] = {1, 2};\n/* conv_weight_all[1] = { 0x5 };\n */\n"
        + declaration("const uint64", "conv_weight_all", table, lambda word: f"0x{word:016X}")
        + "#endif\n"
    )


def parameter_header(model: Model, width: int) -> str:
    """``width``: entries of a row, 16 in tables [4][16] and 8 in tables [8][8]."""
    parts = ["#pragma once\n", "static int unused[3] = {1, 2, 3}; // not a parameter\n"]
    for name, values in one_dimensional(model).items():
        table = values
        if not name.startswith("linear"):
            table = np.zeros(64)
            table[: values.size] = values
            table = table.reshape(-1, width)
        parts.append(f"// {name}\n")
        parts.append(declaration("const FIX_WT", name.replace(".", "_") + "_fix", table, repr_of))
    return "".join(parts)


def repr_of(value: Any) -> str:
    return repr(float(value))


def write(folder: Path, convolution: str, parameters: str) -> list[Path]:
    paths = [folder / "weights_fracnet_64.h", folder / "conv_weights.h"]
    paths[0].write_text(parameters)
    paths[1].write_text(convolution)
    return paths


@pytest.mark.parametrize(("tile", "width"), [(16, 16), (8, 8)], ids=["2021", "2020"])
def test_headers(tile: int, width: int, model: Model, tmp_path: Path):
    paths = write(tmp_path, convolution_header(model, tile), parameter_header(model, width))
    found = import_model(paths, CIFAR10)
    assert equal(found, model)
    assert found.provenance == {"source": ["weights_fracnet_64.h", "conv_weights.h"]}
    assert equal(import_model(paths[::-1], CIFAR10, provenance={"source": "here"}), model)


def test_header_numbers_in_every_form():
    text = "const float t[2][4] = {{1, -2.5f, +.5, 3.}, {1e-3, 2.E+2F, /* } ; */ -0, 7L,},};  w[2] = {0xfful, 0X1u};"
    tables = read_tables(text, {"t", "w"}, "x.h")
    assert tables["t"].tolist() == [[1, -2.5, 0.5, 3], [0.001, 200, 0, 7]]
    assert tables["w"].tolist() == [255, 1]
    assert tables["w"].dtype == np.uint64


def test_header_literals_are_read_as_doubles():
    assert read_tables("t[1] = {0.1000000000000000055511151231257827};", {"t"}, "x.h")["t"].tolist() == [0.1]
    assert float(np.float32(0.1)) != 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t[3] = {1, 2};", r"x\.h: table t: expected 3 numbers for \[3\], found 2"),
        ("t[3] = {1, 2, 3, 4};", "expected 3 numbers"),
        ("t[999999999][999999999] = {1};", "expected 999999998000000001 numbers"),
        ("t[2] = {1, two};", "expected numbers, found 'two'"),
        ("t[2] = {1, 2-3};", "expected numbers, found '2-3'"),
        ("t[2] = {1, 1.5.3};", r"expected numbers, found '1\.5\.3'"),
        ("t[2] = {1 2, 3};", "expected numbers, found '1 2'"),
        ("t[2] = {1, nan};", "expected numbers, found 'nan'"),
        ("t[2] = {1, " + "x" * 10_000 + "};", r"expected numbers, found 'x+\.\.\.x+'"),
        ("t[1] = {0x" + "f" * 17 + "};", "expected hexadecimal words of 64 bits"),
        ("t[1] = {0x" + "f" * 1_000_000 + "};", "expected hexadecimal words of 64 bits"),
        ("t[2] = {0x1, 2};", "expected hexadecimal words of 64 bits, found something else"),
        ("t[2] = {1, 2}", "expected a ';' after it, found the end of the file"),
        ("t[2] = {1, 2", "expected a ';'"),
        ("t[2] = {1, 2; int a;", "as many closing braces"),
        ("t[2] = {1, 2}};", "as many closing braces"),
        ("t[2] = {" * 1000 + "1, 2};", "table t: expected"),
        ("t[1] = " + "{" * 100_000 + "1;", "as many closing braces"),
    ],
    ids=lambda value: value[:30],
)
def test_damaged_tables(text: str, message: str):
    with pytest.raises(SourceError, match=message) as caught:
        read_tables(text, {"t"}, "x.h")
    assert len(str(caught.value)) < 300


def test_nested_braces_do_not_recurse():
    text = "t[1] = " + "{" * 100_000 + "1" + "}" * 100_000 + ";"
    assert read_tables(text, {"t"}, "x.h")["t"].tolist() == [1]


def test_tables_of_too_many_dimensions_are_none():
    assert read_tables(f"t{'[1]' * 100} = {{1}};", {"t"}, "x.h") == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, p: ("int a;", p), "expected a table conv_weight_all in one of the files, found none"),
        (lambda c, p: (c, p.replace("bn1_bias_fix", "other")), "expected a parameter 'bn1.bias'"),
        (lambda c, p: (c, p.replace("linear_weight_fix[10][64]", "linear_weight_fix[64][10]")), r"\[10, 64\], found"),
        (lambda c, p: (c.replace("conv_weight_all[45][16]", "conv_weight_all[16][45]"), p), "table conv_weight_all"),
        (lambda c, p: (c.replace("[45][16][3][3]", "[6480]"), p), "table conv_weight_all"),
        (lambda c, p: (c.replace("00000000,", "00000001,", 1), p), "conv_weight_all.*only the 32 highest bits"),
        (lambda c, p: (c.replace("0x", "0"), p), "expected numbers|uint64"),
        (lambda c, p: (c, p.replace(", 0.0}", ", 0.5}", 1)), "and zeros"),
        (lambda c, p: (c, p.replace("bn1_bias_fix[4][16]", "bn1_bias_fix[8]", 1)), "expected 8 numbers"),
        (lambda c, p: (c, c), "expected a parameter"),
        (lambda c, p: ("", ""), "expected a table conv_weight_all"),
    ],
)
def test_damaged_headers(change: Callable[[str, str], tuple[str, str]], message: str, model: Model, tmp_path: Path):
    paths = write(tmp_path, *change(convolution_header(model, 16), parameter_header(model, 16)))
    with pytest.raises(SourceError, match=message):
        import_model(paths, CIFAR10)


def test_headers_that_are_no_text(tmp_path: Path):
    for name in ("a.h", "b.h"):
        (tmp_path / name).write_bytes(os.urandom(100_000))
    with pytest.raises(SourceError, match="conv_weight_all"):
        import_model([tmp_path / "a.h", tmp_path / "b.h"], CIFAR10)


@pytest.mark.parametrize(
    "text",
    [
        "/*",
        "//",
        "a",
        "0",
        "a ",
        " ",
        "t[",
        "t[1]",
        "t [ 1 ] ",
        "{",
        "/* t[1] = {1}",
        "9." * 3 + "e",
        "t[2]={",
        "1,",
        "\\",
    ],
)
def test_reading_headers_takes_linear_time(text: str):
    def seconds(size: int) -> float:
        hostile = f"t[{size}] = {{" + text * size
        start = time.perf_counter()
        for part in (hostile, hostile + "};", text * size):
            try:
                read_tables(part, {"t"}, "x.h")
            except SourceError:
                continue
        return time.perf_counter() - start

    # 250 kB take milliseconds; time that grows as the square of the size would be minutes.
    assert seconds(250_000 // len(text)) < 10


HEADER_PIECES = st.sampled_from(
    [
        "t",
        "[",
        "]",
        "{",
        "}",
        "=",
        ";",
        ",",
        "0x",
        "1",
        "-",
        ".",
        "e",
        "9" * 30,
        "/*",
        "*/",
        "//",
        "\n",
        " ",
        "\x00",
        "é",
    ]
)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(HEADER_PIECES, max_size=60))
def test_fuzz_of_headers(pieces: list[str]):
    try:
        tables = read_tables("t[2] = {" + "".join(pieces), {"t"}, "x.h")
    except SourceError as error:
        assert "x.h" in str(error)
    else:
        assert all(isinstance(table, np.ndarray) for table in tables.values())


@settings(max_examples=examples(40), deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), inserted=st.text("0123456789abcx{},;-.= \n", max_size=4))
def test_fuzz_of_whole_headers(place: float, inserted: str, model: Model, tmp_path_factory: pytest.TempPathFactory):
    convolution, parameters = convolution_header(model, 16), parameter_header(model, 16)
    at = int(place * len(parameters))
    paths = write(tmp_path_factory.getbasetemp(), convolution, parameters[:at] + inserted + parameters[at + 3 :])
    try:
        found = import_model(paths, CIFAR10)
    except SourceError as error:
        assert "expected" in str(error)
    else:
        assert found.network is CIFAR10


# ImageNet host files


@pytest.fixture(scope="module")
def imagenet() -> Model:
    """A random model that survives the host files: 26 fraction bits, float32 and 16-bit classifier."""
    model = random_model(IMAGENET, 2)

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.ldexp(np.rint(np.ldexp(values, 26)).clip(-(2**31), 2**31 - 1), -26)

    fc_weight = np.random.default_rng(0).integers(-32767, 32768, (1000, 1024)) / 2.0**16
    fc_weight[:, 0] = 0.5 - 2.0**-16
    return replace(
        model,
        stem_bn=rounded(model.stem_bn),
        layers={name: replace(layer, parameters=rounded(layer.parameters)) for name, layer in model.layers.items()},
        fc_weight=fc_weight,
        fc_bias=model.fc_bias.astype(np.float32).astype(np.float64),
        classes=imagenet_classes(),
    )


def host_files(model: Model, folder: Path) -> list[Path]:
    layers = {name: (bits(layer.weight), layer.parameters) for name, layer in model.layers.items()}
    buffers = pack_imagenet_weights(bits(model.stem_weight), model.stem_bn, layers)
    contents = {
        "conv3x3_weights_host_new.bin": buffers.conv3x3,
        "conv1x1_weights_host_new.bin": buffers.conv1x1,
        "other_weights_host_new.bin": buffers.parameters.astype("<i4"),
        "fc_weight_host.bin": model.fc_weight.astype("<f4"),
        "fc_bias_host.bin": model.fc_bias.astype("<f4"),
    }
    for name, array in contents.items():
        (folder / name).write_bytes(array.tobytes())
    return [folder / name for name in contents]


def test_host_files_in_any_order(imagenet: Model, tmp_path: Path):
    paths = host_files(imagenet, tmp_path)
    assert equal(import_model(paths, IMAGENET), imagenet)
    assert equal(import_model(paths[::-1], IMAGENET), imagenet)


def test_authors_host_files_equal_their_named_parameters(
    imagenet_release: Mapping[str, np.ndarray], imagenet_authors: Model, tmp_path: Path
):
    names = ("packed.conv_weight_3x3_all_new", "packed.conv_weight_1x1_all_new", "packed.weights_all")
    contents = [imagenet_release[name] for name in (*names, "fc.weight", "fc.bias")]
    paths = [tmp_path / f"{i}.bin" for i in range(5)]
    for path, array in zip(paths, contents, strict=True):
        path.write_bytes(array.tobytes())
    assert equal(import_model(paths, IMAGENET), imagenet_authors)


def test_damaged_host_files(imagenet: Model, tmp_path: Path):
    paths = host_files(imagenet, tmp_path)
    with pytest.raises(SourceError, match="expected five files, found none with the fully connected biases"):
        import_model(paths[:4], IMAGENET)
    with pytest.raises(SourceError, match="expected one file with the 3x3 weights, found a second one"):
        import_model([*paths, paths[0]], IMAGENET)
    with pytest.raises(SourceError, match=r"cannot read .*gone\.bin: No such file"):
        import_model([*paths[:4], tmp_path / "gone.bin"], IMAGENET)
    for size in (0, 3999, 4001):
        paths[4].write_bytes(bytes(size))
        with pytest.raises(SourceError, match=f"one of these sizes: 3142656 .*found {size} bytes"):
            import_model(paths, IMAGENET)
    for value in (np.nan, np.inf):
        paths[4].write_bytes(np.full(1000, value, "<f4").tobytes())
        with pytest.raises(SourceError, match="expected finite numbers"):
            import_model(paths, IMAGENET)
    paths[4].write_bytes(np.full(1000, 1e30, "<f4").tobytes())
    with pytest.raises(SourceError, match="below a million"):
        import_model(paths, IMAGENET)
    with open(paths[4], "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(SourceError, match="expected a file of at most 4096000 bytes, found 1099511627776"):
        import_model(paths, IMAGENET)


# .npz


def save(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz(model: Model, arrays: Arrays, tmp_path: Path):
    found = import_model([save(tmp_path / "m.npz", arrays)], CIFAR10)
    assert equal(found, model)
    assert found.provenance == {"source": ["m.npz"]}
    fortran = {name: np.asfortranarray(array) for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "c.npz", **fortran)  # type: ignore[arg-type]
    assert equal(import_model([tmp_path / "c.npz"], CIFAR10), model)


def test_npz_shapes_of_parameters_in_pytorch(model: Model, arrays: Arrays, tmp_path: Path):
    shaped = {n: a.reshape(1, -1, 1, 1) if "shift" in n or "threshold" in n else a for n, a in arrays.items()}
    extra = {"num_batches_tracked": np.array(3), "img_mean": np.zeros(3), "teacher.fc.weight": np.zeros((2, 2))}
    assert equal(import_model([save(tmp_path / "m.npz", {**shaped, **extra})], CIFAR10), model)


def test_npz_weights_count_by_their_sign(model: Model, arrays: Arrays, tmp_path: Path):
    rng = np.random.default_rng(0)
    scaled = {n: a * rng.uniform(1e-3, 2, a.shape) if a.ndim == 4 else a for n, a in arrays.items()}
    assert equal(import_model([save(tmp_path / "m.npz", scaled)], CIFAR10), model)
    zeros = {n: np.maximum(a, 0) if a.ndim == 4 else a for n, a in arrays.items()}
    assert equal(import_model([save(tmp_path / "z.npz", zeros)], CIFAR10), model)


def test_npz_with_other_classes(arrays: Arrays, tmp_path: Path):
    names = tuple("abcdefghij")
    path = save(tmp_path / "m.npz", arrays)
    assert import_model([path], CIFAR10, classes=names).classes == names
    for wrong in (("a", "b"), (*names, "k")):
        message = f"expected a class name for each of the network's 10 outputs, found {len(wrong)} names: .*--classes"
        with pytest.raises(SourceError, match=message):
            import_model([path], CIFAR10, classes=wrong)


@pytest.mark.parametrize("count", [1, 3, 37])
def test_npz_with_another_number_of_classes(count: int, arrays: Arrays, tmp_path: Path):
    names = tuple(f"kind {index}" for index in range(count))
    rng = np.random.default_rng(count)
    head = {"linear.weight": rng.normal(size=(count, 64)), "linear.bias": rng.normal(size=count)}
    path = save(tmp_path / "m.npz", {**arrays, **head})
    found = import_model([path], CIFAR10, classes=names)
    assert (found.classes, found.network) == (names, CIFAR10.with_classes(count))
    assert np.array_equal(found.fc_weight, head["linear.weight"])
    assert np.array_equal(found.fc_bias, head["linear.bias"])
    with pytest.raises(SourceError, match=f"the network's {count} outputs, found 10 names: .*--classes"):
        import_model([path], CIFAR10)
    with pytest.raises(SourceError, match=r"'linear\.weight': expected"):
        import_model([save(path, {**arrays, "linear.bias": head["linear.bias"]})], CIFAR10, classes=names)


def test_headers_with_other_classes(model: Model, tmp_path: Path):
    paths = write(tmp_path, convolution_header(model, 16), parameter_header(model, 16))
    assert import_model(paths, CIFAR10, classes=tuple("abcdefghij")).classes == tuple("abcdefghij")
    with pytest.raises(SourceError, match=r"expected 10 class names .* found 2"):
        import_model(paths, CIFAR10, classes=("a", "b"))


@pytest.mark.parametrize("name", ["upstream", "prebuilt"])
def test_authors_packed_and_float_weights_are_the_same(name: str, shared: Path, tmp_path: Path):
    source = shared / "golden" / f"cifar10_{name}_weights.npz"
    with np.load(source) as data:
        arrays = {key: data[key] for key in data.files}
    packed = {key: a for key, a in arrays.items() if "conv" not in key or "threshold" in key or "packed" in key}
    floats = {key: a for key, a in arrays.items() if "packed" not in key}
    assert len(packed) < len(arrays) > len(floats)
    whole = import_model([source], CIFAR10)
    assert equal(import_model([save(tmp_path / "p.npz", packed)], CIFAR10), whole)
    assert equal(import_model([save(tmp_path / "f.npz", floats)], CIFAR10), whole)


def test_raw_integers_of_the_public_bitstream_are_exact(shared: Path, cifar10_authors: Model):
    with np.load(shared / "golden" / "cifar10_prebuilt_weights.npz") as data:
        expected = {key[len("fixed.") :]: data[key].ravel() for key in data.files if key.startswith("fixed.")}
    found = one_dimensional(cifar10_authors)
    assert found.keys() == expected.keys()
    for name, raw in expected.items():
        assert np.array_equal(np.floor(found[name].ravel() * 65536 + 0.5), raw), name


def test_raw_integers_alone(model: Model, arrays: Arrays, tmp_path: Path):
    fixed = {name: np.rint(values * 65536).astype(np.int32) for name, values in one_dimensional(model).items()}
    raw = {**convolutions(model), **{f"fixed.{name}": values for name, values in fixed.items()}}
    found = one_dimensional(import_model([save(tmp_path / "m.npz", raw)], CIFAR10))
    assert all(np.array_equal(found[name] * 65536, values) for name, values in fixed.items())
    floats = {**raw, "fixed.bn1.weight": arrays["bn1.weight"]}
    with pytest.raises(SourceError, match=r"'fixed\.bn1\.weight': expected raw integers, found float64"):
        import_model([save(tmp_path / "f.npz", floats)], CIFAR10)
    turned = {**raw, "fixed.linear.weight": fixed["linear.weight"].T}
    with pytest.raises(SourceError, match=r"'linear\.weight': expected shape \[10, 64\], found \[64, 10\]"):
        import_model([save(tmp_path / "t.npz", turned)], CIFAR10)


def test_batch_norms_are_folded(shared: Path):
    source = shared / "weights" / "cifar10_project_float.npz"
    model = import_model([source], CIFAR10)
    with np.load(source) as data:
        arrays = {name: data[name] for name in data.files}
    found = one_dimensional(model)
    norms = [name[: -len(".running_var")] for name in arrays if name.endswith("running_var")]
    assert len(norms) == 1 + 4 * 9
    for norm in norms:
        weight, bias, mean, variance = (
            arrays[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(variance + 1e-5)
        assert np.array_equal(found[f"{norm}.weight"], scale), norm
        assert np.array_equal(found[f"{norm}.bias"], bias - mean * scale), norm
    assert np.array_equal(found["layer1.0.conv1.threshold"], arrays["layer1.0.conv1.threshold"].ravel())
    assert np.array_equal(
        unpack_weight(model.stem_weight), np.where(np.moveaxis(arrays["conv1.weight"], 1, -1) > 0, 1, -1)
    )


def test_a_batch_norm_of_zero_mean_and_unit_variance_is_itself(model: Model, arrays: Arrays, tmp_path: Path):
    statistics = {"bn1.running_mean": np.zeros(16), "bn1.running_var": np.full(16, 1 - 1e-5)}
    found = import_model([save(tmp_path / "m.npz", {**arrays, **statistics})], CIFAR10)
    assert np.allclose(found.stem_bn, model.stem_bn, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn1.weight": None}, "expected a parameter 'bn1.weight' for CIFAR-10 .*right --network"),
        ({"extra.weight": np.zeros(3)}, "found 1 others: extra.weight"),
        ({"fixed.bn9.weight": np.zeros(3, int)}, "found 1 others: fixed.bn9.weight .the nearest: fixed.bn1.weight"),
        ({"bn1.weight": np.zeros(17)}, r"'bn1.weight': expected 16 numbers, found float64 \[17\]"),
        ({"bn1.weight": np.zeros(16, complex)}, "expected 16 numbers, found complex128"),
        ({"bn1.weight": np.array(["x"] * 16)}, "expected 16 numbers, found <U1"),
        ({"bn1.weight": np.full(16, np.nan)}, "'bn1.weight': expected finite numbers"),
        ({"bn1.weight": np.full(16, np.inf, np.float32)}, "'bn1.weight': expected finite numbers"),
        ({"bn1.weight": np.full(16, 1e300)}, "'stem.bn': expected finite numbers below a million"),
        ({"conv1.weight": np.full((16, 96, 3, 3), np.nan)}, "'conv1.weight': expected finite numbers"),
        ({"conv1.weight": np.zeros((96, 16, 3, 3))}, r"'conv1.weight': expected shape \[16, 96, 3, 3\]"),
        ({"linear.weight": np.zeros((64, 10))}, r"'linear.weight': expected shape \[10, 64\], found \[64, 10\]"),
        ({"bn1.running_var": np.ones(16)}, "expected a parameter 'bn1.running_mean'"),
        ({"bn1.running_mean": np.ones(16)}, "found 1 others: bn1.running_mean"),
        ({"bn1.running_var": -np.ones(16), "bn1.running_mean": np.ones(16)}, "expected variances, found negative"),
        ({"bn1.running_var": np.zeros(16), "bn1.running_mean": np.full(16, 1e307)}, "below a million"),
        ({"conv1.weight": None, "packed.conv_weight_all": np.zeros(3)}, "table conv_weight_all: tile: expected"),
        ({"conv1.weight": None, "packed.conv_weight_all": np.zeros((45, 16, 3, 3))}, "table conv_weight_all"),
        ({"conv1.weight": None, "packed.conv_weight_all": np.zeros((0, 0, 0, 0), np.uint64)}, "conv_weight_all"),
    ],
)
def test_damaged_npz(changes: dict[str, np.ndarray | None], message: str, arrays: Arrays, tmp_path: Path):
    changed = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    with pytest.raises(SourceError, match=message) as caught:
        import_model([save(tmp_path / "m.npz", changed)], CIFAR10)
    assert str(tmp_path / "m.npz") in str(caught.value)


def test_npz_of_the_other_network(arrays: Arrays, tmp_path: Path):
    with pytest.raises(SourceError, match=r"expected a parameter 'model\.0\.0\.weight' for ImageNet.*right --network"):
        import_model([save(tmp_path / "m.npz", arrays)], IMAGENET)


def test_pickles_are_not_executed(arrays: Arrays, tmp_path: Path):
    trap = tmp_path / "executed"
    evil = np.array([Malicious(trap)], dtype=object)
    save(tmp_path / "evil.npz", {**arrays, "bn1.weight": evil})
    pickled = pickle.dumps(Malicious(trap))
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("bn1.weight.npy", pickled)
        archive.writestr("bn1.weight", pickled)
    (tmp_path / "bare.npz").write_bytes(pickled)
    for name in ("evil", "raw", "bare"):
        with pytest.raises(SourceError, match="plain"):
            import_model([tmp_path / f"{name}.npz"], CIFAR10)
    assert not trap.exists()
    np.load(tmp_path / "evil.npz", allow_pickle=True)["bn1.weight"]  # the trap does work
    assert trap.is_dir()


def archive_with(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not a zip after all",
        b"no zip at all",
        archive_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"),
        archive_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000,)}\n", bytes(100)),
        archive_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n", bytes(8)),
        archive_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}\n", bytes(8)),
        archive_with(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", pickle.dumps([1])),
        archive_with(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}\n", bytes(8)),
        archive_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}\n", bytes(9)),
        archive_with(b"{'descr': '<x9', 'fortran_order': False, 'shape': (1,)}\n", bytes(8)),
        archive_with(b"{'descr': '<f8', 'shape': (1,)}\n", bytes(8)),
        archive_with(b"__import__('os').mkdir('/nowhere')\n"),
        archive_with(b"(" * 5000),
        archive_with(b"\xff" * 50),
        archive_with(b"{}", version=b"\x02\x00"),
        archive_with(b"{}", version=b"\x09\x09"),
    ],
)
def test_files_that_are_no_npz(content: bytes, tmp_path: Path):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"m\.npz: .*expected .* found"):
        import_model([tmp_path / "m.npz"], CIFAR10)


def test_archives_that_unpack_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(archives, "MAX_ARCHIVE_SIZE", 1 << 20)
    np.savez_compressed(tmp_path / "m.npz", a=np.zeros(1 << 17), b=np.zeros(1))
    assert (tmp_path / "m.npz").stat().st_size < 10_000
    with pytest.raises(SourceError, match=r"expected at most 1048576 bytes of arrays, found 10488\d\d"):
        import_model([tmp_path / "m.npz"], CIFAR10)


def test_archives_that_lie_about_their_sizes_are_refused(tmp_path: Path):
    np.savez_compressed(tmp_path / "m.npz", a=np.zeros(1 << 17))
    content = (tmp_path / "m.npz").read_bytes()
    size = ((1 << 20) + 128).to_bytes(4, "little")
    assert size in content
    (tmp_path / "m.npz").write_bytes(content.replace(size, (200).to_bytes(4, "little")))
    with pytest.raises(SourceError, match="expected"):
        import_model([tmp_path / "m.npz"], CIFAR10)


def test_a_truncated_archive_is_refused(arrays: Arrays, tmp_path: Path):
    content = save(tmp_path / "m.npz", arrays).read_bytes()
    for length in (1, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        (tmp_path / "m.npz").write_bytes(content[:length])
        with pytest.raises(SourceError, match=r"m\.npz: expected an \.npz of plain arrays"):
            import_model([tmp_path / "m.npz"], CIFAR10)


@pytest.fixture(scope="module")
def archive_content(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("npz") / "m.npz"
    small = {name: array.astype(np.int8) if array.ndim == 4 else array for name, array in arrays.items()}
    np.savez_compressed(path, **small)  # type: ignore[arg-type]
    return path.read_bytes()


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_fuzz_of_npz(data: st.DataObject, archive_content: bytes, tmp_path_factory: pytest.TempPathFactory):
    damaged = bytearray(archive_content)
    for _ in range(data.draw(st.integers(1, 3))):
        tail = data.draw(st.booleans())  # the directory of a zip is at its end
        start = data.draw(st.integers(max(0, len(damaged) - 5000) if tail else 0, len(damaged)))
        damaged[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    path.write_bytes(bytes(damaged))
    try:
        found = import_model([path], CIFAR10)
    except SourceError as error:
        assert "fuzz.npz: " in str(error)
    else:
        assert found.network is CIFAR10


# PyTorch


def test_without_pytorch_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes "import torch" fail
    with pytest.raises(SourceError, match=r"m\.pt is a PyTorch file and PyTorch is not installed; install torch, or"):
        import_model([tmp_path / "m.pt"], CIFAR10)


def test_state_dicts(model: Model, arrays: Arrays, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    state["bn1.num_batches_tracked"] = torch.tensor(5)
    forms = {
        "plain": state,
        "wrapped": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / f"{name}.pth")
        assert equal(import_model([tmp_path / f"{name}.pth"], CIFAR10), model), name


def test_state_dict_of_raw_integers(model: Model, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    fixed = {name: np.rint(values * 65536).astype(np.int32) for name, values in one_dimensional(model).items()}
    state = {**convolutions(model), **{f"fixed.{name}": values for name, values in fixed.items()}}
    torch.save({n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in state.items()}, tmp_path / "m.pt")
    found = one_dimensional(import_model([tmp_path / "m.pt"], CIFAR10))
    assert all(np.array_equal(found[name] * 65536, values) for name, values in fixed.items())


def test_pytorch_files_that_are_refused(arrays: Arrays, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path, trap = tmp_path / "m.pt", tmp_path / "executed"
    state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    cases = {
        "plain tensors": Malicious(trap),
        "found Tensor": torch.zeros(3),
        "found list": [1, 2],
        "names to tensors": {"a": 3},
        "'bn1.weight': expected a plain tensor": {**state, "bn1.weight": torch.zeros(16).to_sparse()},
        "expected 16 numbers, found complex": {**state, "bn1.weight": torch.zeros(16, dtype=torch.complex64)},
        "expected finite numbers": {**state, "bn1.weight": torch.full((16,), float("nan"))},
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(SourceError, match=message):
            import_model([path], CIFAR10)
    assert not trap.exists()
    for data in (b"", b"text", pickle.dumps(Malicious(trap)), path.read_bytes()[:1000]):
        path.write_bytes(data)
        with pytest.raises(SourceError, match="expected a PyTorch file of plain tensors"):
            import_model([path], CIFAR10)
    assert not trap.exists()


# What is what


@pytest.mark.parametrize(
    ("names", "network"),
    [
        ([], CIFAR10),
        (["a.txt"], CIFAR10),
        (["a.h", "b.bin"], CIFAR10),
        (["a.h", "b.h"], IMAGENET),
        (["a.bin"] * 5, CIFAR10),
        (["a.npz", "b.npz"], CIFAR10),
        (["a.pt", "b.npz"], CIFAR10),
        (["a"], CIFAR10),
    ],
)
def test_sources_that_mean_nothing(names: list[str], network: Any):
    with pytest.raises(SourceError, match=r"expected the two \.h files .* found .*for " + network.name):
        import_model([Path(name) for name in names], network)


@pytest.mark.parametrize("name", ["m.npz", "m.pt"])
def test_sources_that_cannot_be_read(name: str, tmp_path: Path):
    if name == "m.pt":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(SourceError, match=f"cannot read .*{name}: No such file"):
        import_model([tmp_path / name], CIFAR10)
    (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match="expected a file, found a folder or a device"):
        import_model([tmp_path / name], CIFAR10)


def test_sizes_of_all_parameters(arrays: Arrays):
    assert parameter_sizes(CIFAR10) == {name: array.size for name, array in arrays.items()}
    weights = sum(size for name, size in parameter_sizes(IMAGENET).items() if name.endswith(".0.weight"))
    assert weights == (49_104 + 6_132) * 512


@pytest.mark.parametrize("network", [CIFAR10.with_classes(3), IMAGENET], ids=lambda network: network.name)
def test_a_model_is_made_again_from_its_named_parameters(network: Network):
    model = random_model(network, 5)
    again = build_model(network, named_parameters(model), model.classes, {})
    if network is IMAGENET:  # its fully connected layer is rounded, once
        model = replace(model, fc_weight=rounded_classifier(network, model.fc_weight))
    assert equal(again, model)
