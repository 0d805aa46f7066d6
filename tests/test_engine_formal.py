"""Bounded proofs of the engine's AXI masters and register file, and that they can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HARDWARE = Path(__file__).resolve().parents[1] / "overlays" / "engine"
needs_tools = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("yosys", "yosys-smtbmc", "z3")) or not HARDWARE.is_dir(),
    reason="proofs need yosys, yosys-smtbmc, z3 and a checkout",
)
pytestmark = [needs_tools, pytest.mark.timeout(1200)]


def prove(depth: int, part: str, rtl: Path = HARDWARE / "rtl") -> subprocess.CompletedProcess[str]:
    command = [str(HARDWARE / "formal" / "run.sh"), str(depth), part]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "RTL": str(rtl)})


DEPTHS = {"axi_reader": 10, "axi_writer": 14, "registers": 8}
"""Cycles after reset: enough for a whole burst of each."""


@pytest.mark.parametrize("part", DEPTHS)
def test_properties_hold(part: str) -> None:
    done = prove(DEPTHS[part], part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


FAULTS = [
    ("axi_reader", "9'd256 - {1'b0, at[11:4]}", "9'd257 - {1'b0, at[11:4]}"),
    ("axi_reader", "room1 >= {1'b0, want1}", "room1 != 6'd0"),
    ("axi_reader", "if (asked) begin\n          m_axi_arvalid <= 1'b0;", "begin\n          m_axi_arvalid <= 1'b0;"),
    ("axi_reader", "valid1 <= m_axi_rvalid && order[0]", "valid1 <= m_axi_rvalid && !order[0]"),
    ("axi_writer", "assign m_axi_wlast = part == 2'd3", "assign m_axi_wlast = part == 2'd2"),
    ("axi_writer", "if (m_axi_awvalid && m_axi_awready)", "if (m_axi_awvalid)"),
    ("registers", "start <= data[0] && !busy && !start", "start <= data[0]"),
    ("registers", "if (!busy && !start)\n            case", "if (!start)\n            case"),
    ("registers", "wire read = s_axi_arvalid && !s_axi_rvalid", "wire read = s_axi_arvalid"),
]


@pytest.mark.parametrize(("part", "right", "wrong"), FAULTS)
def test_a_fault_is_found(tmp_path: Path, part: str, right: str, wrong: str) -> None:
    shutil.copytree(HARDWARE / "rtl", tmp_path / "rtl")
    file = tmp_path / "rtl" / f"{part}.sv"
    text = file.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    done = prove(DEPTHS[part], part, tmp_path / "rtl")
    assert done.returncode != 0, done.stdout
    assert "FAILED" in done.stdout, done.stdout + done.stderr
