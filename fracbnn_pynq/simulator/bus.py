"""The CPU's register space: which model answers at which physical address."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from .memory import BusError

PL_APERTURES = ((0xA000_0000, 0xC000_0000), (0x80_0000_0000, 0x100_0000_0000))
"""Addresses that reach the fabric (HPM0/HPM1 FPD and LPD), 32-bit and high; everything else belongs to the PS."""


class RegisterModel(Protocol):
    """A slave: 32-bit registers at word offsets."""

    def read(self, offset: int) -> int:
        """Value of the register at ``offset``; reading may change state, as in hardware."""

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit value to the register at ``offset``."""


class _Window(NamedTuple):
    base: int
    size: int
    model: RegisterModel


class Bus:
    """Decodes 32-bit accesses of the CPU. Safe to use from several threads if the models are."""

    def __init__(self) -> None:
        self._windows: tuple[_Window, ...] = ()

    def attach(self, base: int, size: int, model: RegisterModel) -> None:
        """Let ``model`` answer at ``base`` to ``base + size - 1``. Raises ValueError where another does already."""
        for window in self._windows:
            if base < window.base + window.size and window.base < base + size:
                raise ValueError(f"slave at {base:#x}: expected free addresses, found the slave at {window.base:#x}")
        self._windows = (*self._windows, _Window(base, size, model))

    def detach_fabric(self) -> None:
        """Remove every slave in the fabric, as when it is configured anew or loses power."""
        self._windows = tuple(w for w in self._windows if not any(lo <= w.base < hi for lo, hi in PL_APERTURES))

    def read32(self, address: int) -> int:
        """Read a register; raises :class:`BusError` where no slave answers."""
        window = self._decode(address)
        return window.model.read(address - window.base) & 0xFFFF_FFFF

    def write32(self, address: int, value: int) -> None:
        """Write a register; raises :class:`BusError` where no slave answers."""
        window = self._decode(address)
        window.model.write(address - window.base, value & 0xFFFF_FFFF)

    def _decode(self, address: int) -> _Window:
        for window in self._windows:
            if window.base <= address < window.base + window.size:
                return window
        raise BusError(f"register access at {address:#x}: expected a slave, found none (is the overlay still loaded?)")


class MappedRegisters(np.ndarray):
    """What ``mmap`` of a register window returns on a board: an array whose elements are registers.

    Element access and slice assignment are bus transactions. Reading a slice gives a view whose elements are
    registers again; NumPy functions that read the whole array in C see zeros, which no driver does.
    """

    _bus: Bus
    _base: int
    _origin: int
    _first: int
    """Physical address of the first element; kept, because asking NumPy for it would take most of an access's time."""

    def __new__(cls, bus: Bus, base: int, nbytes: int) -> MappedRegisters:
        self = np.zeros(nbytes // 4, np.uint32).view(cls)
        self._bus, self._base, self._first = bus, base, base
        self._origin = self.__array_interface__["data"][0]
        return self

    def __array_finalize__(self, obj: Any) -> None:
        if isinstance(obj, MappedRegisters) and hasattr(obj, "_bus"):
            self._bus, self._base, self._origin = obj._bus, obj._base, obj._origin
            self._first = self._base + int(self.__array_interface__["data"][0]) - self._origin

    def _address(self, index: int) -> int:
        count = self.shape[0]
        if not -count <= index < count:
            raise IndexError(f"index {index} is out of bounds for a window of {count} registers")
        return int(self._first + (index % count) * self.strides[0])

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (int, np.integer)):
            return super().__getitem__(key)
        address = self._address(int(key))
        value = self._bus.read32(address)
        if self.itemsize == 8:
            value |= self._bus.read32(address + 4) << 32
        return self.dtype.type(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, (int, np.integer)):
            address = self._address(int(key))
            self._bus.write32(address, int(value))
            if self.itemsize == 8:
                self._bus.write32(address + 4, int(value) >> 32)
            return
        indices = np.arange(self.shape[0])[key]
        for index, word in zip(indices, np.broadcast_to(np.asarray(value), indices.shape), strict=True):
            self[int(index)] = word
