"""Gates in parameters of modules whose own code reads them."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.models import half


class Layer(nn.Module):
    """A linear layer by hand."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 6))
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.read(self, x)
        return result


class Network(nn.Module):
    """Between two layers of torch; the last one reads what is made."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.own = Layer(read)
        self.last = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.own(self.first(x)).relu())
        return result


def _kept(m: Layer, x: Tensor) -> Tensor:
    m.last = F.linear(x, m.weight)
    return m.last


OWN = {
    "as it is": lambda m, x: F.linear(x, m.weight),
    "turned": lambda m, x: x @ m.weight.T,
    "in two places alike": lambda m, x: F.linear(x, m.weight) * F.linear(x.relu(), m.weight),
    "where it is asked for its size": lambda m, x: F.linear(x, m.weight) / m.weight.shape[1],
}
GENERATED = {
    "where it is summed": lambda m, x: F.linear(x, m.weight) * m.weight.sum(),
    "where its mean is taken": lambda m, x: F.linear(x, m.weight) * m.weight.mean(),
    "changed": lambda m, x: F.linear(x, 2 * m.weight),
    "and what it makes is kept": _kept,
}


@pytest.mark.parametrize(
    ("read", "has_own_code"),
    [(read, True) for read in OWN.values()] + [(read, False) for read in GENERATED.values()],
    ids=[*OWN, *GENERATED],
)
def test_a_parameter_is_masked_where_it_is_owned(read, has_own_code):
    torch.manual_seed(0)
    model, x = Network(read), torch.randn(4, 5)
    gated = fxprune.prepare(model, x, target=1.0).eval()
    assert ("own" not in generated_code(gated)) == has_own_code
    assert torch.equal(gated(x), model(x))
    for seed in range(3):
        fxprune.set_keep_set(gated, half(gated, seed))
        assert relative_error(gated(x), fxprune.fold(gated)(x)) < 1e-5
    assert isinstance(fxprune.fold(gated).own, Layer)


def _by_hand(m: Layer, x: Tensor) -> Tensor:
    return F.linear(x, m.weight)


def test_a_module_that_masks_what_it_owns_learns_copies_and_pickles():
    torch.manual_seed(0)
    x = torch.randn(4, 5)
    gated = fxprune.prepare(Network(_by_hand), x, target=1.0)
    gated(x).sum().backward()
    assert gated.own.weight.grad is not None
    fxprune.set_keep_set(gated, half(gated))
    for again in (copy.deepcopy(gated), pickle.loads(pickle.dumps(gated))):
        assert torch.equal(again(x), gated(x))
        everything = {n: [True] * len(flags) for n, flags in fxprune.keep_set(again).items()}
        fxprune.set_keep_set(again, everything)
        assert not torch.equal(again(x), gated(x))
