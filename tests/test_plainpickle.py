"""Pickles of plain data: what they hold, and that nothing in them is carried out."""

from __future__ import annotations

import collections
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_support import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from traps import Malicious

from fracbnn_pynq import plainpickle
from fracbnn_pynq.plainpickle import NotPlainError, read_plain

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.binary(), inner),
)


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_come_back(value: Any, protocol: int):
    found = read_plain(pickle.dumps(value, protocol))
    assert found == value
    assert type(found) is type(value)


@given(
    array=hnp.arrays(
        hnp.boolean_dtypes()
        | hnp.integer_dtypes()
        | hnp.unsigned_integer_dtypes()
        | hnp.floating_dtypes(endianness="<"),
        hnp.array_shapes(min_dims=0, min_side=0),
        elements={"allow_nan": False},
    ),
    protocol=st.sampled_from(PROTOCOLS),
    order=st.sampled_from("CF"),
    wrap=st.sampled_from([lambda a: a, lambda a: [a, a.shape], lambda a: {"data": a}]),
)
def test_arrays_come_back(array: np.ndarray, protocol: int, order: Any, wrap: Callable[[Any], Any]):
    if array.dtype.itemsize > 8:  # long doubles are no plain numbers
        return
    array = array.copy(order)
    found = read_plain(pickle.dumps(wrap(array), protocol))
    found = found["data"] if isinstance(found, dict) else found[0] if isinstance(found, list) else found
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


class Custom:
    value = 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        Malicious(Path("never")),
        [1, Malicious(Path("never"))],
        Custom(),
        Custom,
        collections.OrderedDict(a=1),
        np.array([Malicious(Path("never"))], object),
        np.zeros(2, "V8"),
        np.array(["a"]),
        np.zeros(1, [("a", "u1")]),
        np.float64(3),
        np.datetime64("2020"),
        {1, 2},
        1j,
        range(3),
        print,
    ],
)
def test_all_else_is_refused(value: Any, protocol: int):
    with pytest.raises(NotPlainError, match=r"^it (asks for|has|is|calls|makes)"):
        read_plain(pickle.dumps(value, protocol))
    assert not Path("never").exists()


def op_int(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def string(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value


DTYPE = b"cnumpy\ndtype\n" + string(b"u1") + b"\x85R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"


def dtype_state(size: int) -> bytes:
    return b"(" + op_int(3) + string(b"|") + b"NNN" + op_int(size) + op_int(1) + op_int(0) + b"tb"


def array_state(count: int, data: bytes) -> bytes:
    return b"(K\x01" + op_int(count) + b"\x85" + DTYPE + b"K\x00" + data + b"tb"


HEAP = b"cnumpy\nndarray\n" + op_int(1) + b"\x85" + DTYPE + b"\x86R"
"""An uninitialised array: the first step of reading memory that the file does not hold."""


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (HEAP, "calls something"),
        (DTYPE + dtype_state(1 << 20), "has a dtype that is no plain number's"),
        (b"cnumpy\ndtype\n" + string(b"V1") + b"\x85R", "has an array of 'V1'"),
        (b"cnumpy\ndtype\n" + string(b"O8") + b"\x85R", "has an array of 'O8'"),
        (b"cnumpy\ndtype\n" + string(b"i3") + b"\x85R", "has an array of 'i3'"),
        (ARRAY + array_state(1 << 40, string(b"abc")), "has an array whose size is not that of its data"),
        (ARRAY + array_state(-1, string(b"")), "has an array without a shape"),
        (ARRAY + array_state(2, string(b"abc")), "has an array whose size is not that of its data"),
        (ARRAY, "has an array without data"),
        (ARRAY + array_state(1, string(b"a")) + array_state(1, string(b"b")), "has an object's state"),
        (ARRAY + array_state(1, b"]"), "has an array of objects"),
        (b"cnumpy\nload\n", r"asks for numpy\.load"),
        (b"cnumpy\nndarray.view\n", r"asks for numpy\.ndarray\.view"),
        (string(b"numpy") + string(b"dtype") + b"\x93", "asks for b'numpy'"),
        (b"(K\x01K\x02K\x03ibuiltins\nprint\n", "has the opcode INST"),
        (b"(cnumpy\ndtype\no", "has the opcode OBJ"),
        (b"cnumpy\ndtype\n)\x81", "has the opcode NEWOBJ"),
        (b"Pname\n", "has the opcode PERSID"),
        (b"\x82\x01", "has the opcode EXT1"),
        (b"K\x01K\x02a", "appends to something that is no list"),
        (b"K\x01K\x02K\x03s", "sets entries of something that is no dictionary"),
        (b"}(K\x01u", "has a key without a value"),
        (b"})K\x01s", "has a key that is neither text nor a number"),
        (b"(a", "is damaged"),
        (b"h\x07", "is damaged"),
        (b"0", "is damaged"),
        (b"K\x01Nb", "has an object's state"),
    ],
)
def test_crafted_programs(program: bytes, message: str):
    with pytest.raises(NotPlainError, match=f"^it {message}"):
        read_plain(b"\x80\x02" + program + b".")


def test_truncated_and_empty():
    whole = pickle.dumps([1, "two", b"three", np.arange(4)], 4)
    for length in range(len(whole)):
        with pytest.raises(NotPlainError):
            read_plain(whole[:length])


def test_a_key_nested_a_million_times_is_refused():
    """To hash it would overflow the C stack, which no exception handler survives."""
    with pytest.raises(NotPlainError, match="neither text nor a number"):
        read_plain(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.")


def test_a_small_file_stays_small_in_memory():
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01"
    again = b"c_codecs\nencode\nh\x01" + string(b"latin1") + b"\x86R"
    tracemalloc.start()
    with pytest.raises(NotPlainError, match="uses the same data again and again"):
        read_plain(b"\x80\x02]" + text + again * 1000 + b".")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plainpickle, "MAX_OPCODES", 100)
    with pytest.raises(NotPlainError, match="more than 100 opcodes"):
        read_plain(b"\x80\x02" + b"N0" * 100 + b"N.")


WHOLE = pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2]}, 2)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_fuzz_of_changed_pickles(data: st.DataObject):
    content = bytearray(data.draw(st.sampled_from([WHOLE, pickle.dumps({"data": np.arange(3), "x": (1, None)}, 5)])))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    try:
        read_plain(bytes(content))
    except NotPlainError:
        return


@settings(max_examples=examples(300), deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(
            [
                DTYPE,
                ARRAY,
                array_state(1, string(b"a")),
                dtype_state(-1),
                b"(",
                b"t",
                b"R",
                b"b",
                b"]",
                b"}",
                b"a",
                b"s",
                b"u",
                b"e",
                b"h\x01",
                b"q\x01",
                b"\x85",
                b"\x86",
                b"0",
                b"K\x01",
                string(b"u1"),
                b".",
            ]
        )
    )
)
def test_fuzz_of_programs(parts: list[bytes]):
    try:
        read_plain(b"\x80\x02" + b"".join(parts))
    except NotPlainError:
        return
