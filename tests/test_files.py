"""Files appear whole or not at all."""

import pytest

from fxprune.errors import InputError
from fxprune.files import draft_of


def test_a_draft_moves_only_if_all_goes_well(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ZeroDivisionError), draft_of(path) as draft:
        draft.write_text("half")
        assert not path.exists()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with draft_of(path) as draft:
        draft.write_text("whole")
    assert path.read_text() == "whole"


def test_companions_move_before_the_file_that_names_them(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr("os.replace", lambda source, target: moved.append(target.name))
    with draft_of(tmp_path / "m.onnx") as draft:
        draft.write_text("names the other")
        draft.with_name("m.onnx.data").write_text("the other")
    assert moved == ["m.onnx.data", "m.onnx"]


def test_places_that_cannot_hold_a_file_are_input_errors(tmp_path):
    for place, complaint in ((tmp_path / "no" / "m", "there is no folder"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=complaint), draft_of(place):
            raise AssertionError("entered")


def test_what_appears_while_a_verb_works_is_not_replaced(tmp_path):
    with (
        pytest.raises(InputError, match="is there already"),
        draft_of(tmp_path / "m.onnx") as draft,
    ):
        draft.write_text("ours")
        (tmp_path / "m.onnx").write_text("of somebody else")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["of somebody else"]
