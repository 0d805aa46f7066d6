"""The scripts for Vivado, which cannot run here: run by tclsh on commands that record (vivado_stubs.tcl).

The recorded block design must be whole, and agree with the driver, the sources and the hand-off file on which the
simulated board runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from fracbnn_pynq import engine_build
from fracbnn_pynq.cli import group
from fracbnn_pynq.cores import (
    ENGINE_BASE,
    ENGINE_CLOCKS_MHZ,
    ENGINE_INSTANCE,
    ENGINE_MASTER,
    ENGINE_PART,
    ENGINE_SLAVE,
    ENGINE_VLNV,
    INTERRUPT_CONTROLLER,
    REGISTER_WINDOW,
)
from fracbnn_pynq.engine.registers import PIXELS, REGISTERS
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.simulator.handoff import write_overlay

HARDWARE = Path(__file__).resolve().parents[1] / "overlays" / "engine"
STUBS = Path(__file__).resolve().with_name("vivado_stubs.tcl")
PS = "zynq_ultra_ps_e_0"

pytestmark = [
    pytest.mark.skipif(shutil.which("tclsh") is None, reason="tclsh is not installed: it runs the scripts for Vivado"),
    pytest.mark.skipif(not HARDWARE.is_dir(), reason="the hardware's sources are not here: no checkout"),
]


@dataclass
class Build:
    """What a run of the scripts said and did. ``calls``: name and words of every recorded command."""

    status: int
    output: str
    calls: list[tuple[str, ...]]
    out: Path

    def of(self, name: str) -> list[tuple[str, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    @property
    def pins(self) -> dict[str, str]:
        return dict(self.of("pin"))

    @property
    def parameters(self) -> dict[tuple[str, str], str]:
        return {(cell, key): value for cell, key, value in self.of("parameter")}

    @property
    def nets(self) -> set[tuple[str, str]]:
        return set(self.of("net"))


def run(folder: Path, *options: str, hardware: Path = HARDWARE, **environment: str) -> Build:
    out = folder / "out"
    record = folder / "record"
    script = hardware / "vivado" / "build.tcl"
    command = ["tclsh", str(STUBS), str(record), str(script), "--out", str(out), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60
    )
    calls = [tuple(line.split("\x1f")) for line in record.read_text(encoding="utf-8").splitlines()]
    return Build(done.returncode, done.stdout + done.stderr, calls, out)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    found = run(tmp_path_factory.mktemp("build"))
    assert found.status == 0, found.output
    return found


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    """The expected hand-off file, as the simulated board is given it."""
    bit = write_overlay(tmp_path_factory.mktemp("handoff"), "engine", interrupt=True)
    return ET.parse(bit.with_suffix(".hwh")).getroot()


def module(root: ET.Element, instance: str) -> ET.Element:
    (found,) = (module for module in root.iter("MODULE") if module.get("INSTANCE") == instance)
    return found


# The core -------------------------------------------------------------------------------------------------------------


def test_the_core_is_made_of_every_source_file(build: Build) -> None:
    (added,) = (call for call in build.of("add_files") if "addresses.sv" in call[-1])
    names = [Path(path).name for path in added[-1].split()]
    expected = [path.name for path in (HARDWARE / "rtl").iterdir()] + ["fracbnn_engine.v"]
    assert sorted(names) == sorted(expected)


def test_sources_are_copied_as_they_are_but_for_a_define(build: Build) -> None:
    for copy in (build.out / "build" / "ip" / "src").iterdir():
        folder = "vivado" if copy.suffix == ".v" else "rtl"
        text = (HARDWARE / folder / copy.name).read_text(encoding="utf-8")
        define = "`define ENGINE_DSP_PRIMITIVES\n" if "`ifdef ENGINE_DSP_PRIMITIVES" in text else ""
        assert copy.read_text(encoding="utf-8") == define + text
    assert "`ifdef ENGINE_DSP_PRIMITIVES" in (HARDWARE / "rtl" / "mac.sv").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
@pytest.mark.parametrize("pixels", PIXELS)
def test_the_wrapper_fits_the_engine(build: Build, pixels: int) -> None:
    sources = build.out / "build" / "ip" / "src"
    script = (
        f"read_verilog -lib {HARDWARE}/sim/dsp48e2.v; read_verilog -sv -I{sources} {sources}/*.sv {sources}/*.v; "
        f"chparam -set X {pixels} fracbnn_engine; hierarchy -check -top fracbnn_engine; check -assert fracbnn_engine"
    )
    done = subprocess.run(["yosys", "-q", "-p", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_registers_are_the_drivers_and_the_hand_off_files(build: Build, handoff: ET.Element) -> None:
    offsets = {words[2]: words[1] for words in build.of("set_property") if words[0] == "address_offset"}
    found = {name: int(offsets[f"register/{name}"], 16) for (name,) in build.of("register")}
    assert found == {register.name: register.offset for register in REGISTERS}
    expected, fields = {}, set()
    for register in module(handoff, ENGINE_INSTANCE).iter("REGISTER"):
        values = {item.get("NAME"): item.get("VALUE") for item in register.findall("PROPERTY")}
        expected[register.get("NAME")] = int(str(values["ADDRESS_OFFSET"]))
        fields |= {str(field.get("NAME")) for field in register.iter("FIELD")}
    assert found == expected
    bits = {words[2].split("/")[2] for words in build.of("set_property") if words[0] == "bit_offset"}
    assert bits == {"AP_START", "AP_DONE", "AP_IDLE", "AP_READY"} < fields


def test_x_is_a_parameter_with_its_legal_values(build: Build) -> None:
    assert ("value_validation_list", " ".join(map(str, PIXELS)), "X") in build.of("set_property")


# The block design -----------------------------------------------------------------------------------------------------


def test_every_pin_is_connected_once_and_to_one_of_its_kind(build: Build) -> None:
    pins, driven = build.pins, defaultdict(list)
    for source, sink in build.of("net"):
        assert pins[source] == "out"
        driven[sink].append(source)
    for master, slave in build.of("bus"):
        # A master of a cell is its end of a bus that it begins.
        assert (pins[master], pins[slave]) == ("master", "slave")
        driven[slave].append(master)
        driven[master].append(slave)
    ends = [pin for pin, kind in pins.items() if kind in {"in", "master", "slave"}]
    assert {pin: len(driven[pin]) for pin in ends} == dict.fromkeys(ends, 1)
    assert set(driven) == set(ends)
    cells = {pin.split("/")[0] for pin in pins}
    assert cells == {name for name, _ in build.of("cell")}
    assert len(cells) == 7


def test_one_clock_and_one_reset(build: Build) -> None:
    sources = {sink: source for source, sink in build.nets}
    clocks = [pin for pin in build.pins if pin.endswith(("clk", "aclk")) and build.pins[pin] == "in"]
    assert len(clocks) == 7
    assert {sources[pin] for pin in clocks} == {f"{PS}/pl_clk0"}
    resets = {pin: sources[pin] for pin in build.pins if pin.endswith(("aresetn", "ap_rst_n")) and pin in sources}
    assert set(resets.values()) == {"proc_sys_reset_0/interconnect_aresetn", "proc_sys_reset_0/peripheral_aresetn"}
    assert resets[f"{ENGINE_INSTANCE}/ap_rst_n"] == "proc_sys_reset_0/peripheral_aresetn"


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("clock", ENGINE_CLOCKS_MHZ)
def test_clock_and_x_are_what_was_asked_for(tmp_path: Path, pixels: int, clock: float) -> None:
    found = run(tmp_path, "--pixels", str(pixels), "--clock", f"{clock:g}").parameters
    assert found[ENGINE_INSTANCE, "X"] == str(pixels)
    assert float(found[PS, "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ"]) == clock


def test_the_block_design_is_the_one_of_the_expected_hand_off_file(build: Build, handoff: ET.Element) -> None:
    cells = dict(build.of("cell"))
    for expected in handoff.iter("MODULE"):
        vlnv = str(expected.get("VLNV"))
        # Xilinx' cores come in the version of the Vivado that is used.
        wanted = vlnv if vlnv == ENGINE_VLNV else vlnv.rpartition(":")[0]
        assert cells[str(expected.get("INSTANCE"))] == wanted
    info = handoff.find("SYSTEMINFO")
    assert info is not None
    assert ENGINE_PART.startswith(f"{info.get('DEVICE')}-{info.get('PACKAGE')}{info.get('SPEEDGRADE')}-")
    spaces = {(words[3], words[2]): (int(words[0], 16), int(words[1], 16)) for words in build.of("address")}
    for entry in handoff.iter("MEMRANGE"):
        low, high = int(str(entry.get("BASEVALUE")), 16), int(str(entry.get("HIGHVALUE")), 16)
        if entry.get("MEMTYPE") == "REGISTER":
            name, interface = str(entry.get("INSTANCE")), str(entry.get("SLAVEBUSINTERFACE"))
            (key,) = (key for key in spaces if key[0].lower().startswith(f"{name}/{interface}/".lower()))
            assert key[1] == f"{PS}/Data"
            assert (f"{PS}/{entry.get('MASTERBUSINTERFACE')}", "smartconnect_control/S00_AXI") in build.of("bus")
        else:
            key = (f"{PS}/SAXIGP2/{entry.get('ADDRESSBLOCK')}", f"{ENGINE_INSTANCE}/{entry.get('MASTERBUSINTERFACE')}")
            assert ("smartconnect_memory/M00_AXI", f"{PS}/{entry.get('SLAVEBUSINTERFACE')}") in build.of("bus")
        assert spaces.pop(key) == (low, high - low + 1)
    assert spaces == {}


def test_the_interrupt_goes_the_way_of_the_expected_hand_off_file(build: Build, handoff: ET.Element) -> None:
    expected = set()
    for cell in handoff.iter("MODULE"):
        for port in cell.iter("PORT"):
            own = f"{cell.get('INSTANCE')}/{port.get('NAME')}"
            for end in port.iter("CONNECTION"):
                pair = own, f"{end.get('INSTANCE')}/{end.get('PORT')}"
                expected.add(pair if port.get("DIR") == "O" else pair[::-1])
    assert len(expected) == 3
    assert expected <= build.nets
    # Levels in and out, as the simulated controller has them.
    found = {key: value for (cell, key), value in build.parameters.items() if cell == INTERRUPT_CONTROLLER}
    assert int(found["C_KIND_OF_INTR"], 16) == 0
    assert found["C_IRQ_IS_LEVEL"] == found["C_IRQ_CONNECTION"] == "1"


def test_the_clock_is_that_of_the_expected_hand_off_file(build: Build, handoff: ET.Element) -> None:
    values = {item.get("NAME"): item.get("VALUE") for item in module(handoff, PS).iter("PARAMETER")}
    prefix = "PSU__CRL_APB__PL0_REF_CTRL__"
    assert float(str(values[f"{prefix}ACT_FREQMHZ"])) == float(build.parameters[PS, f"{prefix}FREQMHZ"])
    assert values[f"{prefix}SRCSEL"] == build.parameters[PS, f"{prefix}SRCSEL"]
    for number in range(2):
        assert int(build.parameters[PS, f"PSU__FPGA_PL{number}_ENABLE"]) == int(
            str(values[f"PSU__FPGA_PL{number}_ENABLE"])
        )


def test_ports_have_the_widths_of_the_engine(build: Build) -> None:
    assert build.parameters[PS, "PSU__SAXIGP2__DATA_WIDTH"] == "128"
    assert build.parameters[PS, "PSU__MAXIGP0__DATA_WIDTH"] == "32"
    assert ("ipx::associate_bus_interfaces", "-busif", ENGINE_MASTER, "-clock", "ap_clk") in [
        call[:5] for call in build.calls
    ]
    assert int(f"{ENGINE_BASE:x}", 16) % REGISTER_WINDOW == 0
    assert f"{ENGINE_INSTANCE}/{ENGINE_SLAVE}" in build.pins


# The run --------------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_bitstream_and_hand_off_file(build: Build) -> None:
    steps = [line for line in build.output.splitlines() if ": step " in line]
    assert [line.split()[2] for line in steps] == list("1234567")
    assert (build.out / "fracbnn_engine.bit").read_text() == "a bitstream\n"
    assert (build.out / "fracbnn_engine.hwh").is_file()
    names = [call[0] for call in build.calls]
    assert names.index("open_run") < names.index("report_timing_summary") < names.index("close_design")
    runs = [call[-3] for call in build.of("launch_runs") if "-to_step" in call]
    assert runs == ["route_design", "write_bitstream"]  # timing is checked between the two
    assert [call[-1] for call in build.of("create_project")] == [ENGINE_PART] * 2


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    assert run(tmp_path).status == 0
    (tmp_path / "out" / "mine").write_text("kept")
    assert run(tmp_path, STUB_SLACK="0").status == 0
    assert (tmp_path / "out" / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--clock", "300"], {}, '--clock: expected one of 250, 200, found "300"'),
        (["--pixels", "3"], {}, '--pixels: expected one of 1, 2, 4, found "3"'),
        (["--jobs", "many"], {}, "--jobs: expected a whole number"),
        (["--out", ""], {}, "--out: expected a folder"),
        (["--speed", "1"], {}, 'expected one of the options --clock, --pixels, --jobs, --out, --work, found "--speed"'),
        (["--clock"], {}, "expected options with a value each"),
        ([], {"STUB_VERSION": "2019.1"}, "expected Vivado 2020.2 or later, found 2019.1"),
        ([], {"STUB_PARTS": ""}, "run its installer again and add Zynq UltraScale+ MPSoC"),
        ([], {"STUB_MISSING": ENGINE_MASTER}, f"interface {ENGINE_MASTER} of the packaged core: expected one, found 0"),
        ([], {"STUB_MISSING": "interrupt"}, "interface interrupt of the packaged core: expected one, found 0"),
        ([], {"STUB_FAIL": "synth_design"}, 'synth_1: expected "synth_design Complete", found "synth_design ERROR"'),
        ([], {"STUB_FAIL": "route_design"}, 'impl_1: expected "route_design Complete", found "route_design ERROR"'),
        ([], {"STUB_FAIL": "write_bitstream"}, 'impl_1: expected "write_bitstream Complete"'),
        (
            ["--pixels", "4"],
            {"STUB_SLACK": "-0.123"},
            "timing: expected no negative slack at 250 MHz, found -0.123 ns (setup) and 0.050 ns (hold); build it with "
            "--clock 200 or fewer --pixels",
        ),
        ([], {"STUB_HOLD": "-0.01"}, "found 0.050 ns (setup) and -0.010 ns (hold)"),
        ([], {"STUB_PERIOD": "5.333"}, "clock clk_pl_0: expected a period of 4.0 ns, found 5.333 ns"),
    ],
)
def test_an_error_is_clear_and_leaves_no_bitstream(
    tmp_path: Path, options: list[str], environment: dict[str, str], message: str
) -> None:
    found = run(tmp_path, *options, **environment)
    assert found.status == 1
    assert found.output.splitlines()[-1].startswith("fracbnn: error: ")
    assert message in found.output
    assert "while executing" not in found.output  # a message, not a trace
    assert not (found.out / "fracbnn_engine.bit").exists()


def test_an_error_of_vivado_itself_is_shown_whole(tmp_path: Path) -> None:
    hardware = tmp_path / "engine"
    shutil.copytree(HARDWARE, hardware)
    design = hardware / "vivado" / "design.tcl"
    design.write_text(design.read_text().replace("/ext_reset_in", "/ext_reset"))
    found = run(tmp_path, hardware=hardware)
    assert found.status == 1
    assert "fracbnn: error: no pin proc_sys_reset_0/ext_reset" in found.output
    assert "while executing" in found.output


def test_a_missing_source_file_is_named(tmp_path: Path) -> None:
    hardware = tmp_path / "engine"
    shutil.copytree(HARDWARE, hardware)
    (hardware / "rtl" / "sums.sv").unlink()
    found = run(tmp_path, hardware=hardware)
    assert found.status == 1
    assert "sums.sv, found none; use a whole checkout" in found.output


# fracbnn overlays build -----------------------------------------------------------------------------------------------


@pytest.fixture
def vivado(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that takes Vivado's options and runs the script it is given on the stubs; nothing else on PATH."""
    program = tmp_path / "Xilinx" / "Vivado" / "2023.2" / "bin" / "vivado"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"""#!/bin/sh
while [ "$1" != -source ]; do shift; done
script=$2; shift 3
echo "****** Vivado v2023.2"
exec {shutil.which("tclsh")} {STUBS} {tmp_path}/record "$script" "$@"
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("FRACBNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(engine_build.VIVADO_VARIABLE, raising=False)
    return program


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(group, ["overlays", "build", "engine", *arguments])
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_the_command_builds_and_says_where_it_is(tmp_path: Path, vivado: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine_build.VIVADO_VARIABLE, str(vivado.parents[1]))
    out = tmp_path / "here"
    status, output = command("--out", str(out), "--clock", "200", "--pixels", "1")
    assert status == 0, output
    assert "step 2 of 7: block design: X = 1, 200 MHz" in output
    assert "worst slack" in output
    assert f"{out}/fracbnn_engine.bit\nCopy it and fracbnn_engine.hwh to the board" in output
    assert "****** Vivado v2023.2" in (out / "fracbnn_engine.log").read_text()
    assert "****** Vivado" not in output
    assert (tmp_path / "cache" / "engine" / "build-x1-200" / "ip" / "src" / "mac.sv").is_file()


def test_a_run_that_fails_says_why_and_where_the_log_is(
    tmp_path: Path, vivado: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{vivado.parent}:/nowhere")
    monkeypatch.setenv("STUB_SLACK", "-1")
    status, output = command("--out", str(tmp_path / "here"))
    assert status != 0
    assert "building the engine failed: timing: expected no negative slack" in output
    assert f"the log says more: {tmp_path}/here/fracbnn_engine.log" in output


@pytest.mark.parametrize(("body", "reason"), [("exit 3", "status 3"), ("nonsense", "status 127")])
def test_a_vivado_that_ends_without_a_word(tmp_path: Path, vivado: Path, body: str, reason: str) -> None:
    vivado.write_text(f"#!/bin/sh\n{body}\n")
    with pytest.raises(BackendError, match=f"Vivado ended with {reason}.*fracbnn_engine.log"):
        engine_build.build_overlay(tmp_path / "out", clock_mhz=250, pixels=2, show=print, vivado=vivado)


def test_a_vivado_that_does_not_start(tmp_path: Path, vivado: Path) -> None:
    vivado.chmod(0o644)
    with pytest.raises(BackendError, match="Permission denied"):
        engine_build.build_overlay(tmp_path / "out", clock_mhz=250, pixels=2, show=print, vivado=vivado)


def test_without_vivado_the_command_says_what_to_install(vivado: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_build, "ROOTS", ())
    status, output = command()
    assert status != 0
    assert "Zynq UltraScale+ MPSoC" in output
    monkeypatch.setenv(engine_build.VIVADO_VARIABLE, "/nowhere")
    status, output = command()
    assert status != 0
    assert "XILINX_VIVADO: expected /nowhere/bin/vivado, found none" in output


def test_the_newest_installation_is_taken(vivado: Path) -> None:
    root = vivado.parents[3]
    for name in ("Vivado/2020.2", "Vivado/2023.10", "2025.1/Vivado"):
        program = root / name / "bin" / "vivado"
        program.parent.mkdir(parents=True)
        program.touch()
        assert engine_build.find_vivado([root]) == program if name != "Vivado/2020.2" else vivado
