"""What is known of the published cores and their board, once: drivers, catalogue, checks and simulator read it here.

Source: the authors' hand-off files and HLS sources; cycles from the rates of arXiv 2012.12206 at 250 MHz.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arithmetic import CIFAR10_2020, CIFAR10_2021, IMAGENET_2021
from .errors import OverlayError
from .networks import CIFAR10, IMAGENET, Network

PART = "xczu3eg"
PACKAGE = "sbva484"
ULTRA96V2 = f"{PART}-{PACKAGE}"
"""Device and package of the Ultra96-V2."""

REACH = 0x8000_0000
"""First address the cores' masters cannot reach: their HP ports map the low 2 GiB, all the memory the board has."""

CLOCK_TOLERANCE = 1e-3
"""Relative difference of clocks that counts as none: pynq knows the board's oscillator as 33.333 MHz."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """A published core.

    ``vlnv``: vendor, library, name and version, by which hand-off files and pynq know it; ``instance``: its name in the
    published design. ``arguments``: its argument registers in the order of their offsets, without the suffixes HLS may
    append. ``cycles``: clock cycles of a run. ``clock_mhz``: the clock of the published design. ``arithmetics``: of the
    builds there are, the published bitstream's first.
    """

    network: Network
    vlnv: str
    instance: str
    arguments: tuple[str, ...]
    cycles: int
    clock_mhz: float
    arithmetics: tuple[str, ...]

    @property
    def kind(self) -> str:
        """``vlnv`` without its version."""
        return self.vlnv.rpartition(":")[0]


CIFAR10_CORE = Core(
    network=CIFAR10,
    vlnv="xilinx.com:hls:FracNet_T:1.0",
    instance="FracNet_T_0",
    arguments=("image", "output"),
    cycles=89_000,  # 0.356 ms: 2,809 pictures a second
    clock_mhz=250.0,
    arithmetics=(CIFAR10_2020.name, CIFAR10_2021.name),
)

IMAGENET_CORE = Core(
    network=IMAGENET,
    vlnv="xilinx.com:hls:FracNet:1.0",
    instance="FracNet_0",
    arguments=(
        "image_thermo",
        "conv_weight_3x3_all_new",
        "conv_weight_1x1_all_new",
        "weights_all",
        "DDR_buf_pack",
    ),
    cycles=5_200_000,  # 20.8 ms: 48.1 pictures a second
    clock_mhz=250.0,
    arithmetics=(IMAGENET_2021.name,),
)

CORES = (CIFAR10_CORE, IMAGENET_CORE)

ENGINE_VLNV = "fracbnn:engine:fracbnn_engine:1.0"
"""The project's own accelerator, which runs both networks; :mod:`fracbnn_pynq.engine` has its registers."""
ENGINE_INSTANCE = "fracbnn_engine_0"
ENGINE_PART = f"{ULTRA96V2}-1-i"
"""Device, package, speed and temperature grade that it is built for."""
ENGINE_CLOCKS_MHZ = (250.0, 200.0)
"""Clocks it may be built for, the usual one first."""
ENGINE_SLAVE, ENGINE_MASTER, ENGINE_INTERRUPT = "s_axi_control", "m_axi_memory", "interrupt"
"""Its interfaces: registers, memory port, interrupt pin."""
ENGINE_BASE = 0xA000_0000
"""Address of its registers, in the window of the processor's port HPM0."""

INTERRUPT_CONTROLLER, INTERRUPT_CONTROLLER_BASE = "axi_intc_0", 0xA008_0000
"""Instance and address of the AXI interrupt controller in designs that have one."""
REGISTER_WINDOW = 0x1_0000
"""Bytes of addresses that a register slave takes."""


def get_core(network: Network | str) -> Core:
    """The published core of a network or its name; raises OverlayError where there is none."""
    name = network if isinstance(network, str) else network.name
    for core in CORES:
        if core.network.name == name:
            return core
    known = ", ".join(core.network.name for core in CORES)
    raise OverlayError(f"no published core for {name!r}: expected one of {known}")
