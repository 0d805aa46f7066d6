"""Physically contiguous buffers a core can reach, allocated together and freed together."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AcceleratorError, OverlayError

REACH = 0x8000_0000
"""First address the published overlays' masters cannot reach: their HP ports map the low 2 GiB only."""


class Buffer:
    """A buffer: ``array`` is what the CPU sees, ``address`` where a core finds it.

    Nothing the CPU writes is for the core before ``flush()``, nothing the core writes for the CPU before
    ``invalidate()``.
    """

    def __init__(self, memory: Any) -> None:
        # A plain array: operations on pynq's own subclass take several microseconds more each.
        self.array: npt.NDArray[Any] = memory.view(np.ndarray)
        self.address = int(memory.physical_address)
        self.flush = memory.flush
        self.invalidate = memory.invalidate
        self._memory = memory

    def part(self, count: int) -> Buffer:
        """The first ``count`` rows as a buffer of their own."""
        return Buffer(self._memory[:count])


class Buffers:
    """Allocates buffers on a pynq device."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._memories: list[Any] = []

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
                f"expected {nbytes} bytes of contiguous memory for {what}, found {error}; free buffers of other "
                f"programs and notebooks (restart their kernels), or boot with more memory for CMA"
            ) from error
        self._memories.append(memory)
        first = int(memory.physical_address)
        if not 0 <= first <= first + nbytes <= REACH:
            raise OverlayError(
                f"buffer for {what}: expected {nbytes} bytes below {REACH:#x}, which is what the overlay can reach, "
                f"found them at {first:#x}; boot with the contiguous memory (CMA) in the low 2 GiB"
            )
        return Buffer(memory)

    def free(self) -> None:
        """Free all buffers. Idempotent. Their arrays must not be used afterwards."""
        while self._memories:
            with contextlib.suppress(RuntimeError, OSError):  # the others must be freed all the same
                self._memories.pop().freebuffer()
