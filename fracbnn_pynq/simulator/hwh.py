"""Minimal hand-off files: the XML elements from which pynq learns a design, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

from ..cores import (
    CIFAR10_CORE,
    ENGINE_BASE,
    ENGINE_INSTANCE,
    ENGINE_INTERRUPT,
    ENGINE_MASTER,
    ENGINE_SLAVE,
    ENGINE_VLNV,
    IMAGENET_CORE,
    INTERRUPT_CONTROLLER,
    INTERRUPT_CONTROLLER_BASE,
    REACH,
    REGISTER_WINDOW,
)
from ..engine.registers import REGISTERS
from ..errors import OverlayError
from .registers import FIRST_ARGUMENT

PS = "zynq_ultra_ps_e_0"


def _element(name: str, body: str = "", **attributes: object) -> str:
    text = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items())
    return f"<{name}{text}>{body}</{name}>" if body else f"<{name}{text}/>"


def _properties(**values: object) -> str:
    return "".join(_element("PROPERTY", NAME=name, VALUE=value) for name, value in values.items())


def _field(name: str, bit: int, access: str) -> str:
    return _element("FIELD", _properties(BIT_OFFSET=bit, BIT_WIDTH=1, ACCESS=access), NAME=name)


def _register(name: str, offset: int, access: str = "read-write", fields: str = "") -> str:
    body = _properties(
        DESCRIPTION=name, ADDRESS_OFFSET=offset, SIZE=32, ACCESS=access, IS_ENABLED="true", RESET_VALUE=0
    )
    return _element("REGISTER", body + (_element("FIELDS", fields) if fields else ""), NAME=name)


_CONTROL = (
    _register(
        "CTRL",
        0x0,
        fields=_field("AP_START", 0, "read-write")
        + _field("AP_DONE", 1, "read-only")
        + _field("AP_IDLE", 2, "read-only")
        + _field("AP_READY", 3, "read-only")
        + _field("AUTO_RESTART", 7, "read-write"),
    )
    + _register("GIER", 0x4, fields=_field("Enable", 0, "read-write"))
    + _register("IP_IER", 0x8)
    + _register("IP_ISR", 0xC)
)


@dataclass(frozen=True)
class Slave:
    """An AXI-Lite slave: interface name, base address and its registers as XML."""

    interface: str
    base: int
    registers: str = ""


@dataclass(frozen=True)
class Module:
    """One IP core. ``masters``: its memory interface by HP port; ``interrupts``: its interrupt pins."""

    name: str
    vlnv: str
    slaves: Sequence[Slave] = ()
    masters: Sequence[str] = ()
    parameters: dict[str, object] = field(default_factory=dict)
    interrupts: Sequence[str] = ()
    ports: str = ""

    def render(self) -> str:
        """The MODULE element."""
        blocks = "".join(
            _element("ADDRESSBLOCK", _element("REGISTERS", s.registers), INTERFACE=s.interface, USAGE="register")
            for s in self.slaves
            if s.registers
        )
        interfaces = [(s.interface, "SLAVE") for s in self.slaves] + [(m, "MASTER") for m in self.masters]
        buses = "".join(
            _element("BUSINTERFACE", NAME=name, TYPE=role, VLNV="xilinx.com:interface:aximm:1.0")
            for name, role in interfaces
        )
        memory = "".join(
            _range((0, REACH - 1), PS, f"S_AXI_HP{i}_FPD", block=f"HP{i}_DDR_LOW", master=name, kind="MEMORY")
            for i, name in enumerate(self.masters)
        )
        body = _element("ADDRESSBLOCKS", blocks) + _parameters(self.parameters) + _element("PORTS", self.ports)
        body += _element("BUSINTERFACES", buses) + _element("MEMORYMAP", memory)
        kind = self.vlnv.split(":")[2]
        return _element("MODULE", body, FULLNAME=f"/{self.name}", INSTANCE=self.name, MODTYPE=kind, VLNV=self.vlnv)


@dataclass(frozen=True)
class ClockPlan:
    """What a hand-off file asks of fabric clock 0: ``mhz`` out of a PLL of ``pll_mhz``; the other three are off."""

    mhz: float = 250.0
    pll_mhz: float = 1500.0

    def parameters(self) -> dict[str, object]:
        """Parameters of the processing system."""
        values: dict[str, object] = {}
        for i in range(4):
            prefix = f"PSU__CRL_APB__PL{i}_REF_CTRL__"
            values[f"PSU__FPGA_PL{i}_ENABLE"] = int(i == 0)
            values[f"{prefix}DIVISOR0"] = max(1, round(self.pll_mhz / self.mhz)) if i == 0 else 15
            values[f"{prefix}DIVISOR1"] = 1
            values[f"{prefix}SRCSEL"] = "RPLL"
            values[f"{prefix}ACT_FREQMHZ"] = f"{self.mhz if i == 0 else 100.0:.6f}"
        return values


@dataclass(frozen=True)
class System:
    """A block design: its modules, and the pin of the interrupt controller that goes to the processor, if any."""

    modules: Sequence[Module]
    processor_interrupt: str | None = None

    def render(self, clocks: ClockPlan, device: str, package: str, grade: str) -> str:
        """The whole hand-off file."""
        ranges = "".join(
            _range(
                (s.base, s.base + REGISTER_WINDOW - 1),
                m.name,
                s.interface,
                block="Reg",
                master="M_AXI_HPM0_FPD",
                kind="REGISTER",
            )
            for m in self.modules
            for s in m.slaves
        )
        master = _element("BUSINTERFACE", NAME="M_AXI_HPM0_FPD", TYPE="MASTER", VLNV="xilinx.com:interface:aximm:1.0")
        ports = _port("I", "pl_ps_irq0", self.processor_interrupt, "irq") if self.processor_interrupt else ""
        body = _parameters(clocks.parameters()) + _element("PORTS", ports)
        body += _element("BUSINTERFACES", master + _hp_ports()) + _element("MEMORYMAP", ranges)
        vlnv = "xilinx.com:ip:zynq_ultra_ps_e:3.3"
        ps = _element(
            "MODULE", body, FULLNAME=f"/{PS}", INSTANCE=PS, MODTYPE="zynq_ultra_ps_e", IS_PL="FALSE", VLNV=vlnv
        )
        info = _element(
            "SYSTEMINFO", ARCH="zynquplus", DEVICE=device, NAME="design_1", PACKAGE=package, SPEEDGRADE=f"-{grade}"
        )
        modules = _element("MODULES", "".join(module.render() for module in self.modules) + ps)
        system = _element("EDKSYSTEM", info + "<EXTERNALPORTS/>" + modules, EDWVERSION="1.2", VIVADOVERSION="2019.2.1")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{system}\n'


def _parameters(values: dict[str, object]) -> str:
    return _element("PARAMETERS", "".join(_element("PARAMETER", NAME=k, VALUE=v) for k, v in values.items()))


def _range(span: tuple[int, int], target: str, interface: str, *, block: str, master: str, kind: str) -> str:
    return _element(
        "MEMRANGE",
        ADDRESSBLOCK=block,
        BASEVALUE=f"0x{span[0]:08X}",
        HIGHVALUE=f"0x{span[1]:08X}",
        INSTANCE=target,
        MASTERBUSINTERFACE=master,
        MEMTYPE=kind,
        SLAVEBUSINTERFACE=interface,
    )


def _hp_ports() -> str:
    names = [f"S_AXI_HP{i}_FPD" for i in range(3)]
    return "".join(
        _element("BUSINTERFACE", NAME=name, TYPE="SLAVE", VLNV="xilinx.com:interface:aximm:1.0") for name in names
    )


def _port(direction: str, name: str, instance: str, port: str) -> str:
    connection = _element("CONNECTION", INSTANCE=instance, PORT=port)
    signal = {"SIGIS": "INTERRUPT"} if direction == "O" else {}
    return _element("PORT", _element("CONNECTIONS", connection), DIR=direction, NAME=name, **signal)


def _with_interrupts(modules: list[Module], base: int) -> System:
    """Connect every interrupt pin, in order, through a concatenation to an interrupt controller at ``base``."""
    intc, concat = INTERRUPT_CONTROLLER, "xlconcat_0"
    inputs, connected = "", []
    number = 0
    for module in modules:
        outputs = ""
        for pin in module.interrupts:
            outputs += _port("O", pin, concat, f"In{number}")
            inputs += _port("I", f"In{number}", module.name, pin)
            number += 1
        connected.append(
            Module(module.name, module.vlnv, module.slaves, module.masters, module.parameters, (), outputs)
        )
    bus = _element("CONNECTIONS", _element("CONNECTION", INSTANCE=intc, PORT="intr"))
    inputs += _element("PORT", bus, DIR="O", NAME="dout", LEFT=number - 1, RIGHT=0)
    pins = _port("I", "intr", concat, "dout") + _port("O", "irq", PS, "pl_ps_irq0")
    connected.append(Module(intc, "xilinx.com:ip:axi_intc:4.1", [Slave("s_axi", base)], ports=pins))
    connected.append(Module(concat, "xilinx.com:ip:xlconcat:2.1", ports=inputs))
    return System(connected, intc)


def _core_slaves(base: int, arguments: Sequence[tuple[str, int]], split: bool) -> list[Slave]:
    registers = "".join(_register(name, offset, "write-only") for name, offset in arguments)
    if split:
        return [Slave("s_axi_CTRL", base, _CONTROL), Slave("s_axi_control", base + REGISTER_WINDOW, registers)]
    return [Slave("s_axi_CTRL", base, _CONTROL + registers)]


def _system(modules: list[Module], interrupt: bool) -> System:
    return _with_interrupts(modules, INTERRUPT_CONTROLLER_BASE) if interrupt else System(modules)


_CIFAR10_ARGUMENTS = {
    "published": (("image_V", 0x10), ("output_r", 0x18)),
    "renamed": (("image_r", 0x10), ("output_r", 0x1C)),
    "split": (("image_V", 0x10), ("output_r", 0x18)),
}


def cifar10_system(registers: str, interrupt: bool) -> System:
    """The published CIFAR-10 overlay: the core at 0xA0010000 and a timer at 0xA0000000."""
    if registers not in _CIFAR10_ARGUMENTS:
        raise OverlayError(f"register map: expected one of {', '.join(_CIFAR10_ARGUMENTS)}, found {registers!r}")
    slaves = _core_slaves(0xA001_0000, _CIFAR10_ARGUMENTS[registers], registers == "split")
    core = Module(
        CIFAR10_CORE.instance,
        CIFAR10_CORE.vlnv,
        slaves,
        masters=("m_axi_IMG", "m_axi_RESULT"),
        interrupts=("interrupt",),
    )
    timer = Module("axi_timer_0", "xilinx.com:ip:axi_timer:2.0", [Slave("S_AXI", 0xA000_0000)])
    return _system([core, timer], interrupt)


def imagenet_system(registers: str, interrupt: bool) -> System:
    """The published ImageNet overlay: the core at 0xA0000000 with five address registers."""
    if registers not in ("published", "split"):
        raise OverlayError(f"register map: expected published or split, found {registers!r}")
    arguments = [(f"{name}_V", 0x10 + 8 * i) for i, name in enumerate(IMAGENET_CORE.arguments)]
    core = Module(
        IMAGENET_CORE.instance,
        IMAGENET_CORE.vlnv,
        _core_slaves(0xA000_0000, arguments, registers == "split"),
        masters=("m_axi_BUS32", "m_axi_BUS512", "m_axi_DDR512"),
        interrupts=("interrupt",),
    )
    return _system([core], interrupt)


def engine_system(registers: str, interrupt: bool) -> System:
    """The project's own overlay: the engine at 0xA0000000, its memory port on HP0.

    What overlays/engine/vivado/design.tcl makes, as far as pynq reads it.
    """
    if registers != "published":
        raise OverlayError(f"register map: expected published, found {registers!r}")
    access = {"rw": "read-write", "r": "read-only"}
    described = [_register(r.name, r.offset, access[r.access]) for r in REGISTERS if r.offset >= FIRST_ARGUMENT]
    core = Module(
        ENGINE_INSTANCE,
        ENGINE_VLNV,
        [Slave(ENGINE_SLAVE, ENGINE_BASE, _CONTROL + "".join(described))],
        masters=(ENGINE_MASTER,),
        interrupts=(ENGINE_INTERRUPT,),
    )
    return _system([core], interrupt)
