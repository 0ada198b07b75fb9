"""Moments of what flows, against numpy on all data at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune import flow, ranking
from fxprune.errors import InputError
from fxprune.flow import Flow, Moments
from tests.passes.example import example

NAMES = ("mean", "absolute", "square", "variance")


def expected(array, dim):
    """The same in one go."""
    others = tuple(axis for axis in range(array.ndim) if axis != dim)
    return {
        "mean": array.mean(others),
        "absolute": np.abs(array).mean(others),
        "square": np.square(array).mean(others),
        "variance": array.var(others, ddof=1),
    }


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 11), max_size=4),
    shift=st.sampled_from([0.0, 1e4]),
    piece=st.sampled_from([1, 7, 1 << 20]),
    data=st.data(),
)
def test_moments_are_those_of_all_batches_together(shape, cuts, shift, piece, data):
    dim = data.draw(st.integers(1, len(shape))) if shape else 0
    array = np.random.default_rng(0).standard_normal((11, *shape)) + shift
    found = Moments(array.shape[dim])
    former, ranking._PIECE = ranking._PIECE, piece
    try:
        for batch in np.split(array, sorted(cuts)):
            found.add(batch, dim)
    finally:
        ranking._PIECE = former
    for name, wanted in expected(array, dim).items():
        assert getattr(found, name) == pytest.approx(wanted, rel=1e-9), name


def test_what_is_not_finite_counts_as_zero():
    array = np.random.default_rng(0).standard_normal((6, 3))
    broken, zero = array.copy(), array.copy()
    broken[1, 2], broken[3, 0], zero[1, 2], zero[3, 0] = np.nan, -np.inf, 0, 0
    left, right = Moments(3), Moments(3)
    left.add(broken, 1)
    right.add(zero, 1)
    assert all(np.array_equal(getattr(left, name), getattr(right, name)) for name in NAMES)


def test_moments_of_whole_and_half_numbers_are_taken_in_doubles():
    found = Moments(1)
    found.add(np.full((4096, 1), 60000, np.float16), 1)
    assert found.square.tolist() == [60000.0**2 // 1]


def test_cosines_of_zero_rows():
    zero, one = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    assert flow._cosines(zero, zero).tolist() == [1.0]
    assert flow._cosines(zero, one).tolist() == [0.0]
    assert flow._cosines(one, -2 * one) == pytest.approx([-1.0])


def test_no_batch_is_no_data():
    with pytest.raises(InputError, match='method="wanda" got no batch'):
        Flow(example()).check('method="wanda"')
