"""What must fit before a start: files, board, clock, memory, model; none of it needs pynq."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from fracbnn_pynq.cores import CIFAR10_CORE, ULTRA96V2
from fracbnn_pynq.doctor import checks, environment, handoff, preflight
from fracbnn_pynq.doctor.checks import Check, raise_for_errors
from fracbnn_pynq.doctor.engine import bitstream_checks, simulation_checks
from fracbnn_pynq.doctor.environment import Machine
from fracbnn_pynq.doctor.files import check_before_start
from fracbnn_pynq.doctor.preflight import (
    check_clock,
    check_pairing,
    contiguous_bytes,
    full_report,
    overlay_checks,
    ready,
    state_checks,
)
from fracbnn_pynq.errors import OverlayError
from fracbnn_pynq.extras import install_line
from fracbnn_pynq.networks import CIFAR10, IMAGENET
from fracbnn_pynq.published import fetch
from fracbnn_pynq.published.catalog import CIFAR10_OVERLAY, IMAGENET_OVERLAY, PublishedFile
from fracbnn_pynq.simulator.handoff import PART, make_bit, write_overlay

CIFAR10_MODEL = SimpleNamespace(network=CIFAR10, arithmetic=None)
IMAGENET_MODEL = SimpleNamespace(network=IMAGENET, arithmetic=None)
CALIBRATED_MODEL = SimpleNamespace(network=IMAGENET, arithmetic="imagenet-2021")

MEMINFO = "MemTotal:        2035000 kB\nCmaTotal:         262144 kB\nCmaFree:          {free} kB\n"


def by_name(found):
    return {check.name: check for check in found}


def errors(found):
    return [check.name for check in found if check.status == "error"]


@pytest.fixture
def board(tmp_path):
    """A machine that looks like an Ultra96-V2 under Avnet's PYNQ image."""
    root = tmp_path / "board"
    for folder in ("sys/class/fpga_manager/fpga0", "dev/dri", "proc/device-tree"):
        (root / folder).mkdir(parents=True)
    (root / "dev/dri/renderD128").touch()
    (root / "proc/device-tree/model").write_bytes(b"Avnet Ultra96-V2 Rev1\0")
    (root / "proc/meminfo").write_text(MEMINFO.format(free=200_000))
    for name in ("xclbinutil", "xbutil"):
        program(root / "usr/bin" / name)
    (root / "usr/lib").mkdir()
    (root / "usr/lib/libxrt_core.so").touch()
    environ = {"BOARD": "Ultra96", "XILINX_XRT": "/usr", "PATH": str(root / "usr/bin")}
    return Machine(root=root, environ=environ, architecture="aarch64", user=0)


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o755)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Both published overlays "fetched": files of the simulator, and a catalogue that names those."""
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))
    overlays = []
    for overlay in (CIFAR10_OVERLAY, IMAGENET_OVERLAY):
        bit = write_overlay(tmp_path / "cache" / overlay.name, overlay.network)
        files = []
        for role, path in (("bitstream", bit), ("handoff", bit.with_suffix(".hwh"))):
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            files.append(PublishedFile(role=role, path=path.name, git_blob=blob))
        overlays.append(dataclasses.replace(overlay, files=tuple(files)))
    monkeypatch.setattr(preflight, "OVERLAYS", tuple(overlays))
    monkeypatch.setattr(preflight, "get_overlay", lambda name: next(o for o in overlays if o.network == name))
    return overlays


@pytest.fixture
def real(published, board, pynq_301, monkeypatch):
    """The board with everything in place, as this process sees it."""
    monkeypatch.setattr(preflight, "Machine", lambda: board)
    return board


@pytest.fixture
def pynq_301(monkeypatch):
    with_pynq(monkeypatch, "3.0.1")


def with_pynq(monkeypatch, version):
    monkeypatch.setattr(preflight, "pynq_installed", lambda: True)
    monkeypatch.setattr(environment, "pynq_installed", lambda: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(np, "__version__", "1.26.4")


# Hand-off files and bitstreams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "overlay", "mhz", "base", "masters"),
    [
        ("FracNet_T_0", CIFAR10_OVERLAY, 250.0, 0xA001_0000, ["m_axi_IMG", "m_axi_RESULT"]),
        ("0503", IMAGENET_OVERLAY, 249.997498, 0xA000_0000, ["m_axi_BUS32", "m_axi_BUS512", "m_axi_DDR512"]),
    ],
)
def test_the_published_hand_off_files(shared, stem, overlay, mhz, base, masters):
    design = handoff.read_handoff(shared / "golden" / f"{stem}.hwh")
    assert (design.part, design.tool, design.clock_mhz) == ("xczu3eg-sbva484", "2019.2.1", mhz)
    core = design.module(overlay.vlnv)
    assert (core.instance, core.base) == (overlay.core.instance, base)
    assert [(m.name, m.low, m.high, m.address_bits) for m in core.masters] == [
        (name, 0, 0x7FFF_FFFF, 32) for name in masters
    ]


@pytest.mark.parametrize("stem", ["FracNet_T_0", "0503"])
def test_the_published_hand_off_files_pass(shared, tmp_path, stem):
    hwh = shutil.copy(shared / "golden" / f"{stem}.hwh", tmp_path)
    bit = tmp_path / f"{stem}.bit"
    bit.write_bytes(make_bit())
    found = check_before_start(bit, tmp_path / hwh, board_part=PART)
    assert {check.status for check in found} == {"ok"}, found
    assert errors(check_before_start(bit, tmp_path / hwh, board_part="xczu5eg-sfvc784")) == ["part"]


@pytest.mark.parametrize(
    "attack",
    [
        '<!DOCTYPE EDKSYSTEM [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><EDKSYSTEM>&b;</EDKSYSTEM>',
        '<!DOCTYPE EDKSYSTEM SYSTEM "file:///etc/passwd"><EDKSYSTEM/>',
        "<!DOCTYPE EDKSYSTEM><EDKSYSTEM/>",
    ],
)
def test_document_types_and_entities_are_refused(tmp_path, attack):
    path = tmp_path / "a.hwh"
    path.write_text(attack)
    with pytest.raises(OverlayError, match="document type"):
        handoff.read_handoff(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff",
        b"<EDKSYSTEM>",
        b"<EDKSYSTEM/>",
        b"<EDKSYSTEM><SYSTEMINFO/><MODULES><MODULE INSTANCE='a'/></MODULES></EDKSYSTEM>",
        b"<EDKSYSTEM><SYSTEMINFO DEVICE='a' PACKAGE='b'/><MODULE/></EDKSYSTEM>",
        b"<E><SYSTEMINFO DEVICE='a' PACKAGE='b'/><MODULE INSTANCE='a'>"
        b"<MEMRANGE MEMTYPE='MEMORY' MASTERBUSINTERFACE='m' BASEVALUE='x' HIGHVALUE='0'/></MODULE></E>",
    ],
)
def test_what_is_no_hand_off_file_is_refused(tmp_path, content):
    path = tmp_path / "a.hwh"
    path.write_bytes(content)
    with pytest.raises(OverlayError, match="expected a hardware hand-off file"):
        handoff.read_handoff(path)


def test_files_that_are_missing_or_too_large_are_refused(tmp_path, monkeypatch):
    with pytest.raises(OverlayError, match="No such file"):
        handoff.read_handoff(tmp_path / "none.hwh")
    with pytest.raises(OverlayError, match="No such file"):
        handoff.read_bit_header(tmp_path / "none.bit")
    monkeypatch.setattr(handoff, "_LARGEST_HANDOFF", 10)
    path = write_overlay(tmp_path, "cifar10").with_suffix(".hwh")
    with pytest.raises(OverlayError, match="at most"):
        handoff.read_handoff(path)


@settings(max_examples=examples(100))
@given(st.data())
def test_fuzz_of_bitstream_headers_raises_only_overlay_errors(tmp_path_factory, data):
    good = make_bit()
    start = data.draw(st.integers(0, len(good)))
    damage = data.draw(st.binary(max_size=6))
    path = tmp_path_factory.mktemp("bit") / "a.bit"
    path.write_bytes(good[:start] + damage + good[start + data.draw(st.integers(0, 6)) :])
    try:
        header = handoff.read_bit_header(path)
    except OverlayError as error:
        assert str(error).startswith(f"{path}: expected")
        assert error.advice
    else:
        assert header.payload <= path.stat().st_size


def test_a_truncated_bitstream_is_told_from_something_else(tmp_path):
    path = tmp_path / "a.bit"
    path.write_bytes(make_bit()[:-4])
    with pytest.raises(OverlayError, match="bytes of configuration data"):
        handoff.read_bit_header(path)
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(OverlayError, match="found something else"):
        handoff.read_bit_header(path)


HOSTILE = [
    "",
    "0x",
    "-1",
    "nan",
    "inf",
    "1e999",
    "-5",
    "9" * 5000,
    "0xFFFFFFFFFFFFFFFFFF",
    "\u202e",
    "a" * 9999,
    "4" * 40,
]
NUMBERS = re.compile(
    r'(?:BASEVALUE|HIGHVALUE|ADDR_WIDTH" VALUE|PL0_REF_CTRL__\w*FREQMHZ" VALUE|PL0_ENABLE" VALUE)="([^"]*)"'
)


@pytest.fixture(scope="module")
def hand_off_text(tmp_path_factory):
    path = write_overlay(tmp_path_factory.mktemp("good"), "cifar10").with_suffix(".hwh")
    return path.read_text(encoding="utf-8")


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_fuzz_of_hand_off_files(tmp_path_factory, hand_off_text, data):
    """Values of any attribute, and bytes anywhere: a hand-off file that makes sense, or one OverlayError."""
    text = hand_off_text
    for _ in range(data.draw(st.integers(0, 3))):
        which = data.draw(st.sampled_from([NUMBERS, re.compile(r'="([^"]*)"')]))
        begin, end = data.draw(st.sampled_from([match.span(1) for match in which.finditer(text)]))
        text = text[:begin] + data.draw(st.sampled_from(HOSTILE)) + text[end:]
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(0, 2))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.getbasetemp() / "fuzz.hwh"
    path.write_bytes(bytes(content))
    try:
        design = handoff.read_handoff(path)
    except OverlayError as error:
        assert len(str(error)) < 1000
        return
    assert design.clock_mhz is None or 0 < design.clock_mhz < 10_000
    for module in design.modules:
        assert module.base is None or 0 <= module.base < 1 << 64
        assert all(0 <= master.low <= master.high for master in module.masters)
    path.with_suffix(".bit").write_bytes(make_bit())
    check_before_start(path.with_suffix(".bit"), path, board_part=PART)


@settings(max_examples=examples(100))
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_fuzz_of_checks_on_any_file(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.bit", "a.hwh"):
        (folder / name).write_bytes(content)
    found = check_before_start(folder / "a.bit", folder / "a.hwh", board_part=PART)
    assert {"bitstream", "hand-off file", "part"} <= set(errors(found))


# Files against each other ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cifar10", "imagenet"])
@pytest.mark.parametrize("registers", ["published", "split"])
def test_a_fitting_overlay_has_no_errors(tmp_path, kind, registers):
    bit = write_overlay(tmp_path, kind, registers=registers)
    found = check_before_start(bit, bit.with_suffix(".hwh"), board_part=PART)
    assert {check.status for check in found} == {"ok"}
    raise_for_errors(found)
    texts = by_name(found)
    assert "xczu3eg-sbva484" in texts["bitstream"].found
    assert "2 masters" in texts["core"].found or "3 masters" in texts["core"].found
    assert texts["design clock"].found == "250 MHz"


def test_an_unknown_board_is_a_warning(tmp_path):
    bit = write_overlay(tmp_path, "cifar10")
    found = by_name(check_before_start(bit, bit.with_suffix(".hwh"), board_part=None))
    assert found["part"].status == "warning"
    assert "xczu3eg-sbva484" in found["part"].advice


def test_the_wrong_part_is_refused_and_the_error_says_which(tmp_path):
    bit = write_overlay(tmp_path, "cifar10", part="xczu5eg-sfvc784-1-i")
    found = check_before_start(bit, bit.with_suffix(".hwh"), board_part=ULTRA96V2)
    with pytest.raises(OverlayError, match=r"xczu5eg-sfvc784.*but the board carries xczu3eg-sbva484"):
        raise_for_errors(found)


def test_files_of_two_builds_are_refused(tmp_path):
    bit = write_overlay(tmp_path / "a", "cifar10", part="xczu5eg-sfvc784-1-i")
    other = write_overlay(tmp_path / "b", "cifar10").with_suffix(".hwh")
    shutil.copy(other, bit.with_suffix(".hwh"))
    assert errors(check_before_start(bit, bit.with_suffix(".hwh"), board_part=PART)) == ["part"]


def test_other_names_or_folders_are_refused(tmp_path):
    bit = write_overlay(tmp_path, "cifar10")
    hwh = bit.with_suffix(".hwh").rename(tmp_path / "other.hwh")
    assert errors(check_before_start(bit, hwh, board_part=PART)) == ["file names"]


def test_an_overlay_without_a_core_is_refused(tmp_path):
    bit = write_overlay(tmp_path, "cifar10")
    handoff_file = bit.with_suffix(".hwh")
    handoff_file.write_text(handoff_file.read_text().replace(CIFAR10_CORE.vlnv, "xilinx.com:hls:other:1.0"))
    found = check_before_start(bit, bit.with_suffix(".hwh"), board_part=PART)
    assert errors(found) == ["core"]
    assert CIFAR10_OVERLAY.vlnv in by_name(found)["core"].found


@pytest.mark.parametrize(
    ("old", "new", "name", "status"),
    [
        ('HIGHVALUE="0x7FFFFFFF"', 'HIGHVALUE="0x3FFFFFFF"', "core", "warning"),
        ('MEMTYPE="MEMORY"', 'MEMTYPE="OTHER"', "core", "error"),
        ('NAME="PSU__FPGA_PL0_ENABLE" VALUE="1"', 'NAME="PSU__FPGA_PL0_ENABLE" VALUE="0"', "design clock", "error"),
        ("ACT_FREQMHZ", "SOMETHING", "design clock", "error"),
    ],
)
def test_what_a_hand_off_file_lacks(tmp_path, old, new, name, status):
    bit = write_overlay(tmp_path, "cifar10")
    hwh = bit.with_suffix(".hwh")
    text = hwh.read_text()
    assert old in text
    hwh.write_text(text.replace(old, new))
    found = by_name(check_before_start(bit, hwh, board_part=PART))
    assert found[name].status == status
    assert {check.status for check in found.values() if check.name != name} == {"ok"}


def test_missing_files_are_all_reported(tmp_path):
    found = check_before_start(tmp_path / "a.bit", tmp_path / "a.hwh", board_part=PART)
    assert errors(found) == ["bitstream", "hand-off file", "part"]
    with pytest.raises(OverlayError, match=r"bitstream: .*hand-off file: "):
        raise_for_errors(found)


# Checks that fail -----------------------------------------------------------------------------------------------------


def test_a_failing_check_is_a_line_not_an_exception():
    def broken():
        yield Check("first", "ok", "fine")
        raise ZeroDivisionError("odd")

    first, second = checks.isolated("sum", broken)
    assert (first.status, second.status, second.name) == ("ok", "warning", "sum")
    assert "ZeroDivisionError: odd" in second.found
    assert checks.isolated("sum", broken, unexpected="error")[1].status == "error"


def test_this_packages_errors_are_split_into_found_and_advice():
    def refuse():
        raise OverlayError("expected 1; found 2", advice="try 3; or 4")

    assert checks.isolated("x", refuse) == [Check("x", "error", "expected 1; found 2", "try 3; or 4")]


def test_only_errors_are_raised():
    raise_for_errors([Check("a", "ok", "x"), Check("b", "warning", "y")])
    with pytest.raises(OverlayError, match=r"^b: y \(z\)$"):
        raise_for_errors([Check("a", "warning", "x"), Check("b", "error", "y", "z")])


# The machine ----------------------------------------------------------------------------------------------------------


def test_a_laptop_is_no_board(tmp_path):
    laptop = Machine(root=tmp_path, environ={"BOARD": "Ultra96", "XILINX_XRT": "/opt/xrt"}, architecture="x86_64")
    assert not laptop.is_board
    assert laptop.board_name is None
    assert laptop.board_part is None
    assert laptop.contiguous_memory() is None
    assert laptop.render_nodes == []
    assert not Machine(root=tmp_path, environ={}, architecture="aarch64").is_board


def test_the_board_is_known_by_the_image_or_the_device_tree(board):
    assert board.is_board
    assert (board.board_name, board.board_part) == ("Ultra96", ULTRA96V2)
    named_by_tree = dataclasses.replace(board, environ={})
    assert (named_by_tree.board_name, named_by_tree.board_part) == ("Avnet Ultra96-V2 Rev1", ULTRA96V2)
    other = dataclasses.replace(board, environ={"BOARD": "KV260"})
    assert other.board_part is None
    (board.root / "proc/device-tree/model").unlink()
    assert named_by_tree.board_name is None


@pytest.mark.parametrize(
    ("version", "asked", "status"),
    [
        ("3.0.1", "auto", "ok"),
        ("3.1.2", "real", "ok"),
        ("4.0.0", "simulated", "ok"),
        ("3.1", "auto", "ok"),
        ("2.7.0", "auto", "warning"),
        ("2.7.0", "real", "error"),
        ("5.0", "real", "warning"),
        (None, "auto", "warning"),
        (None, "real", "error"),
        (None, "simulated", "error"),
    ],
)
def test_pynqs_version(monkeypatch, version, asked, status):
    monkeypatch.setattr(environment, "pynq_installed", lambda: version is not None)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    check = environment.pynq_check(asked)
    assert check.status == status
    assert (version or "not installed") in check.found


@pytest.mark.parametrize("found", ["3.0.1", "3.1.2", "4.0.0"])
def test_numpy_2_beside_pynq(monkeypatch, found, run):
    """What a later ``pip install`` of something else brings, and what pynq says nothing about until it fails."""
    monkeypatch.setattr(environment, "pynq_installed", lambda: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: found)
    monkeypatch.setattr(np, "__version__", "2.3.1")
    for asked, status in (("auto", "warning"), ("real", "error"), ("simulated", "error")):
        check = environment.pynq_check(asked)
        assert check.status == status
        assert check.found == (
            f"expected NumPy 1 beside pynq {found}, whose buffers do not work with NumPy 2; found 2.3.1"
        )
        assert check.advice == f"{sys.executable} -m pip install 'numpy<2'"
    result = run("bench", "--board", "simulated")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"found 2.3.1; {sys.executable} -m pip install 'numpy<2'" in result.err


@pytest.mark.parametrize(
    ("pynq", "numpy"), [(None, "2.3.1"), ("3.0.1", "1.26.4"), ("4.0.0", "1.21.0"), ("5.0.0", "2.3.1")]
)
def test_numpy_and_pynq_that_go_together(monkeypatch, pynq, numpy):
    monkeypatch.setattr(environment, "pynq_installed", lambda: pynq is not None)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: pynq)
    monkeypatch.setattr(np, "__version__", numpy)
    environment.check_numpy_for_pynq()


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        ({"user": 1000}, "root", "error"),
        ({"environ": {"XILINX_XRT": None}}, "XILINX_XRT", "error"),
        ({"environ": {"BOARD": "Pynq-Z2"}}, "board", "warning"),
    ],
)
def test_what_a_board_can_lack(board, pynq_301, change, name, status):
    assert {check.status for check in environment.board_checks(board, "real")} == {"ok"}
    if environ := change.get("environ"):
        change = {"environ": {**board.environ, **environ}}
    found = by_name(environment.board_checks(dataclasses.replace(board, **change), "auto"))
    assert found.pop(name).status == status
    assert {check.status for check in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("version", "missing", "name"),
    [
        ("3.0.1", "usr/bin/xclbinutil", "xclbinutil"),
        ("4.0.0", "usr/bin/xclbinutil", "xclbinutil"),
        ("3.0.1", "usr/bin/xbutil", "xbutil"),
        ("3.0.1", "usr/lib/libxrt_core.so", "XRT library"),
        ("3.1.2", "proc/device-tree/chosen/pynq_board", "device tree"),
        ("4.0.0", "proc/device-tree/chosen/pynq_board", "device tree"),
        ("4.0.0", "pyxrt", "pyxrt"),
    ],
)
def test_each_part_of_xrt_that_is_missing_is_named(board, monkeypatch, version, missing, name):
    with_pynq(monkeypatch, version)
    program(board.root / environment.BOARD_MARK)
    there = True
    monkeypatch.setattr(environment, "find_spec", lambda module: object() if there else None)
    assert errors(environment.board_checks(board, "real")) == []
    if missing == "pyxrt":
        there = False
    else:
        (board.root / missing).unlink()
    assert errors(environment.board_checks(board, "real")) == [name]
    (lacking,) = (check for check in environment.board_checks(board, "real") if check.name == name)
    assert "pip install" not in lacking.advice


def test_on_a_board_no_other_pynq_is_advised(board, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "pynq_installed", lambda: False)
    assert "source /etc/profile.d/pynq_venv.sh" in environment.pynq_check("real", board).advice
    assert "pip install" not in environment.pynq_check("real", board).advice
    laptop = Machine(root=tmp_path, environ={}, architecture="x86_64")
    assert install_line("board") in environment.pynq_check("real", laptop).advice


def test_a_board_without_xrts_device_is_told(board):
    (board.root / "dev/dri/renderD128").unlink()
    assert by_name(environment.board_checks(board, "auto"))["XRT device"].status == "warning"


@pytest.mark.parametrize(("free_kb", "status"), [(262_144, "ok"), (10_000, "warning"), (12, "error")])
def test_contiguous_memory_against_what_the_networks_need(board, free_kb, status):
    (board.root / "proc/meminfo").write_text(MEMINFO.format(free=free_kb))
    (check,) = state_checks(board)
    assert check.status == status
    assert "of 256 MiB free" in check.found


@pytest.mark.parametrize("content", [None, "", "CmaTotal: 0 kB\nCmaFree: 0 kB\n", "CmaTotal:\n", "CmaTotal: x kB\n"])
def test_without_a_cma_pool_there_is_a_warning(board, content):
    path = board.root / "proc/meminfo"
    path.unlink() if content is None else path.write_text(content)
    assert [check.status for check in state_checks(board)] == ["warning"]


def test_contiguous_bytes_by_hand():
    assert contiguous_bytes("cifar10") == 2 * 24_576 + 2 * 8192
    assert contiguous_bytes("imagenet") == 2 * 602_112 + 13_021_184 + 3_145_728 + 393_216 + 352_256


@pytest.mark.parametrize(
    ("mhz", "status"), [(375.0, "warning"), (300.0, "warning"), (250.0, "ok"), (249.9975, "ok"), (187.5, "ok")]
)
def test_the_clock_trap(mhz, status):
    check = check_clock(mhz, 250.0)
    assert check.status == status
    assert f"{mhz:.6g} MHz" in check.found


def test_an_unreadable_clock_is_a_line(board):
    assert state_checks(board, lambda: 1 / 0)[-1].status == "warning"


# Models and cores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "model", "arithmetic", "status"),
    [
        (CIFAR10_OVERLAY, None, "auto", "ok"),
        (CIFAR10_OVERLAY, "cifar10-authors", "auto", "ok"),
        (CIFAR10_OVERLAY, "cifar10-authors", "cifar10-2020", "ok"),
        (CIFAR10_OVERLAY, "cifar10-authors", "cifar10-2021", "error"),
        (CIFAR10_OVERLAY, "cifar10-authors", "faithful", "error"),
        (CIFAR10_OVERLAY, "cifar10", "auto", "error"),
        (IMAGENET_OVERLAY, "imagenet-authors", "auto", "warning"),
        (IMAGENET_OVERLAY, "my.safetensors", "imagenet-2021", "warning"),
        (IMAGENET_OVERLAY, "imagenet-authors", "faithful", "error"),
        (IMAGENET_OVERLAY, "imagenet-calibrated", "auto", "ok"),
    ],
)
def test_pairing(overlay, model, arithmetic, status):
    assert check_pairing(overlay, model, arithmetic).status == status


def test_the_imagenet_core_says_what_it_costs():
    check = check_pairing(IMAGENET_OVERLAY)
    assert IMAGENET_OVERLAY.note in check.found
    assert "49.0 %" in check.found
    assert "81.0 %" in check.found
    assert "backend cpu" in check.advice


# Published overlays ---------------------------------------------------------------------------------------------------


def test_an_overlay_that_was_not_fetched_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path))
    (check,) = overlay_checks(CIFAR10_OVERLAY)
    assert (check.status, check.found) == ("warning", "not fetched")
    assert "fracbnn overlays fetch cifar10" in check.advice


def test_fetched_overlays_are_checked_against_the_board(published, board):
    for overlay in published:
        assert {check.status for check in overlay_checks(overlay, board)} == {"ok"}
        assert {check.status for check in overlay_checks(overlay)} == {"ok"}
    other = dataclasses.replace(board, environ={"BOARD": "KV260"})
    assert by_name(overlay_checks(published[0], other))["part"].status == "warning"


def test_damaged_and_half_fetched_overlays(published, tmp_path):
    folder = tmp_path / "cache" / published[0].name
    (folder / "FracNet_T_0.bit").unlink()
    (check,) = overlay_checks(published[0])
    assert (check.status, check.found) == ("warning", "FracNet_T_0.bit missing")
    (folder / "FracNet_T_0.hwh").write_text("x")
    (check,) = overlay_checks(published[0])
    assert check.status == "error"
    assert "FracNet_T_0.hwh damaged" in check.found


def test_a_cache_that_cannot_be_read_is_a_line(monkeypatch):
    monkeypatch.setattr(fetch, "status", lambda _: 1 / 0)
    assert [check.status for check in overlay_checks(CIFAR10_OVERLAY)] == ["warning"]


# This project's own ---------------------------------------------------------------------------------------------------


@pytest.fixture
def built(published, tmp_path):
    """The bitstream of the project's own accelerator, in the cache beside the published ones."""
    return write_overlay(tmp_path / "cache" / "engine", "engine", interrupt=True, clock_mhz=200.0)


def test_the_engines_bitstream_or_how_to_get_it(board, published, tmp_path):
    (check,) = bitstream_checks(board)
    assert (check.status, check.found) == ("ok", "not built: fracbnn overlays build engine")
    assert "then copy fracbnn_engine.bit and fracbnn_engine.hwh there" in check.advice
    bit = write_overlay(tmp_path / "cache" / "engine", "engine", interrupt=True, clock_mhz=200.0)
    (check,) = bitstream_checks(board)
    assert (check.status, check.found) == ("ok", f"built; {ULTRA96V2}, 200 MHz, core fracbnn_engine_0")
    other = dataclasses.replace(board, environ={"BOARD": "KV260"})
    assert bitstream_checks(other)[0].status == "warning"
    bit.with_suffix(".hwh").unlink()
    (check,) = bitstream_checks(board)
    assert (check.status, check.found) == ("warning", f"fracbnn_engine.hwh missing in {bit.parent}")


def test_an_engines_bitstream_that_does_not_fit_is_an_error(board, built, real):
    built.write_bytes(b"x")
    (check,) = bitstream_checks(board)
    assert check.status == "error"
    assert "expected a bitstream" in check.found
    assert not ready(CIFAR10_MODEL, None, "auto")


@pytest.mark.parametrize("asked", ["model", "rtl"])
@pytest.mark.parametrize("checkout", [True, False])
@pytest.mark.parametrize("tools", [("verilator", "g++"), ("g++",), ()])
def test_what_simulates_the_engines_hardware(laptop, tmp_path, monkeypatch, tools, checkout, asked):
    for name in tools:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    sources = tmp_path / "sources" / "rtl"
    sources.mkdir(parents=True)
    if checkout:
        (sources / "engine.sv").touch()
    monkeypatch.setenv("FRACBNN_ENGINE_SOURCES", str(sources.parent))
    machine = dataclasses.replace(laptop, environ={"PATH": str(tmp_path), "FRACBNN_SIM_CORE": asked})
    (check,) = simulation_checks(machine)
    lacking = [tool for tool in ("verilator", "g++") if tool not in tools] + ([] if checkout else ["a checkout"])
    if lacking:
        assert check.found == f"model; hardware needs {', '.join(lacking)}"
        assert check.status == ("error" if asked == "rtl" else "ok")
    else:
        assert (check.status, check.found) == ("ok", "model; hardware: FRACBNN_SIM_CORE=rtl")
    assert ("apt-get install verilator" in check.advice) == ("verilator" not in tools)
    assert ("of a checkout" in check.advice) == (not checkout)


def test_nobody_simulates_on_a_board(board):
    assert simulation_checks(board) == []


def test_where_the_lines_of_the_engine_are(laptop, real):
    for asked, machine, names in (
        ("auto", laptop, {"engine", "simulated engine"}),
        ("simulated", laptop, {"simulated engine"}),
        ("real", laptop, {"engine"}),
        ("auto", real, {"engine"}),
    ):
        found = by_name(check for group in full_report(asked, machine) for check in group.checks)
        assert found.keys() & {"engine", "simulated engine"} == names


@pytest.mark.parametrize(
    ("model", "arithmetic", "expected"),
    [
        (CIFAR10_MODEL, "auto", True),
        (CIFAR10_MODEL, "faithful", True),
        (CIFAR10_MODEL, "cifar10-2021", False),
        (IMAGENET_MODEL, "auto", True),
        (CALIBRATED_MODEL, "auto", False),
    ],
)
def test_a_built_engine_is_ready_for_any_model_in_its_arithmetic(real, built, tmp_path, model, arithmetic, expected):
    for folder in (tmp_path / "cache").iterdir():
        if folder.name != "engine":
            shutil.rmtree(folder)
    assert ready(model, None, arithmetic) is expected
    assert errors(full_report("real", real, lambda: 199.9)[2].checks) == []


# ready() --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "arithmetic", "expected"),
    [
        (CIFAR10_MODEL, "cifar10-authors", "auto", True),
        (CIFAR10_MODEL, "cifar10-authors", "cifar10-2020", True),
        (CIFAR10_MODEL, "cifar10-authors", "faithful", False),
        (CIFAR10_MODEL, "cifar10", "auto", False),
        (CIFAR10_MODEL, None, "auto", False),
        (IMAGENET_MODEL, "imagenet-authors", "auto", True),
        (IMAGENET_MODEL, None, "imagenet-2021", True),
        (IMAGENET_MODEL, "imagenet-authors", "float", False),
        (SimpleNamespace(network=SimpleNamespace(name="mnist"), arithmetic=None), "x", "auto", False),
        (None, None, "auto", False),
    ],
)
def test_ready_on_a_board_with_everything(real, caplog, model, name, arithmetic, expected):
    assert ready(model, name, arithmetic) is expected
    assert ("overlay is not used" in caplog.text) is not expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user": 1000}, "root"),
        ({"environ": {"BOARD": "Ultra96"}}, "XILINX_XRT"),
        ({"environ": {"BOARD": "Ultra96", "XILINX_XRT": "/usr", "PATH": ""}}, "xclbinutil"),
    ],
)
def test_not_ready_without_what_pynq_needs(real, monkeypatch, caplog, change, reason):
    machine = dataclasses.replace(real, **change)
    monkeypatch.setattr(preflight, "Machine", lambda: machine)
    assert not ready(CIFAR10_MODEL, "cifar10-authors", "auto")
    assert reason in caplog.text


def test_not_ready_without_pynq_or_a_sound_overlay(real, published, monkeypatch, tmp_path, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "pynq_installed", lambda: False)
        assert not ready(CIFAR10_MODEL, "cifar10-authors", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "status", lambda _: 1 / 0)
        assert not ready(CIFAR10_MODEL, "cifar10-authors", "auto")
    (tmp_path / "cache" / published[0].name / "FracNet_T_0.bit").write_bytes(b"x")
    assert not ready(CIFAR10_MODEL, "cifar10-authors", "auto")
    assert "damaged" in caplog.text
    assert ready(IMAGENET_MODEL, "imagenet-authors", "auto")


def test_off_a_board_ready_is_false_silent_and_fast(monkeypatch, caplog):
    monkeypatch.setenv("XILINX_XRT", "/opt/xilinx/xrt")
    caplog.set_level(logging.DEBUG)
    if Machine().is_board:
        pytest.skip("this is a board")
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        assert not ready(CIFAR10_MODEL, "cifar10-authors", "auto")
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3
    assert not caplog.records


def test_ready_needs_neither_pynq_nor_network_nor_xml():
    code = (
        "import sys; from fracbnn_pynq.doctor.preflight import ready; ready(None, None, 'auto'); "
        "print([m for m in ('pynq', 'pooch', 'xml', 'requests') if m in sys.modules])"
    )
    base = "import fracbnn_pynq, sys; print([m for m in ('pynq', 'pooch', 'xml', 'requests') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", f"{base}\n{code}"], capture_output=True, text=True, check=True).stdout
    before, after = (set(eval(line)) for line in out.splitlines())
    assert not (after - before) & {"pynq", "pooch", "xml", "requests"}


# The whole report -----------------------------------------------------------------------------------------------------


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(environment, "pynq_installed", lambda: False)
    return Machine(root=tmp_path, environ={}, architecture="x86_64", user=1000)


def test_a_laptop_has_no_errors_until_a_board_is_asked_for(laptop):
    groups = full_report("auto", laptop)
    assert [group.title for group in groups] == ["This computer", "Board", "Overlays"]
    assert errors(check for group in groups for check in group.checks) == []
    found = by_name(check for group in groups for check in group.checks)
    assert found["pynq"].status == found["board"].status == "warning"
    groups = full_report("real", laptop)
    assert errors(groups[1].checks) == ["pynq", "board"]
    assert errors(groups[2].checks) == ["cifar10-overlay"]
    assert [group.title for group in full_report("simulated", laptop)] == ["This computer", "Board"]


def test_every_line_has_text(laptop, real):
    for asked in ("auto", "real", "simulated"):
        for machine in (laptop, real):
            for group in full_report(asked, machine):
                for check in group.checks:
                    assert check.name
                    assert check.found
                    assert check.advice


def test_a_board_with_everything_has_nothing_but_the_core_to_warn_of(real):
    groups = full_report("real", real, lambda: 249.9975)
    found = [check for group in groups[1:] for check in group.checks]
    assert [check.name for check in found if check.status != "ok"] == ["imagenet core"]
    assert {"fabric clock", "contiguous memory", "root", "XILINX_XRT"} <= by_name(found).keys()


def test_a_board_at_the_wrong_clock_is_warned(real, monkeypatch):
    found = by_name(full_report("real", real, lambda: 375.0)[1].checks)
    assert found["fabric clock"].status == "warning"
    assert "375 MHz" in found["fabric clock"].found


def test_one_overlay_is_enough_for_a_real_board(real, published, tmp_path):
    shutil.rmtree(tmp_path / "cache" / published[1].name)
    assert errors(full_report("real", real, lambda: 249.9975)[2].checks) == []
    shutil.rmtree(tmp_path / "cache" / published[0].name)
    assert errors(full_report("real", real, lambda: 249.9975)[2].checks) == ["cifar10-overlay"]


def test_without_kernels_there_is_a_warning(monkeypatch):
    from fracbnn_pynq import native

    monkeypatch.setattr(native, "extension", None)
    found = by_name(environment.computer_checks())
    assert found["kernels"].status == "warning"
    assert found["NumPy"].status == "ok"


def test_unexpected_failures_leave_the_other_lines(monkeypatch):
    from fracbnn_pynq import native

    monkeypatch.setattr(native, "engines", lambda: 1 / 0)
    found = environment.computer_checks()
    assert by_name(found)["kernels"].status == "warning"
    assert len(found) == 4
