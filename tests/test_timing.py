"""Medians of what takes turns."""

import time

from fxprune.timing import median_ms


def test_medians_tell_slow_from_fast_and_take_turns():
    order = []

    def sleeping(name, seconds):
        def run():
            order.append(name)
            time.sleep(seconds)

        return run

    found = median_ms({"slow": sleeping("slow", 0.01), "fast": sleeping("fast", 0.001)}, 0.05)
    assert 10 <= found["slow"] < 100
    assert 1 <= found["fast"] < found["slow"]
    assert len(order) >= 8
    assert order == ["slow", "fast"] * (len(order) // 2)


def test_what_takes_longer_than_its_time_runs_a_few_times():
    runs = []
    median_ms({"slow": lambda: runs.append(time.sleep(0.01))}, 0.0)
    assert len(runs) == 4, "one of them does not count"
