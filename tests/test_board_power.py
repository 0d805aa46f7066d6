"""Energy from power sensors, with sensors that have the form of pynq's."""

from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting_support import until

from fracbnn_pynq.board import power
from fracbnn_pynq.board.power import INPUT_RAILS, OUTPUT_RAILS, PowerMeter, choose_rails, find_rails
from fracbnn_pynq.doctor.environment import Machine


class Sensor:
    """As pynq.pmbus.Sensor: a name and a value that is read anew each time."""

    def __init__(self, value, delay=0.0) -> None:
        self._value = value
        self._delay = delay
        self.reads = 0

    @property
    def value(self):
        self.reads += 1
        time.sleep(self._delay)
        value = self._value(self.reads) if callable(self._value) else self._value
        if isinstance(value, Exception):
            raise value
        return value


def rail(power=None, voltage=None, current=None):
    """As pynq.pmbus.Rail."""
    wrap = [None if v is None else Sensor(v) for v in (power, voltage, current)]
    return SimpleNamespace(power=wrap[0], voltage=wrap[1], current=wrap[2])


ULTRA96V2 = dict.fromkeys(OUTPUT_RAILS, 0.25)


def v2_rails():
    return {name: rail(watts, 1.0, watts) for name, watts in ULTRA96V2.items()} | {"VIN": rail(voltage=12.0)}


def measure(rails, seconds=0.03, **options):
    with PowerMeter(rails, interval=0.002, **options) as meter:
        time.sleep(seconds)
    return meter


def test_the_regulators_outputs_are_added():
    meter = measure(v2_rails())
    assert meter.watts == pytest.approx(0.25 * len(OUTPUT_RAILS))
    assert meter.joules == pytest.approx(meter.watts * meter.seconds)
    assert meter.joules_per(10) == pytest.approx(meter.joules / 10)
    assert meter.seconds >= 0.03
    assert "without their losses" in meter.covers
    assert meter.rails == OUTPUT_RAILS


@pytest.mark.parametrize("name", INPUT_RAILS)
def test_an_input_of_the_whole_board_is_used_alone(name):
    meter = measure(v2_rails() | {name: rail(6.5)})
    assert meter.rails == (name,)
    assert meter.watts == pytest.approx(6.5)
    assert "whole board" in meter.covers


def test_power_is_voltage_times_current_where_there_is_no_power_sensor():
    assert measure({"VSYS": rail(voltage=12.0, current=0.5)}).watts == pytest.approx(6.0)


def test_a_changing_power_is_averaged_over_time():
    start = time.perf_counter()
    meter = measure({"VSYS": rail(lambda _: 2.0 if time.perf_counter() - start < 0.1 else 6.0)}, seconds=0.2)
    assert 2.0 < meter.watts < 6.0


@pytest.mark.parametrize(
    "rails",
    [
        {},
        {"VIN": rail(voltage=12.0)},
        {"VSYS": rail()},
        {"INT": rail(1.0)},
        {"PSINT_FP": rail(1.0), "1V2": rail(1.0)},
        {"pout1": rail(1.0), "pout2": rail(2.0), "Package id 0": rail(15.0)},
    ],
    ids=["none", "voltage only", "no sensors", "logic only", "no logic", "unnamed"],
)
def test_without_the_rails_nothing_is_measured(rails):
    meter = measure(rails, seconds=0)
    assert (meter.joules, meter.watts, meter.joules_per(1), meter.covers, meter.rails) == (None, None, None, None, ())


@pytest.mark.parametrize("bad", [OSError("I2C"), math.nan, math.inf, -1.0, 1e6, "text", None])
def test_failed_readings_are_left_out_and_told(bad, caplog):
    meter = measure({"VSYS": rail(lambda n: bad if n % 2 else 5.0)})
    assert meter.watts == pytest.approx(5.0)
    assert "failed" in caplog.text
    assert measure({"VSYS": rail(lambda _: bad)}).joules is None


def test_a_sensor_that_hangs_does_not_stop_the_run(monkeypatch, caplog):
    monkeypatch.setattr(power, "_JOIN_S", 0.05)
    hanging = SimpleNamespace(power=Sensor(1.0, delay=0.0), voltage=None, current=None)
    with PowerMeter({"VSYS": hanging}, interval=0.001) as meter:
        hanging.power._delay = 0.5
        time.sleep(0.02)
    assert meter.joules is None
    assert meter.seconds < 0.4
    assert "does not answer" in caplog.text


def test_a_reading_that_hung_changes_nothing_when_it_comes_back(monkeypatch):
    monkeypatch.setattr(power, "_JOIN_S", 0.02)
    hanging = SimpleNamespace(power=Sensor(1.0), voltage=None, current=None)
    with PowerMeter({"VSYS": hanging}, interval=0.001) as meter:
        thread = meter._thread
        hanging.power._delay = 0.2
        time.sleep(0.02)
    thread.join(5)
    assert not thread.is_alive()
    assert meter.joules is None


def test_inside_the_block_the_energy_grows_and_the_memory_does_not():
    with PowerMeter({"VSYS": rail(lambda n: 5.0 if n % 3 else 0.5)}, interval=0.001) as meter:
        assert meter.joules is not None
        sizes, joules = [], []
        for count in range(1, 21):
            until(lambda count=count: meter._readings.count > count)
            joules.append(meter.joules)
            sizes.append(sum(len(value) for value in vars(meter).values() if hasattr(value, "__len__")))
            assert meter.latest_watts in (0.5, 5.0)
    assert joules == sorted(joules)
    assert 0 < joules[0] < joules[-1] <= meter.joules
    assert len(set(sizes)) == 1
    assert meter._readings.count > 20


def test_trapezoids_are_those_between_readings(monkeypatch):
    clock, watts = iter(range(99)), [2.0, 4.0, 1.0, 7.0, 7.0]
    monkeypatch.setattr(power.time, "perf_counter", lambda: float(next(clock)) ** 2)
    meter = PowerMeter({"VSYS": rail(1.0)})
    for value in watts:
        meter._note(value)
    times = [at**2 for at in range(len(watts))]
    area = sum((times[i + 1] - times[i]) * (watts[i] + watts[i + 1]) / 2 for i in range(len(watts) - 1))
    assert meter._readings.area == area
    assert meter.watts == area / times[-1]


def test_an_error_inside_the_block_passes_through_and_the_thread_ends():
    meter = PowerMeter({"VSYS": rail(1.0)}, interval=0.001)
    with pytest.raises(KeyError), meter:
        raise KeyError
    assert meter._thread is None
    assert meter.joules is not None


def test_it_can_be_used_again():
    meter = measure({"VSYS": rail(3.0)})
    first = meter.joules
    with meter:
        time.sleep(0.06)
    assert meter.joules > first
    assert meter.joules_per(0) is None


def test_off_a_board_pynq_is_not_even_imported():
    before = "pynq" in sys.modules
    assert find_rails(Machine(architecture="x86_64")) == {}
    assert ("pynq" in sys.modules) == before
    with PowerMeter() as meter:
        pass
    assert meter.joules is None


def test_a_board_whose_pynq_finds_rails(tmp_path, monkeypatch):
    (tmp_path / "sys/class/fpga_manager/fpga0").mkdir(parents=True)
    board = Machine(root=tmp_path, architecture="aarch64")
    rails = v2_rails()
    monkeypatch.setitem(sys.modules, "pynq", SimpleNamespace(get_rails=lambda: rails))
    assert find_rails(board) == rails
    monkeypatch.setitem(sys.modules, "pynq", SimpleNamespace(get_rails=lambda: 1 / 0))
    assert find_rails(board) == {}
    monkeypatch.setitem(sys.modules, "pynq", None)
    assert find_rails(board) == {}


@given(st.dictionaries(st.sampled_from([*OUTPUT_RAILS, *INPUT_RAILS, "VIN", "GPU"]), st.floats(0, 8)))
def test_the_choice_is_one_input_or_outputs_with_logic_and_processors(values):
    chosen = choose_rails({name: rail(watts) for name, watts in values.items()})
    assert all(reader() == values[name] for name, reader in chosen.items())
    inputs = [name for name in INPUT_RAILS if name in values]
    if inputs:
        assert list(chosen) == inputs[:1]
    elif {"INT", "PSINT_FP"} <= values.keys():
        assert set(chosen) == set(values) & set(OUTPUT_RAILS)
    else:
        assert chosen == {}
