"""Simulated overlays as files (what pynq makes of them: test_simulator_board)."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from fracbnn_pynq.errors import OverlayError
from fracbnn_pynq.simulator.handoff import PART, BitstreamTag, make_bit, read_bit, write_overlay


def registers(root: ET.Element) -> dict[str, int]:
    found = {}
    for register in root.iter("REGISTER"):
        values = {p.get("NAME"): p.get("VALUE") for p in register.findall("PROPERTY")}
        found[register.get("NAME")] = int(values["ADDRESS_OFFSET"])
    return found


def slaves(root: ET.Element) -> dict[str, tuple[int, int]]:
    return {
        r.get("INSTANCE"): (int(r.get("BASEVALUE"), 0), int(r.get("HIGHVALUE"), 0))
        for r in root.iter("MEMRANGE")
        if r.get("MEMTYPE") == "REGISTER"
    }


@pytest.mark.parametrize(("kind", "stem"), [("cifar10", "FracNet_T_0"), ("imagenet", "0503")])
def test_names_addresses_and_registers_are_those_of_the_published_overlays(tmp_path, shared, kind, stem):
    ours = ET.parse(write_overlay(tmp_path, kind).with_suffix(".hwh")).getroot()
    theirs = ET.parse(shared / "golden" / f"{stem}.hwh").getroot()
    info, their_info = ours.find("SYSTEMINFO"), theirs.find("SYSTEMINFO")
    for key in ("ARCH", "DEVICE", "PACKAGE", "SPEEDGRADE"):
        assert info.get(key) == their_info.get(key)
    core = next(m for m in ours.iter("MODULE") if ":hls:" in m.get("VLNV"))
    their_core = next(m for m in theirs.iter("MODULE") if ":hls:" in m.get("VLNV"))
    assert (core.get("INSTANCE"), core.get("VLNV")) == (their_core.get("INSTANCE"), their_core.get("VLNV"))
    assert registers(core) == registers(their_core)
    assert slaves(ours) == slaves(theirs)

    def masters(module):
        return [(r.get("MASTERBUSINTERFACE"), r.get("HIGHVALUE")) for r in module.iter("MEMRANGE")]

    assert masters(core) == masters(their_core)
    for name in ("DIVISOR0", "DIVISOR1", "SRCSEL"):
        path = f".//PARAMETER[@NAME='PSU__CRL_APB__PL0_REF_CTRL__{name}']"
        assert ours.find(path).get("VALUE") == theirs.find(path).get("VALUE")


def test_other_register_maps(tmp_path):
    def of(**options):
        return ET.parse(write_overlay(tmp_path, "cifar10", **options).with_suffix(".hwh")).getroot()

    renamed = registers(of(registers="renamed"))
    assert renamed["image_r"] == 0x10
    assert renamed["output_r"] == 0x1C
    assert [b.get("INTERFACE") for b in of(registers="split").iter("ADDRESSBLOCK")] == ["s_axi_CTRL", "s_axi_control"]


def test_the_bitstream_says_what_it_was_made_from(tmp_path):
    bit = write_overlay(
        tmp_path / "new", "cifar10", name="mine", model="cifar10", arithmetic="cifar10-2021", design_mhz=200.0
    )
    assert bit.name == "mine.bit"
    file = read_bit(bit.read_bytes())
    assert file.part == PART
    assert file.tag == BitstreamTag("cifar10", "cifar10", "cifar10-2021", 200.0)
    assert len(file.payload) % 4 == 0
    assert bit.stat().st_size < 1000


def test_a_real_bitstream_has_an_empty_tag():
    assert read_bit(make_bit()).tag == BitstreamTag()


@pytest.mark.parametrize(
    "damage", [lambda d: d[:10], lambda d: d[:-4], lambda d: d + b"x", lambda d: b"", lambda d: d[20:]]
)
def test_damaged_bitstreams_are_refused(damage):
    with pytest.raises(OverlayError, match="bitstream: expected"):
        read_bit(damage(make_bit(BitstreamTag())))


@pytest.mark.parametrize(
    ("kind", "options"), [("mnist", {}), ("cifar10", {"registers": "odd"}), ("imagenet", {"registers": "renamed"})]
)
def test_unknown_kinds_are_refused(tmp_path, kind, options):
    with pytest.raises(OverlayError, match="expected"):
        write_overlay(tmp_path, kind, **options)
