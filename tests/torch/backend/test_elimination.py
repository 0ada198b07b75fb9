"""Exact linear algebra, and the combinations of numbers that it finds."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxprune.torch.backend.elimination import _null_space, _reduced

SMALL = st.integers(-3, 3)
MATRICES = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(SMALL, min_size=width, max_size=width), min_size=1, max_size=6)
)


def exact(matrix):
    return [[Fraction(number) for number in row] for row in matrix]


@given(MATRICES)
def test_what_is_orthogonal_to_all_rows_is_found(matrix):
    width = len(matrix[0])
    basis = _null_space(exact(matrix), width)
    assert len(basis) == width - np.linalg.matrix_rank(np.array(matrix, dtype=float))
    for vector in basis:
        for row in matrix:
            assert sum(a * b for a, b in zip(row, vector, strict=True)) == 0
    if basis:
        floats = np.array([[float(number) for number in vector] for vector in basis])
        assert np.linalg.matrix_rank(floats) == len(basis)


@given(MATRICES)
def test_reduced_rows_have_one_first_place_each(matrix):
    reduced = _reduced(exact(matrix))
    assert len(reduced) == np.linalg.matrix_rank(np.array(matrix, dtype=float))
    firsts = [next(at for at, number in enumerate(row) if number) for row in reduced]
    assert len(set(firsts)) == len(firsts)
    for place, row in zip(firsts, reduced, strict=True):
        assert row[place] == 1
        assert all(other[place] == 0 for other in reduced if other is not row)


@given(MATRICES)
def test_reducing_again_changes_nothing(matrix):
    reduced = _reduced(exact(matrix))
    assert sorted(_reduced(reduced)) == sorted(reduced)
