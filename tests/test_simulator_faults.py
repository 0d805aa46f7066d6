"""Naming faults and counting their occasions."""

from __future__ import annotations

import pytest

from fracbnn_pynq.cores import REACH
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.simulator.faults import Fault, FaultKind, FaultPlan


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hang", Fault(FaultKind.HANG)),
        (" hang@3 ", Fault(FaultKind.HANG, 3)),
        ("late@*:0.02", Fault(FaultKind.LATE, None, "0.02")),
        ("bus-error:0x1000-0x2000", Fault(FaultKind.BUS_ERROR, 1, "0x1000-0x2000")),
    ],
)
def test_names(text, fault):
    assert Fault.parse(text) == fault


@pytest.mark.parametrize("text", ["", "explode", "hang@x", "late:soon", "bus-error:7", "hang@1@2"])
def test_other_texts_are_refused_with_the_names(text):
    with pytest.raises(BackendError, match="overlay-replaced"):
        Fault.parse(text)


def test_values():
    assert Fault.parse("late").number(0.5) == 0.5
    assert Fault.parse("late:2").number(0.5) == 2
    assert Fault.parse("bus-error").range() == (0, REACH)
    assert Fault.parse("bus-error:0x1000-8192").range() == (0x1000, 0x2000)


def test_occasions_are_counted_apart():
    plan = FaultPlan(["hang@2", "cma-exhausted@2", "late@*"])
    late = {FaultKind.LATE}
    assert set(plan.next("run")) == late
    assert set(plan.next("allocation")) == set()
    assert set(plan.next("allocation")) == {FaultKind.CMA_EXHAUSTED}
    assert set(plan.next("run")) == late | {FaultKind.HANG}
    assert set(plan.next("run")) == late


def test_the_environment_adds_faults(monkeypatch):
    monkeypatch.setenv("FRACBNN_FAULTS", "wrong-part, hang@4,")
    plan = FaultPlan.from_environment([Fault(FaultKind.LATE)])
    assert [fault.kind for fault in plan.faults] == [FaultKind.LATE, FaultKind.WRONG_PART, FaultKind.HANG]
    monkeypatch.setenv("FRACBNN_FAULTS", "hung")
    with pytest.raises(BackendError):
        FaultPlan.from_environment()
