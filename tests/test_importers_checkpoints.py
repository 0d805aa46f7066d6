"""Checkpoints as people have them: every prefix, wrapper and ending gives the same model, and nothing is executed."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from traps import Malicious

from fracbnn_pynq.errors import SourceError
from fracbnn_pynq.importers import archives, import_model
from fracbnn_pynq.importers.archives import is_model_file, read_parameters
from fracbnn_pynq.importers.names import canonical_names
from fracbnn_pynq.importers.parameters import known_names, named_parameters
from fracbnn_pynq.model import Model, random_model
from fracbnn_pynq.modelfile import save_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Model:
    found = random_model(CIFAR10, seed=3)
    # Numbers that float16 and bfloat16 hold, so that every form of a file gives back the same.
    layers = found.layers.items()
    rounded = {name: dataclasses.replace(layer, parameters=coarse(layer.parameters)) for name, layer in layers}
    return dataclasses.replace(
        found,
        stem_bn=coarse(found.stem_bn),
        layers=rounded,
        fc_weight=coarse(found.fc_weight),
        fc_bias=coarse(found.fc_bias),
    )


def coarse(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.where(exponent < -5, 0, np.ldexp(np.rint(mantissa * 128) / 128, exponent))


@pytest.fixture(scope="module")
def arrays(model: Model) -> Arrays:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in named_parameters(model).items()}


def equal(one: Model, other: Model) -> bool:
    return all(np.array_equal(one.tensors()[name], tensor) for name, tensor in other.tensors().items())


# Names


PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "network.", "student.")


@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
@settings(max_examples=examples(30), deadline=None)
@given(prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4))
def test_prefixes_in_any_combination(network: Network, prefixes: list[str]):
    """Also ImageNet's, whose own names begin with ``model.``."""
    known = known_names(network)
    given = {"".join(prefixes) + name: name for name in known if not name.startswith("fixed.")}
    found, ignored = canonical_names(given, known)
    assert ignored == []
    assert all(name == origin for name, origin in found.items())
    assert len(found) == len(given)


def test_prefixes_in_the_middle():
    given = {"layer1._orig_mod.0.module.conv1.weight": 1, "layer1.0.bn1.module.running_mean": 2, "model.bn1.weight": 3}
    found, _ = canonical_names(given, known_names(CIFAR10))
    assert found == {"layer1.0.conv1.weight": 1, "layer1.0.bn1.running_mean": 2, "bn1.weight": 3}


def test_two_with_one_name():
    with pytest.raises(SourceError, match=r"found 'bn1\.bias' and 'module\.bn1\.bias', both of which are 'bn1\.bias'"):
        canonical_names({"bn1.bias": 1, "module.bn1.bias": 2}, known_names(CIFAR10))


def test_averaged_weights_beside_others_and_alone():
    known = known_names(CIFAR10)
    both = {"model.bn1.bias": 1, "ema.module.bn1.bias": 2, "n_averaged": 3, "bn1.num_batches_tracked": 4}
    assert canonical_names(both, known) == ({"bn1.bias": 1}, ["ema.module.bn1.bias", "n_averaged"])
    assert canonical_names({"ema.module.bn1.bias": 2}, known) == ({"bn1.bias": 2}, [])


@settings(max_examples=examples(100), deadline=None)
@given(st.dictionaries(st.text(alphabet="model.ntemaconv1wigh0", max_size=40), st.integers(), max_size=8))
def test_any_names(names: dict[str, int]):
    try:
        found, ignored = canonical_names(names, known_names(CIFAR10))
    except SourceError:
        return
    assert set(found.values()) <= set(names.values())
    assert set(ignored) <= set(names)


# Files


class Config:
    """A class that is nowhere to be found when the file is read."""

    def __init__(self) -> None:
        self.rate = 0.1


class Attributes(dict):  # type: ignore[type-arg]
    """As EasyDict and the like."""


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "plain": lambda t, s: s,
    "ordered": lambda t, s: collections.OrderedDict(s),
    "prefixes": lambda t, s: {f"module._orig_mod.{name}": tensor for name, tensor in s.items()},
    "state_dict": lambda t, s: {"state_dict": s, "epoch": 3, "best_acc": 88.0},
    "model_state_dict": lambda t, s: {"model_state_dict": s, "epoch": 1, "loss": t.tensor(1.0)},
    "model and optimizer": lambda t, s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "net": lambda t, s: {"net": s, "acc": 88.0},
    "ema": lambda t, s: {"ema": s},
    "model and ema": lambda t, s: {"model": s, "model_ema": {name: tensor * 2 for name, tensor in s.items()}},
    "wrapped twice": lambda t, s: {"model": {"state_dict": {f"net.{name}": tensor for name, tensor in s.items()}}},
    "averaged model": lambda t, s: {"n_averaged": t.tensor(5), **{f"module.{k}": v for k, v in s.items()}},
    "FLOP counters": lambda t, s: {**s, "total_ops": t.zeros(1), "layer1.total_params": t.zeros(1)},
    "numpy scalar": lambda t, s: {"state_dict": s, "best_acc": np.float64(88.0)},
    "numpy array": lambda t, s: {"state_dict": s, "curve": np.arange(3.0)},
    "Namespace": lambda t, s: {"state_dict": s, "args": argparse.Namespace(rate=1, path=Path("x"))},
    "another class": lambda t, s: {"state_dict": s, "config": Config()},
    "beside tensors": lambda t, s: {**s, "epoch": 3, "args": argparse.Namespace(rate=1)},
    "half": lambda t, s: {name: tensor.half() for name, tensor in s.items()},
    "bfloat16": lambda t, s: {name: tensor.bfloat16() for name, tensor in s.items()},
    "parameters": lambda t, s: {name: t.nn.Parameter(tensor) for name, tensor in s.items()},
}
IGNORED = {
    "state_dict": "epoch, best_acc",
    "model_state_dict": "epoch, loss",
    "model and optimizer": "optimizer",
    "net": "acc",
    "model and ema": "model_ema",
    "averaged model": "n_averaged",
    "FLOP counters": "total_ops, layer1.total_params",
    "numpy scalar": "best_acc",
    "numpy array": "curve",
    "Namespace": "args",
    "another class": "config",
    "beside tensors": "epoch, args",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(
    form: str, torch: Any, model: Model, arrays: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(FORMS[form](torch, state), tmp_path / "m.pt")
    assert equal(import_model([tmp_path / "m.pt"], CIFAR10), model)
    line = f"{tmp_path / 'm.pt'}: ignored beside the parameters: {IGNORED.get(form)}"
    assert caplog.messages == ([line] if form in IGNORED else [])


@pytest.mark.parametrize("ending", [".pt", ".pth", ".PTH", ".pth.tar", ".ckpt", ".bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_endings(ending: str, legacy: bool, torch: Any, model: Model, arrays: Arrays, tmp_path: Path):
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save({"state_dict": state}, tmp_path / f"m{ending}", _use_new_zipfile_serialization=not legacy)
    assert equal(import_model([tmp_path / f"m{ending}"], CIFAR10), model)


def test_one_bin_is_a_checkpoint_for_imagenet_too(torch: Any, tmp_path: Path):
    given = random_model(IMAGENET)
    state = {name: torch.from_numpy(np.array(array)) for name, array in named_parameters(given).items()}
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "m.bin")
    assert np.array_equal(import_model([tmp_path / "m.bin"], IMAGENET).stem_weight, given.stem_weight)


def test_safetensors(model: Model, arrays: Arrays, tmp_path: Path):
    path = tmp_path / "m.safetensors"
    for prefix, kind in (("", np.float32), ("module.", np.float64), ("net.", np.float16)):
        path.write_bytes(save({prefix + name: array.astype(kind) for name, array in arrays.items()}))
        assert equal(import_model([path], CIFAR10), model)
        assert not is_model_file(path)


def test_safetensors_in_bfloat16(model: Model, arrays: Arrays, tmp_path: Path):
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    data = save(halves)
    size = int.from_bytes(data[:8], "little")
    header = {name: {**facts, "dtype": "BF16"} for name, facts in json.loads(data[8 : 8 + size]).items()}
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    assert equal(import_model([tmp_path / "m.safetensors"], CIFAR10), model)


def test_a_model_file_needs_no_import(model: Model, tmp_path: Path):
    save_model(model, tmp_path / "m.safetensors")
    assert is_model_file(tmp_path / "m.safetensors")
    with pytest.raises(SourceError, match="expected parameters to import, found a model file; give it to --model"):
        import_model([tmp_path / "m.safetensors"], CIFAR10)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, bytes(100), bytes(7) + b"\x80", b"\2" + bytes(7) + b"{}"])
def test_damaged_safetensors(content: bytes, tmp_path: Path):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match=r"m\.safetensors: expected"):
        import_model([tmp_path / "m.safetensors"], CIFAR10)


def test_npz_with_prefixes(model: Model, arrays: Arrays, tmp_path: Path):
    np.savez(tmp_path / "m.npz", **{f"module.{name}": array for name, array in arrays.items()})
    assert equal(import_model([tmp_path / "m.npz"], CIFAR10), model)


# Errors


def test_what_is_missing_is_named_with_its_like(arrays: Arrays, tmp_path: Path):
    changed = {name.replace("rprelu1", "rprelu_1"): array for name, array in arrays.items()}
    np.savez(tmp_path / "m.npz", **changed)
    with pytest.raises(
        SourceError,
        match=r"expected a parameter 'layer1\.0\.rprelu1\.shift_x\.bias' .* found none \(the nearest: "
        r"layer1\.0\.rprelu_1\.shift_x\.bias.*\); there are \d+: conv1\.weight, bn1\.weight,.*; is this the right",
    ):
        import_model([tmp_path / "m.npz"], CIFAR10)


def test_what_is_too_much_is_named_with_its_like(arrays: Arrays, tmp_path: Path):
    np.savez(tmp_path / "m.npz", **arrays, **{"layer1.0.bn5.weight": np.ones(16)})
    with pytest.raises(SourceError, match=r"found 1 others: layer1\.0\.bn5\.weight \(the nearest: layer1\.0\.bn\d\.w"):
        import_model([tmp_path / "m.npz"], CIFAR10)


def test_a_whole_pickled_model(torch: Any, tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"found a whole object of class Linear; save model\.state_dict\(\)"):
        import_model([tmp_path / "m.pt"], CIFAR10)


def test_an_object_that_cannot_be_left_out(torch: Any, tmp_path: Path):
    torch.save({"state_dict": {}, "config": Attributes(a=1)}, tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"m\.pt: expected a PyTorch file of plain .*; where it was written"):
        import_model([tmp_path / "m.pt"], CIFAR10)


def test_values_that_are_no_tensors(torch: Any, arrays: Arrays, tmp_path: Path):
    torch.save(arrays, tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"expected a state_dict .* found none among: conv1\.weight, bn1\.weight"):
        import_model([tmp_path / "m.pt"], CIFAR10)


def test_every_error_is_one_line(torch: Any, tmp_path: Path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"a": Config()}))
    with pytest.raises(SourceError) as caught:
        import_model([tmp_path / "m.pt"], CIFAR10)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


class Calling:
    def __init__(self, name: str, *arguments: object) -> None:
        self.name, self.arguments = name, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        import importlib

        module, _, name = self.name.rpartition(".")
        return getattr(importlib.import_module(module), name), self.arguments


def test_nothing_is_executed(torch: Any, arrays: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trap, path = tmp_path / "executed", tmp_path / "m.pt"
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for evil in (
        Malicious(trap),
        Calling("os.system", f"mkdir {trap}"),
        Calling("subprocess.call", ["mkdir", str(trap)]),
        Calling("builtins.exec", f"import os; os.mkdir({str(trap)!r})"),
        Calling("builtins.eval", f"__import__('os').mkdir({str(trap)!r})"),
    ):
        for content in (evil, {"state_dict": state, "args": evil}, {**state, "x": [evil]}):
            torch.save(content, path)
            with pytest.raises(
                SourceError, match=r"m\.pt: expected a PyTorch file of plain tensors, found one that asks for"
            ):
                import_model([path], CIFAR10)
    # Other names are not refused, but nothing of theirs is made or called either.
    torch.save({"state_dict": state, "args": Calling("tempfile.mkdtemp", "", "", str(tmp_path))}, path)
    import_model([path], CIFAR10)
    assert list(tmp_path.iterdir()) == [path]


def test_views_larger_than_their_file(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"bn1.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "m.pt")
    with pytest.raises(SourceError, match=r"expected at most .* bytes of parameters as float64, found more"):
        read_parameters(tmp_path / "m.pt", CIFAR10)
    monkeypatch.setattr(archives, "MAX_ARCHIVE_SIZE", 100_000)
    shared = torch.zeros(10_000)
    torch.save({f"x{index}": shared for index in range(100)}, tmp_path / "m.pt")
    with pytest.raises(SourceError, match="found more"):
        read_parameters(tmp_path / "m.pt", CIFAR10)


def test_files_that_unpack_to_too_much(torch: Any, tmp_path: Path):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    with zipfile.ZipFile(stream) as one, zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as two:
        for name in one.namelist():
            two.writestr(name, bytes(300 << 20) if name.endswith("data/0") else one.read(name))
    assert (tmp_path / "m.pt").stat().st_size < 1 << 20
    with pytest.raises(SourceError, match="expected at most 268435456 bytes of tensors, found 3"):
        import_model([tmp_path / "m.pt"], CIFAR10)


@pytest.fixture(scope="module")
def content(torch: Any) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"bn1.bias": torch.zeros(4)}, "args": argparse.Namespace(a=1)}, stream)
    return stream.getvalue()


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_fuzz_of_checkpoints(data: st.DataObject, content: bytes, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "fuzz.pt"
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        changed[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    path.write_bytes(bytes(changed))
    logging.disable(logging.WARNING)
    try:
        read_parameters(path, CIFAR10)
    except SourceError as error:
        assert "\n" not in str(error)
    finally:
        logging.disable(logging.NOTSET)
