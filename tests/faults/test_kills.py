"""A few of the kills of `python -m tests.faults`, and that its checks can fail."""

import pytest
import torch

import fxprune
from fxprune.torch.backend import forwards
from fxprune.torch.fold import fold_as
from tests.faults.__main__ import SHARES
from tests.faults.cycles import leaks
from tests.faults.kills import (
    SCENARIOS,
    STEPS,
    Scenario,
    X,
    build,
    kill,
    killed,
    shards,
    train,
    versions,
)

KEPT = {group: [position % 2 == 0 for position in range(16)] for group in ("0", "3")}


@pytest.mark.parametrize(
    ("name", "number"), [("save", 6), ("shrink", 3), ("train", 4), ("prune files", 6)]
)
def test_nothing_is_lost_when_a_process_is_killed(name, number, tmp_path):
    assert killed(name, tmp_path, number) > 0


@pytest.mark.slow
def test_nothing_is_lost_when_an_export_is_killed(tmp_path):
    assert killed("export", tmp_path, 5) > 0


def test_half_a_file_is_found(tmp_path):
    fxprune.save(versions()[0], tmp_path / "saved")
    SCENARIOS["save"].check(tmp_path)
    file = tmp_path / "saved" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(fxprune.CheckpointError, match="damaged"):
        SCENARIOS["save"].check(tmp_path)


def test_half_a_folder_is_found(tmp_path):
    out = tmp_path / "out"
    fxprune.prune_checkpoint(
        shards().name, out, model=build, example_inputs=X, keep_set=KEPT, uniform=False
    )
    (out / "layer3.safetensors").unlink()
    with pytest.raises(fxprune.CheckpointError, match="there is no file"):
        SCENARIOS["prune files"].check(tmp_path)


def test_another_training_is_found(tmp_path):
    train(tmp_path)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["done"] == STEPS
    state["model"]["0.weight"] += 1
    torch.save(state, path)
    with pytest.raises(AssertionError):
        SCENARIOS["train"].check(tmp_path)


def test_work_that_fails_by_itself_is_found(tmp_path):
    def fail(folder):
        raise SystemExit(1)

    with pytest.raises(AssertionError, match="failed by itself"):
        kill(Scenario(fail, lambda folder: None, 0.1), tmp_path, 300)


def test_cycles_of_prepare_and_fold_leave_nothing_behind():
    leaks(40)


@pytest.mark.slow
def test_a_thousand_cycles_of_prepare_and_fold_leave_nothing_behind():
    leaks(1000)


def test_what_is_left_behind_is_found(monkeypatch):
    kept = []
    fold = fxprune.fold
    monkeypatch.setattr(fxprune, "fold", lambda gated: kept.append(fold(gated)))
    with pytest.raises(AssertionError, match=r"more tensors after 2 cycles"):
        leaks(2)


def test_source_that_torch_keeps_is_found(monkeypatch):
    monkeypatch.setattr(fxprune, "fold", lambda gated: fold_as(gated, None))  # generated code
    leaks(2)
    monkeypatch.setattr(forwards, "_forget_source", lambda file: None)
    with pytest.raises(AssertionError, match=r"more objects after 2 cycles"):
        leaks(2)


def test_the_command_kills_all_kinds_of_work():
    assert SHARES.keys() == SCENARIOS.keys()
    assert sum(SHARES.values()) == pytest.approx(1)
