"""The programmable logic: which models a loaded overlay puts on the bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..cores import CIFAR10_CORE, ENGINE_VLNV, IMAGENET_CORE
from ..model import Model
from ..models import find_model
from ..networks import CIFAR10
from .bus import Bus, RegisterModel
from .compute import (
    CIFAR10_ARITHMETIC,
    IMAGENET_ARITHMETIC,
    Cifar10Compute,
    Cifar10Network,
    ImageNetCompute,
    ImageNetNetworks,
)
from .cores import Cifar10Kernel, Core, ImageNetKernel, Kernel, Surroundings
from .engine import EngineKernel, HardwareEngine, engine_core
from .handoff import BitstreamTag
from .interrupts import AxiIntc, Line, UioLine
from .registers import FIRST_ARGUMENT, Ram32


class Fabric:
    """Configures the fabric of a board from a hand-off file's dictionaries and a bitstream's tag.

    ``model``: weights inside CIFAR-10 bitstreams, over what their tag says. ``cifar10`` and ``imagenet`` replace what
    the cores compute altogether, for tests.
    """

    def __init__(
        self,
        bus: Bus,
        surroundings: Surroundings,
        *,
        model: Model | Callable[[], Model] | None = None,
        cifar10: Cifar10Compute | None = None,
        imagenet: ImageNetCompute | None = None,
    ) -> None:
        self.cores: dict[str, Core] = {}
        self.uio: dict[int, UioLine] = {}
        self._bus, self._board = bus, surroundings
        self._model, self._cifar10, self._imagenet = model, cifar10, imagenet
        self._retired: list[Core] = []
        self._hardware: list[HardwareEngine] = []

    def clear(self) -> None:
        """Take everything out: nothing answers in the fabric any more."""
        self._bus.detach_fabric()
        for core in self.cores.values():
            core.remove()
        for line in self.uio.values():
            line.drive(False)
        for hardware in self._hardware:
            hardware.close()
        self._hardware = []
        # Only those that close() must wait for: each holds the weights of its network.
        self._retired = [core for core in (*self._retired, *self.cores.values()) if not core.ended]
        self.cores = {}

    def close(self) -> None:
        """Clear and wait for all threads."""
        self.clear()
        for core in self._retired:
            core.close()
        for line in self.uio.values():
            line.close()
        self._retired, self.uio = [], {}

    def configure(
        self,
        ip_dict: Mapping[str, Mapping[str, Any]],
        interrupt_pins: Mapping[str, Mapping[str, Any]],
        interrupt_controllers: Mapping[str, Mapping[str, Any]],
        tag: BitstreamTag,
    ) -> None:
        """Replace what is in the fabric by the design described. The dictionaries are pynq's."""
        self.clear()
        controllers = {
            name: AxiIntc(self._processor_line(entry.get("raw_irq"))) for name, entry in interrupt_controllers.items()
        }
        lines: dict[str, Line] = {}
        for pin, entry in interrupt_pins.items():
            controller = controllers.get(entry["controller"])
            lines[pin] = controller.input(entry["index"]) if controller else self._processor_line(entry.get("raw_irq"))
        for name, entry in ip_dict.items():
            if entry.get("phys_addr") is None or not entry.get("addr_range"):
                continue
            model = controllers.get(name) or self._model_of(name, entry, lines, tag)
            self._bus.attach(entry["phys_addr"], entry["addr_range"], model)

    def _processor_line(self, number: int | None) -> Line:
        if number is None:
            return lambda level: None
        if number not in self.uio:
            self.uio[number] = UioLine()
        return self.uio[number].drive

    def _model_of(
        self, name: str, entry: Mapping[str, Any], lines: Mapping[str, Line], tag: BitstreamTag
    ) -> RegisterModel:
        kind = entry["type"].rpartition(":")[0]
        if kind == CIFAR10_CORE.kind:
            return self._add_core(name, Cifar10Kernel(self._cifar10 or self._built_in(tag)), entry, lines, tag)
        if entry["type"] == ENGINE_VLNV:
            return self._add_engine(name, entry, lines, tag)
        if kind == IMAGENET_CORE.kind:
            compute = self._imagenet or ImageNetNetworks(tag.arithmetic or IMAGENET_ARITHMETIC)
            return self._add_core(name, ImageNetKernel(compute), entry, lines, tag)
        return Ram32()

    def _add_core(
        self, name: str, kernel: Kernel, entry: Mapping[str, Any], lines: Mapping[str, Line], tag: BitstreamTag
    ) -> RegisterModel:
        registers = {key: int(value["address_offset"]) for key, value in (entry.get("registers") or {}).items()}
        core = Core(
            name,
            kernel,
            self._board,
            registers={key: offset for key, offset in registers.items() if offset >= FIRST_ARGUMENT},
            design_hz=tag.design_mhz * 1e6,
            interrupt=lines.get(f"{name}/interrupt"),
        )
        self.cores[name] = core
        # Where control and arguments lie in two slaves, pynq tells of one of them only.
        return core.control if "CTRL" in registers or not registers else core.arguments

    def _add_engine(
        self, name: str, entry: Mapping[str, Any], lines: Mapping[str, Line], tag: BitstreamTag
    ) -> RegisterModel:
        if engine_core() == "model":
            return self._add_core(name, EngineKernel(tag.pixels), entry, lines, tag)
        hardware = HardwareEngine(self._board.dram, tag.pixels, interrupt=lines.get(f"{name}/interrupt"))
        self._hardware.append(hardware)
        return hardware

    def _built_in(self, tag: BitstreamTag) -> Cifar10Network:
        source = self._model or (lambda: find_model(tag.model or CIFAR10.name))
        return Cifar10Network(source, tag.arithmetic or CIFAR10_ARITHMETIC)
