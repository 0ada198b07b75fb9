"""Operators that a user registers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.passes.operators import OPERATORS, _operators
from tests.torch.gated import EXACT, gate
from tests.torch.models import images, randomise, relative_error


class Rotation(nn.Module):
    """Mixes channels by a matrix, with an operator that fxprune does not know."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(channels, channels) / channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(self.matrix, x, dims=([1], [1])).movedim(0, 1)


def scaled(x: Tensor, factor: Tensor) -> Tensor:
    """A function with a name of its own."""
    return x * factor[:, None, None]


class WithOwnOperators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.factor = nn.Parameter(torch.rand(8) + 0.5)
        self.rotation = Rotation(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rotation(scaled(torch.sigmoid(self.first(x)), self.factor)))


@pytest.fixture
def own_operators() -> Iterator[None]:
    """Registers both operators for one test."""
    before = set(OPERATORS)
    fxprune.register_operator(
        "tests.torch.test_own_operators.Rotation", "b i *x, o i -> b o *x", macs="b i o x"
    )
    fxprune.register_operator("tests.torch.test_own_operators.scaled", "b c *x, c -> b c *x")
    yield
    for name in set(OPERATORS) - before:
        _operators.pop(name)


def test_own_operators_are_pinned_until_they_are_registered_well():
    with pytest.raises(fxprune.NothingToPruneError, match="unknown operator tensordot"):
        gate(WithOwnOperators().double())
    with pytest.raises(fxprune.InputError, match="unexpected '%'"):
        fxprune.register_operator("tests.torch.test_own_operators.scaled", "b c% -> b c")
    with pytest.raises(fxprune.InputError, match="conv is already registered as"):
        fxprune.register_operator("conv", "b c -> b c")


def test_own_operators_are_pruned_once_registered(own_operators):
    gated = gate(randomise(WithOwnOperators()).double())
    groups = {g.name: g for g in fxprune.groups(gated)}
    assert not groups["first"].pin
    assert {"factor:0", "rotation.matrix:1"} <= set(groups["first"].members)
    rotated = next(g for g in groups.values() if "rotation.matrix:0" in g.members)
    assert not rotated.pin
    assert "last.weight:1" in rotated.members
    fxprune.set_keep_set(
        gated, {"first": [True, False] * 4, rotated.name: [True] * 3 + [False] * 5}
    )
    folded = fxprune.fold(gated)
    assert folded.factor.shape == (4,)
    assert folded.rotation.matrix.shape == (3, 4)
    assert relative_error(gated(images().double()), folded(images().double())) <= EXACT
    macs = fxprune.report(folded, latency=False).after["macs"]
    assert macs == 36 * (3 * 4 * 9 + 4 * 3 + 3 * 4)
