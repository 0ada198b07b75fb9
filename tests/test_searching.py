"""What was found: fronts by their definition, tables that other libraries read."""

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fxprune
from fxprune.searching.found import Found, Objective, Trial, front_of
from fxprune.searching.spaces import Dimension, picks_at, size_of
from fxprune.searching.tables import Table

SCORES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)


def trials_of(values: list[tuple[int, int]]) -> tuple[Trial, ...]:
    pairs = enumerate(values)
    return tuple(Trial(n, {"width": n}, {"a": a, "b": b}, {"macs": a + b}) for n, (a, b) in pairs)


def dominates(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """By maximal a and minimal b."""
    better = one[0] >= other[0] and one[1] <= other[1]
    return better and one != other


@given(SCORES)
def test_a_front_is_what_nothing_dominates(values):
    objectives = (Objective("a"), Objective("b", maximise=False))
    front = front_of(trials_of(values), objectives)
    wanted = {v for v in values if not any(dominates(o, v) for o in values)}
    found = [(trial.scores["a"], trial.scores["b"]) for trial in front]
    assert set(found) == wanted and len(found) == len(wanted)
    assert [a for a, _ in found] == sorted((a for a, _ in found), reverse=True)
    for trial in front:
        same = (trial.scores["a"], trial.scores["b"])
        assert trial.number == values.index(same)


def test_the_best_is_the_best_by_the_first_score():
    trials = trials_of([(1, 5), (3, 4), (3, 9)])
    assert Found((Objective("a"), Objective("b")), trials).best.number == 1
    assert Found((Objective("b", False),), trials).best.number == 1
    assert str(Found((Objective("a"),), ())) == "no trial is done"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_points_are_numbered_without_gaps(sizes):
    dimensions = [Dimension(str(place), tuple(range(size))) for place, size in enumerate(sizes)]
    points = [picks_at(dimensions, number) for number in range(size_of(dimensions))]
    assert len(set(points)) == len(points)
    assert points == sorted(points)
    assert all(0 <= p < s for point in points for p, s in zip(point, sizes, strict=True))


TABLE = Table(("trial", "macs", "norm"), ((0, 1234567, "batch"), (1, 0.5, None)))


def test_tables_are_read_by_other_libraries(tmp_path):
    assert TABLE.write(tmp_path / "trials.csv") == tmp_path / "trials.csv"
    assert (tmp_path / "trials.csv").read_text() == "trial,macs,norm\n0,1234567,batch\n1,0.5,\n"
    numbers = Table(("trial", "macs"), ((0, 1234567.0), (1, 0.5)))
    frame = pandas.read_parquet(numbers.write(tmp_path / "trials.parquet"))
    assert frame.equals(numbers.to_pandas())
    assert list(frame["macs"]) == [1234567.0, 0.5]


def test_tables_are_not_written_over_anything(tmp_path):
    TABLE.write(tmp_path / "trials.csv")
    with pytest.raises(fxprune.InputError, match="it is there already"):
        TABLE.write(tmp_path / "trials.csv")
    TABLE.write(tmp_path / "trials.csv", overwrite=True)
    with pytest.raises(fxprune.InputError, match=r"\.parquet or \.csv"):
        TABLE.write(tmp_path / "trials.xls")


def test_long_tables_are_cut():
    wide = Table(tuple("abcdefghij"), tuple(tuple(range(10)) for _ in range(30)))
    assert str(wide).splitlines()[-1] == "10 rows more, 2 columns more"
    assert len(str(wide).splitlines()) == 22
