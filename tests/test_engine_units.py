"""Benches of the engine's parts in Icarus Verilog: the popcount trees, the lane with and without DSP primitives."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_engine_lane import random_table

from fracbnn_pynq.engine.lane import LaneTable, lane, lane_table
from fracbnn_pynq.faithful import FusedLayer

HARDWARE = Path(__file__).resolve().parents[1] / "overlays" / "engine"
pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or not HARDWARE.is_dir(), reason="benches need iverilog and a checkout"
)


def simulate(folder: Path, top: str, *files: Path | str, defines: tuple[str, ...] = ()) -> str:
    """Last line a bench prints."""
    paths = [str(HARDWARE / file) for file in files]
    flags = [f"-D{name}" for name in defines]
    subprocess.run(
        ["iverilog", "-g2012", *flags, "-I", str(HARDWARE / "rtl"), "-s", top, "-o", "bench", *paths],
        cwd=folder,
        check=True,
    )
    done = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("defines", [(), ("ENGINE_FAST_POPCOUNT",)])
def test_popcount(tmp_path: Path, defines: tuple[str, ...]) -> None:
    """The compressor tree, and the form the fast simulation uses, against a count of the same bits."""
    assert (
        simulate(tmp_path, "popcount_bench", "sim/popcount_bench.sv", "rtl/popcount.sv", defines=defines) == "PASS 3000"
    )


def test_the_popcount_bench_can_fail(tmp_path: Path) -> None:
    text = (HARDWARE / "rtl" / "popcount.sv").read_text(encoding="utf-8")
    assert "g16[0], g4[1]" in text
    wrong = tmp_path / "popcount.sv"
    wrong.write_text(text.replace("g16[0], g4[1]", "g16[0], g4[0]"), encoding="utf-8")
    assert simulate(tmp_path, "popcount_bench", "sim/popcount_bench.sv", wrong).startswith("FAIL")


SWEEP = np.concatenate([np.arange(-345, -335), np.arange(-5, 6), np.arange(336, 348), np.arange(-32768, 32768, 977)])


def hexadecimal(value: int, bits: int) -> str:
    return f"{int(value) & ((1 << bits) - 1):x}"


def write_lane_vectors(path: Path, channels: int, elements: int) -> None:
    rng = np.random.default_rng(channels)
    lines = [f"{channels} {elements}"]
    for channel in range(channels):
        stem, codes, k = channel % 9 == 0, channel % 2 == 1, int(rng.choice([144, 288, 576, 1152, 4608, 9216]))
        fused = random_table(rng, codes=codes, channels=1, k=k)
        if channel % 9 == 4:  # z = M + r: every value around the activation's and the code's thresholds
            fused = sweep(fused)
        table = lane_table(fused, stem=stem)
        lines.append(" ".join([hexadecimal(stem, 1), hexadecimal(codes, 1), *coefficients(table)]))
        msb, lsb = (2 * rng.integers(-k // 2, k // 2 + 1, (elements, 1)) for _ in range(2))
        # Sums at the thresholds, and one below.
        msb[:2, 0] = np.clip(2 * table.gate_at[0] - [0, 2], -k, k)
        shortcut = rng.integers(0, 61, msb.shape) if codes else rng.integers(-32768, 32768, msb.shape)
        if channel % 9 == 4:
            msb, shortcut = msb * 0, (np.arange(elements)[:, None] - 5) % 400 if codes else SWEEP[:elements, None]
        z, code = lane(table, msb, lsb, shortcut, stem=stem, codes=codes)
        for values in zip(msb // 2, lsb // 2, shortcut, z, code, strict=True):
            lines.append(" ".join(hexadecimal(v[0], bits) for v, bits in zip(values, (14, 14, 16, 16, 4), strict=True)))
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def sweep(layer: FusedLayer) -> FusedLayer:
    one = np.ones_like(layer.gamma)
    return replace(
        layer,
        gate_at=20000 * one,
        knee=-20000 * one,
        alpha=np.stack([2048 * one] * 2),
        gamma=4096 * one,
        beta=np.stack([2048 * one] * 2),
        shift=12 * one,
    )


def coefficients(table: LaneTable) -> list[str]:
    values = (table.gate_at, table.knee, *table.alpha, table.gamma, *table.beta, table.shift > 12)
    widths = (14, 15, 27, 27, 27, 43, 43, 1)
    return [hexadecimal(value[0], bits) for value, bits in zip(values, widths, strict=True)]


@pytest.mark.parametrize("defines", [(), ("ENGINE_DSP_PRIMITIVES",)])
def test_lane(tmp_path: Path, defines: tuple[str, ...]) -> None:
    """Both forms of the multiply-adds, over channels that follow each other as passes do."""
    write_lane_vectors(tmp_path / "lane_vectors.txt", 200, 100)
    files = ["sim/lane_bench.sv", "rtl/lane.sv", "rtl/mac.sv"]
    if defines:
        files.append("sim/dsp48e2.v")
    assert simulate(tmp_path, "lane_bench", *files, defines=defines) == "PASS 20000"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("m >= gate_at", "m > gate_at"),
        ("s2 < knee_wide", "s2 <= knee_wide"),
        ("p[41:39] != {3{sign}}", "p[41:40] != {2{sign}}"),
        ("v >= 16'sd342", "v >= 16'sd343"),
        ("(|v[14:4])", "(|v[14:5])"),
    ],
)
def test_the_lane_bench_can_fail(tmp_path: Path, right: str, wrong: str) -> None:
    text = (HARDWARE / "rtl" / "lane.sv").read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "lane.sv").write_text(text.replace(right, wrong), encoding="utf-8")
    write_lane_vectors(tmp_path / "lane_vectors.txt", 200, 100)
    assert simulate(tmp_path, "lane_bench", "sim/lane_bench.sv", tmp_path / "lane.sv", "rtl/mac.sv").startswith("FAIL")


def test_every_source_elaborates_in_icarus(tmp_path: Path) -> None:
    files = sorted(path.relative_to(HARDWARE) for path in (HARDWARE / "rtl").glob("*.sv"))
    for pixels in (1, 2, 4):
        subprocess.run(
            ["iverilog", "-g2012", f"-Pengine.X={pixels}", "-I", "rtl", "-t", "null", "-s", "engine", *map(str, files)],
            cwd=HARDWARE,
            check=True,
        )
