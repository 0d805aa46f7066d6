"""The pipeline: order, drop-oldest, errors, stopping. Threads meet by events, not by sleeping."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting_support import live_threads, until

from fracbnn_pynq import streaming
from fracbnn_pynq.classifier import Classifier
from fracbnn_pynq.errors import AcceleratorTimeoutError
from fracbnn_pynq.models import MODELS
from fracbnn_pynq.streaming import EndOfStream, Handover, NothingYet, Pipeline

WAIT_S = 10
HAS_MODEL = importlib.util.find_spec("fracbnn_pynq.weights") is not None and MODELS["cifar10"].available


@pytest.fixture(autouse=True)
def no_thread_left():
    before = live_threads("fracbnn-")
    yield
    assert live_threads("fracbnn-") <= before


class Broken(Exception):
    pass


def collect(pipeline, **options):
    seen = []
    statistics = pipeline.run(lambda delivery: seen.append((delivery.frame, delivery.result)), **options)
    return seen, statistics


# --- hand-over ---------------------------------------------------------------------------------------------------


def test_a_full_handover_drops_the_oldest_and_says_how_many():
    handover = Handover(2, drop_oldest=True)
    assert [handover.put(item) for item in range(5)] == [0, 0, 1, 1, 1]
    handover.finish()
    assert [handover.get(), handover.get()] == [3, 4]
    with pytest.raises(EndOfStream):
        handover.get()


def test_a_full_handover_that_keeps_all_makes_the_sender_wait():
    handover = Handover(1, drop_oldest=False)
    sent = []

    def send():
        for item in range(3):
            handover.put(item)
            sent.append(item)

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: sent == [0])
    time.sleep(0.02)
    assert sent == [0]
    assert [handover.get(WAIT_S) for _ in range(3)] == [0, 1, 2]
    sender.join(WAIT_S)
    assert sent == [0, 1, 2]


def test_the_error_comes_after_what_was_sent_before_it():
    handover = Handover(2, drop_oldest=False)
    handover.put("a")
    handover.finish(Broken("b"))
    assert handover.get() == "a"
    for _ in range(2):
        with pytest.raises(Broken, match="b"):
            handover.get()


@pytest.mark.parametrize("sender_waits", [True, False])
def test_abandoning_frees_who_waits(sender_waits):
    handover = Handover(1, drop_oldest=False)
    if sender_waits:
        handover.put(0)
    ended = []

    def wait():
        try:
            handover.put(1) if sender_waits else handover.get()
        except EndOfStream:
            ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.01)
    assert not ended
    handover.abandon()
    thread.join(WAIT_S)
    assert ended == [True]


def test_nothing_in_time_and_no_room_at_all():
    with pytest.raises(NothingYet):
        Handover(1, drop_oldest=True).get(0.001)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Handover(0, drop_oldest=True)


# --- pipeline ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(), max_size=40), st.integers(1, 4))
def test_without_dropping_every_frame_comes_once_and_in_order(frames, depth):
    seen, statistics = collect(Pipeline(frames, lambda frame: frame + 1, drop=False, depth=depth))
    assert seen == [(frame, frame + 1) for frame in frames]
    counts = statistics.captured.count, statistics.classified.count, statistics.delivered.count
    assert counts == (len(frames),) * 3
    assert (statistics.dropped, statistics.unfinished) == (0, 0)
    assert {histogram.count for histogram in statistics.stages.values()} == {len(frames)}


def test_a_slow_model_gets_the_newest_frame():
    """Ten frames come while the first is in the model: of those the last is the next to be classified."""
    started, ten_came = threading.Event(), threading.Event()
    classified = []

    def source():
        yield 0
        assert started.wait(WAIT_S)
        yield from range(1, 11)
        ten_came.set()
        until(lambda: len(classified) == 2)
        yield 11

    def model(frame):
        classified.append(frame)
        if frame == 0:
            started.set()
            assert ten_came.wait(WAIT_S)
        return -frame

    seen, statistics = collect(Pipeline(source(), model))
    assert classified == [0, 10, 11]
    assert seen == [(0, 0), (10, -10), (11, -11)]
    assert (statistics.captured.count, statistics.dropped, statistics.unfinished) == (12, 9, 0)


def test_a_slow_receiver_costs_frames_but_not_order():
    """While the receiver holds the first result, depth results and one frame wait; all others but the last go."""
    captured, holds = threading.Event(), threading.Event()
    classified, seen = [], []

    def source():
        yield 0
        assert holds.wait(WAIT_S)
        for frame in range(1, 50):
            yield frame
            if frame <= 3:  # two results that wait, one that cannot be handed over
                until(lambda frame=frame: frame in classified)
        captured.set()

    def model(frame):
        classified.append(frame)
        return frame

    def receive(delivery):
        holds.set()
        assert captured.wait(WAIT_S)
        seen.append(delivery.frame)

    statistics = Pipeline(source(), model, depth=2).run(receive)
    assert classified == seen == [0, 1, 2, 3, 49]
    assert (statistics.captured.count, statistics.dropped) == (50, 45)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from([0, 0, 0.0005, 0.002]), min_size=30, max_size=30), st.booleans())
def test_whatever_the_pace_nothing_comes_twice_or_out_of_order(pauses, slow_model):
    classified = []

    def source():
        for frame, pause in enumerate(pauses):
            time.sleep(pause)
            yield frame

    def model(frame):
        classified.append(frame)
        time.sleep(pauses[-frame] if slow_model else 0)
        return frame

    seen, statistics = collect(Pipeline(source(), model))
    frames = [frame for frame, _ in seen]
    assert frames == classified == sorted(set(frames))
    assert frames[-1] == len(pauses) - 1, "the newest frame wins"
    assert statistics.dropped == len(pauses) - len(frames)


def test_stages_overlap():
    """Capture, model and receiver wait for each other in a ring: run one after another they would never end."""
    ring = threading.Barrier(3)

    def source():
        for frame in range(3, 30):
            yield frame
            if frame >= 5:
                ring.wait(WAIT_S)

    def model(frame):
        if 4 <= frame < 29:
            ring.wait(WAIT_S)
        return frame

    def receive(delivery):
        if delivery.frame < 28:
            ring.wait(WAIT_S)

    statistics = Pipeline(source(), model, drop=False, depth=1).run(receive)
    assert statistics.delivered.count == 27


def test_delivery_happens_in_the_callers_thread_the_others_do_not():
    threads = {}

    def source():
        threads["capture"] = threading.current_thread().name
        yield 0

    def model(frame):
        threads["infer"] = threading.current_thread().name
        return frame

    Pipeline(source(), model).run(lambda _: threads.setdefault("deliver", threading.current_thread()))
    assert threads == {"capture": "fracbnn-capture", "infer": "fracbnn-infer", "deliver": threading.current_thread()}


def test_the_times_of_a_delivery_are_in_order_and_add_up():
    def model(frame):
        time.sleep(0.01)
        return frame

    deliveries = []
    statistics = Pipeline([1], model).run(deliveries.append)
    (delivery,) = deliveries
    assert delivery.captured <= delivery.started <= delivery.inferred <= time.perf_counter()
    times = {name: histogram.total for name, histogram in statistics.stages.items()}
    assert times["inference"] == delivery.inferred - delivery.started >= 0.01
    parts = sum(times[name] for name in ("wait for inference", "inference", "wait for delivery", "delivery"))
    assert parts == pytest.approx(times["end to end"], abs=1e-9)


# --- errors ------------------------------------------------------------------------------------------------------


def test_an_error_of_the_source_is_raised_after_the_frames_before_it():
    def source():
        yield from range(3)
        raise Broken("cable")

    seen = []
    with pytest.raises(Broken, match="cable"):
        Pipeline(source(), lambda frame: frame, drop=False).run(lambda delivery: seen.append(delivery.frame))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("error", [Broken("model"), AcceleratorTimeoutError("model"), KeyboardInterrupt("model")])
def test_an_error_of_the_model_is_raised_and_the_source_is_closed(error):
    closed = threading.Event()
    seen = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    def model(frame):
        if frame == 2:
            raise error
        return frame

    with pytest.raises(type(error), match="model"):
        Pipeline(source(), model, drop=False).run(lambda delivery: seen.append(delivery.frame))
    assert seen == [0, 1]
    assert closed.is_set()


@pytest.mark.parametrize("error", [Broken("full"), TimeoutError("full"), EndOfStream("full"), NothingYet("full")])
def test_an_error_of_the_receiver_is_raised_at_once(error):
    def receive(delivery):
        raise error

    with pytest.raises(type(error), match="full"):
        Pipeline(itertools.count(), lambda frame: frame).run(receive)


def test_an_error_of_the_tick_is_raised():
    def tick():
        raise Broken("tick")

    with pytest.raises(Broken, match="tick"):
        Pipeline(itertools.count(), lambda frame: frame).run(lambda _: None, tick=tick, interval=0.01)


def test_an_error_while_the_source_is_closed_is_raised_but_not_in_place_of_the_first():
    class Source:
        def __init__(self, *, broken):
            self.broken = broken

        def __iter__(self):
            return self

        def __next__(self):
            if self.broken:
                raise Broken("read")
            raise StopIteration

        def close(self):
            raise OSError("close")

    for broken, message in ((True, "read"), (False, "close")):
        with pytest.raises((Broken, OSError), match=message):
            Pipeline(Source(broken=broken), lambda frame: frame).run(lambda _: None)


def test_what_cannot_be_iterated_is_an_error_too():
    with pytest.raises(TypeError, match="not iterable"):
        Pipeline(5, lambda frame: frame).run(lambda _: None)


# --- stopping ----------------------------------------------------------------------------------------------------


def test_stop_makes_the_result_being_delivered_the_last():
    pipeline = Pipeline(itertools.count(), lambda frame: frame)
    seen = []

    def receive(delivery):
        seen.append(delivery.frame)
        if len(seen) == 3:
            pipeline.stop()

    statistics = pipeline.run(receive)
    assert len(seen) == statistics.delivered.count == 3
    assert statistics.captured.count == 3 + statistics.dropped + statistics.unfinished


def test_a_source_that_waits_is_interrupted_and_ticks_go_on_while_nothing_comes():
    interrupted = threading.Event()
    ticks = []

    def source():
        yield 0
        assert interrupted.wait(WAIT_S)

    pipeline = Pipeline(source(), lambda frame: frame, interrupt=interrupted.set)

    def tick():
        ticks.append(pipeline.statistics.delivered.count)
        if len(ticks) == 3:
            pipeline.stop()

    pipeline.run(lambda _: None, tick=tick, interval=0.01)
    assert ticks == [1, 1, 1]


def test_seconds_end_the_run():
    before = time.perf_counter()
    _, statistics = collect(Pipeline(itertools.count(), lambda frame: frame), seconds=0.2)
    assert 0.2 <= time.perf_counter() - before < 5
    assert statistics.delivered.count > 0


def test_a_source_that_never_returns_is_left_behind_and_reported(monkeypatch, caplog):
    monkeypatch.setattr(streaming, "STOP_TIMEOUT_S", 0.05)
    release = threading.Event()

    def source():
        yield 0
        release.wait(WAIT_S)

    with caplog.at_level(logging.WARNING, "fracbnn_pynq.streaming"):
        pipeline = Pipeline(source(), lambda frame: frame)
        pipeline.run(lambda _: pipeline.stop())
    assert "fracbnn-capture did not come back within 0.05 s" in caplog.text
    release.set()
    until(lambda: not any(thread.name == "fracbnn-capture" for thread in threading.enumerate()))


def test_a_pipeline_runs_once():
    pipeline = Pipeline([1], lambda frame: frame)
    pipeline.run(lambda _: None)
    with pytest.raises(RuntimeError):
        pipeline.run(lambda _: None)


@pytest.mark.skipif(not HAS_MODEL, reason="the package is not installed, so its bundled model is not found")
def test_with_a_classifier_results_equal_those_of_classify():
    frames = list(np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8))
    with Classifier.load("cifar10", threads=1) as classifier:
        seen, _ = collect(Pipeline(frames, lambda frame: classifier.classify(frame, bgr=True), drop=False))
        assert [result.top for _, result in seen] == [classifier.classify(f, bgr=True).top for f in frames]
