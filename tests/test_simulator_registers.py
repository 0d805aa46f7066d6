"""Block-level control of HLS cores, against the rules of the tool that generates it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from fracbnn_pynq.simulator.registers import AUTO_RESTART, CTRL, DONE, GIER, IDLE, IP_IER, IP_ISR, START, ApCtrlHs


class Bench:
    """A core whose runs end when told to."""

    def __init__(self) -> None:
        self.started: list[dict[int, int]] = []
        self.committed = 0
        self.over = False
        self.levels: list[bool] = []
        self.core = ApCtrlHs(self._start, interrupt=self.levels.append)

    def _start(self, arguments):
        self.started.append(dict(arguments))
        return self

    def finished(self) -> bool:
        return self.over

    def commit(self) -> None:
        self.committed += 1

    def run(self) -> None:
        self.over = False
        self.core.write(CTRL, START)
        self.over = True


def test_reset_value_is_idle():
    bench = Bench()
    assert bench.core.read(CTRL) == IDLE
    assert [bench.core.read(offset) for offset in (GIER, IP_IER, IP_ISR, 0x10)] == [0, 0, 0, 0]


def test_start_stays_set_until_the_end_and_done_is_cleared_by_reading():
    bench = Bench()
    bench.core.write(CTRL, START)
    assert bench.core.read(CTRL) == START
    assert bench.core.busy
    assert bench.committed == 0
    bench.over = True
    assert bench.core.read(CTRL) == DONE | IDLE
    assert bench.core.read(CTRL) == IDLE
    assert bench.committed == bench.core.runs == 1


def test_starting_a_busy_core_does_nothing():
    bench = Bench()
    bench.core.write(CTRL, START)
    bench.core.write(CTRL, START)
    assert len(bench.started) == 1


def test_writing_control_without_start_starts_and_stops_nothing():
    bench = Bench()
    bench.core.write(CTRL, 0)
    assert bench.started == []
    bench.core.write(CTRL, START)
    bench.core.write(CTRL, 0)
    assert bench.core.read(CTRL) == START


def test_arguments_are_taken_at_the_start():
    bench = Bench()
    bench.core.write(0x10, 0x1000)
    bench.core.write(CTRL, START)
    bench.core.write(0x10, 0x2000)
    assert bench.started == [{0x10: 0x1000}]
    assert bench.core.read(0x10) == 0x2000


def test_auto_restart_goes_on_until_it_is_cleared():
    bench = Bench()
    bench.core.write(CTRL, START | AUTO_RESTART)
    bench.over = True
    assert bench.core.read(CTRL) == START | DONE | AUTO_RESTART
    assert bench.core.read(CTRL) == START | DONE | AUTO_RESTART
    bench.core.write(CTRL, 0)
    bench.core.read(CTRL)
    assert bench.core.read(CTRL) == IDLE


def test_interrupt_status_toggles_on_write():
    bench = Bench()
    bench.core.write(IP_IER, 1)
    bench.core.write(GIER, 1)
    bench.run()
    assert bench.core.read(IP_ISR) == 1
    assert bench.levels[-1]
    bench.core.write(IP_ISR, 1)
    assert bench.core.read(IP_ISR) == 0
    assert not bench.levels[-1]
    bench.core.write(IP_ISR, 1)
    assert bench.core.read(IP_ISR) == 1


def test_interrupts_need_both_enables():
    bench = Bench()
    bench.core.write(GIER, 1)
    bench.run()
    assert bench.core.read(IP_ISR) == 0
    bench.core.write(GIER, 0)
    bench.core.write(IP_IER, 3)
    bench.run()
    assert bench.core.read(IP_ISR) == 3
    assert not any(bench.levels)
    bench.core.write(GIER, 1)
    assert bench.levels[-1]


def test_an_abandoned_run_never_ends():
    bench = Bench()
    bench.core.write(CTRL, START)
    bench.core.abandon()
    bench.over = True
    assert bench.core.read(CTRL) == IDLE
    assert bench.committed == bench.core.runs == 0


def test_a_run_ends_once_however_many_threads_look():
    bench = Bench()
    barrier = threading.Barrier(4)

    def poll(_):
        barrier.wait(10)
        return bench.core.read(CTRL)

    with ThreadPoolExecutor(4) as pool:
        for number in range(1, 101):
            bench.run()
            values = list(pool.map(poll, range(4)))
            assert values.count(DONE | IDLE) == 1
            assert values.count(IDLE) == 3
            assert bench.committed == bench.core.runs == number
