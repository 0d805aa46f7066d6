"""Pickles of plain data and arrays of plain numbers, read without an unpickler.

A pickle is a program, and one that may only name NumPy's own classes still does harm: it can give a dtype another size
than its data have, and read or write the process's memory that way. So nothing here calls what a pickle names. The
opcodes are walked (:func:`pickletools.genops` takes them apart), those that make plain data are carried out on a stack
of this module's own, and the few names that an array's pickle needs are recognised by their text and mean what this
module says they mean. All else is refused.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_OPCODES = 2_000_000
"""More are refused; a CIFAR-10 batch has 50,000."""

_RECONSTRUCT = "reconstruct"
_FROM_BUFFER = "frombuffer"
_NDARRAY = "ndarray"
_DTYPE = "dtype"
_ENCODE = "encode"
_EMPTY = "bytes"
_NAMES = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.core.numeric._frombuffer": _FROM_BUFFER,
    "numpy._core.numeric._frombuffer": _FROM_BUFFER,
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _DTYPE,
    "_codecs.encode": _ENCODE,
    "__builtin__.bytes": _EMPTY,
}
"""What pickles of arrays ask for, under the names of old and new NumPy releases."""

_NUMBER_TYPE = re.compile(r"b1|[iu][1248]|f[248]")
_DAMAGE = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, RecursionError)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PYTHON2_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_WITHOUT_EFFECT = frozenset({"PROTO", "FRAME"})


class NotPlainError(ValueError):
    """The pickle is damaged, or holds more than plain data."""


class _Name:
    """A name that has been asked for; ``meaning`` is one of the values of ``_NAMES``."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


class _Dtype:
    """A dtype of plain numbers: its code, such as ``u1``, and its byte order."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Draft:
    """An array that has been announced; its ``array`` comes with a later opcode."""

    array: npt.NDArray[Any] | None = None


_MARK = object()


def read_plain(data: bytes) -> Any:
    """What the pickle ``data`` holds: None, numbers, text, bytes, tuples, lists, dictionaries and NumPy arrays.

    Python 2's strings come as bytes. Arrays are read-only; they are given where they are the one thing, or stand in
    the outermost list, tuple or dictionary. Raises :class:`NotPlainError`.
    """
    machine = _Machine(len(data))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            _expect(count < MAX_OPCODES, f"has more than {MAX_OPCODES} opcodes")
            machine.step(opcode.name, argument)
        return machine.result()
    except NotPlainError:
        raise
    except (*_DAMAGE, Warning) as error:  # a warning, of odd text in a pickle, where warnings are errors
        raise NotPlainError(f"it is damaged: {error}") from None


class _Machine:
    """A pickle's stack and memo. ``budget``: bytes that opcodes may still copy, so that none are multiplied."""

    def __init__(self, budget: int) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._budget = budget
        self._stopped = False
        self._actions: dict[str, Callable[[], None]] = {
            "POP": self._pop,
            "EMPTY_LIST": lambda: self._stack.append([]),
            "EMPTY_DICT": lambda: self._stack.append({}),
            "LIST": lambda: self._stack.append(self._items()),
            "TUPLE": lambda: self._stack.append(tuple(self._items())),
            "DICT": lambda: self._stack.append(_pairs(self._items())),
            "APPEND": lambda: self._extend([self._pop()]),
            "APPENDS": lambda: self._extend(self._items()),
            "SETITEM": lambda: self._update([self._pop(), self._pop()][::-1]),
            "SETITEMS": lambda: self._update(self._items()),
            "STACK_GLOBAL": lambda: self._name([self._pop(), self._pop()][::-1]),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "STOP": self._stop,
        }

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode."""
        if opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _PYTHON2_STRINGS:
            self._stack.append(argument.encode("latin-1"))
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            self._stack.append(tuple([self._pop() for _ in range(count)][::-1]))
        elif opcode == "MARK":
            self._stack.append(_MARK)
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._top()
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            self._name(argument.split(" ", 1))
        elif opcode in self._actions:
            self._actions[opcode]()
        elif opcode not in _WITHOUT_EFFECT:
            raise NotPlainError(f"it has the opcode {opcode}, which plain data do not need")

    def result(self) -> Any:
        """The one thing that is left, with arrays in place of drafts."""
        if not self._stopped:
            raise NotPlainError("it ends too early")
        return _finished(self._pop())

    def _stop(self) -> None:
        self._stopped = True

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise NotPlainError("it is damaged: it takes what it has not put there")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _items(self) -> list[Any]:
        """What lies above the last mark, which is taken away with it."""
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _extend(self, items: list[Any]) -> None:
        _expect(type(self._top()) is list, "appends to something that is no list")
        self._top().extend(items)

    def _update(self, items: list[Any]) -> None:
        _expect(type(self._top()) is dict, "sets entries of something that is no dictionary")
        self._top().update(_pairs(items))

    def _name(self, parts: Sequence[Any]) -> None:
        name = ".".join(map(str, parts))
        if name not in _NAMES:
            raise NotPlainError(f"it asks for {name}")
        self._stack.append(_Name(_NAMES[name]))

    def _reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        _expect(isinstance(called, _Name) and type(arguments) is tuple, "calls something")
        if called.meaning == _RECONSTRUCT:
            _expect(len(arguments) == 3 and _is(arguments[0], _NDARRAY), "makes something that is no array")
            self._stack.append(_Draft())
        elif called.meaning == _DTYPE:
            self._stack.append(_Dtype(_type_code(arguments)))
        elif called.meaning == _ENCODE:
            text, encoding = arguments
            _expect(type(text) is str and encoding in ("latin1", b"latin1"), "encodes something that is no bytes")
            self._spend(len(text))
            self._stack.append(text.encode("latin-1"))
        elif called.meaning == _EMPTY:
            _expect(arguments == (), "makes bytes of something")
            self._stack.append(b"")
        elif called.meaning == _FROM_BUFFER:
            data, dtype, shape, order = arguments
            draft = _Draft()
            draft.array = self._array(data, dtype, shape, fortran=order in ("F", b"F"))
            self._stack.append(draft)
        else:
            raise NotPlainError("it calls something")

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        _expect(type(state) is tuple, "has an object's state, which plain data do not have")
        if isinstance(target, _Dtype):
            _set_byte_order(target, state)
        elif isinstance(target, _Draft) and target.array is None:
            version, shape, dtype, fortran, data = state
            _expect(version == 1, "has an array of another version")
            target.array = self._array(data, dtype, shape, fortran=bool(fortran))
        else:
            raise NotPlainError("it has an object's state, which plain data do not have")

    def _array(self, data: Any, dtype: Any, shape: Any, *, fortran: bool) -> npt.NDArray[Any]:
        _expect(isinstance(data, bytes | bytearray) and isinstance(dtype, _Dtype), "has an array of objects")
        sizes = shape if type(shape) is tuple else ()
        _expect(all(type(size) is int and size >= 0 for size in sizes), "has an array without a shape")
        kind = dtype.numpy()
        _expect(math.prod(sizes) * kind.itemsize == len(data), "has an array whose size is not that of its data")
        if isinstance(data, bytearray):
            self._spend(len(data))
            data = bytes(data)
        return np.ndarray(sizes, kind, data, order="F" if fortran else "C")

    def _spend(self, count: int) -> None:
        """Count what is copied: it was in the file, so that a small file must not become a large one in memory."""
        self._budget -= count
        _expect(self._budget >= 0, "uses the same data again and again")


def _expect(true: bool, what: str) -> None:
    if not true:
        raise NotPlainError(f"it {what}")


def _is(value: Any, meaning: str) -> bool:
    return isinstance(value, _Name) and value.meaning == meaning


def _type_code(arguments: tuple[Any, ...]) -> str:
    code = arguments[0] if arguments else None
    text = code.decode("latin-1") if type(code) is bytes else code
    if type(text) is not str or not _NUMBER_TYPE.fullmatch(text):
        raise NotPlainError(f"it has an array of {text!r:.20}, where plain numbers are expected")
    return text


def _set_byte_order(dtype: _Dtype, state: tuple[Any, ...]) -> None:
    """The state of a plain number's dtype: version, byte order, and marks that it has neither fields nor a size."""
    order = state[1].decode("latin-1") if type(state[1]) is bytes else state[1]
    _expect(order in ("|", "<", ">", "="), "has a dtype without a byte order")
    plain = state[0] == 3 and state[2:] == (None, None, None, -1, -1, 0)
    _expect(plain, "has a dtype that is no plain number's")
    dtype.order = order


def _pairs(items: list[Any]) -> dict[Any, Any]:
    _expect(len(items) % 2 == 0, "has a key without a value")
    # Of these alone: to hash a tuple of tuples of tuples ... exhausts the C stack, which ends the process.
    _expect(all(type(key) in (str, bytes, int) for key in items[::2]), "has a key that is neither text nor a number")
    return dict(zip(items[::2], items[1::2], strict=True))


def _finished(value: Any) -> Any:
    """``value`` with arrays for drafts, there and one container down, which is as deep as anybody looks."""
    if type(value) is dict:
        return {key: _array_of(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_array_of(item) for item in value)
    return _array_of(value)


def _array_of(value: Any) -> Any:
    if isinstance(value, _Draft):
        _expect(value.array is not None, "has an array without data")
        return value.array
    return value
