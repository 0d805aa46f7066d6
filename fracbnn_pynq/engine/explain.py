"""A memory image as a person reads it: layer by layer, where it lies, how long it takes, what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .cycles import descriptor_costs
from .descriptors import CONV1X1, FIELDS, HEADER_WORDS, KIND_NAMES, STEM, WORDS, Descriptor
from .image import check_image, network_of, parse_descriptors
from .plan import TAP_SLICES
from .registers import CHANNELS_IN, CHANNELS_OUT
from .words import HEADER_WORDS as RING_HEADER_WORDS


@dataclass(frozen=True)
class Line:
    """One descriptor: ``share`` is its part of a picture's cycles, ``ring_bytes`` what it reads of the image."""

    layer: str
    kind: str
    inputs: int
    outputs: int
    rows: int
    columns: int
    stride: int
    reads: str
    writes: str
    cycles: int
    wait_weights: int
    ring_bytes: int
    share: float


@dataclass(frozen=True)
class Explanation:
    """A whole image: ``cycles`` of a picture in the middle of a batch; ``bytes_read`` of it over the memory port."""

    network: str
    pixels: int
    resident: bool
    image_bytes: int
    picture_bytes: int
    result_bytes: int
    lines: tuple[Line, ...]

    @property
    def cycles(self) -> int:
        return sum(line.cycles for line in self.lines)

    @property
    def bytes_read(self) -> int:
        weights = 0 if self.resident else sum(line.ring_bytes for line in self.lines)
        return self.picture_bytes + weights

    def text(self, clock_hz: float = 250e6) -> str:
        """A table, with frames per second at ``clock_hz``."""
        heads = ("layer", "kind", "in", "out", "map", "from", "to", "cycles", "share")
        rows = ["{:18s} {:5s} {:>5s} {:>5s} {:>8s} {:>7s} {:>7s} {:>9s} {:>6s}".format(*heads)]
        for line in self.lines:
            rows.append(
                f"{line.layer:18s} {line.kind:5s} {line.inputs:5d} {line.outputs:5d} "
                f"{f'{line.rows}x{line.columns}':>8s} {line.reads:>7s} {line.writes:>7s} "
                f"{line.cycles:9d} {100 * line.share:5.1f}%"
            )
        where = "loaded once" if self.resident else "read for every picture"
        rows.append(
            f"{self.network}, X = {self.pixels}: {self.cycles} cycles a picture, {clock_hz / self.cycles:.0f} frames/s "
            f"at {clock_hz / 1e6:.0f} MHz; {self.bytes_read} bytes read and {self.result_bytes} written a picture; "
            f"weights {where} ({self.image_bytes} bytes)"
        )
        return "\n".join(rows)

    def data(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "lines"}
        return {
            **fields,
            "cycles": self.cycles,
            "bytes_read": self.bytes_read,
            "layers": [{name: getattr(line, name) for name in line.__dataclass_fields__} for line in self.lines],
        }


def explain(image: npt.NDArray[np.uint8], *, bandwidth: float = 0.8) -> Explanation:
    """What a memory image makes the engine do.

    ``bandwidth``: beats a cycle of the memory port. Raises :class:`~fracbnn_pynq.errors.ModelError` for a damaged
    image.
    """
    header = check_image(image)
    steps = parse_descriptors(image)
    pixels = header["parameters"] >> 16 & 0xFF
    network = network_of(header)
    names = ["stem", *(layer.name for layer in network.layers)]
    resident = bool(header["resident"])
    costs = descriptor_costs(steps, resident=resident, bandwidth=bandwidth)
    total = sum(cost.cycles for cost in costs)
    lines = tuple(
        Line(
            layer=names[step.layer],
            kind=KIND_NAMES[step.kind],
            inputs=_inputs(step),
            outputs=step.passes * CHANNELS_OUT,
            rows=step.rows,
            columns=_columns(step, pixels),
            stride=1 + step.stride2,
            reads=f"{'I' if step.kind == STEM else 'B' if step.kind == CONV1X1 else 'A'}+{step.src_base}",
            writes="sums" if step.final else f"{'B' if step.to_b else 'A'}+{step.dst_base}",
            cycles=cost.cycles,
            wait_weights=cost.wait_weights,
            ring_bytes=cost.ring_bytes,
            share=cost.cycles / total,
        )
        for step, cost in zip(steps, costs, strict=True)
    )
    return Explanation(
        network=network.name,
        pixels=pixels,
        resident=resident,
        image_bytes=header["total_bytes"],
        picture_bytes=header["picture_beats"] * 16,
        result_bytes=header["features"] * 4,
        lines=lines,
    )


def explain_layer(image: npt.NDArray[np.uint8], layer: str) -> str:
    """One layer in full: its descriptors word by word, and where its cycles, bytes and products come from.

    Raises :class:`~fracbnn_pynq.errors.ModelError` for a damaged image, or a layer that is not in it.
    """
    explained = explain(image)
    steps = parse_descriptors(image)
    found = [index for index, line in enumerate(explained.lines) if line.layer == layer]
    if not found:
        names = ", ".join(dict.fromkeys(line.layer for line in explained.lines))
        raise ModelError(f"layer: expected one of {names}, found {layer!r}")
    return "\n\n".join(_descriptor_text(index, steps[index], explained) for index in found)


def _descriptor_text(index: int, step: Descriptor, explained: Explanation) -> str:
    line = explained.lines[index]
    at = 4 * (HEADER_WORDS + WORDS * index)
    rows = [
        f"{line.layer}: {line.kind}, {line.inputs} to {line.outputs} channels, map {line.rows}x{line.columns}, "
        f"stride {line.stride}, X = {explained.pixels}",
        f"descriptor {index}, at byte 0x{at:x} of the image; fields that are 0 are left out:",
    ]
    for number, word in enumerate(step.pack()):
        fields = [f for f in FIELDS if f.word == number and getattr(step, f.name)]
        if word:
            named = ", ".join(f"{f.name} {getattr(step, f.name)}" for f in sorted(fields, key=lambda f: f.low))
            rows.append(f"  word {number:2d}  {int(word):08x}  {named}")
    work = step.passes * step.rows * step.groups * step.steps
    stem = f" + {2 * step.steps} for two groups more" if step.kind == STEM else ""
    begin = line.cycles - line.wait_weights - work
    words = step.passes * (RING_HEADER_WORDS + step.slices)
    products = line.rows * line.columns * line.outputs * line.inputs * (1 if step.kind == CONV1X1 else 9)
    trees = 1 if step.kind == STEM else 2
    return "\n".join(
        [
            *rows,
            f"steps      {step.passes} passes x {step.rows} rows x {step.groups} groups x {step.steps} = {work}",
            f"beginning  1 + {step.passes} passes x (1 + {RING_HEADER_WORDS} header words{stem}) = {begin}",
            f"cycles     {work} + {begin} + {line.wait_weights} waiting for weights = {line.cycles}, "
            f"{100 * line.share:.1f} % of a picture's",
            f"ring       {step.passes} passes x ({RING_HEADER_WORDS} + {step.slices}) = {words} words, "
            f"{line.ring_bytes} bytes",
            f"products   {trees} x {line.rows} x {line.columns} x {line.outputs} x {line.inputs}"
            f"{'' if step.kind == CONV1X1 else ' x 9'} = {trees * products} of one bit, "
            f"{trees * products / work:.0f} a step",
        ]
    )


def _inputs(step: Descriptor) -> int:
    if step.kind == STEM:
        return step.slices * CHANNELS_IN
    if step.kind == CONV1X1:
        return step.sc_slices * CHANNELS_IN if step.slices == 1 else step.slices * TAP_SLICES * CHANNELS_IN
    return step.slices * CHANNELS_IN


def _columns(step: Descriptor, pixels: int) -> int:
    if step.kind == STEM:
        return step.groups * 2 * pixels
    return (step.groups - 1) * pixels + step.last_pixels
