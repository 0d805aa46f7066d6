"""The typed face of the native kernels: what it refuses before C sees an address."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from fracbnn_pynq import native
from fracbnn_pynq.arithmetic import FAITHFUL
from fracbnn_pynq.backends.plan import Plan
from fracbnn_pynq.errors import BackendError
from fracbnn_pynq.model import random_model
from fracbnn_pynq.networks import CIFAR10
from fracbnn_pynq.thermometer import LEVELS

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels were not built")


@pytest.fixture(scope="module")
def call():
    """``native.run`` with arguments that are right, but for those given."""
    engine = next(iter(native.engines()))
    plan = Plan(random_model(CIFAR10), FAITHFUL, engine=engine)

    def run(**changes):
        right = {
            "engine": engine,
            "plan": plan.words,
            "levels": LEVELS,
            "pictures": np.zeros((2, 32, 32, 3), np.uint8),
            "logits": np.empty((2, 10), np.float32),
        }
        arguments = {**right, **changes}
        native.run(**arguments)
        return arguments["logits"]

    run.plan = plan
    return run


def test_right_arguments(call):
    assert np.isfinite(call()).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("plan", np.zeros(3, np.int32), "plan: expected a contiguous int64, found int32"),
        ("levels", np.zeros(255, np.uint8), r"levels: expected a contiguous uint8 \[256\], found uint8 \[255\]"),
        ("levels", np.zeros(256, np.int8), "found int8"),
        (
            "pictures",
            np.zeros((2, 32, 32, 4), np.uint8),
            r"pictures: .* \[2, any, any, 3\], found uint8 \[2, 32, 32, 4\]",
        ),
        ("pictures", np.zeros((2, 32, 32, 6), np.uint8)[..., ::2], "not contiguous"),
        ("pictures", np.zeros((2, 3072), np.uint8), r"found uint8 \[2, 3072\]"),
        ("logits", np.empty((3, 10), np.float32), r"logits: expected a contiguous float32 \[2, any\]"),
        ("logits", np.empty((2, 10)), "found float64"),
        ("codes", np.empty((1, 8, 8, 64), np.uint8), r"codes: expected .* \[2, any, any, any\]"),
    ],
)
def test_arrays_that_c_would_misread_are_refused(call, name, value, message):
    with pytest.raises(BackendError, match=message):
        call(**{name: value})


def test_an_engine_this_processor_does_not_have(call):
    with pytest.raises(ValueError, match="this processor has no engine sse9"):
        call(engine="sse9")


def test_without_kernels_every_call_says_what_to_do(call, monkeypatch):
    monkeypatch.setattr(native, "extension", None)
    assert native.engines() == {}
    with pytest.raises(BackendError, match="installed without a C compiler; install gcc"):
        call()
    with pytest.raises(BackendError, match="install gcc"):
        native.area_mean(np.zeros((4, 4, 3), np.uint8), 2)


@pytest.mark.parametrize(
    ("square", "size"),
    [
        (np.zeros((4, 5, 3), np.uint8), 2),
        (np.zeros((4, 4, 3), np.int16), 2),
        (np.zeros((4, 4, 3), np.uint8), 5),
        (np.zeros((4, 4, 3), np.uint8), 0),
        (np.zeros((4, 4, 4), np.uint8), 2),
    ],
)
def test_other_pictures_have_no_area_mean(square, size):
    with pytest.raises(BackendError, match="area mean: expected uint8"):
        native.area_mean(square, size)


def test_pixels_that_are_not_side_by_side_are_copied_first():
    square = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(native.area_mean(square[:, ::-1], 4), native.area_mean(square[:, ::-1].copy(), 4))


def test_the_encoder_of_words_refuses_what_c_cannot_read():
    images, table, buffer = np.zeros((1, 4, 4, 3), np.uint8), np.zeros(256, np.uint64), np.zeros((3, 4, 4), np.uint64)
    for wrong in (
        (table[:5], [buffer]),
        (table.astype(np.float64), [buffer]),
        (table, [buffer.astype(np.uint32)]),
        (table, [buffer[:, ::2]]),
        (table, []),
        (table, [buffer] * 3),
    ):
        with pytest.raises(BackendError, match="expected"):
            native.WordEncoder(*wrong)
    encoder = native.WordEncoder(table, [buffer])
    for nothing_yet in ((0, 0), (1, 0)):
        with pytest.raises(IndexError):
            encoder.encode(*nothing_yet)
    for wrong in (images.astype(np.int16), images[0], images[:, 1:]):
        with pytest.raises(BackendError, match="expected"):
            encoder.take(wrong)
    encoder.take(images)
    encoder.encode(0, 0)
    for slot, index in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        with pytest.raises(IndexError, match="a slot below 1 and a picture below 1"):
            encoder.encode(slot, index)
    with pytest.raises(TypeError):
        encoder.encode(0)
    with pytest.raises((TypeError, OverflowError)):
        encoder.encode("0", 1 << 80)


def test_an_encoder_of_words_keeps_what_it_reads():
    buffer = np.zeros((3, 4, 4), np.uint32)
    encoder = native.WordEncoder(np.arange(256, dtype=np.uint32) * 3, [buffer])
    encoder.take(np.full((1, 4, 4, 3), 5, np.uint8))
    encode = encoder.encode
    del encoder
    gc.collect()
    np.full(1 << 16, 255, np.uint8)
    encode(0, 0)
    assert np.all(buffer == 15)
