"""A sample of the sabotages is noticed, and what harms nothing is not."""

import json

import pytest

from tests.mutation import __main__ as command
from tests.mutation import killers
from tests.mutation.killers import TESTS, killer_of, names_by_distance
from tests.mutation.table import SABOTAGES, Sabotage

BY_NAME = {sabotage.name: sabotage for sabotage in SABOTAGES}
SLOW = ("an addition does not unify", "a slice forgets its stop")
SAMPLE = (
    "conv reads the axis of its output",
    "the wrong branch is dropped",
    "ONNX: the first positions of a weight are kept",
)
HARMLESS = Sabotage("nothing", "passes.fold:_size", "kept[space]", "(kept[space])", "2 grouped")


def near(sabotage):
    """What should notice it."""
    return names_by_distance(sabotage.seen_by)[0][:4]


@pytest.mark.parametrize(
    "name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_sabotage_is_noticed(name):
    assert killer_of(BY_NAME[name], near(BY_NAME[name]))


def test_harmless_change_is_not_noticed():
    assert killer_of(HARMLESS, ["onnx Conv", "tests/passes/test_fold.py"]) == ""


@pytest.mark.slow
def test_harmless_change_is_noticed_by_nothing_of_many():
    assert killer_of(HARMLESS, killers.NAMES[::8]) == ""


def test_what_fails_without_a_sabotage_notices_none(monkeypatch):
    def fail():
        raise ValueError("always")

    monkeypatch.setattr(killers, "checks", lambda names: [("broken", fail)])
    with pytest.raises(AssertionError, match="without 'nothing': broken: ValueError always"):
        killer_of(HARMLESS, [])


def test_tests_that_do_not_run_notice_nothing(monkeypatch):
    with pytest.raises(AssertionError, match="ended without an answer"):
        killer_of(HARMLESS, [str(TESTS / "no_such_file.py")])


def test_survivors_are_named_and_tried_again(monkeypatch, capsys, tmp_path):
    tried = []
    monkeypatch.setattr(command, "SABOTAGES", tuple(BY_NAME[name] for name in SAMPLE[:2]))
    monkeypatch.setattr(command, "killer_of", lambda s, names: tried.append(s.name) or answers[s])
    file = tmp_path / "noticed.json"
    answers = dict.fromkeys(command.SABOTAGES, "") | {BY_NAME[SAMPLE[0]]: "a law"}
    assert command.main(["--json", str(file)]) == 1
    assert (
        f"1 of 2 sabotages are noticed, in 0 s\nnot noticed: {SAMPLE[1]}" in capsys.readouterr().out
    )
    assert json.loads(file.read_text()) == {SAMPLE[0]: "a law", SAMPLE[1]: ""}
    answers[BY_NAME[SAMPLE[1]]] = "another law"
    tried.clear()
    assert command.main(["--json", str(file), "--resume"]) == 0
    assert tried == [SAMPLE[1]]


def test_there_are_more_than_a_hundred():
    assert len(BY_NAME) == len(SABOTAGES) > 100


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_every_sabotage_fits_the_source(sabotage):
    with sabotage.applied():
        pass


def test_every_sabotage_is_seen_by_something():
    assert all(names_by_distance(sabotage.seen_by)[0] for sabotage in SABOTAGES)


def test_sabotage_that_does_not_fit_the_source_is_refused():
    wrong = Sabotage("wrong", "passes.fold:_size", "no such code", "pass")
    with pytest.raises(AssertionError, match="occurs 0 times"), wrong.applied():
        pass
