"""Where the engine keeps its maps, and the descriptors that follow from it.

Three memories, in words of 64 bits unless noted; X is the number of pixels computed at once:

A   Codes of maps that a 3x3 layer reads: 4 row banks (row % 4) times ``a_columns`` column banks (column % a_columns);
    a word is one pixel's slice of 16 channels, 4 bits each.
B   Codes of maps that a 1x1 layer reads: 8 X banks. With n = min(slices, 8), bank (slice % n) * cp + column % cp, where
    cp = 8 X / n. Where maps are kept as 16-bit numbers (``wide``), B holds them, a word being 4 channels: bank
    quad * 2 X + column % (2 X).
I   The picture's thermometer levels, 18 bits a pixel: 4 row banks times ``i_columns`` column banks, a ring of rows.

The loops of a descriptor are, from the outside in: pass (16 output channels), row, group of X pixels, slice. Reads
of one step lie in different banks, and nothing is overwritten before its last reader: the tests walk every access.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from ..networks import GatedLayer, Network
from .descriptors import CONV1X1, CONV3X3, STEM, Descriptor
from .registers import CHANNELS_IN, CHANNELS_OUT, PIXELS

STEM_STRIP = 8
"""Output rows of the stem computed from one filling of the picture ring, where the picture does not fit whole."""
TAP_SLICES = 8
"""Input slices a 1x1 layer reads at once, in place of the taps."""


@dataclass(frozen=True)
class Memories:
    """The geometry of the engine's memories for X = ``pixels``; *depth* is words per bank."""

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise ModelError(f"pixels at once: expected one of {', '.join(map(str, PIXELS))}, found {self.pixels}")

    @property
    def a_columns(self) -> int:
        return max(4, 2 * self.pixels)

    @property
    def a_depth(self) -> int:
        return 32768 // (4 * self.a_columns)

    @property
    def b_depth(self) -> int:
        return 32768 // (8 * self.pixels)

    @property
    def i_columns(self) -> int:
        return min(4, 2 * self.pixels)

    @property
    def i_depth(self) -> int:
        return 4096 // self.i_columns

    def a_row_step(self, width: int, slices: int) -> int:
        """Words from a group of four rows to the next."""
        return -(-width // self.a_columns) * slices

    def b_split(self, slices: int) -> int:
        """log2 of the column groups that share a row of banks."""
        if slices not in {2, 4} and slices % TAP_SLICES:
            raise ModelError(
                f"a 1x1 layer: expected 32, 64 or a multiple of 128 input channels, found {slices * CHANNELS_IN}"
            )
        return (TAP_SLICES // min(slices, TAP_SLICES)).bit_length() - 1

    def b_row_step(self, width: int, slices: int) -> int:
        """Words from a row to the next, codes."""
        columns = self.pixels << self.b_split(slices)
        return -(-width // columns) * self.b_col_step(slices)

    def b_col_step(self, slices: int) -> int:
        return max(1, slices // TAP_SLICES)

    def wide_row_step(self, width: int, slices: int) -> int:
        """Words from a row to the next, 16-bit numbers."""
        return -(-width // (2 * self.pixels)) * slices

    def i_row_step(self, width: int) -> int:
        return -(-width // self.i_columns)


@dataclass(frozen=True)
class _Place:
    """A map (or some of its rows) in A or B: ``row0`` is the map's row that lies at ``base``."""

    memory: str
    base: int
    row0: int = 0


def descriptors(network: Network, pixels: int) -> list[Descriptor]:
    """The descriptors of ``network`` for an engine of X = ``pixels``.

    Raises :class:`~fracbnn_pynq.errors.ModelError` for a network the engine has no room for.
    """
    memories = Memories(pixels)
    channels = [network.stem.out_channels, *(layer.out_channels for layer in network.layers)]
    if any(count % CHANNELS_OUT for count in channels):
        raise ModelError(f"the engine computes 16 channels at once: expected multiples of 16, found {channels}")
    make = _wide_network if network.shortcut_bits is None else _coded_network
    steps = make(memories, network)
    return [*steps[:-1], steps[-1].with_(last=1)]


def _wide_network(memories: Memories, network: Network) -> list[Descriptor]:
    """Activations in the two halves of A in turn; the 16-bit map in B, in place until a layer changes its shape."""
    if any(layer.kernel != 3 for layer in network.layers):
        raise ModelError("a network with 16-bit maps: expected 3x3 layers only, found another kernel")
    stem, half_a, half_b = network.stem, memories.a_depth // 2, memories.b_depth // 2
    wide = 0
    place = _Place("A", 0)
    slices = stem.out_channels // CHANNELS_OUT
    _check_room(memories, "A", memories.a_row_step(stem.out_size, slices) * -(-stem.out_size // 4), half_a)
    _check_room(memories, "B", memories.wide_row_step(stem.out_size, slices) * stem.out_size, half_b)
    strips = _stem_strips(memories, network, place)
    steps = [_with_wide(memories, step, wide, stem.out_size, slices) for step in strips]
    for number, layer in enumerate(network.layers, start=1):
        target = _Place("A", half_a if place.base == 0 else 0)
        step = _gated(memories, layer, place, target, steps[-1], rows=(0, layer.out_size))
        in_slices, out_slices = layer.in_channels // CHANNELS_IN, layer.out_channels // CHANNELS_OUT
        # A step at least as long as the four reads that a pooled 16-bit shortcut takes.
        step = step.with_(
            layer=number,
            steps=max(step.steps, 4) if layer.stride == 2 else step.steps,
            sc_base=wide,
            sc_row_step=memories.wide_row_step(layer.in_size, in_slices),
            sc_col_step=in_slices,
        )
        if layer.stride == 2:
            wide ^= half_b
        steps.append(_with_wide(memories, step, wide, layer.out_size, out_slices))
        place = target
    last = steps[-1]
    steps[-1] = last.with_(final=1, steps=max(last.steps, memories.pixels))
    return steps


def _with_wide(memories: Memories, step: Descriptor, base: int, width: int, slices: int) -> Descriptor:
    row_step = memories.wide_row_step(width, slices)
    return step.with_(wide=1, wide_base=base, wide_row_step=row_step, wide_col_step=slices)


def _coded_network(memories: Memories, network: Network) -> list[Descriptor]:
    """3x3 layers read A and write B, 1x1 layers read B and write A; what does not fit A runs in two strips."""
    layers = network.layers
    steps = [step.with_(codes=1) for step in _stem_strips(memories, network, _Place("A", 0))]
    source = _Place("A", 0)
    number = 0
    while number < len(layers):
        layer = layers[number]
        if source.memory != ("A" if layer.kernel == 3 else "B"):
            raise ModelError(f"{layer.name}: expected 3x3 and 1x1 layers in turn after the stem, found two of a kind")
        target = _Place("B" if layer.kernel == 3 else "A", 0)
        follower = layers[number + 1] if number + 1 < len(layers) else None
        if layer.kernel == 1 and follower is not None and not _fits_a(memories, layer):
            steps += _two_strips(
                memories, (layer, follower), source, steps[-1], number + 1, is_last=number + 2 == len(layers)
            )
            source = _Place("B", _map_b(memories, layer.in_size, layer.in_channels))
            number += 2
            continue
        step = _gated(memories, layer, source, target, steps[-1], rows=(0, layer.out_size))
        steps.append(step.with_(layer=number + 1, codes=1))
        source = target
        number += 1
    last = steps[-1]
    steps[-1] = last.with_(codes=0, final=1, steps=max(last.steps, memories.pixels))
    return steps


def _map_b(memories: Memories, size: int, channels: int) -> int:
    return memories.b_row_step(size, channels // CHANNELS_IN) * size


def _fits_a(memories: Memories, layer: GatedLayer) -> bool:
    words = memories.a_row_step(layer.out_size, layer.out_channels // CHANNELS_OUT) * -(-layer.out_size // 4)
    return words <= memories.a_depth


def _two_strips(
    memories: Memories,
    pair: tuple[GatedLayer, GatedLayer],
    source: _Place,
    before: Descriptor,
    number: int,
    *,
    is_last: bool,
) -> list[Descriptor]:
    """A 1x1 layer whose output does not fit A and the stride-2 3x3 layer after it, half the rows at a time.

    One row of the 1x1 layer is computed twice. The 3x3 layer's output goes behind the 1x1 layer's input in B, whose
    addresses wrap.
    """
    first, second = pair
    if second.kernel != 3 or second.stride != 2 or is_last:
        raise ModelError(
            f"{first.name}: its output does not fit the engine's memory A: expected a 3x3 layer of stride 2, and more, "
            f"after it, found {second.name}"
        )
    half, out_half = first.out_size // 2, second.out_size // 2
    top = (half - 1) // 4 * 4
    target = _Place("B", _map_b(memories, first.in_size, first.in_channels))
    one = _gated(memories, first, source, _Place("A", 0), before, rows=(0, half))
    two = _gated(memories, second, _Place("A", 0), target, one, rows=(0, out_half))
    # Its input was written before the 3x3 strip: nothing to wait for.
    three = _gated(memories, first, source, _Place("A", 0, top), None, rows=(half - 1, half + 1))
    four = _gated(memories, second, _Place("A", 0, top), target, three, rows=(out_half, out_half), row_before=half - 1)
    return [
        step.with_(codes=1, layer=number + offset)
        for step, offset in zip((one, two, three, four), (0, 1, 0, 1), strict=True)
    ]


def _check_room(memories: Memories, name: str, words: int, room: int) -> None:
    if words > room:
        raise ModelError(
            f"memory {name} of the engine with X = {memories.pixels}: expected at most {room} words a bank, "
            f"found a map of {words}"
        )


def _stem_strips(memories: Memories, network: Network, target: _Place) -> list[Descriptor]:
    stem = network.stem
    size, out, stride = stem.in_size, stem.out_size, stem.stride
    pair = 2 * memories.pixels
    if out % pair or size % 4 or out % 2:
        raise ModelError(f"the stem: expected a map of a multiple of {max(4, pair)} pixels a row, found {out}")
    row_step = memories.i_row_step(size)
    whole = size // 4 * row_step <= memories.i_depth // 2
    rows = out if whole else STEM_STRIP
    if out % rows:
        raise ModelError(f"the stem: expected a multiple of {rows} output rows, found {out}")
    slices = stem.out_channels // CHANNELS_OUT
    steps, tail = [], 0
    for y0 in range(0, out, rows):
        first = y0 * stride - 1 - 4 * tail
        next_tail = size // 4 if y0 + rows == out else ((y0 + rows) * stride - 1) // 4
        steps.append(
            Descriptor(
                kind=STEM,
                stride2=stride - 1,
                steps=stem.in_channels // CHANNELS_IN,
                slices=stem.in_channels // CHANNELS_IN,
                passes=slices,
                groups=out // pair,
                rows=rows,
                last_pixels=memories.pixels,
                pad_top=int(y0 == 0),
                pad_bottom=int(y0 + rows == out and stride == 1),
                wait=1,
                need_first=first + 3,
                need_max=size - 4 * tail,
                src_row=first % 4,
                src_base=(first // 4 * row_step) % memories.i_depth,
                src_row_step=row_step,
                src_col_step=1,
                release=next_tail - tail,
                release_words=(next_tail - tail) * row_step,
                **_written_to(memories, target, y0, out, slices),
            )
        )
        tail = next_tail
    return steps


def _written_to(memories: Memories, target: _Place, y0: int, width: int, slices: int) -> dict[str, int]:
    row = y0 - target.row0
    if target.memory == "A":
        step = memories.a_row_step(width, slices)
        base = target.base + row // 4 * step
        return {"dst_base": base % memories.a_depth, "dst_row": row % 4, "dst_row_step": step, "dst_col_step": slices}
    step = memories.b_row_step(width, slices)
    return {
        "to_b": 1,
        "dst_split": memories.b_split(slices),
        "dst_base": (target.base + row * step) % memories.b_depth,
        "dst_row_step": step,
        "dst_col_step": memories.b_col_step(slices),
    }


def _gated(
    memories: Memories,
    layer: GatedLayer,
    source: _Place,
    target: _Place,
    before: Descriptor | None,
    *,
    rows: tuple[int, int],
    row_before: int = 0,
) -> Descriptor:
    """A gated layer, or ``rows`` (first, number) of it.

    ``before``: the descriptor just before it, which writes what it reads, from map row ``row_before``; ``None``:
    nothing to wait for.
    """
    y0, number = rows
    slices = layer.in_channels // CHANNELS_IN
    groups = -(-layer.out_size // memories.pixels)
    common = {
        "passes": layer.out_channels // CHANNELS_OUT,
        "groups": groups,
        "rows": number,
        "last_pixels": layer.out_size - (groups - 1) * memories.pixels,
        "sc_slices": slices,
        **_written_to(memories, target, y0, layer.out_size, layer.out_channels // CHANNELS_OUT),
    }
    if before is not None:
        reach = 2 if layer.kernel == 3 else 1
        common |= {
            "wait": 1,
            "need_first": min(max(1, y0 * layer.stride + reach - row_before), before.rows),
            "need_max": before.rows,
        }
    if layer.kernel == 1:
        words = max(1, slices // TAP_SLICES)
        row_step = memories.b_row_step(layer.in_size, slices)
        return Descriptor(
            kind=CONV1X1,
            steps=words,
            slices=words,
            src_split=memories.b_split(slices),
            src_base=(source.base + (y0 - source.row0) * row_step) % memories.b_depth,
            src_row_step=row_step,
            src_col_step=memories.b_col_step(slices),
            **common,
        )
    first = y0 * layer.stride - 1 - source.row0
    row_step = memories.a_row_step(layer.in_size, slices)
    return Descriptor(
        kind=CONV3X3,
        stride2=layer.stride - 1,
        # The column kept from the group before must have been stored when the next group reads it.
        steps=max(slices, 2) if layer.stride == 2 else slices,
        slices=slices,
        pad_top=int(y0 == 0),
        pad_bottom=int(y0 + number == layer.out_size and layer.stride == 1),
        src_row=first % 4,
        src_base=(source.base + first // 4 * row_step) % memories.a_depth,
        src_row_step=row_step,
        src_col_step=slices,
        **common,
    )
