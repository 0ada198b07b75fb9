"""Losses over savings: convex sides of curves, and one price for all layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxprune.tradeoffs import Curve, chosen_forms, losses, steps

ENERGIES = st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=12).map(
    lambda numbers: np.array(sorted(numbers, reverse=True))
)


def curve(energies, whole):
    """A layer whose pair costs one for every position of its rank."""
    return Curve(whole, np.arange(1.0, len(energies) + 1), losses(energies))


@given(ENERGIES, st.floats(1.5, 15))
def test_rates_are_slopes_below_all_losses(energies, whole):
    found = curve(energies, whole)
    rates, size = found.rates(), len(energies)
    assert (np.diff(rates) <= 1e-9 * rates.max()).all()
    paying = max(rank for rank in range(1, size + 1) if rank < whole)
    below = rates[paying] * (whole - paying) if paying < size else 0.0
    for rank in range(paying, 0, -1):
        assert below <= found.losses[rank - 1] * (1 + 1e-9) + 1e-12
        below += rates[rank - 1]
    assert below - rates[0] == pytest.approx(found.losses[0])  # the last one is on the hull


def test_positions_that_save_nothing_close_with_the_first_that_do():
    rates = curve(np.array([8.0, 4.0, 2.0, 1.0]), whole=2.5).rates()
    assert rates[3] == rates[2]  # ranks 3 and 4 cost more than the whole layer


@given(st.lists(st.tuples(ENERGIES, st.floats(1.5, 12)), min_size=1, max_size=5), st.floats(0.1, 1))
def test_forms_are_within_the_limit_where_that_can_be(layers, share):
    curves = {
        str(place): {"a": curve(energies, whole), "b": curve(np.sqrt(energies), whole)}
        for place, (energies, whole) in enumerate(layers)
    }
    limit = share * sum(whole for _, whole in layers)
    chosen = chosen_forms(curves, limit)
    assert set(chosen.values()) <= {"a", "b"}
    if limit >= sum(whole for _, whole in layers):
        assert not chosen
    if limit < sum(min(1.0, whole) for _, whole in layers):
        assert set(chosen) == set(curves)


def test_of_two_forms_the_one_that_loses_less_is_chosen():
    energies = np.array([10.0, 1.0, 0.1, 0.01])
    even = np.ones(4)
    curves = {"layer": {"low_rank": curve(even, 3.0), "spatial": curve(energies, 3.0)}}
    assert chosen_forms(curves, 2.0) == {"layer": "spatial"}
    assert chosen_forms(curves, 3.0) == {}


def test_steps_add_up_over_readers_and_rise():
    found = steps([np.array([1.0, 3.0]), np.array([4.0, 4.0])], [8.0, 16.0])
    assert found.tolist() == pytest.approx(
        [np.log(8 / 7) + np.log(16 / 12), np.log(7 / 4) + np.log(12 / 8)]
    )
    assert steps([], []).tolist() == []
    assert steps([np.zeros(3)], [0.0]).tolist() == [0.0, 0.0, 0.0]
