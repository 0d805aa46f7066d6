"""The precision that a device is fast in, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fracbnn_pynq.errors import SourceError  # noqa: E402
from fracbnn_pynq.training import devices  # noqa: E402
from fracbnn_pynq.training.devices import choose_precision, describe_device  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "precision", "name"),
    [
        ("model name\t: A Laptop\nflags\t\t: fpu avx2 avx512f avx512bw\n", "float32", "A Laptop"),
        ("model name\t: A Server\nflags\t\t: fpu avx512f avx512_bf16\n", "bfloat16", "A Server"),
        ("model name\t: Another\nflags\t\t: avx512f amx_bf16\n\nflags\t: none\n", "bfloat16", "Another"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bfloat16", "processor"),
        ("processor\t: 0\nFeatures\t: fp asimd\nbf16\n", "float32", "processor"),
        ("", "float32", "processor"),
        (None, "float32", "processor"),
    ],
)
def test_the_precision_follows_the_processor(
    text: str | None, precision: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(devices, "_CPUINFO", path)
    assert choose_precision(CPU) == precision
    assert name in describe_device(CPU)


def test_a_wish_is_followed_or_refused():
    assert [choose_precision(CPU, name) for name in ("bfloat16", "float32")] == ["bfloat16", "float32"]
    with pytest.raises(SourceError, match="precision: expected one of bfloat16, float32, found 'float16'"):
        choose_precision(CPU, "float16")


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_a_gpu_by_its_name(capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"A GPU, number {device.index}")
    assert choose_precision(torch.device("cuda:1")) == precision
    assert describe_device(torch.device("cuda:1")) == "A GPU, number 1"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_counted(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert describe_device(CPU).endswith((", 1 thread", ", 2 threads")[threads - 1])


def test_compiling_pays_in_long_runs_only(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    cpu = torch.device("cpu")
    assert not devices.pays_to_compile(cpu, 30.0, 1)
    assert not devices.pays_to_compile(cpu, 1200.0, 3)
    assert devices.pays_to_compile(cpu, 1200.0, 1)
    assert devices.pays_to_compile(cpu, 7200.0, 3)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert not devices.pays_to_compile(cpu, 7200.0, 1)
