"""Physically contiguous buffers a core can reach, allocated together and freed together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cores import REACH
from ..errors import AcceleratorError, OverlayError

Transfer = Callable[[], Any]


class Buffer:
    """A buffer, or the first rows of one: ``array`` and ``bytes`` are what the CPU sees, ``address`` is where a core
    finds it.

    Nothing the CPU writes is for the core before ``flush()``, nothing the core writes for the CPU before
    ``invalidate()``. Both raise :class:`~fracbnn_pynq.errors.AcceleratorError` once the buffer has been freed.

    The memory goes when the last of pynq's objects for it does, so this alone holds one, and :meth:`release` lets go.
    """

    def __init__(self, memory: Any, rows: int | None = None) -> None:
        # A plain array: operations on pynq's own subclass take several microseconds more each.
        self.array: npt.NDArray[Any] = memory.view(np.ndarray)[:rows]
        # Of ten numbers it fills and copies bytes in a quarter of the time of an array.
        self.bytes = self.array.reshape(-1).view(np.uint8).data
        self.address = int(memory.physical_address)
        self.flush, self.invalidate = _transfers(memory, self.array.nbytes)
        self._memory: Any = memory
        self._parts: list[Buffer] = []

    def part(self, count: int) -> Buffer:
        """The first ``count`` rows as a buffer of their own, which is freed with this one."""
        part = Buffer(self._memory, count)
        self._parts.append(part)
        return part

    def release(self) -> Any:
        """pynq's object, which neither this nor its parts hold any longer. Their arrays must not be used afterwards."""
        while self._parts:
            self._parts.pop().release()
        self.array = np.empty(0, self.array.dtype)
        self.bytes = memoryview(b"")
        self.flush = self.invalidate = _freed
        memory, self._memory = self._memory, None
        return memory


def _transfers(memory: Any, nbytes: int) -> tuple[Transfer, Transfer]:
    """Flush and invalidate of a buffer's first ``nbytes``, as pynq's own, which look all of this up each time."""
    if memory.coherent:
        return _nothing, _nothing
    if _is_xrt_object(memory.bo):
        # From 3.1 on pynq hands over all of a buffer, however small the part: 13 MB, twice, for 28 KiB of result.
        direction = import_module("pyxrt").xclBOSyncDirection
        return (
            partial(memory.bo.sync, direction.XCL_BO_SYNC_BO_TO_DEVICE, nbytes, 0),
            partial(memory.bo.sync, direction.XCL_BO_SYNC_BO_FROM_DEVICE, nbytes, 0),
        )
    device, bo, start = memory.device, memory.bo, memory.virtual_address
    return partial(device.flush, bo, 0, start, nbytes), partial(device.invalidate, bo, 0, start, nbytes)


def _is_xrt_object(bo: Any) -> bool:
    """Whether this is XRT's own object, as in pynq from 3.1 on, and not a number or that of a simulated board."""
    return hasattr(bo, "sync")


def _nothing() -> None:
    """A cache that sees what masters write needs no care."""


def _freed() -> None:
    raise AcceleratorError("this buffer has been freed", advice="open another accelerator")


def _free(memory: Any) -> None:
    if _is_xrt_object(getattr(memory, "bo", None)):
        # XRT's object removes its mapping when it goes. pynq would remove it a moment before, and by then another
        # thread may have been given the addresses, whose memory XRT then took away.
        memory.freed = True
        del memory.bo
    else:
        memory.freebuffer()


class Buffers:
    """Allocates buffers on a pynq device."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._buffers: list[Buffer] = []

    def allocate(self, what: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        """A buffer for ``what``.

        Raises :class:`~fracbnn_pynq.errors.AcceleratorError` where no contiguous memory is left, and
        :class:`~fracbnn_pynq.errors.OverlayError` where the masters in the fabric could not reach it.
        """
        import pynq  # noqa: PLC0415 - the checks of a board import this package without it

        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            memory = pynq.allocate(shape, dtype, target=self._device)
        except (RuntimeError, MemoryError, OSError) as error:
            raise AcceleratorError(
                f"expected {nbytes} bytes of contiguous memory for {what}, found {error}",
                advice="free buffers of other "
                "programs and notebooks (restart their kernels), or boot with more memory for CMA",
            ) from error
        buffer = Buffer(memory)
        self._buffers.append(buffer)
        first = buffer.address
        if not 0 <= first <= first + nbytes <= REACH:
            raise OverlayError(
                f"buffer for {what}: expected {nbytes} bytes below {REACH:#x}, which is what the overlay can reach, "
                f"found them at {first:#x}",
                advice="boot with the contiguous memory (CMA) in the low 2 GiB",
            )
        return buffer

    def free(self) -> None:
        """Free all buffers. Idempotent. Their arrays must not be used afterwards."""
        while self._buffers:
            with contextlib.suppress(RuntimeError, OSError):  # the others must be freed all the same
                _free(self._buffers.pop().release())
