"""The optimizer goes on after folding, with the state of what was kept."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.gated import gate, train
from tests.torch.models import half, plain

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True),
    "sgd without momentum": lambda groups: torch.optim.SGD(groups, lr=0.02),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.05),
}


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights with decay, biases and norms (and gates) without and at another rate."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.03}, {"params": vectors, "lr": 0.005}]


def kept_indices(gated: nn.Module, keep: dict[str, Tensor], name: str) -> list[list[int]]:
    """For every axis of a parameter the kept positions, from the members of the groups."""
    shape = gated.get_parameter(name).shape
    kept = [list(range(size)) for size in shape]
    for group in fxprune.groups(gated):
        for member in group.members if group.name in keep and group.kind != "branch" else ():
            parameter, _, dim = member.rpartition(":")
            if parameter == name:
                kept[int(dim)] = keep[group.name].nonzero().flatten().tolist()
    return kept


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("branch", [True, False])
def test_optimizer_goes_on_after_folding(kind, branch):
    gated = gate()
    optimizer = OPTIMIZERS[kind](decay_groups(gated))
    train(gated, optimizer, 3)
    keep = {**half(gated), "body+": torch.tensor([branch])}
    fxprune.set_keep_set(gated, keep)
    with assert_unchanged(gated):
        state = copy.deepcopy(optimizer.state_dict())
        folded, continued = fxprune.fold(gated, optimizer=optimizer)
        assert str(state) == str(optimizer.state_dict())
    assert type(continued) is type(optimizer)
    names = {id(p): name for name, p in folded.named_parameters()}
    held = [[names[id(p)] for p in group["params"]] for group in continued.param_groups]
    assert sorted(name for group in held for name in group) == sorted(names.values())
    for group, expected in zip(continued.param_groups, optimizer.param_groups, strict=True):
        settings = {k: v for k, v in group.items() if k != "params"}
        assert settings == {k: v for k, v in expected.items() if k != "params"}
    for step in range(3, 6):
        train(gated, optimizer, 1, first=step)
        train(folded, continued, 1, first=step)
        for name, parameter in folded.named_parameters():
            expected = gated.get_parameter(name)
            for dim, kept in enumerate(kept_indices(gated, keep, name)):
                expected = expected.index_select(dim, torch.tensor(kept))
            assert expected.shape == parameter.shape
            assert (expected - parameter).abs().max() <= 1e-9 * expected.abs().max(), name


def test_optimizer_that_has_not_stepped_is_folded():
    gated = gate()
    fxprune.set_keep_set(gated, half(gated))
    folded, optimizer = fxprune.fold(gated, optimizer=torch.optim.Adam(gated.parameters()))
    assert not optimizer.state
    train(folded, optimizer, 1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda gated: torch.optim.RMSprop(gated.parameters()), "RMSprop; known are SGD, Adam, Ad"),
        (lambda gated: torch.optim.SGD(plain().parameters(), lr=0.1), "does not have: build it f"),
        (lambda gated: "adam", "state of str; known are"),
    ],
)
def test_optimizer_that_cannot_be_folded_is_refused(gated, make, match):
    optimizer = make(gated)
    with assert_unchanged(gated), pytest.raises(fxprune.InputError, match=match):
        fxprune.fold(gated, optimizer=optimizer)
