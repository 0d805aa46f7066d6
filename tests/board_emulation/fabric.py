"""The programmable logic of the emulated board: takes what is written to the FPGA manager, and is the core in it.

Maps the same /dev/mem as the driver does. That is plain memory, so that an access has no side effects: the control
register is looked at for AP_START (the driver's write of it also clears AP_IDLE), and set when a run has ended. What
cores compute, and how clocks follow from their registers, is the simulated board's own code.

Files in /run/fabric: ``ready`` and ``taken`` (the time of the last firmware request that was served) tell; ``hang``
lets runs never end, and ``refuse`` configurations fail.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np

from fracbnn_pynq.cores import CIFAR10_CORE, REACH
from fracbnn_pynq.layouts.images import pack_cifar10_image, pack_imagenet_image
from fracbnn_pynq.layouts.weights import pack_model
from fracbnn_pynq.models import find_model
from fracbnn_pynq.simulator.bus import Bus
from fracbnn_pynq.simulator.clocks import CRF_APB, CRL_APB, Clocks
from fracbnn_pynq.simulator.compute import Cifar10Network, ImageNetNetworks
from fracbnn_pynq.simulator.cores import OVERCLOCK_MARGIN, Cifar10Kernel, ImageNetKernel, Kernel
from fracbnn_pynq.simulator.handoff import BitFile
from fracbnn_pynq.simulator.registers import DONE, FIRST_ARGUMENT, IDLE, READY, START

MANAGER = Path("/sys/class/fpga_manager/fpga0")
FIRMWARE = Path("/lib/firmware")
SIGNS = Path("/run/fabric")
BASES = {"cifar10": 0xA001_0000, "imagenet": 0xA000_0000}
"""Where the published overlays have their core's registers."""
WINDOW, PS_WINDOW = 0x1_0000, 0x1000
AWAKE_S, NAP_S, SLEEP_S = 1.0, 50e-6, 1e-3


class Memory:
    """/dev/mem, and an AXI master's view of its low part, as the simulated board's cores want it."""

    def __init__(self) -> None:
        self._file = os.open("/dev/mem", os.O_RDWR)
        self._dram = mmap.mmap(self._file, REACH)
        self._generations = itertools.count()

    def window(self, base: int, nbytes: int) -> np.ndarray:
        return np.frombuffer(mmap.mmap(self._file, nbytes, offset=base), np.uint32)

    def check(self, address: int, nbytes: int) -> None:
        """All of this memory answers."""

    def read(self, address: int, nbytes: int) -> bytes:
        return self._dram[address : address + nbytes]

    def write(self, address: int, data: bytes) -> None:
        self._dram[address : address + len(data)] = data

    def generation(self, address: int, nbytes: int) -> int:
        return next(self._generations)  # nobody says when it changes


class PsClocks:
    """The clock registers in memory, computed with the simulated board's."""

    def __init__(self, memory: Memory) -> None:
        self._bus = Bus()
        self._clocks = Clocks(self._bus)
        self._windows = {base: memory.window(base, PS_WINDOW) for base in (CRL_APB, CRF_APB)}
        for base, words in self._windows.items():
            words[:] = [self._bus.read32(base + offset) for offset in range(0, PS_WINDOW, 4)]

    def fabric_mhz(self) -> float:
        for base, words in self._windows.items():
            for index in np.flatnonzero(words):
                self._bus.write32(base + 4 * int(index), int(words[index]))
        return self._clocks.fabric_hz() / 1e6


class Fabric:
    """What is configured, and its registers."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.clocks = PsClocks(self.memory)
        self.networks = warm_networks()
        self.kernel = self.registers = None
        self.seen = (MANAGER / "firmware").stat().st_mtime_ns

    def look(self) -> None:
        """Serve a firmware request, if there is a new one."""
        request = MANAGER / "firmware"
        try:
            stamp = request.lstat().st_mtime_ns
            name = request.read_text().strip() if stamp != self.seen and not request.is_symlink() else ""
        except OSError:
            return
        if name:
            self.seen = stamp
            (MANAGER / "state").write_text(self.configure(name) + "\n")
            (SIGNS / "taken").write_text(str(stamp))

    def configure(self, name: str) -> str:
        """Load firmware; the FPGA manager's state afterwards."""
        if self.registers is not None:
            self.registers[:] = 0
        self.kernel = self.registers = None
        try:
            payload = np.frombuffer((FIRMWARE / name).read_bytes(), np.uint32).byteswap().tobytes()
        except OSError:
            return "firmware request error"
        kind = BitFile("", "", "", "", payload).tag.kind
        if kind is None or (SIGNS / "refuse").exists():
            return "write error"
        self.kernel = self.networks[kind]
        self.registers = self.memory.window(BASES[kind], WINDOW)
        self.registers[:] = 0
        self.registers[0] = IDLE
        return "operating"

    def step(self) -> bool:
        """Do a run if one has been started."""
        if self.registers is None or not int(self.registers[0]) & START or (SIGNS / "hang").exists():
            return False
        offsets = range(FIRST_ARGUMENT, FIRST_ARGUMENT + 8 * len(self.kernel.roles), 8)
        arguments = {role: int(self.registers[at // 4]) for role, at in zip(self.kernel.roles, offsets, strict=True)}
        try:
            result = self.kernel.run(arguments, self.memory)
        except Exception as error:  # a core started with wrong addresses: it is busy for good, and the board lives on
            print(f"fabric: {type(error).__name__}: {error}", file=sys.stderr)
            self.registers[0] = 0
            return False
        data = result.data
        if self.clocks.fabric_mhz() > CIFAR10_CORE.clock_mhz * OVERCLOCK_MARGIN:
            data = bytes(byte ^ 0x55 for byte in data)  # a core that misses its timing
        self.memory.write(result.address, data)
        self.registers[0] = IDLE | DONE | READY
        return True


def warm_networks() -> dict[str, Kernel]:
    """The cores, after a run each: the first one of a network takes longer than a driver waits for a core."""
    cifar10, imagenet = Cifar10Network(find_model("cifar10-authors")), ImageNetNetworks()
    cifar10(pack_cifar10_image(np.zeros((32, 32, 3), np.uint8)))
    buffers = pack_model(find_model("imagenet-authors"))
    imagenet(*(buffer.tobytes() for buffer in buffers))(pack_imagenet_image(np.zeros((224, 224, 3), np.uint8)))
    return {"cifar10": Cifar10Kernel(cifar10), "imagenet": ImageNetKernel(imagenet)}


def main() -> None:
    fabric = Fabric()
    (SIGNS / "ready").touch()
    last = looked = time.monotonic()
    while True:
        now = time.monotonic()
        if fabric.step():
            last = now
        elif now - looked > SLEEP_S:
            looked = now
            fabric.look()
        time.sleep(NAP_S if now - last < AWAKE_S else SLEEP_S)


if __name__ == "__main__":
    main()
