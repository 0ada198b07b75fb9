"""What waits, in memory and in files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from fxprune.shelf import Shelf, array_bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("most", [0, 100, 1000])
def test_things_come_back_as_they_were(folder, most):
    things = [{"x": np.arange(n), "y": (n, [np.ones(2)])} for n in range(6)]
    with Shelf(most) as shelf:
        for number, thing in enumerate(things):
            shelf.put(number, thing)
        held = 8 * sum(range(6)) + 6 * 16
        assert bool(files(folder)) == (held > most)
        for _ in range(2):
            for number in shelf.numbers:
                thing = shelf.take(number)
                assert np.array_equal(thing["x"], things[number]["x"])
                assert thing["y"][0] == number
                shelf.put(number, thing)
        assert shelf.numbers == list(range(6))
    assert not list(folder.iterdir())


def test_no_more_than_wanted_waits_in_memory(folder):
    with Shelf(1000) as shelf:
        for number in range(50):
            shelf.put(number, np.zeros(30))
        assert sum(size for _, size in shelf._held.values()) <= 1000
        assert len(files(folder)) == 50 - 4


def test_arrays_in_nests_are_counted():
    assert sum(array_bytes({"a": [np.zeros(3), (np.zeros(2), 5)], "b": "text"})) == 40


def test_files_go_when_something_fails(folder):
    with pytest.raises(ZeroDivisionError), Shelf(0) as shelf:
        shelf.put(0, np.zeros(3))
        1 / 0  # noqa: B018
    assert not list(folder.iterdir())
