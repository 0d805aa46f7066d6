"""The resource report: what it counts, and the engine against its budgets."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[1] / "overlays" / "engine" / "report.py"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="the hardware's sources are not here: no checkout")


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_report", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(kind: str, output: int, *inputs: int) -> dict[str, Any]:
    ports = {f"I{index}": [bit] for index, bit in enumerate(inputs)}
    return {
        "type": kind,
        "connections": {**ports, "O": [output]},
        "port_directions": {**dict.fromkeys(ports, "input"), "O": "output"},
    }


def test_resources_are_counted(report: ModuleType) -> None:
    cells = Counter(
        {"LUT1": 1, "LUT6": 2, "RAM32M16": 1, "SRL16E": 3, "FDRE": 5, "DSP48E2": 1, "RAMB36E2": 2, "RAMB18E2": 1}
    )
    found = report.resources(cells)
    assert found == {"LUT": 14, "LUT as memory": 11, "FF": 5, "DSP": 1, "BRAM18": 5}


def test_depth_is_the_longest_chain_of_luts(report: ModuleType) -> None:
    chain = {
        "a": cell("LUT2", 10, 1, 2),
        "b": cell("INV", 11, 10),
        "c": cell("LUT3", 12, 11, 3),
        "f": cell("FDRE", 13, 12),
    }
    module = {"cells": chain, "ports": {"q": {"bits": [13]}, "d": {"bits": [1, 2, 3]}}}
    assert report.depth(module) == 2
    # A register ends the chain.
    chain["d"] = cell("LUT2", 14, 13, 12)
    module["ports"]["y"] = {"bits": [14]}
    assert report.depth(module) == 3
    chain["d"] = cell("LUT2", 14, 13, 13)
    assert report.depth(module) == 2


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("yosys") is None, reason="the report needs yosys")
def test_the_engine_is_within_its_budgets(report: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(2) == 0
    assert "over: none" in capsys.readouterr().out
