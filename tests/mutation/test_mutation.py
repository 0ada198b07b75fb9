"""A sample of the sabotages is noticed, and what harms nothing is not."""

import pytest

from tests.mutation import __main__ as command
from tests.mutation.killers import AROUND, killer_of
from tests.mutation.table import SABOTAGES, Sabotage

BY_NAME = {sabotage.name: sabotage for sabotage in SABOTAGES}
SAMPLE = (
    "conv reads the axis of its output",
    "an addition does not unify",
    "a slice forgets its stop",
    "the wrong branch is dropped",
)
HARMLESS = Sabotage("nothing", "passes.fold:_size", "kept[space]", "(kept[space])", "2 gated_unit")


def no_more_tests():
    pass


def near(sabotage):
    """The names of the networks to try first."""
    return [name for name in AROUND if (sabotage.seen_by or "2 residual") in name][:4]


@pytest.mark.parametrize("name", SAMPLE)
def test_sabotage_is_noticed(name):
    assert killer_of(BY_NAME[name], near(BY_NAME[name]), no_more_tests)


def test_harmless_change_is_not_noticed(monkeypatch, capsys):
    assert killer_of(HARMLESS, near(HARMLESS), no_more_tests) == ""
    monkeypatch.setattr(command, "SABOTAGES", (HARMLESS,))
    monkeypatch.setattr(command, "ordered", lambda first: near(HARMLESS))
    monkeypatch.setattr(command, "killer_of", lambda s, names: killer_of(s, names, no_more_tests))
    assert command.main([]) == 1
    assert "0 of 1 sabotages are noticed" in capsys.readouterr().out


@pytest.mark.slow
def test_tests_of_the_passes_notice_no_harmless_change():
    assert killer_of(HARMLESS, []) == ""


def test_there_are_at_least_forty():
    assert len(BY_NAME) == len(SABOTAGES) >= 40


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_every_sabotage_fits_the_source(sabotage):
    with sabotage.applied():
        pass


def test_sabotage_that_does_not_fit_the_source_is_refused():
    wrong = Sabotage("wrong", "passes.fold:_size", "no such code", "pass")
    with pytest.raises(AssertionError, match="occurs 0 times"), wrong.applied():
        pass
