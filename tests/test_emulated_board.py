"""The real board's path: pynq's own device, FPGA manager and memory, on an emulated machine (``board_emulation/``)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "board_emulation"))
from machine import why_not

EMULATION = Path(__file__).parent / "board_emulation"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # a minute each on two idle processors; every command of a person starts Python and pynq
    pytest.mark.skipif(importlib.util.find_spec("pynq") is None, reason="pynq is not installed: it drives the board"),
]


@pytest.fixture(scope="module")
def machine(shared: Path):
    """Runs a command on an emulated board; its status and everything it said."""
    if reason := why_not():
        pytest.skip(reason)

    def run(*command: object) -> tuple[int, str]:
        words = [sys.executable, EMULATION / "machine.py", "--", *command]
        found = subprocess.run(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return found.returncode, found.stdout

    return run


@pytest.mark.parametrize("file", ["on_board_results.py", "on_board_faults.py", "on_board_person.py"])
def test_on_an_emulated_board(machine, file):
    # Warnings stay warnings there: pynq gives some of its own on every board.
    options = ("-q", "-n", "0", "--tb=short", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore")
    status, said = machine(sys.executable, "-m", "pytest", *options, EMULATION / file)
    assert status == 0, said
    assert " passed" in said
    print(said.strip().splitlines()[-1])


def test_the_machine_outside_stays_as_it_is(machine):
    """What a command does to its board, nobody else sees; and its exit status comes back."""
    made = Path("/lib/firmware/fracbnn-emulated.bin")
    status, said = machine("sh", "-c", f"echo 1 > {made} && stat -c %s /dev/mem && exit 7")
    assert (status, said.split()) == (7, [str(4 << 30)])
    assert not made.exists()
    assert not Path("/opt/emulated-xrt").exists()
