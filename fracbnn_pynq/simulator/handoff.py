"""Overlays for the simulated board: a hand-off file (.hwh) and a bitstream (.bit) of a few kilobytes.

They have the form of the published overlays as far as pynq and this package read them: names, addresses, register
maps, clocks, masters, interrupts, the header of the bitstream. The bitstream's payload is a tag that says which model
and arithmetic the simulated core computes; no real board could load it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from ..cores import CIFAR10_CORE, IMAGENET_CORE, ULTRA96V2
from ..doctor.handoff import parse_bit_header
from ..errors import OverlayError
from .hwh import ClockPlan, System, cifar10_system, engine_system, imagenet_system

PART = f"{ULTRA96V2}-1-e"
"""Device, package, speed and temperature grade of the Ultra96-V2."""

_MAGIC = bytes.fromhex("0ff00ff00ff00ff000")
_SYNC = b"\xff" * 32 + bytes.fromhex("000000bb11220044ffffffffffffffffaa995566")
_TAG = b"fracbnn-simulated-bitstream\0"

SYSTEMS = {"cifar10": cifar10_system, "imagenet": imagenet_system, "engine": engine_system}
_STEMS = {"cifar10": CIFAR10_CORE.instance, "imagenet": IMAGENET_CORE.instance, "engine": "fracbnn_engine"}


@dataclass(frozen=True)
class BitstreamTag:
    """What a simulated bitstream "was made from".

    ``model``: name of a bundled model or path of a model file whose weights are inside (``None``: the board's choice);
    ``arithmetic``: how the core rounds (``None``: as the published core); ``design_mhz``: the clock it was built for;
    ``pixels``: X of the project's own engine.
    """

    kind: str | None = None
    model: str | None = None
    arithmetic: str | None = None
    design_mhz: float = 250.0
    pixels: int = 2


@dataclass(frozen=True)
class BitFile:
    """The parts of a .bit file: header fields and payload."""

    design: str
    part: str
    date: str
    time: str
    payload: bytes

    @property
    def tag(self) -> BitstreamTag:
        """The tag of a simulated bitstream; an empty one for a real bitstream."""
        start = self.payload.find(_TAG)
        if start < 0:
            return BitstreamTag()
        start += len(_TAG)
        end = start + 4 + int.from_bytes(self.payload[start : start + 4], "big")
        return BitstreamTag(**json.loads(self.payload[start + 4 : end]))


def write_overlay(
    folder: Path | str,
    kind: str,
    *,
    name: str | None = None,
    model: str | None = None,
    arithmetic: str | None = None,
    registers: str = "published",
    interrupt: bool = False,
    clock_mhz: float = 250.0,
    design_mhz: float | None = None,
    pll_mhz: float = 1500.0,
    part: str = PART,
    pixels: int = 2,
) -> Path:
    """Write ``<name>.bit`` and ``<name>.hwh`` into ``folder`` (made if need be); returns the path of the .bit.

    ``kind``: "cifar10", "imagenet", or "engine", the project's own accelerator. ``registers``:
    "published"; "renamed" (the CIFAR-10 build with image_r at 0x10 and output_r at 0x1C); "split" (control and
    arguments in two slaves, of which pynq 3 and 4 show a driver the second only: such an overlay must be refused).
    ``interrupt``: the core's line goes to an AXI interrupt controller. ``clock_mhz`` and ``pll_mhz``: what the
    hand-off file asks of fabric clock 0 and the PLL its divisor was computed for. ``pixels``: X of the engine.
    ``design_mhz``: clock the core was built for, ``clock_mhz`` without it. Raises OverlayError for an unknown kind or
    register map.
    """
    if kind not in SYSTEMS:
        raise OverlayError(f"overlay kind: expected one of {', '.join(SYSTEMS)}, found {kind!r}")
    device, package, grade, *_ = f"{part}---".split("-")
    plan = ClockPlan(clock_mhz, pll_mhz)
    system: System = SYSTEMS[kind](registers, interrupt)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bit = folder / f"{name or _STEMS[kind]}.bit"
    bit.with_suffix(".hwh").write_text(system.render(plan, device, package, grade), encoding="utf-8")
    tag = BitstreamTag(kind, model, arithmetic, design_mhz or clock_mhz, pixels)
    bit.write_bytes(make_bit(tag, part))
    return bit


def make_bit(tag: BitstreamTag | None = None, part: str = PART) -> bytes:
    """A well-formed .bit file; with no ``tag`` a stand-in for a real bitstream beside its own hand-off file."""
    payload = _SYNC
    if tag is not None:
        text = json.dumps(asdict(tag)).encode()
        payload += _TAG + len(text).to_bytes(4, "big") + text
    payload += b"\xff" * (-len(payload) % 4)
    design = "design_1_wrapper;UserID=0XFFFFFFFF;Version=2019.2.1"
    data = struct.pack(">H", len(_MAGIC)) + _MAGIC + struct.pack(">H", 1)
    for key, value in zip(b"abcd", (design, part, "2020/11/27", "22:15:07"), strict=True):
        field = value.encode("ascii") + b"\0"
        data += struct.pack(">BH", key, len(field)) + field
    return data + struct.pack(">BI", ord("e"), len(payload)) + payload


def read_bit(data: bytes) -> BitFile:
    """Take a .bit file apart. Raises OverlayError where it is not one."""
    header, start = parse_bit_header(data, "bitstream")
    payload = data[start:]
    if len(payload) != header.payload:
        raise OverlayError(f"bitstream: expected {header.payload} bytes of payload, found {len(payload)}")
    return BitFile(header.design, header.part, header.date, header.time, payload)
