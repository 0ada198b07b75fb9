"""Medians and shares of what takes turns, on a clock that moves only while something runs."""

from types import SimpleNamespace

import pytest

from fxprune import timing
from fxprune.timing import median_ms


class Runs:
    """Runs of given seconds, and the order in which they were called."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def taking(self, name, *seconds):
        """Each time as long as the next of these; the last for ever."""
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def runs(monkeypatch) -> Runs:
    runs = Runs()
    clock = SimpleNamespace(perf_counter=lambda: runs.now)
    monkeypatch.setattr("fxprune.timing.time", clock)
    return runs


def test_medians_tell_slow_from_fast_and_take_turns(runs):
    slow, fast = runs.taking("slow", 0.1), runs.taking("fast", 0.01)
    found = median_ms({"slow": slow, "fast": fast}, 0.5)
    assert found == {"slow": pytest.approx(100), "fast": pytest.approx(10)}
    assert len(runs.order) == 2 + 2 * 10, "one second for the two, after one run of each"
    assert runs.order == ["slow", "fast"] * 11


def test_the_first_run_and_an_interruption_do_not_count(runs):
    assert median_ms({"one": runs.taking("one", 9, 0.1, 7, 0.1)}, 1.0)["one"] == pytest.approx(100)


def test_what_takes_longer_than_its_time_runs_a_few_times(runs):
    median_ms({"slow": runs.taking("slow", 0.01)}, 0.0)
    assert len(runs.order) == 4, "one of them does not count"


def run_of(runs, milliseconds, disturbed=lambda call: 0.0):
    """A run that is disturbed for some milliseconds, by the number of its call."""
    calls = [0]

    def run():
        calls[0] += 1
        runs.now += (milliseconds + disturbed(calls[0])) / 1e3

    return run


def test_share_is_that_of_undisturbed_calls(runs):
    whole = run_of(runs, 2.0, lambda call: 5.0 * (call % 3 == 0))
    found = timing.share_of_time(run_of(runs, 1.0, lambda call: 9.0 * (call % 2)), whole)
    assert found.share == pytest.approx(0.5)
    assert found.whole_ms == pytest.approx(2.0)


def test_a_disturbed_round_does_not_count(runs):
    found = timing.share_of_time(
        run_of(runs, 1.0, lambda call: 50.0 * (call < 4)), run_of(runs, 2.0)
    )
    assert found.share == pytest.approx(0.5)


def test_noise_takes_more_rounds(runs, monkeypatch):
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 40)
    calm, noisy = run_of(runs, 1.0), run_of(runs, 1.0, lambda call: (call * 7919 % 13) / 10)
    rounds = []
    for run in (calm, noisy):
        turns = [0]

        def whole(turns=turns):
            turns[0] += 1
            runs.now += 2e-3

        timing.share_of_time(run, whole)
        rounds.append(turns[0])
    assert rounds[1] >= rounds[0]
