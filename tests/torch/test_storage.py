"""Folded models are saved without pickle, and come back onto their constructor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.torch.shards import WEIGHTS
from fxprune.torch.storage import DESCRIPTION
from tests.torch.gated import assert_loads_as, folded_at_half, gate, train
from tests.torch.models import Auxiliary, Residual, half, plain, randomise


@pytest.mark.parametrize("branch", [True, False])
def test_checkpoint_comes_back_onto_the_constructor(tmp_path, branch):
    gated = gate()
    fxprune.set_keep_set(gated, {**half(gated), "body+": [branch]})
    folded = fxprune.fold(gated)
    train(folded, torch.optim.SGD(folded.parameters(), lr=0.05), 2)
    with assert_unchanged(folded):
        folder = fxprune.save(folded, tmp_path / "new" / "checkpoint")
    assert sorted(file.name for file in folder.iterdir()) == sorted([WEIGHTS, DESCRIPTION])
    assert_loads_as(folded, folder, randomise(Residual(), seed=9).double())


def test_checkpoint_of_two_folds_comes_back(tmp_path):
    _, folded = folded_at_half()
    again = gate(folded, ignore=["head"])
    fxprune.set_keep_set(again, half(again, seed=3))
    smaller = fxprune.fold(again)
    fxprune.save(smaller, tmp_path)
    loaded = assert_loads_as(smaller, tmp_path, Residual().double())
    assert fxprune.report(loaded, latency=False) == fxprune.report(smaller, latency=False)
    fxprune.save(loaded, tmp_path / "copy")
    assert_loads_as(smaller, tmp_path / "copy", Residual().double())


class Tied(nn.Module):
    """Two layers with one weight, registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.right.weight = self.left.weight
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.right(torch.relu(self.left(self.first(x))))))


def test_tied_parameters_stay_tied(tmp_path):
    gated, folded = folded_at_half(randomise(Tied()).double())
    assert folded.left.weight is folded.right.weight
    assert folded.left.weight.shape[0] < 8
    fxprune.verify(gated, folded)
    fxprune.save(folded, tmp_path)
    loaded = assert_loads_as(folded, tmp_path, Tied().double())
    assert loaded.left.weight is loaded.right.weight


def test_model_that_branches_on_its_mode_is_saved(tmp_path):
    _, folded = folded_at_half(randomise(Auxiliary()).double())
    fxprune.save(folded, tmp_path)
    assert_loads_as(folded, tmp_path, Auxiliary().double())


def test_checkpoint_is_numbers_and_json_and_nothing_else(tmp_path):
    _, folded = folded_at_half()
    fxprune.save(folded, tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["fxprune"])
    assert description == json.loads((tmp_path / DESCRIPTION).read_text())
    assert header.keys() == folded.state_dict().keys()
    assert len(data) == 8 + length + max(item["data_offsets"][1] for item in header.values())


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_failure_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, moment):
    _, folded = folded_at_half()
    fxprune.save(folded, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    _, other = folded_at_half(seed=4)

    def fail(*args: Any, **kwargs: Any) -> None:
        if moment == "write":
            Path(args[1]).write_bytes(b"half a file")
        raise OSError("no space left on device")

    name = "fxprune.torch.storage.save_file" if moment == "write" else "fxprune.files.os.replace"
    with monkeypatch.context() as patch, pytest.raises(fxprune.InputError, match="no space left"):
        patch.setattr(name, fail)
        fxprune.save(other, tmp_path, overwrite=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert_loads_as(folded, tmp_path, Residual().double())
    fxprune.save(other, tmp_path, overwrite=True)
    assert_loads_as(other, tmp_path, Residual().double())


@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_only_folded_models_are_saved(gated, tmp_path, kind):
    model = gated if kind == "gated" else plain()
    with (
        assert_unchanged(model),
        pytest.raises(fxprune.InputError, match="fold the gated module first"),
    ):
        fxprune.save(model, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


class Words(nn.Module):
    """A language model whose first and last layer share a weight."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.inner, self.outer = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(1), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.outer(self.inner(x).relu()) * self.scale)


def saved_and_empty(folder: Path, persistent: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """What was saved, and a new model on the meta device."""
    x = torch.arange(10).reshape(2, 5)
    gated = fxprune.prepare(Words(persistent), x)
    fxprune.set_keep_set(gated, half(gated, branches=1.0))
    folded = fxprune.fold(gated)
    fxprune.save(folded, folder)
    with torch.device("meta"):
        return folded, Words(persistent), x


def test_a_model_without_values_takes_those_of_the_checkpoint(tmp_path):
    folded, empty, x = saved_and_empty(tmp_path, persistent=True)
    loaded = fxprune.load(tmp_path, empty)
    assert torch.equal(loaded(x), folded(x))
    assert loaded.head.weight is loaded.embed.weight
    assert all(p.is_meta for p in empty.parameters())
    assert [p.requires_grad for p in loaded.parameters()] == [True] * 5


def test_values_that_no_checkpoint_holds_are_asked_for(tmp_path):
    _, empty, _ = saved_and_empty(tmp_path, persistent=False)
    with pytest.raises(fxprune.InputError, match=r"scale is on the meta device.*does not save it"):
        fxprune.load(tmp_path, empty)
