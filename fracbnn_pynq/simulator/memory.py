"""DRAM of the simulated board: contiguous buffers, the CPU's cached copy of them, and the AXI masters' view.

A buffer has two copies of its bytes, what DRAM holds and what the CPU sees. ``flush`` copies CPU to DRAM,
``invalidate`` DRAM to CPU; nothing else does. Both start filled with 0xA5. A driver that forgets either therefore
computes with, or returns, bytes that are plainly wrong, on every run, where a real board fails now and then.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..cores import REACH
from ..errors import BackendError

Bytes = npt.NDArray[np.uint8]

POISON = 0xA5
PAGE = 4096
SMALLEST_BUFFER = 8192
"""pynq >= 3.1 allocates at least this many bytes for any buffer."""
CMA_BASE = 0x3780_0000
CMA_SIZE = 256 << 20


class BusError(BackendError):
    """Nothing answers at this physical address. A real board stops the process, the core or the whole system."""


@dataclass(eq=False)
class DramBuffer:
    """A physically contiguous buffer of ``size`` bytes (whole pages) at ``address``.

    ``dram`` is what masters in the fabric see, ``cpu`` what the CPU sees: the same array unless the memory simulates
    a cache. ``generation`` changes with every change of ``dram``.
    """

    address: int
    size: int
    dram: Bytes
    cpu: Bytes
    generation: int = field(default=0)


class Dram:
    """Physical memory with a contiguous-memory pool of ``cma_size`` bytes from ``cma_base``."""

    def __init__(self, *, cma_base: int = CMA_BASE, cma_size: int = CMA_SIZE, strict_cache: bool = True) -> None:
        self.cma_base, self.cma_size = cma_base, cma_size
        self.strict_cache = strict_cache
        self._free = [(cma_base, cma_size)]
        self._buffers: dict[int, DramBuffer] = {}
        self._generations = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def buffers(self) -> tuple[DramBuffer, ...]:
        """Every buffer not yet freed."""
        with self._lock:
            return tuple(self._buffers.values())

    def allocate(self, nbytes: int) -> DramBuffer:
        """A new buffer, first fit. Raises MemoryError where no gap of the pool is large enough."""
        size = max(SMALLEST_BUFFER, -(-nbytes // PAGE) * PAGE)
        with self._lock:
            for index, (start, room) in enumerate(self._free):
                if room >= size:
                    self._free[index : index + 1] = [(start + size, room - size)] if room > size else []
                    break
            else:
                largest = max((room for _, room in self._free), default=0)
                raise MemoryError(f"no {size} contiguous bytes are free: the largest gap is {largest} bytes")
            dram = np.full(size, POISON, np.uint8)
            cpu = dram.copy() if self.strict_cache else dram
            buffer = self._buffers[start] = DramBuffer(start, size, dram, cpu, next(self._generations))
            return buffer

    def free(self, buffer: DramBuffer) -> None:
        """Give a buffer back; freeing one twice does nothing."""
        with self._lock:
            if self._buffers.get(buffer.address) is not buffer:
                return
            del self._buffers[buffer.address]
            gaps: list[tuple[int, int]] = []
            for start, room in sorted([*self._free, (buffer.address, buffer.size)]):
                if gaps and sum(gaps[-1]) == start:
                    gaps[-1] = (gaps[-1][0], gaps[-1][1] + room)
                else:
                    gaps.append((start, room))
            self._free = gaps

    def flush(self, buffer: DramBuffer, offset: int, nbytes: int) -> None:
        """Write the CPU's bytes back to DRAM."""
        self._copy(buffer, buffer.cpu, buffer.dram, offset, nbytes)
        buffer.generation = next(self._generations)

    def invalidate(self, buffer: DramBuffer, offset: int, nbytes: int) -> None:
        """Make the CPU see what DRAM holds; what it wrote and did not flush is lost."""
        self._copy(buffer, buffer.dram, buffer.cpu, offset, nbytes)

    @staticmethod
    def _copy(buffer: DramBuffer, source: Bytes, target: Bytes, offset: int, nbytes: int) -> None:
        if not 0 <= offset <= offset + nbytes <= buffer.size:
            raise ValueError(f"buffer of {buffer.size} bytes: bytes {offset} to {offset + nbytes} lie outside it")
        if source is not target:
            target[offset : offset + nbytes] = source[offset : offset + nbytes]

    def generation(self, address: int, nbytes: int) -> int:
        """A number that differs whenever the DRAM bytes at ``address`` may differ from before."""
        buffer, _ = self._find(address, nbytes)
        # Without a simulated cache the CPU changes DRAM unseen, so nothing can be promised about it.
        return buffer.generation if self.strict_cache else next(self._generations)

    def lose_power(self) -> None:
        """Fill DRAM with poison, as after a power cycle; the CPU's copies are gone with it."""
        with self._lock:
            for buffer in self._buffers.values():
                buffer.dram[:] = buffer.cpu[:] = POISON
                buffer.generation = next(self._generations)

    def read(self, address: int, nbytes: int) -> bytes:
        """What a master in the fabric reads."""
        buffer, offset = self._find(address, nbytes)
        return buffer.dram[offset : offset + nbytes].tobytes()

    def write(self, address: int, data: bytes | Bytes) -> None:
        """What a master in the fabric writes: DRAM changes, the CPU's copy does not."""
        buffer, offset = self._find(address, len(data))
        buffer.dram[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        buffer.generation = next(self._generations)

    def _find(self, address: int, nbytes: int) -> tuple[DramBuffer, int]:
        with self._lock:
            for start, buffer in self._buffers.items():
                if start <= address and address + nbytes <= start + buffer.size:
                    return buffer, address - start
        raise BusError(f"{nbytes} bytes at {address:#x}: expected an allocated buffer, found none that holds them all")


class MasterPort:
    """An AXI master's way to DRAM: 32-bit addresses, of which the HP port maps those below ``reach``.

    ``broken`` is a half-open range of addresses that answer with a decode error.
    """

    def __init__(self, dram: Dram, *, reach: int = REACH, broken: tuple[int, int] | None = None) -> None:
        self._dram = dram
        self._reach = reach
        self._broken = broken

    def check(self, address: int, nbytes: int) -> None:
        """Raise :class:`BusError` unless the master can reach all these bytes and they are allocated."""
        end = address + nbytes
        if end > self._reach:
            raise BusError(f"{nbytes} bytes at {address:#x}: expected addresses below {self._reach:#x}")
        if self._broken and address < self._broken[1] and end > self._broken[0]:
            raise BusError(f"{nbytes} bytes at {address:#x}: decode error (injected)")
        self._dram._find(address, nbytes)

    def read(self, address: int, nbytes: int) -> bytes:
        """Read ``nbytes`` from ``address``; raises :class:`BusError`."""
        self.check(address, nbytes)
        return self._dram.read(address, nbytes)

    def write(self, address: int, data: bytes | Bytes) -> None:
        """Write ``data`` to ``address``; raises :class:`BusError`."""
        self.check(address, len(data))
        self._dram.write(address, data)

    def generation(self, address: int, nbytes: int) -> int:
        """See :meth:`Dram.generation`; raises :class:`BusError`."""
        self.check(address, nbytes)
        return self._dram.generation(address, nbytes)
