"""Sums over weights by position, without a framework."""

import numpy as np
import pytest

from fxprune import ranking
from fxprune.filling import _means
from fxprune.layout import Layout
from fxprune.passes.axes import Prod, Space, Sum
from tests.passes.example import example

WEIGHTS = np.random.default_rng(0).standard_normal((6, 7, 5))


def sums(array, dims, measure=np.abs):
    return ranking.measured(array.__getitem__, array.shape, dims, measure)


@pytest.mark.parametrize("piece", [1, 5, 13, 40, 1 << 20])
@pytest.mark.parametrize("shape", [(6, 7, 5), (7, 6, 5), (1, 210), (210,), (5, 42)])
def test_pieces_add_up_to_the_whole(piece, shape, monkeypatch):
    monkeypatch.setattr(ranking, "_PIECE", piece)
    array = WEIGHTS.reshape(shape)
    dims = tuple(range(len(shape)))
    for dim, found in zip(dims, sums(array, dims), strict=True):
        assert np.allclose(found, ranking.along(np.abs(array), dim))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, float(np.finfo(np.float32).min)])
def test_endless_weights_count_as_nothing(value):
    broken, empty = WEIGHTS.copy(), WEIGHTS.copy()
    broken[2, 3, 4], empty[2, 3, 4] = value, 0.0
    for measure in (np.abs, np.square):
        for found, expected in zip(
            sums(broken, (0, 1, 2), measure), sums(empty, (0, 1, 2), measure), strict=True
        ):
            assert np.array_equal(found, expected)


def test_numbers_of_products_and_sums_go_to_their_spaces():
    heads, size, rest = Space(1, 2), Space(2, 3), Space(3, 4)
    axis = Sum((Prod((heads, size), 6), rest, heads), 12)
    found: ranking.Sums = {}
    ranking.spread(axis, np.arange(12.0), found)
    assert found[heads].tolist() == [0 + 1 + 2 + 10, 3 + 4 + 5 + 11]
    assert found[size].tolist() == [0 + 3, 1 + 4, 2 + 5]
    assert found[rest].tolist() == [6, 7, 8, 9]


def test_ranks_without_groups_are_those_of_branches():
    analysis = example().only([], "left alone")
    layout = Layout(("a+", "b+"), (1, 1), 0, ((), ()), (1, 1))
    found = ranking.ranks(analysis, layout, ranking.Scores({}), "magnitude", dict)
    assert found.tolist() == [1.0, 1.0]


def test_units_rank_by_what_is_finite_in_them():
    found = _means(
        np.array([1.0, 2.0, -1e300, 1e300, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 1, 2, 2, 2])
    )
    assert found[:2] == pytest.approx([1.5, 1e300])
    assert found[2] == _means(np.array([0.1]), np.array([0]))[0]
