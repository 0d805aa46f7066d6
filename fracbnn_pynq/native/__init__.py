"""The native kernels: C behind CPython's stable ABI, and the one place that hands arrays over to it.

The extension takes addresses (the stable ABI has the buffer protocol from Python 3.11 only). So every function here
checks dtype, shape and contiguity first, and nothing else in this package passes an address to C. All functions run
without the GIL.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError

U8 = npt.NDArray[np.uint8]

extension: ModuleType | None
"""The extension module, ``None`` where this package was installed without a C compiler."""
try:
    extension = importlib.import_module("._native", __name__)
except ImportError:
    extension = None

_SLOTS = 2
"""Buffers that a :class:`WordEncoder` can fill: fracbnn.h's ``FB_SLOTS``."""

MISSING = "the native kernels are missing, because this package was installed without a C compiler"
MISSING_ADVICE = "install gcc and the Python headers, then reinstall this package"


def available() -> bool:
    """Whether the native kernels were built when this package was installed."""
    return extension is not None


def engines() -> dict[str, str]:
    """The kernels this processor can run, fastest first, each with the layout of the weights it reads ("rows" or
    "lanes"); empty where they were not built."""
    return dict(extension.engines()) if extension is not None else {}


class Team:
    """Threads that share work (native/team.h): whoever is there takes the next piece, nobody waits for who is not.

    ``pieces`` false: threads that call :func:`run` with the same arguments share the batch's pictures. ``pieces`` true:
    one thread calls :func:`run`, others :meth:`help` with each picture's pieces of work.
    """

    def __init__(self, *, pieces: bool) -> None:
        self.handle: object = _loaded().team(pieces)

    def help(self) -> None:
        """Take part until :meth:`dismiss`: spins for a moment where there is nothing to do, then sleeps."""
        _loaded().help(self.handle)

    def dismiss(self) -> None:
        """Let those go who help, now or later."""
        _loaded().dismiss(self.handle)


def prepare(engine: str, plan: npt.NDArray[np.int64]) -> U8 | None:
    """What ``engine`` makes of a plan once, beforehand: its address, 64-byte aligned, is written into the plan's last
    word, and the returned array must live as long as the plan. ``None`` where the engine has nothing to prepare.

    ``plan``: the words of a ``struct fb_plan``. Raises as :func:`run` does.
    """
    address = _address("plan", plan, np.int64, (None,))
    size = _loaded().prepared_size(engine, address)
    if not size:
        return None
    room = np.zeros(size + 64, np.uint8)
    block = _data(room) + -_data(room) % 64
    _loaded().prepare(engine, address, block)
    plan[-1] = block
    return room


def run(
    engine: str,
    plan: npt.NDArray[np.int64],
    levels: U8,
    pictures: U8,
    logits: npt.NDArray[np.float32],
    codes: U8 | None = None,
    team: Team | None = None,
) -> None:
    """Run a network on ``pictures`` uint8 [N, S, S, 3] and write ``logits`` float32 [N, classes].

    ``engine``: a name of :func:`engines`. ``plan``: the words of a ``struct fb_plan``, with addresses of arrays that
    the caller keeps alive. ``levels`` uint8 [256]: the thermometer level of each value. ``codes`` uint8
    [N, size, size, channels]: receives the low bytes of the last map. ``team``: with whom to share the work.

    Raises :class:`~fracbnn_pynq.errors.BackendError` where an array is not what C reads, or without kernels, ValueError
    for an engine this processor does not have, MemoryError where memory runs out.
    """
    count = len(pictures)
    _loaded().run(
        engine,
        _address("plan", plan, np.int64, None),
        _address("levels", levels, np.uint8, (256,)),
        _address("pictures", pictures, np.uint8, (count, None, None, 3)),
        count,
        _address("logits", logits, np.float32, (count, None)),
        0 if codes is None else _address("codes", codes, np.uint8, (count, None, None, None)),
        None if team is None else team.handle,
    )


def run_layer(
    engine: str,
    layer: npt.NDArray[np.int64],
    codes: U8,
    *,
    sums: npt.NDArray[np.int32] | None = None,
    output: U8 | None = None,
) -> None:
    """Run one layer alone on maps of 4-bit codes, uint8 [N, size, size, channels].

    ``layer``: the words of a ``struct fb_layer``. ``sums`` int32 and ``output`` uint8, [N, size, size, channels] of the
    layer's output: receive the halved sums, M/2 in the high and L/2 in the low half, and the output's codes.

    Raises as :func:`run` does.
    """
    shape = (len(codes), None, None, None)
    _loaded().run_layer(
        engine,
        _address("layer", layer, np.int64, (None,)),
        _address("codes", codes, np.uint8, shape),
        len(codes),
        0 if sums is None else _address("sums", sums, np.int32, shape),
        0 if output is None else _address("output", output, np.uint8, shape),
    )


class FitPlan:
    """Samples of a layer's channels and room for the parameters that fit them (``struct fb_fit_layer``).

    ``samples``: five int16 arrays [C, n]: feature number with the gate closed, with it open, shortcut code, target,
    activation; ``starts`` int32 [C, S, 8] with at most 64 starts. ``positions``: of a picture in the last layer's map,
    whose samples are picture by picture, else 0. ``kept``: from how many starts to search, on the ``first`` samples;
    the best end is refined on all of them. ``passes``: how often a search goes through its directions.

    ``best`` int32 [C, 8], ``losses`` float64 [C, 2] and ``affine`` float64 [C, 2] are filled by :meth:`fit`.
    """

    MOST_STARTS = 64

    def __init__(
        self,
        samples: Sequence[npt.NDArray[np.int16]],
        starts: npt.NDArray[np.int32],
        *,
        first: int,
        positions: int,
        kept: int,
        passes: int,
    ) -> None:
        channels, count = samples[0].shape
        if not 1 <= starts.shape[1] <= self.MOST_STARTS:
            raise BackendError(f"starts: expected 1 to {self.MOST_STARTS} a channel, found {starts.shape[1]}")
        if count < 1 or (positions and count % positions):
            raise BackendError(f"samples: expected a multiple of {positions or 1} and one at least, found {count}")
        if not 1 <= first <= count or (positions and first % positions) or kept < 1:
            raise BackendError(f"first samples: expected 1 to {count}, found {first}; starts kept: found {kept}")
        self.channels = channels
        self.best = np.empty((channels, 8), np.int32)
        self.losses = np.empty((channels, 2))
        self.affine = np.zeros((channels, 2))
        self._kept = [*samples, starts]  # alive as long as their addresses are
        self._words = np.array(
            [
                count,
                first,
                positions,
                *(_address("samples", array, np.int16, (channels, count)) for array in samples),
                _address("starts", starts, np.int32, (channels, None, 8)),
                starts.shape[1],
                kept,
                passes,
                *(_data(array) for array in (self.best, self.losses, self.affine)),
            ],
            np.int64,
        )

    def fit(self, first: int, stop: int) -> None:
        """Find the parameters of the channels ``first`` to ``stop`` - 1."""
        if not 0 <= first <= stop <= self.channels:
            raise BackendError(f"channels: expected a part of 0 to {self.channels}, found {first} to {stop}")
        _loaded().fit(_data(self._words), first, stop)


def area_mean(square: U8, size: int) -> U8:
    """A picture uint8 [L, L, 3] averaged over equal areas to [size, size, 3], rounded half up; 1 <= size <= L.

    Raises as :func:`run` does.
    """
    edge = square.shape[0]
    if square.dtype != np.uint8 or square.shape != (edge, edge, 3) or not 1 <= size <= edge:
        raise BackendError(
            f"area mean: expected uint8 [L, L, 3] and a size of 1 to L, found {square.dtype} {list(square.shape)} and "
            f"{size}"
        )
    if square.strides[1:] != (3, 1):
        square = np.ascontiguousarray(square)  # rows may lie anywhere, pixels side by side
    result = np.empty((size, size, 3), np.uint8)
    _loaded().area_mean(_data(square), square.strides[0], edge, size, _data(result))
    return result


class WordEncoder:
    """Pictures written into buffers, colour by colour, each value as its word of a table.

    ``table`` uint32 or uint64 [256]; ``buffers`` of its dtype, [3, S, S], which the caller keeps alive. ``encode(slot,
    index)`` writes a picture of those that :meth:`take` was given last into ``buffers[slot]``; it raises IndexError for
    slots and pictures that are not there. Others raise as :func:`run` does.
    """

    def __init__(self, table: npt.NDArray[Any], buffers: Sequence[npt.NDArray[Any]]) -> None:
        if table.dtype not in (np.uint32, np.uint64) or not 1 <= len(buffers) <= _SLOTS:
            raise BackendError(
                f"words: expected uint32 or uint64 and 1 to {_SLOTS} buffers, found {table.dtype} and {len(buffers)}"
            )
        self._size = size = buffers[0].shape[-1]
        targets = [_address("buffer", buffer, table.dtype, (3, size, size)) for buffer in buffers]
        words = [0, 0, size * size, _address("words", table, table.dtype, (256,)), table.dtype.itemsize]
        self._plan = np.array([*words, len(targets), *targets, *[0] * (_SLOTS - len(targets))], np.int64)
        self._kept: list[Any] = [self._plan, table, None]
        # No function of Python's own in between: this is called for every picture an accelerator computes.
        self.encode: Callable[[int, int], None] = partial(_loaded().encode_words, _data(self._plan), self._kept)

    def take(self, images: U8) -> None:
        """The pictures to encode from now on: uint8 [N, S, S, 3]."""
        images = np.ascontiguousarray(images)
        self._plan[0] = _address("pictures", images, np.uint8, (None, self._size, self._size, 3))
        self._plan[1] = len(images)
        self._kept[2] = images

    def let_go(self) -> None:
        """Hold no pictures any longer, and encode none."""
        self._plan[1] = 0
        self._kept[2] = None


def _loaded() -> Any:
    if extension is None:
        raise BackendError(MISSING, advice=MISSING_ADVICE)
    return extension


def _address(what: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: tuple[int | None, ...] | None) -> int:
    """Where ``array`` lies; raises unless it is contiguous and has ``dtype`` and ``shape`` (``None``: any length)."""
    fits = array.dtype == dtype and array.flags.c_contiguous
    if shape is not None:
        pairs = zip(shape, array.shape, strict=False)
        fits = fits and len(shape) == array.ndim and all(want in (None, have) for want, have in pairs)
    if not fits:
        expected = "" if shape is None else f" [{', '.join('any' if n is None else str(n) for n in shape)}]"
        raise BackendError(
            f"{what}: expected a contiguous {np.dtype(dtype).name}{expected}, found {array.dtype} {list(array.shape)}"
            f"{'' if array.flags.c_contiguous else ', not contiguous'}"
        )
    return _data(array)


def _data(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
