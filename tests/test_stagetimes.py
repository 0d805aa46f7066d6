"""Histograms in constant memory, rates."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from fracbnn_pynq.stagetimes import BINS, RATIO, SHORTEST_S, STAGES, EventCounter, Histogram, Statistics

EDGE = 1 + 1e-9  # a time on the edge of a bin may fall into either


@given(st.lists(st.floats(SHORTEST_S, 1000), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_the_nearest_rank_at_most_one_percent_too_long(times, share):
    histogram = Histogram()
    for value in times:
        histogram.add(value)
    exact = sorted(times)[max(1, math.ceil(share * len(times))) - 1]
    found = histogram.quantile(share)
    assert exact <= found * EDGE
    assert found <= exact * RATIO * EDGE
    assert histogram.quantile(1) == histogram.longest == max(times)


def test_mean_and_count_are_exact():
    histogram = Histogram()
    for value in (0.25, 0.5, 1.0, 2.25):
        histogram.add(value)
    assert (histogram.count, histogram.mean, histogram.longest) == (4, 1.0, 2.25)
    assert histogram.as_data()["max"] == 2250
    assert list(histogram.as_data()) == ["mean", "p50", "p99", "max"]


def test_without_times_everything_is_zero():
    assert set(Histogram().as_data().values()) == {0.0}


def test_times_beyond_the_bins_count_as_the_longest_and_below_as_the_shortest():
    histogram = Histogram()
    for value in (0.0, 1e-9, 1e5):
        histogram.add(value)
    assert histogram.quantile(0.5) == SHORTEST_S
    assert histogram.quantile(0.99) == 1e5
    assert SHORTEST_S * RATIO**BINS > 1000


def test_a_rate_counts_the_steps_between_the_first_and_the_last():
    counter = EventCounter()
    assert counter.rate == 0
    counter.at(10.0)
    assert counter.rate == 0
    for now in (10.5, 11.0, 12.0):
        counter.at(now)
    assert (counter.count, counter.rate) == (4, 1.5)


def test_statistics_as_data_is_json_and_balances():
    statistics = Statistics()
    for now in range(5):
        statistics.captured.at(now)
    statistics.delivered.at(7)
    statistics.dropped = 3
    data = json.loads(json.dumps(statistics.as_data()))
    assert data["captured"] == 5
    assert data["unfinished"] == 1
    assert tuple(data["milliseconds"]) == STAGES
    assert data["per_second"] == {"captured": 1.0, "classified": 0.0, "delivered": 0.0}
