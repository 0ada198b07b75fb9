"""Shares of time, on a clock that the runs move."""

import pytest

from fxprune import timing


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds that have passed; runs add theirs."""
    passed = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: passed[0] / 1e3)
    return passed


def run_of(clock, milliseconds, disturbed=lambda call: 0.0):
    calls = [0]

    def run():
        calls[0] += 1
        clock[0] += milliseconds + disturbed(calls[0])

    return run


def test_share_is_that_of_undisturbed_calls(clock):
    whole = run_of(clock, 2.0, lambda call: 5.0 * (call % 3 == 0))
    found = timing.share_of_time(run_of(clock, 1.0, lambda call: 9.0 * (call % 2)), whole)
    assert found.share == pytest.approx(0.5)
    assert found.whole_ms == pytest.approx(2.0)


def test_a_disturbed_round_does_not_count(clock):
    found = timing.share_of_time(
        run_of(clock, 1.0, lambda call: 50.0 * (call < 4)), run_of(clock, 2.0)
    )
    assert found.share == pytest.approx(0.5)


def test_noise_takes_more_rounds(clock, monkeypatch):
    monkeypatch.setattr(timing, "_MOST_ROUNDS", 40)
    calm, noisy = run_of(clock, 1.0), run_of(clock, 1.0, lambda call: (call * 7919 % 13) / 10)
    rounds = []
    for run in (calm, noisy):
        turns = [0]

        def whole(turns=turns):
            turns[0] += 1
            clock[0] += 2.0

        timing.share_of_time(run, whole)
        rounds.append(turns[0])
    assert rounds[1] >= rounds[0]
