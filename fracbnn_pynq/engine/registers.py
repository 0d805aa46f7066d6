"""The engine's AXI4-Lite registers, written once: the driver, the SystemVerilog header and the documentation read this.

Offsets are bytes from the core's base address; every register is 32 bits wide.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 0x4642_0001
"""What the register VERSION reads: "FB" and the version of this contract."""

CHANNELS_OUT = 16
"""P: output channels the engine computes at once."""
CHANNELS_IN = 16
"""S: input channels (of each of nine taps) the engine reads at once."""
PIXELS = (1, 2, 4)
"""X: pixels the engine may be built to compute at once."""
BEAT_BYTES = 16
"""Bytes of one beat of the memory port (128 bits)."""


@dataclass(frozen=True)
class Register:
    """One register. ``access``: "rw" or "r"; ``meaning``: one line for the documentation."""

    name: str
    offset: int
    access: str
    meaning: str


REGISTERS = (
    Register("CTRL", 0x00, "rw", "bit 0 AP_START, bit 1 AP_DONE (cleared by reading), bit 2 AP_IDLE, bit 3 AP_READY"),
    Register("GIER", 0x04, "rw", "bit 0: interrupts enabled"),
    Register("IP_IER", 0x08, "rw", "bit 0: interrupt when a run is done; bit 1: when the core is ready"),
    Register("IP_ISR", 0x0C, "rw", "bits as IP_IER, pending; writing a 1 toggles a bit"),
    Register("IMAGE_ADDRESS", 0x10, "rw", "physical address of the memory image, a multiple of 16"),
    Register("PICTURE_ADDRESS", 0x18, "rw", "physical address of the first picture, a multiple of 16"),
    Register("RESULT_ADDRESS", 0x20, "rw", "physical address of the first result, a multiple of 64"),
    Register("PICTURE_STRIDE", 0x28, "rw", "bytes from one picture to the next, a multiple of 16"),
    Register("RESULT_STRIDE", 0x30, "rw", "bytes from one result to the next, a multiple of 64"),
    Register("PICTURES", 0x38, "rw", "pictures of one run, 1 to 65535"),
    Register("LOAD", 0x40, "rw", "bit 0: the run first loads the memory image; 0: it uses the one loaded before"),
    Register("VERSION", 0x80, "r", "version of this register map: 0x46420001"),
    Register("PARAMETERS", 0x84, "r", "bits 7..0 P, 15..8 S, 23..16 X"),
    Register("ERROR", 0x88, "r", "why the last run ended early (table below); 0: it did not"),
    Register("LOADED", 0x8C, "r", "checksum of the memory image in use; 0: none"),
    Register("PICTURES_DONE", 0x90, "r", "pictures finished in this or the last run"),
    Register("CYCLES", 0x94, "r", "clock cycles of this or the last run"),
    Register("STALL_WEIGHTS", 0x98, "r", "cycles of it that waited for weights"),
    Register("STALL_PICTURE", 0x9C, "r", "cycles of it that waited for a picture's rows"),
    Register("STALL_ROWS", 0xA0, "r", "cycles of it that waited for the layer before"),
    Register("STALL_RESULT", 0xA4, "r", "cycles of it that waited for results to be written"),
)
OFFSETS = {register.name: register.offset for register in REGISTERS}

ERRORS = {
    1: ("IMAGE", "the memory image is not one, or of another version, or made for other parameters"),
    2: ("DESCRIPTOR", "a layer descriptor is not legal"),
    3: ("READ", "the memory answered a read with an error response"),
    4: ("WRITE", "the memory answered a write with an error response"),
    5: ("NOT_LOADED", "a run without LOAD, and no memory image was loaded before"),
    6: ("ARGUMENT", "PICTURES is 0, or an address or stride is not aligned"),
}
"""Codes of the register ERROR: short name and meaning."""
