"""What an overlay's two files say about themselves: the header of the bitstream and the hardware hand-off file.

Neither needs pynq. pynq loads a bitstream whichever part it was made for; these facts are what the checks before the
first start compare.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from ..errors import OverlayError
from ..files import open_regular, read_file

_LARGEST_HEADER = 4096
_LARGEST_HANDOFF = 32 << 20  # those of published overlays have 0.4 MB
_LONGEST_REASON = 200
_MOST_BITS = 64
_FASTEST_MHZ = 10_000
_CLOCK = "PSU__CRL_APB__PL0_REF_CTRL__"
_PROCESSORS = ("zynq_ultra_ps_e", "processing_system7")


@dataclass(frozen=True)
class BitHeader:
    """Header of a .bit file; ``part`` as written there (``xczu3eg-sbva484-1-e``), ``payload`` in bytes."""

    design: str
    part: str
    date: str
    time: str
    payload: int


@dataclass(frozen=True)
class Master:
    """A memory interface of an IP core: addresses it reaches (both included) and how many bits an address has."""

    name: str
    low: int
    high: int
    address_bits: int | None


@dataclass(frozen=True)
class Module:
    """An IP core of the design. ``base``: of its first register slave, ``None`` where it has none."""

    instance: str
    vlnv: str
    base: int | None
    masters: tuple[Master, ...]


@dataclass(frozen=True)
class HandOff:
    """What a hand-off file says. ``clock_mhz``: fabric clock 0 of the design, ``None`` where it is off or not given."""

    device: str
    package: str
    tool: str
    clock_mhz: float | None
    modules: tuple[Module, ...]

    @property
    def part(self) -> str:
        """Device and package, ``xczu3eg-sbva484``."""
        return f"{self.device}-{self.package}"

    def module(self, vlnv: str) -> Module | None:
        """The first IP core of this kind."""
        return next((module for module in self.modules if module.vlnv == vlnv), None)


def device_and_package(part: str) -> str:
    """``xczu3eg-sbva484`` of ``xczu3eg-sbva484-1-e``: what decides whether a device takes a bitstream."""
    return "-".join(part.lower().split("-")[:2])


def read_bit_header(path: Path) -> BitHeader:
    """Read a .bit file's header (tagged fields ``a`` to ``e``) and check its length.

    Raises OverlayError where the file cannot be read, is not a .bit file, or is truncated.
    """
    with open_regular(path, OverlayError, "bitstream") as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(_LARGEST_HEADER)
    header, start = parse_bit_header(data, str(path))
    if start + header.payload != size:
        raise OverlayError(
            f"{path}: expected {header.payload} bytes of configuration data, found {size - start}",
            advice="fetch it again",
        )
    return header


def parse_bit_header(data: bytes, name: str) -> tuple[BitHeader, int]:
    """The header at the beginning of ``data``, and where the configuration data begin.

    Raises OverlayError, in which ``name`` stands for the file, where there is none.
    """
    fields: dict[bytes, str] = {}
    try:
        offset = 2 + struct.unpack_from(">H", data)[0] + 2
        while data[offset : offset + 1] in (b"a", b"b", b"c", b"d"):
            key, length = struct.unpack_from(">cH", data, offset)
            value = struct.unpack_from(f"{length}s", data, offset + 3)[0]
            fields[key] = value.rstrip(b"\0").decode("ascii")
            offset += 3 + length
        end, payload = struct.unpack_from(">cI", data, offset)
        header = BitHeader(fields[b"a"], fields[b"b"], fields[b"c"], fields[b"d"], payload)
    except (struct.error, KeyError, UnicodeDecodeError):
        end = b""
    if end != b"e":
        raise OverlayError(f"{name}: expected a bitstream (.bit file), found something else", advice="fetch it again")
    return header, offset + 5


def read_handoff(path: Path) -> HandOff:
    """Read a hardware hand-off file (.hwh).

    Raises OverlayError where it cannot be read, is not one, or has a document type or entities: no tool writes those
    into a hand-off file, and they are how an XML file attacks its reader.
    """
    data = read_file(path, _LARGEST_HANDOFF, OverlayError, "hardware hand-off file")
    reader = _Reader()
    try:
        return reader.read(data)
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: of keys and of encodings
        raise OverlayError(
            f"{path}: expected a hardware hand-off file, found {str(error)[:_LONGEST_REASON]}", advice="fetch it again"
        ) from None


@dataclass
class _Draft:
    """A module being read."""

    attributes: dict[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    ranges: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_processor(self) -> bool:
        return self.attributes.get("MODTYPE") in _PROCESSORS

    def masters(self) -> tuple[Master, ...]:
        found: dict[str, Master] = {}
        for entry in self.ranges:
            if entry.get("MEMTYPE") != "MEMORY":
                continue
            name = entry["MASTERBUSINTERFACE"]
            low, high = _address(entry["BASEVALUE"]), _address(entry["HIGHVALUE"])
            if name in found:
                low, high = min(low, found[name].low), max(high, found[name].high)
            if low > high:
                raise ValueError(f"a memory range from {low:#x} to {high:#x}")
            bits = self.parameters.get(f"C_{name.upper()}_ADDR_WIDTH")
            found[name] = Master(name, low, high, _address_bits(bits) if bits else None)
        return tuple(found.values())


class _Reader:
    """Collects what matters while expat walks over the file; no tree of its 6,000 lines is built."""

    def __init__(self) -> None:
        self._system: dict[str, str] = {}
        self._info: dict[str, str] = {}
        self._modules: list[_Draft] = []

    def read(self, data: bytes) -> HandOff:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.Parse(data, True)
        if not self._info or not self._modules:
            raise ValueError("XML without SYSTEMINFO and MODULES")
        processor = next((draft for draft in self._modules if draft.is_processor), _Draft({}))
        bases = {
            entry["INSTANCE"]: _address(entry["BASEVALUE"])
            for entry in reversed(processor.ranges)
            if entry.get("MEMTYPE") == "REGISTER"
        }
        modules = (
            Module(name, draft.attributes.get("VLNV", ""), bases.get(name), draft.masters())
            for draft in self._modules
            for name in (draft.attributes["INSTANCE"],)
        )
        return HandOff(
            self._info["DEVICE"],
            self._info["PACKAGE"],
            self._system.get("VIVADOVERSION", "unknown"),
            _clock_mhz(processor.parameters),
            tuple(modules),
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "MODULE":
            self._modules.append(_Draft(attributes))
        elif name == "PARAMETER" and self._modules:
            # Interfaces have parameters of the same names as modules do; a module's own come first.
            self._modules[-1].parameters.setdefault(attributes.get("NAME", ""), attributes.get("VALUE", ""))
        elif name == "MEMRANGE" and self._modules:
            self._modules[-1].ranges.append(attributes)
        elif name == "SYSTEMINFO":
            self._info = attributes
        elif name == "EDKSYSTEM":
            self._system = attributes

    @staticmethod
    def _refuse(*_: object) -> None:
        raise ValueError("a document type or an entity, which no hand-off file has")


def _clock_mhz(parameters: dict[str, str]) -> float | None:
    if parameters.get("PSU__FPGA_PL0_ENABLE", "1") != "1":
        return None
    for name in ("ACT_FREQMHZ", "FREQMHZ"):
        if value := parameters.get(_CLOCK + name):
            clock = float(value)
            if not 0 < clock <= _FASTEST_MHZ:
                raise ValueError(f"a fabric clock of {clock:g} MHz")
            return clock
    return None


def _address(text: str) -> int:
    address = int(text, 0)
    if not 0 <= address < 1 << _MOST_BITS:
        raise ValueError(f"an address of {text[:20]}")
    return address


def _address_bits(text: str) -> int:
    bits = int(text)
    if not 0 < bits <= _MOST_BITS:
        raise ValueError(f"addresses of {bits} bits")
    return bits
