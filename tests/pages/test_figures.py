"""Figures as PNG."""

import sys

import matplotlib.image
import numpy as np
import pytest

import fxprune
from fxprune.errors import MissingExtraError
from tests.pages.reports import HOSTILE, POINTS, report


def test_figures_are_pictures_of_the_report(tmp_path):
    files = fxprune.write_figures(report(layers=30, name=HOSTILE), tmp_path / "new", points=POINTS)
    assert [file.name for file in files] == ["widths.png", "cost.png", "accuracy.png"]
    for file in files:
        picture = matplotlib.image.imread(file)
        assert picture.shape[1] > 400
        assert len(np.unique(picture.sum(axis=2))) > 10
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(
        file.name for file in files
    )


def test_without_points_there_is_no_accuracy(tmp_path):
    files = fxprune.write_figures(report(), tmp_path)
    assert [file.name for file in files] == ["widths.png", "cost.png"]


def test_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install .fxprune\[figures\]"):
        fxprune.write_figures(report(), tmp_path)
