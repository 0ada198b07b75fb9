"""A gated residual network, folded, trained and loaded: what the tests of the verbs begin with."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.testing.torch.checkers import count_macs
from tests.torch.models import Residual, assert_equal, half, images, randomise

EXACT = 1e-10


def gate(model: nn.Module | None = None, **settings: Any) -> Any:
    """A gated residual network (or `model`) in float64."""
    model = randomise(Residual()).double() if model is None else model
    dtype = next(model.parameters()).dtype
    return fxprune.prepare(model, images(1).to(dtype), **settings)


def folded_at_half(model: nn.Module | None = None, seed: int = 0) -> tuple[Any, Any]:
    """A gated model at a random keep-set of about half of it, and what it folds to."""
    gated = gate(model)
    fxprune.set_keep_set(gated, half(gated, seed, branches=1.0))
    return gated, fxprune.fold(gated)


def loss_of(model: nn.Module, seed: int = 0, batch: int = 8) -> Tensor:
    """Cross entropy on random images and labels."""
    parameter = next(model.parameters())
    labels = torch.arange(batch) % 5
    return F.cross_entropy(model(images(batch, seed).to(parameter)), labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, seed=step).backward()
        optimizer.step()


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def costs(gated: nn.Module, keep: dict[str, Tensor] | None = None) -> dict[str, int]:
    """MACs and parameters counted on the folded model."""
    gated = copy.deepcopy(gated)
    if keep is not None:
        fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated, settle=False).eval()
    return {"macs": count_macs(folded, [images(1).to(next(gated.parameters()))]),
            "params": params(folded)}  # fmt: skip


def assert_loads_as(folded: nn.Module, folder: Path, model: nn.Module) -> nn.Module:
    """What a folder holds computes and trains as `folded` does, on the constructor's `model`."""
    with assert_unchanged(model):
        loaded = fxprune.load(folder, model)
    assert list(loaded.state_dict()) == list(folded.state_dict())
    for name, tensor in folded.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = images(3).to(next(folded.parameters()))
    assert_equal(folded.eval()(x), loaded.eval()(x))
    assert_equal(folded.train()(x), loaded.train()(x))
    return loaded
