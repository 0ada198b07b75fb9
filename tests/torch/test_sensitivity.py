"""Groups cut one at a time, and the smallest model that keeps a score."""

import logging

import pytest
import torch
from torch import nn

import fxprune
from fxprune import scores
from fxprune.testing import assert_unchanged
from tests.torch.models import Residual, images, randomise


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Its classes are about as frequent as each other."""
    found = randomise(Residual(16)).eval()
    with torch.no_grad():
        found.head.bias -= found(images(64)).mean(dim=0)
    return found


@pytest.fixture(scope="module")
def data(model) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Labels are what the model says, so that it is always right."""
    return [(x, model(x).argmax(1)) for x in (images(64, seed=seed) for seed in range(2))]


def test_every_group_is_cut_alone(model, data):
    gated = fxprune.prepare(model, images())
    with assert_unchanged(gated):
        found = fxprune.sensitivity(gated, scores.accuracy(data), shares=(0.5, 0.25))
    assert found.full == 1.0
    assert {(cut.name, cut.kept) for cut in found.cuts} == {
        ("stem.0", (8, 4)),
        ("body.0", (10, 5)),
        ("body+", (0,)),
    }
    for cut in found.cuts:
        order = fxprune.importance(gated)[cut.name].argsort(descending=True)
        for kept, value in zip(cut.kept, cut.scores, strict=True):
            keep = {group.name: [True] * group.size for group in fxprune.groups(gated)}
            flags = torch.zeros(cut.size, dtype=torch.bool)
            flags[order[:kept]] = True
            keep = {name: keep[name] for name in fxprune.keep_set(gated)} | {cut.name: flags}
            other = fxprune.prepare(model, images())
            fxprune.set_keep_set(other, keep)
            folded = fxprune.fold(other)
            right = sum((folded(x).argmax(1) == y).sum().item() for x, y in data) / 128
            assert value == pytest.approx(right)


def test_shares_are_those_of_units(model):
    gated = fxprune.prepare(model, images(), round_to=8)
    found = fxprune.sensitivity(gated, "macs", shares=(0.9, 0.5, 0.1))
    assert {cut.name: cut.kept for cut in found.cuts} == {
        "stem.0": (8,),
        "body.0": (16, 8),
        "body+": (0,),
    }
    assert found.worst_first()[0].name == "body+"
    assert len(found.table) == 4 and found.table.column("size") == (16, 20, 20, 1)


@pytest.mark.parametrize("shares", [(), (0,), (1.0,), (2,), "x", ("a",), None, 0.5])
def test_shares_that_are_none_are_told(shares, model):
    gated = fxprune.prepare(model, images())
    with pytest.raises(fxprune.InputError, match="shares"):
        fxprune.sensitivity(gated, "macs", shares=shares)


def kept(model: nn.Module, data, least: float, **options) -> tuple[float, float]:
    """Accuracy and parameters of the smallest model that keeps an accuracy."""
    smaller = fxprune.prune(
        model, images(), target=0.1, score=scores.accuracy(data), least_score=least, **options
    )
    right = sum((smaller(x).argmax(1) == y).sum().item() for x, y in data) / 128
    return right, sum(p.numel() for p in smaller.parameters())


def test_the_smallest_model_that_keeps_an_accuracy_is_found(model, data):
    loose, strict = kept(model, data, 0.4), kept(model, data, 0.85)
    assert loose[0] >= 0.4 and strict[0] >= 0.85
    assert loose[1] < strict[1] <= sum(p.numel() for p in model.parameters())
    everything = kept(model, data, 0.0)
    assert everything[1] == sum(
        p.numel() for p in fxprune.prune(model, images(), target=0.1).parameters()
    )


def test_what_is_just_smaller_has_been_measured_to_lose_too_much(model, data, caplog):
    with caplog.at_level(logging.INFO, "fxprune"):
        right, _ = kept(model, data, 0.9)
    lines = [record.getMessage() for record in caplog.records if "of the way" in record.message]
    measured = {float(line.split()[0]): float(line.split()[-1]) for line in lines}
    gone = max(share for share, value in measured.items() if value >= 0.9)
    assert measured[gone] == pytest.approx(right)
    beyond = min(share for share in measured if share > gone)
    assert measured[beyond] < 0.9 and beyond - gone == pytest.approx(1 / 64, abs=2e-3)
    assert len(lines) <= 8


def test_corrected_weights_are_what_is_measured(model, data):
    smaller = fxprune.prune(
        model,
        images(),
        target=0.1,
        data=[x for x, _ in data],
        correct=True,
        score=scores.accuracy(data),
        least_score=0.9,
    )
    assert sum((smaller(x).argmax(1) == y).sum().item() for x, y in data) / 128 >= 0.9
    corrected = sum(p.numel() for p in smaller.parameters())
    assert corrected < kept(model, data, 0.9)[1]


def test_what_the_model_itself_cannot_do_is_told(model, data):
    wrong = [(x, (y + 1) % 5) for x, y in data]
    with pytest.raises(fxprune.TargetError, match="everything open accuracy is 0"):
        kept(model, wrong, 0.5)


def test_score_and_least_score_go_together(model, data):
    for options in ({"score": "macs"}, {"least_score": 0.5}):
        with pytest.raises(fxprune.InputError, match="go together"):
            fxprune.prune(model, images(), **options)
    with pytest.raises(fxprune.InputError, match="keeps one score"):
        fxprune.prune(model, images(), score=["macs", "params"], least_score=3)
