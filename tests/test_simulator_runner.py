"""Runs in real time."""

from __future__ import annotations

import math
import threading
import time

import pytest

from fracbnn_pynq.simulator.memory import BusError
from fracbnn_pynq.simulator.runner import Job, Runner


def nothing() -> None:
    pass


def test_a_job_is_over_when_computed_and_due():
    job = Job(lambda: nothing, time.perf_counter() + 0.02)
    assert not job.finished()
    job.compute()
    assert not job.finished()
    while time.perf_counter() < job.due:
        pass
    assert job.finished()


def test_a_late_computation_ends_later_than_due():
    job = Job(lambda: nothing, 0.0)
    assert not job.finished()
    job.compute()
    assert job.finished()


def test_a_job_that_is_never_due():
    job = Job(lambda: nothing, math.inf)
    job.compute()
    assert not job.finished()
    assert not job.wait(threading.Event())


def test_a_bus_error_stops_the_core_and_other_errors_reach_the_driver():
    def stop():
        raise BusError("nobody there")

    def fail():
        raise ValueError("a mistake")

    stopped, failed = Job(stop, 0.0), Job(fail, 0.0)
    stopped.compute()
    failed.compute()
    assert not stopped.finished()
    assert isinstance(stopped.error, BusError)
    with pytest.raises(ValueError, match="a mistake"):
        failed.finished()


def test_results_that_cannot_be_written_are_lost_quietly():
    def lose():
        raise BusError("freed")

    job = Job(lambda: lose, 0.0)
    job.compute()
    assert job.finished()
    job.commit()
    assert isinstance(job.error, BusError)


def test_the_runner_computes_in_order_in_one_thread_and_calls_when_due():
    runner = Runner("test runner")
    seen, threads, due = [], set(), threading.Event()

    def work(number):
        def compute():
            seen.append(number)
            threads.add(threading.current_thread().name)
            return nothing

        return compute

    start = time.perf_counter()
    for number in range(5):
        runner.submit(Job(work(number), start))
    runner.submit(Job(work(5), start + 0.01), due.set)
    assert due.wait(5)
    assert time.perf_counter() >= start + 0.01
    assert seen == [0, 1, 2, 3, 4, 5]
    assert threads == {"test runner"}
    runner.join()


def test_closing_does_not_wait_for_a_run_in_the_far_future():
    runner = Runner("test runner")
    called = []
    computed = threading.Event()

    def work():
        computed.set()
        return nothing

    runner.submit(Job(work, time.perf_counter() + 1000), lambda: called.append(1))
    assert computed.wait(5)
    runner.join()
    assert called == []
    runner.join()
