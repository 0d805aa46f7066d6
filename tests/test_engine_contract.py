"""The contract between software and hardware: registers, descriptors, and the files generated from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.engine import contract
from fracbnn_pynq.engine import descriptors as d
from fracbnn_pynq.engine import registers as r
from fracbnn_pynq.errors import ModelError

CHECKOUT = Path(__file__).resolve().parents[1]
HARDWARE = CHECKOUT / "overlays" / "engine"

needs_checkout = pytest.mark.skipif(not HARDWARE.is_dir(), reason="the hardware's sources are not here: no checkout")


@needs_checkout
def test_generated_files_are_current() -> None:
    assert (CHECKOUT / contract.HEADER_FILE).read_text(encoding="utf-8") == contract.verilog_header(), (
        "run python -m fracbnn_pynq.engine.contract ."
    )
    assert (CHECKOUT / contract.SCRIPT_FILE).read_text(encoding="utf-8") == contract.tcl_contract()
    text = (CHECKOUT / contract.DOCUMENT).read_text(encoding="utf-8")
    assert contract.document(text) == text, "run python -m fracbnn_pynq.engine.contract ."


@needs_checkout
def test_writing_brings_files_up_to_date(tmp_path: Path) -> None:
    for name in (contract.HEADER_FILE, contract.SCRIPT_FILE, contract.DOCUMENT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    document = tmp_path / contract.DOCUMENT
    current = document.read_text(encoding="utf-8")
    document.write_text(current.replace("| CTRL |", "| CONTROL |"), encoding="utf-8")
    (tmp_path / contract.HEADER_FILE).write_text("old", encoding="utf-8")
    (tmp_path / contract.SCRIPT_FILE).write_text("old", encoding="utf-8")
    contract.write(tmp_path)
    assert (tmp_path / contract.SCRIPT_FILE).read_text(encoding="utf-8") == contract.tcl_contract()
    assert document.read_text(encoding="utf-8") == current
    assert (tmp_path / contract.HEADER_FILE).read_text(encoding="utf-8") == contract.verilog_header()


def test_a_document_without_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="generated: registers"):
        contract.document("# nothing")


def test_registers_do_not_overlap() -> None:
    offsets = [register.offset for register in r.REGISTERS]
    assert len(set(offsets)) == len(offsets) == len(r.OFFSETS)
    assert all(offset % 4 == 0 and offset < 256 for offset in offsets)


def test_ap_ctrl_hs_has_its_usual_place() -> None:
    assert [r.OFFSETS[name] for name in ("CTRL", "GIER", "IP_IER", "IP_ISR")] == [0, 4, 8, 12]


def test_fields_are_the_descriptors_attributes_and_do_not_overlap() -> None:
    assert {field.name for field in dataclasses.fields(d.Descriptor)} == {field.name for field in d.FIELDS}
    taken = np.zeros(32 * d.WORDS, int)
    for field in d.FIELDS:
        assert field.low + field.width <= 32
        taken[32 * field.word + field.low : 32 * field.word + field.low + field.width] += 1
    assert taken.max() == 1
    assert len(d.HEADER) == d.HEADER_WORDS


@st.composite
def any_descriptor(draw: st.DrawFn) -> d.Descriptor:
    values = {field.name: draw(st.integers(0, (1 << field.width) - 1)) for field in d.FIELDS}
    return d.Descriptor(**{**values, "check": d.CHECK})


@given(any_descriptor())
def test_descriptors_survive_packing(descriptor: d.Descriptor) -> None:
    assert d.unpack(descriptor.pack()) == descriptor


def test_a_field_that_does_not_fit_is_named() -> None:
    descriptor = d.Descriptor(kind=1, steps=128, slices=1, passes=1, groups=1, rows=1, last_pixels=1)
    with pytest.raises(ModelError, match="'steps': expected 0 to 127, found 128"):
        descriptor.pack()


def test_words_that_are_no_descriptor_are_refused() -> None:
    words = d.Descriptor(kind=1, steps=1, slices=1, passes=1, groups=1, rows=1, last_pixels=1).pack()
    with pytest.raises(ModelError, match="check byte 0xd5, found 0x0"):
        d.unpack(np.zeros(d.WORDS, "<u4"))
    words[12] = 1
    with pytest.raises(ModelError, match="outside its fields"):
        d.unpack(words)
