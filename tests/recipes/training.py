"""Models and loops that the recipes' tests share."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import fxprune
from fxprune.torch.gates.methods import METHODS
from tests.torch.models import Residual, images, randomise

BATCH = 8


class Plain(nn.Module):
    """Without batch statistics, so that parts of a batch add up to the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.norm = nn.GroupNorm(1, 12)
        self.second = nn.Conv2d(12, 10, 3)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


SETTINGS: dict[str, Any] = {
    **{name: name for name in METHODS},
    "autobot, weights learn": fxprune.AutoBot(frozen=False),
}
"""Every method, and a second form of one."""


def begin(method: str = "static", model: nn.Module | None = None, steps: int = 10) -> nn.Module:
    """A gated model in training, the same at every call."""
    torch.manual_seed(0)
    model = randomise(Residual(dropout=0.1) if model is None else model)
    settings = SETTINGS[method]
    return fxprune.prepare(model, images(1), target=0.4, steps=steps, method=settings).train()


def sgd(gated: nn.Module, **options: Any) -> Optimizer:
    """What trains a gated model here."""
    return torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, **options)


def loss_of(model: nn.Module, seed: int, x: Tensor | None = None) -> Tensor:
    """A loss on the batch of this number."""
    return model(images(BATCH, seed) if x is None else x).float().square().mean()


def train(model: nn.Module, optimizer: Optimizer, batches: range) -> None:
    """The plainest loop; noise depends on the batch alone."""
    for seed in batches:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


def gates_state(gated: nn.Module) -> dict[str, Tensor]:
    """Everything that a method remembers."""
    return copy.deepcopy(gated.fxprune_gates.state_dict())


def assert_same_bits(left: nn.Module, right: nn.Module) -> None:
    """Two models have the same state, gates included."""
    expected, got = left.state_dict(), right.state_dict()
    assert list(expected) == list(got)
    for name, tensor in got.items():
        assert torch.equal(tensor, expected[name]), name


def assert_same_gates(left: nn.Module, right: nn.Module, rtol: float = 1e-4) -> None:
    """Two models have the same keep-set, and gates that remember the same up to rounding."""
    for name, flags in fxprune.keep_set(left).items():
        assert torch.equal(flags, fxprune.keep_set(right)[name]), name
    expected = gates_state(left)
    for name, tensor in gates_state(right).items():
        torch.testing.assert_close(tensor, expected[name], rtol=rtol, atol=1e-6)


def assert_prunes(gated: nn.Module) -> None:
    """The target is reached, and folding is exact."""
    report = fxprune.report(gated, latency=False)
    assert report.after["macs"] <= 0.4 * report.before["macs"]
    assert any(not bool(flags.all()) for flags in fxprune.keep_set(gated).values())
    fxprune.verify(gated, fxprune.fold(gated))
