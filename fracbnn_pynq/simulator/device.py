"""The simulated Ultra96-V2 as a pynq device. With ``pynqapi`` the only modules of the simulator that import pynq."""

from __future__ import annotations

import datetime
import errno
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pynq.buffer import PynqBuffer
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import bit2bin

from . import pynqapi
from .bus import Bus, MappedRegisters
from .clocks import Clocks
from .cores import Core, Surroundings
from .fabric import Fabric
from .faults import Fault, FaultKind, FaultPlan
from .handoff import PART, read_bit
from .leftovers import FileLock
from .memory import CMA_BASE, CMA_SIZE, Dram, DramBuffer

log = logging.getLogger(__name__)

_tags = itertools.count()
_FPGA_MANAGER = "/sys/class/fpga_manager/fpga0/firmware"
_OTHER_PART = "xczu5eg-sfvc784-1-i"


class SimulatedMemory:
    """The contiguous memory pynq allocates from; what ``device.default_memory`` is."""

    idx = 0
    base_address = 0

    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device
        self.size = device.dram.cma_size

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 0) -> Any:
        """A pynq buffer. ``cacheable`` is accepted and makes no difference: every buffer must be flushed.

        Raises RuntimeError, as pynq does, where no contiguous memory is left.
        """
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if FaultKind.CMA_EXHAUSTED in self.device.plan.next("allocation"):
            raise RuntimeError("Allocate failed: contiguous memory is exhausted (injected)")
        try:
            memory = self.device.dram.allocate(nbytes)
        except MemoryError as error:
            raise RuntimeError(f"Allocate failed: {error}") from error
        buffer = PynqBuffer(
            shape, dtype, bo=memory, device=self.device, buffer=memory.cpu.data, device_address=memory.address
        )
        buffer.memory, buffer.pointer, buffer.return_to = self, memory, self
        buffer.freed = True  # a second freebuffer() would otherwise unmap memory that was never mapped
        return buffer

    def return_pointer(self, memory: DramBuffer) -> None:
        """Called by pynq when a buffer is freed."""
        self.device.dram.free(memory)


class SimulatedDevice(Device):  # type: ignore[misc]  # pynq has no type information
    """An Ultra96-V2 that exists in memory only; see :func:`fracbnn_pynq.simulator.install`.

    ``cores`` are the accelerator cores of the loaded overlay by instance name, ``dram`` and ``clocks`` the board's
    memory and clock registers, ``downloads`` the bitstreams loaded so far.
    """

    name = "Ultra96-V2 (simulated)"
    board = "Ultra96"
    """What the environment variable BOARD says on the PYNQ image for this board."""
    arch = "aarch64"

    def __init__(
        self,
        *,
        plan: FaultPlan | None = None,
        timed: bool = True,
        strict_cache: bool = True,
        cma_base: int = CMA_BASE,
        cma_size: int = CMA_SIZE,
        **contents: Any,
    ) -> None:
        """``contents`` is passed on to :class:`~fracbnn_pynq.simulator.fabric.Fabric`."""
        super().__init__(f"simulated-ultra96v2-{next(_tags)}")
        self.capabilities = {"MEMORY_MAPPED": True, "REGISTER_RW": False, "CALLABLE": False}
        self.plan = plan or FaultPlan()
        self.part = _OTHER_PART if FaultKind.WRONG_PART in self.plan.next("board") else PART
        self.bus = Bus()
        self.dram = Dram(cma_base=cma_base, cma_size=cma_size, strict_cache=strict_cache)
        self.clocks = Clocks(self.bus)
        self.downloads = 0
        self._loaded = FileLock()
        self._design: tuple[Any, ...] | None = None
        board = Surroundings(self.dram, self.clocks.fabric_hz, timed, self.plan, self._show)
        self._fabric = Fabric(self.bus, board, **contents)
        self._uio = pynqapi.UioDevices(self._fabric.uio)

    @property
    def cores(self) -> Mapping[str, Core]:
        return self._fabric.cores

    # What pynq asks of a device

    @property
    def default_memory(self) -> SimulatedMemory:
        return SimulatedMemory(self)

    def get_memory(self, description: Any) -> SimulatedMemory:
        return SimulatedMemory(self)

    def mmap(self, base_addr: int, length: int) -> MappedRegisters:
        return MappedRegisters(self.bus, base_addr, length)

    def flush(self, bo: DramBuffer, offset: int, ptr: int, size: int) -> None:
        self.dram.flush(bo, offset, size)

    def invalidate(self, bo: DramBuffer, offset: int, ptr: int, size: int) -> None:
        self.dram.invalidate(bo, offset, size)

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        return pynqapi.parse_handoff(Path(bitfile_name).with_suffix(".hwh"))

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """Nothing: pynq's own devices would write into pynq's installation folder here."""

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Load a .bit file.

        Raises OSError where it is for another device: the device refuses it, and writing to the FPGA manager's file
        fails (inferred from the kernel's interface, not seen on a board).
        """
        parser = parser or self.parser
        path = Path(bitstream.bitfile_name)
        data = path.read_bytes()
        bit2bin(data)  # pynq's own check of the file's form
        file = read_bit(data)
        if file.part.split("-")[:2] != self.part.split("-")[:2]:
            message = f"bitstream for {file.part}, device is {self.part}"
            raise OSError(errno.EINVAL, message, _FPGA_MANAGER)
        faults = self.plan.next("download")
        if FaultKind.DOWNLOAD_FAILS in faults:
            raise OSError(errno.EIO, "the bitstream was not taken (injected)", _FPGA_MANAGER)
        self._loaded.take(path)
        self.clocks.release()  # a clock that was stuck after the last download was so because of that one
        self._design = (parser.ip_dict, parser.interrupt_pins, parser.interrupt_controllers, file.tag)
        self._fabric.configure(*self._design)
        self._uio.install()
        for kind in (FaultKind.WRONG_CLOCK, FaultKind.CLOCK_STUCK):
            if kind in faults:
                self.clocks.force(faults[kind].number(375.0), locked=kind is FaultKind.CLOCK_STUCK)
        self.downloads += 1
        self.post_download(bitstream, parser)
        log.debug("simulated board: loaded %s, fabric clock %.3f MHz", bitstream.bitfile_name, self.fabric_mhz)

    # What happens to a board

    @property
    def fabric_mhz(self) -> float:
        """Present frequency of fabric clock 0."""
        return self.clocks.fabric_hz() / 1e6

    def replace_overlay(self) -> None:
        """As if another process had loaded another overlay, which has none of this one's slaves."""
        self._fabric.clear()
        self.timestamp = f"{datetime.datetime.now(datetime.timezone.utc)} (another process)"
        self.bitfile_name = "/another/process/other.bit"

    def reload_overlay(self) -> None:
        """As if another process had loaded the same overlay again: the cores' registers are as after a reset."""
        if self._design is not None:
            self._fabric.configure(*self._design)

    def power_cycle(self) -> None:
        """Power off and on: fabric empty, DRAM lost, clocks as the boot image sets them."""
        self._fabric.clear()
        self.dram.lose_power()
        self.clocks.reset()
        self.timestamp = self.bitfile_name = ""

    def close(self) -> None:
        """Stop all threads and stop being pynq's active device. Idempotent; buffers may still be freed afterwards."""
        self._fabric.close()
        self._loaded.release()
        self._uio.remove()
        pynqapi.deactivate(self)

    def __enter__(self) -> SimulatedDevice:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _show(self, fault: Fault) -> None:
        if fault.kind is FaultKind.POWER_CYCLE:
            self.power_cycle()
        elif fault.kind is FaultKind.OVERLAY_REPLACED:
            self.replace_overlay()
        elif fault.kind is FaultKind.OVERLAY_RELOADED:
            self.reload_overlay()
