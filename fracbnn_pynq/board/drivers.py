"""pynq drivers of the two FracBNN cores: their registers, by name, and nothing else. Imports pynq.

Once this module is imported, pynq gives ``overlay.FracNet_T_0`` and ``overlay.FracNet_0`` these classes. Builds of
the same core name their argument registers a little differently and put them at different offsets, so both come from
the hand-off file. Reading CTRL clears AP_DONE, and so does printing pynq's ``register_map``: the end of a run is
AP_IDLE, which reading does not change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pynq import DefaultIP

from ..cores import CIFAR10_CORE, IMAGENET_CORE
from ..errors import OverlayError, OverlayReplacedError

CTRL, GIER, IP_IER, IP_ISR = "CTRL", "GIER", "IP_IER", "IP_ISR"
AP_START, AP_IDLE = 0x1, 0x4

_SUFFIX = re.compile(r"_[rV]$")
"""HLS appends ``_V`` to arbitrary-precision arguments and ``_r`` to names that are reserved words."""


class HlsCore(DefaultIP):  # type: ignore[misc]  # pynq has no type information
    """An HLS core with block-level control (``ap_ctrl_hs``) and physical addresses as arguments.

    ``arguments``: the names of its argument registers, without the suffixes HLS may append.
    Raises :class:`~fracbnn_pynq.errors.OverlayError` where the hand-off file does not show the control registers and
    every argument in one slave.
    """

    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__(description)
        self.instance = str(description.get("fullpath", type(self).__name__))
        self.offsets = find_registers(self.instance, self.arguments, description.get("registers") or {})
        self._control = self.offsets[CTRL] >> 2
        words = self.mmio.array
        # Not by pynq's methods, which take five times as long; and of a board, whose registers are memory, by a view,
        # which takes half the time of the array. Either reads or writes a word at once.
        self._words: Any = words.data if type(words) is np.ndarray else words
        self._addresses: dict[int, int] = {}
        self._run_addresses: Mapping[int, int] = {}
        """Physical addresses by index of the register: those that stay, and those of the run."""

    def set_address(self, argument: str, physical: int) -> None:
        """Set the physical address of a buffer. The core must be idle: it reads its arguments while it runs."""
        index = self.offsets[argument] >> 2
        self._addresses[index] = physical
        self._words[index] = physical

    def registers_of(self, addresses: Mapping[str, int]) -> dict[int, int]:
        """By index of the register the physical addresses of some arguments' buffers, for :meth:`set_run_addresses`."""
        return {self.offsets[argument] >> 2: physical for argument, physical in addresses.items()}

    def set_run_addresses(self, registers: Mapping[int, int]) -> None:
        """As :meth:`set_address`, for those that change with the run, instead of the last ones; those that stay are
        read back, see :meth:`check_addresses`."""
        self._run_addresses = registers
        words = self._words
        for index, physical in registers.items():
            words[index] = physical
        if self._addresses:
            self._check(self._addresses)

    def check_addresses(self) -> None:
        """Read back all addresses that were set.

        A core that has been configured again since has zeros there, and started would write to physical address 0.
        Raises :class:`~fracbnn_pynq.errors.OverlayReplacedError` where a register holds another value.
        """
        self._check(self._addresses)
        self._check(self._run_addresses)

    def _check(self, registers: Mapping[int, int]) -> None:
        words = self._words
        for index, physical in registers.items():
            if (found := int(words[index])) != physical:
                raise OverlayReplacedError(
                    f"{self.instance}: expected the address {physical:#x} in the register at {index << 2:#x}, found "
                    f"{found:#x}: the core has been loaded again since",
                    advice="call reload() to load the overlay again, after ending what uses the core",
                )

    def start(self) -> None:
        """Begin a run. The core must be idle."""
        self._words[self._control] = AP_START

    def idle(self) -> bool:
        """Whether no run is under way: one read of CTRL."""
        return int(self._words[self._control]) & AP_IDLE != 0

    def enable_interrupt(self) -> None:
        """Let the end of a run raise the core's interrupt line."""
        self._write(IP_IER, 1)
        self._write(GIER, 1)

    def clear_interrupt(self) -> None:
        """Lower the interrupt line; writing a one toggles the bit, so only a set bit is written."""
        if pending := int(self._words[self.offsets[IP_ISR] >> 2]) & 3:
            self._write(IP_ISR, pending)

    def _write(self, name: str, value: int) -> None:
        self._words[self.offsets[name] >> 2] = value


class Cifar10Core(HlsCore):
    """The CIFAR-10 core: addresses of an image and of ten logits."""

    bindto: ClassVar[list[str]] = [CIFAR10_CORE.vlnv]
    arguments: ClassVar[tuple[str, ...]] = CIFAR10_CORE.arguments


class ImageNetCore(HlsCore):
    """The ImageNet core: addresses of an image, three weight buffers, and scratch memory that ends up as result."""

    bindto: ClassVar[list[str]] = [IMAGENET_CORE.vlnv]
    arguments: ClassVar[tuple[str, ...]] = IMAGENET_CORE.arguments


def find_registers(
    instance: str, arguments: tuple[str, ...], registers: Mapping[str, Mapping[str, Any]]
) -> dict[str, int]:
    """Offsets of the control registers and of ``arguments``, by those names.

    ``registers`` as pynq reads them from the hand-off file: name to a mapping with ``address_offset``. Raises
    OverlayError where a register is not there, or two have the same name but for the suffix.
    """
    there = ", ".join(registers) or "none"
    if CTRL not in registers:
        raise OverlayError(
            f"{instance}: expected a control register {CTRL}, found the registers {there}. pynq sees one slave of a "
            f"core only: a build with separate slaves for control and arguments cannot be driven",
            advice="rebuild it with both in one slave",
        )
    offsets: dict[str, int] = {}
    for name, entry in registers.items():
        role = _SUFFIX.sub("", name)
        if role in arguments and role in offsets:
            raise OverlayError(f"{instance}: expected one register {role}, found the registers {there}")
        offsets[role] = int(entry["address_offset"])
    missing = [name for name in arguments if name not in offsets]
    if missing:
        raise OverlayError(
            f"{instance}: expected the argument registers {', '.join(arguments)} (or with _V or _r appended), found "
            f"the registers {there}",
            advice=f"{missing[0]} is missing: this is another core, or another hand-off file",
        )
    return {name: offsets[name] for name in (CTRL, GIER, IP_IER, IP_ISR, *arguments) if name in offsets}


def find_core(overlay: Any, driver: type[HlsCore]) -> HlsCore:
    """The driver of the overlay's first core that ``driver`` is for; raises OverlayError where there is none."""
    for name, entry in overlay.ip_dict.items():
        if entry.get("type") in driver.bindto:
            core = getattr(overlay, name)
            if not isinstance(core, driver):
                raise OverlayError(
                    f"{name}: expected the driver {driver.__name__}, found {type(core).__name__}",
                    advice="import fracbnn_pynq.board.drivers before the overlay is loaded",
                )
            return core
    cores = ", ".join(f"{name} ({entry.get('type')})" for name, entry in overlay.ip_dict.items()) or "none"
    raise OverlayError(f"expected a core {driver.bindto[0]} in the overlay, found these cores: {cores}")
