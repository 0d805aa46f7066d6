"""Hand-written faults in the hardware, each of which the comparison with the reference engine must find.

The faults of lane, popcount, AXI masters and registers are in test_engine_units.py and test_engine_formal.py. Every
fault here costs a build of the simulated engine, so that the whole file takes a quarter of an hour and more.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from test_engine_rtl import SMALL

from fracbnn_pynq.backends.reference import ReferenceBackend
from fracbnn_pynq.engine import compile_model
from fracbnn_pynq.engine_simulation import SimulatedEngine, run_pictures
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10, IMAGENET

HARDWARE = Path(__file__).resolve().parents[1] / "overlays" / "engine"
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("verilator") is None or shutil.which("g++") is None or not HARDWARE.is_dir(),
        reason="the simulated engine needs verilator, g++ and a checkout",
    ),
]

FAULTS = [
    ("sequencer", "wire last_row = row + 8'd1 == f_rows", "wire last_row = row + 8'd2 == f_rows"),
    ("sequencer", "(is_stem ? flush == 2'd2", "(is_stem ? flush == 2'd1"),
    ("sequencer", "row_class <= pads_now[3] ? 2'd0", "row_class <= pads_now[3] ? 2'd1"),
    ("sequencer", "if (is_one || bank_next[2]) s_row", "if (is_one) s_row"),
    ("sequencer", "sc_slice + 7'd1 == d[`D_SC_SLICES] ? 7'd0", "sc_slice == d[`D_SC_SLICES] ? 7'd0"),
    ("addresses", "next_row = r[1:0] < bank2", "next_row = r[1:0] <= bank2"),
    ("addresses", "(stride2 && sc_part[1])", "(stride2 && sc_part[0])"),
    ("window", "gx + gc == 0 && left_6", "gx + gc == 1 && left_6"),
    ("window", "if (keep_7) ram[slice_7] <= bits[gr][NC-1]", "if (keep_7) ram[slice_7] <= bits[gr][NC-2]"),
    ("window", "q[3] ? (q[2] & (q[1] | q[0]))", "q[3] ? (q[2] & q[1])"),
    ("stem_window", "level[5] ? 5'd16 : level[4]", "level[5] ? 5'd15 : level[4]"),
    ("stem_window", "planes[k] <= count > k[4:0]", "planes[k] <= count >= k[4:0]"),
    ("element", "sc_mean ? 18'sd2 : 18'sd0", "sc_mean ? 18'sd1 : 18'sd0"),
    ("header", "delay #(.N(5)) u_multiply", "delay #(.N(9)) u_multiply"),
    ("header", "delay #(.N(4)) u_compare", "delay #(.N(7)) u_compare"),
    ("writeback", "moved[2:0] | dst_phase", "moved[2:0]"),
    ("sums", "left <= pixels", "left <= X"),
    ("picture_loader", "v[2:0] == 3'd4 && v[3]", "v[2:0] == 3'd4"),
    ("picture_loader", "bytes[i*24+16+:8]", "bytes[i*24+8+:8]"),
    ("elements", "right_l <= right10 && (stem10 ? x == X - 1", "right_l <= right10 && (stem10 ? x == 0"),
]


@cache
def cases() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, pictures and the sums they must give: of CIFAR-10, of a small network, of ImageNet's beginning."""
    found = []
    for network in (CIFAR10, SMALL, replace(IMAGENET, layers=IMAGENET.layers[:4])):
        model = random_model(network, 11)
        size = network.image_size
        pictures = np.random.default_rng(11).integers(0, 256, (1 if size > 56 else 3, size, size, 3), dtype=np.uint8)
        _, traces = ReferenceBackend(model).logits(pictures, layers=True)
        found.append((compile_model(model, pixels=2), pictures, traces[-1].output.sum(axis=(1, 2))))
    return found


def differs() -> bool:
    """Whether the simulated engine, as FRACBNN_ENGINE_SOURCES has it, is not the reference's equal."""
    for image, pictures, sums in cases():
        with SimulatedEngine(2, latency=30, stall=40, seed=5) as engine:
            try:
                found = run_pictures(engine, image, pictures, sums.shape[1], limit=1_000_000)
            except BackendError:
                return True
        if not np.array_equal(found, sums):
            return True
    return False


@pytest.mark.parametrize(("module", "right", "wrong"), FAULTS)
def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, right: str, wrong: str) -> None:
    sources = tmp_path / "engine"
    shutil.copytree(HARDWARE, sources)
    file = sources / "rtl" / f"{module}.sv"
    text = file.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    monkeypatch.setenv("FRACBNN_ENGINE_SOURCES", str(sources))
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    assert differs()


def test_without_a_fault_nothing_differs() -> None:
    assert not differs()
