"""What it costs to look, before every start of a core, whether it is still the one that was loaded.

    python benchmarks/start_checks.py [--instructions]

Registers are memory here, through pynq's own MMIO, so that what is counted is Python's work and not a bus.
``--instructions`` counts them with valgrind (callgrind), as the
difference between many calls and none.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fracbnn_pynq.simulator import import_pynq

CALLS = 20_000
WINDOW = 0x1_0000


def registers() -> dict[str, dict[str, int]]:
    names = ("CTRL", "image", "output", "image_thermo", "conv_weight_3x3_all_new", "conv_weight_1x1_all_new")
    names += ("weights_all", "DDR_buf_pack")
    return {name: {"address_offset": 8 * index + 8 * (index > 0)} for index, name in enumerate(names)}


def make(folder: Path) -> dict[str, Callable[[], object]]:
    """The checks by name, on cores whose registers hold what was written."""
    import_pynq()
    from pynq.pl_server.device import Device

    from fracbnn_pynq.board.drivers import Cifar10Core, ImageNetCore
    from fracbnn_pynq.board.overlay_state import LoadedCheck

    class Memory(Device):
        def __init__(self) -> None:
            super().__init__("registers that are memory")
            self.capabilities = {"MEMORY_MAPPED": True}

        def mmap(self, base: int, nbytes: int) -> np.ndarray:
            return np.zeros(nbytes // 4, np.uint32)

    device = Memory()
    checks: dict[str, Callable[[], object]] = {"nothing": lambda: None}
    for title, driver in (("CIFAR-10", Cifar10Core), ("ImageNet", ImageNetCore)):
        description = {"phys_addr": 0, "addr_range": WINDOW, "registers": registers(), "device": device}
        core = driver({**description, "fullpath": title, "type": driver.bindto[0], "parameters": {}})
        for argument in driver.arguments:
            core.set_address(argument, 0x6000_0000)
        checks[f"addresses, {title}"] = core.check_addresses
        checks[f"set two addresses, {title}"] = lambda core=core: [
            core.set_address(argument, 0x6000_0000) for argument in core.arguments[:2]
        ]
    for name in ("global_pl_state_.json", "core.bin"):
        (folder / name).touch()
    overlay = SimpleNamespace(binfile_name="", is_loaded=lambda: True)
    checks["pynq's record"] = LoadedCheck(overlay, folder).still
    firmware = SimpleNamespace(binfile_name="core.bin", is_loaded=lambda: True)
    closely = LoadedCheck(firmware, folder, firmware=folder)
    checks["record and firmware"] = lambda: closely.still(closely=True)
    return checks


def instructions(name: str, calls: int) -> int:
    """Instructions of a whole process that makes ``calls`` calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"--callgrind-out-file={folder}/out"
        script = [sys.executable, __file__, "--only", name, "--calls", str(calls)]
        found = subprocess.run(
            ["valgrind", "--tool=callgrind", out, *script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        )
    return int(re.findall(r"Collected : (\d+)", found.stderr)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--calls", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = make(Path(folder))
        if options.only:
            check = checks[options.only]
            for _ in range(options.calls):
                check()
            return
        empty = instructions("nothing", 0) if options.instructions else 0
        for name, check in checks.items():
            best = min(timeit.repeat(check, number=CALLS, repeat=7)) / CALLS * 1e6
            line = f"{name:28} {best:6.2f} us"
            if options.instructions:
                count = (instructions(name, CALLS) - empty) / CALLS
                line += f" {count:8,.0f} instructions"
            print(line, flush=True)


if __name__ == "__main__":
    main()
