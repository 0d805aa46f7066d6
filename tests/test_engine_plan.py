"""The memory plan: every access of both networks, followed from the descriptors.

A map's words carry tags (descriptor group, row, column, slice); every read must find the tag it expects, reads of one
step must lie in different banks, and what a descriptor writes must not hide what it still has to read.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fracbnn_pynq.engine.descriptors import CONV1X1, CONV3X3, STEM, Descriptor
from fracbnn_pynq.engine.plan import Memories, descriptors
from fracbnn_pynq.networks import CIFAR10, IMAGENET, Network

Index = tuple[np.ndarray, ...]


class Walker:
    """Follows the descriptors of one network through the three memories."""

    def __init__(self, network: Network, pixels: int) -> None:
        self.m = m = Memories(pixels)
        self.steps = descriptors(network, pixels)
        self.network, self.x = network, pixels
        self.a = np.full((4 * m.a_columns, m.a_depth), -1, np.int64)
        self.b = np.full((8 * pixels, m.b_depth), -1, np.int64)

    @staticmethod
    def tag(layer: int, row: np.ndarray, column: np.ndarray, part: np.ndarray | int) -> np.ndarray:
        return ((layer * 512 + row) * 512 + column) * 512 + part

    # ---- addresses, as the hardware forms them from a descriptor's fields
    def a_place(self, base: int, first: int, row_step: int, col_step: int, row: Index, part: Index) -> Index:
        """``row``: (rows after the first one, columns) of the map."""
        below, column = row
        bank_row = first + below
        word = base + bank_row // 4 * row_step + column // self.m.a_columns * col_step + part
        return (bank_row % 4) * self.m.a_columns + column % self.m.a_columns, word % self.m.a_depth

    def b_place(self, base: int, split: int, row_step: int, col_step: int, row: Index, part: np.ndarray) -> Index:
        below, column = row
        columns = self.x << split
        n = 8 >> split
        word = base + below * row_step + column // columns * col_step + part // n
        return (part % n) * columns + column % columns, word % self.m.b_depth

    def wide_place(
        self, base: int, row_step: int, col_step: int, row: Index, tile: np.ndarray, quad: np.ndarray
    ) -> Index:
        below, column = row
        columns = 2 * self.x
        word = base + below * row_step + column // columns * col_step + tile
        return quad * columns + column % columns, word % self.m.b_depth

    # ---- reads
    def expect(self, memory: np.ndarray, place: Index, tags: np.ndarray, d: Descriptor) -> None:
        found = memory[place]
        wrong = found != tags
        assert not wrong.any(), (d, place[0][wrong][:3], place[1][wrong][:3], found[wrong][:3], tags[wrong][:3])

    def distinct(self, banks: np.ndarray, words: np.ndarray) -> None:
        """Along the last axis: reads of one step; the same bank only for the same word."""
        order = np.argsort(banks, axis=-1)
        b, w = np.take_along_axis(banks, order, -1), np.take_along_axis(words, order, -1)
        assert not ((b[..., 1:] == b[..., :-1]) & (w[..., 1:] != w[..., :-1])).any()

    def check_reads(self, d: Descriptor, y0: int) -> None:
        stride = 1 + d.stride2
        if d.kind == STEM:
            return
        layer = self.network.layers[d.layer - 1]
        size = layer.in_size
        if d.kind == CONV1X1:
            out, x, part = np.meshgrid(np.arange(d.rows), np.arange(size), np.arange(d.sc_slices), indexing="ij")
            place = self.b_place(d.src_base, d.src_split, d.src_row_step, d.src_col_step, (out, x), part)
            self.expect(self.b, place, self.tag(d.layer - 1, y0 + out, x, part), d)
            groups = place[0][:, : size // self.x * self.x].reshape(d.rows, -1, self.x, d.sc_slices)
            words = place[1][:, : size // self.x * self.x].reshape(groups.shape)
            for s8 in range(0, d.sc_slices, 8):
                picked = groups[..., s8 : s8 + 8], words[..., s8 : s8 + 8]
                self.distinct(*(p.reshape(d.rows, groups.shape[1], -1) for p in picked))
            return
        columns = 2 * self.x + 1 if stride == 2 else self.x + 2
        skip = int(stride == 2 and self.x > 1)  # the column kept from the group before
        out, g, part, dr, j = np.meshgrid(
            np.arange(d.rows),
            np.arange(d.groups),
            np.arange(d.slices),
            np.arange(3),
            np.arange(skip, columns),
            indexing="ij",
        )
        row, column = (y0 + out) * stride - 1 + dr, g * self.x * stride - 1 + j
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        # Rows outside the map are masked where the descriptor says so, columns at the map's edges.
        assert d.pad_top or (row >= 0).all()
        assert d.pad_bottom or (row < size).all()
        place = self.a_place(d.src_base, d.src_row, d.src_row_step, d.src_col_step, (out * stride + dr, column), part)
        self.expect(self.a, tuple(p[inside] for p in place), self.tag(d.layer - 1, row, column, part)[inside], d)
        shape = (*place[0].shape[:3], -1)
        self.distinct(place[0].reshape(shape), place[1].reshape(shape))
        if d.wide:
            self.check_wide(d, y0)

    def check_wide(self, d: Descriptor, y0: int) -> None:
        size = self.network.layers[d.layer - 1].in_size
        row, column, tile, quad = np.meshgrid(
            np.arange(size), np.arange(size), np.arange(d.sc_slices), np.arange(4), indexing="ij"
        )
        place = self.wide_place(d.sc_base, d.sc_row_step, d.sc_col_step, (row, column), tile, quad)
        self.expect(self.b, place, self.tag(1000 + d.layer - 1, row, column, 4 * tile + quad), d)
        assert y0 == 0

    # ---- writes
    def write(self, d: Descriptor, y0: int) -> None:
        if d.final:
            return
        width = self.network.stem.out_size if d.kind == STEM else self.network.layers[d.layer - 1].out_size
        row, column, part = np.meshgrid(np.arange(d.rows), np.arange(width), np.arange(d.passes), indexing="ij")
        tags = self.tag(d.layer, y0 + row, column, part)
        if d.to_b:
            place = self.b_place(d.dst_base, d.dst_split, d.dst_row_step, d.dst_col_step, (row, column), part)
            memory = self.b
        else:
            place = self.a_place(d.dst_base, d.dst_row, d.dst_row_step, d.dst_col_step, (row, column), part)
            memory = self.a
        flat = place[0] * memory.shape[1] + place[1]
        assert np.unique(flat).size == flat.size
        memory[place] = tags
        if d.wide:
            row, column, part, quad = np.meshgrid(
                np.arange(d.rows), np.arange(width), np.arange(d.passes), np.arange(4), indexing="ij"
            )
            place = self.wide_place(d.wide_base, d.wide_row_step, d.wide_col_step, (row, column), part, quad)
            self.b[place] = self.tag(1000 + d.layer, row, column, 4 * part + quad)

    def walk(self) -> None:
        first_row: dict[int, int] = {}
        for d in self.steps:
            y0 = self.first_output_row(d, first_row)
            self.check_reads(d, y0)
            self.write(d, y0)
            if d.kind != STEM and not d.wide:
                self.check_reads(d, y0)  # nothing it reads was hidden by what it wrote
            first_row[d.layer] = y0 + d.rows

    def first_output_row(self, d: Descriptor, done: dict[int, int]) -> int:
        """Strips follow each other; a strip of a 1x1 layer computes one row of the strip before again."""
        y0 = done.get(d.layer, 0)
        return y0 - 1 if y0 and d.kind == CONV1X1 else y0


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
def test_every_read_finds_what_it_expects(network: Network, pixels: int) -> None:
    Walker(network, pixels).walk()


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_a_wrong_plan_is_found(pixels: int) -> None:
    """The walker can fail: a base, a step or a bank that is off by one is seen."""
    for layer, changes in ((3, {"src_base": 1}), (5, {"dst_base": 1}), (7, {"src_row": 1}), (9, {"sc_base": 1})):
        walker = Walker(CIFAR10, pixels)
        index = next(i for i, step in enumerate(walker.steps) if step.layer == layer)
        step = walker.steps[index]
        walker.steps[index] = step.with_(**{name: getattr(step, name) ^ value for name, value in changes.items()})
        with pytest.raises(AssertionError):
            walker.walk()


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_picture_strips_cover_the_picture(pixels: int) -> None:
    """Each strip's rows lie between the first row not released and the room of the ring."""
    memories = Memories(pixels)
    steps = [step for step in descriptors(IMAGENET, pixels) if step.kind == STEM]
    tail = 0
    for index, step in enumerate(steps):
        first = index * 8 * 2 - 1
        last = first + 2 * (step.rows - 1) + 2
        assert (first - 4 * tail) % 4 == step.src_row
        assert step.need_first == first + 3 - 4 * tail
        assert last < 4 * tail + step.need_max
        assert (last + 1 - 4 * tail) / 4 * step.src_row_step <= memories.i_depth
        tail += step.release
        assert step.release_words == step.release * step.src_row_step
    assert tail == 224 // 4


@pytest.mark.parametrize("pixels", [1, 2, 4])
@pytest.mark.parametrize("network", [CIFAR10, IMAGENET], ids=lambda network: network.name)
def test_waits_cover_what_is_read(network: Network, pixels: int) -> None:
    """For every output row, the rows waited for include the last row it reads of the descriptor just before."""
    for before, step in pairwise(descriptors(network, pixels)):
        if step.kind == STEM or not step.wait:
            continue
        stride, reach = 1 + step.stride2, 2 if step.kind == CONV3X3 else 1
        for row in range(step.rows):
            waited = min(step.need_first + row * stride, step.need_max)
            assert waited == before.rows or waited >= min(row * stride + reach, before.rows)
