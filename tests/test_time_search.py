"""The search for a share of the time, on clocks that are functions of sizes."""

import itertools
import random
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxprune import time_search
from fxprune.clocks import Clock
from fxprune.errors import TargetError
from fxprune.time_search import MULTIPLES, WITHIN, Models, TimeSearch, Trial
from fxprune.timing import Share

WIDTH = 1000
"""A model is one width; its prediction is that time goes with it."""

Clocked = Callable[[int], float]


def search(
    wanted: float,
    time_of: Clocked,
    measured: Clocked | None = None,
    least: int = 1,
    most: int = WIDTH,
) -> tuple[TimeSearch[int], Trial[int]]:
    """What is found where a width takes so long, and is measured so."""

    def keep_at(at: float, multiple: int, base: int | None) -> int:
        start = base or 0
        width = min(start + int(at * WIDTH - start) // multiple * multiple, most)
        if width < least:
            raise TargetError("so small is none")
        return width

    clock = measured or time_of
    models = Models(keep_at, lambda w: w / WIDTH, lambda w: Share(clock(w) / time_of(WIDTH), 2.0))
    searched = TimeSearch(wanted, models)
    return searched, searched.found()


def check(found: Trial[int], wanted: float, time_of: Clocked) -> None:
    """What was found takes its time in truth, or the next step of the device takes too long."""
    share, larger = (time_of(width) / time_of(WIDTH) for width in (found.keep, found.keep + 5))
    assert share <= wanted * (1 + WITHIN) * 1.01
    assert share >= wanted * (1 - WITHIN) * 0.99 or larger > wanted


@st.composite
def clocks(draw: st.DrawFn) -> Clocked:
    """Time that rises with the width: a fixed part, a power of it, and steps of a device."""
    fixed = draw(st.floats(0.0, 0.3))
    power = draw(st.floats(0.4, 2.5))
    step = draw(st.sampled_from([1, 2, 5]))
    return lambda width: fixed + (1 - fixed) * (-(-width // step) * step / WIDTH) ** power


@st.composite
def noise(draw: st.DrawFn, most: float = 0.009) -> Callable[[], float]:
    """Factors that are near one."""
    generator = random.Random(draw(st.integers(0, 2**32)))
    return lambda: 1 + generator.uniform(-most, most)


@given(wanted=st.floats(0.15, 0.95), time_of=clocks(), factor=noise())
def test_share_is_within_three_percent_of_its_target_or_cannot_be_reached(wanted, time_of, factor):
    whole = time_of(WIDTH)
    try:
        _, found = search(wanted, time_of, lambda width: time_of(width) * factor())
    except TargetError:
        assert time_of(1) / whole > wanted * (1 - WITHIN)
        return
    check(found, wanted, time_of)


@given(
    wanted=st.floats(0.2, 0.9),
    time_of=clocks(),
    wrong=st.floats(0.3, 3.0),
    when=st.integers(0, 9),
)
def test_wrong_measure_is_noticed(wanted, time_of, wrong, when):
    counts = itertools.count()

    def measured(width: int) -> float:
        return time_of(width) * (wrong if next(counts) == when else 1.0)

    if time_of(1) / time_of(WIDTH) > wanted * (1 - WITHIN):
        return
    searched, found = search(wanted, time_of, measured)
    check(found, wanted, time_of)
    assert len(searched.shares) < 30


def test_lucky_measure_is_not_believed():
    counts = itertools.count()

    def time_of(width: int) -> float:
        return 0.3 + 0.7 * width / WIDTH

    _, found = search(0.5, time_of, lambda w: time_of(w) * (1.0 if next(counts) else 0.5 / 0.65))
    check(found, 0.5, time_of)


def test_jump_over_the_target_ends_below_it():
    _, found = search(0.5, lambda width: 0.3 if width < 700 else 1.0)
    assert (found.keep, found.share) == (699, 0.3)


def test_models_that_are_all_too_slow_are_told():
    with pytest.raises(TargetError, match=r"not reached: 0.5 of .* 2 ms .* tried takes 0\.9"):
        search(0.5, lambda width: 0.9 + 0.1 * width / WIDTH)


def test_targets_below_what_a_prediction_reaches_are_searched_above_it():
    _, found = search(0.2, lambda width: (width / WIDTH) ** 3, least=400)
    assert found.share == pytest.approx(0.2, rel=WITHIN)


def test_other_limits_may_leave_less_than_the_time_allows():
    searched, found = search(0.9, lambda width: width / WIDTH, most=600)
    assert found.share == 0.6
    assert len(searched.shares) <= len(MULTIPLES)


def test_widths_that_a_device_likes_are_found_by_measuring():
    def time_of(width: int) -> float:
        return (width if width % 8 == 0 else 1.5 * width) / WIDTH

    searched, found = search(0.5, time_of)
    assert found.multiple in (8, 16)
    assert found.keep % 8 == 0
    assert found.share == pytest.approx(0.5, rel=WITHIN)
    assert searched.timed(found, Clock("torch"), "cpu").multiple == found.multiple


def test_gap_between_wide_models_is_filled_in_finer_widths():
    """Two widths at once; widths that are no multiples of eight cost more, so these come first."""

    def keep_at(at: float, multiple: int, base: tuple[int, int] | None) -> tuple[int, int]:
        if base is None:
            return (int(96 * at) // multiple * multiple,) * 2
        return base[0], base[1] + (int(192 * at) - sum(base)) // multiple * multiple

    def time_of(keep: tuple[int, int]) -> float:
        return sum(width if width % 8 == 0 else 1.02 * width + 0.5 for width in keep) / 192

    models = Models(keep_at, lambda k: sum(k) / 192, lambda k: Share(time_of(k), 2.0))
    found = TimeSearch(0.55, models).found()
    assert found.share == pytest.approx(0.55, rel=WITHIN)
    assert 48 in found.keep
    assert found.macs > 0.53


def test_measurements_of_a_busy_machine_are_made_again(monkeypatch):
    shares = iter([Share(0.5, 2.0), Share(0.2, 6.0), Share(0.21, 5.0), Share(0.51, 2.1)])
    monkeypatch.setattr(time_search, "share_of_time", lambda run, whole: next(shares))
    with time_search.Stopwatch(lambda keep: nullcontext(lambda: None)) as watch:
        assert watch.measured(1).share == 0.5
        assert watch.measured(1).share == 0.51
