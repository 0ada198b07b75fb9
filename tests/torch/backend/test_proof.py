"""The proof that two recorded graphs are one function can say no."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.torch.backend.proof import Line, first_difference, normal_form
from fxprune.torch.frontend.program import read_model


class Written(nn.Module):
    """Two layers and what is written between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def lines(between: Callable[[Tensor], Tensor]) -> list[Line]:
    model = Written(between)
    return normal_form(model, read_model(model, [(torch.randn(2, 4),)], batch=0).graph)


ALIKE = [
    (lambda x: x.view(2, 6), lambda x: x.reshape(-1, 6)),
    (lambda x: x.view(x.shape[0], 3, 2).flatten(1), lambda x: x.unflatten(1, (3, 2)).view(2, 6)),
    (lambda x: torch.cat(x.chunk(2, 1), 1), lambda x: torch.cat(x.split([3, 3], 1), 1)),
    (lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), lambda x: torch.cat([x[:, :-4], x[:, -4:6]], 1)),
    (lambda x: x.view(2, 3, 2).flatten(1), lambda x: x.view(2, 2, 3).flatten(1)),
    (lambda x: x[:, None].expand(2, 1, 6).reshape(2, 6).relu(), lambda x: x.relu()),
    (lambda x: x + x.new_zeros(6), lambda x: x + x.new_zeros((6,))),
]


@pytest.mark.parametrize("pair", ALIKE, ids=range(len(ALIKE)))
def test_spellings_of_one_function_are_alike(pair):
    assert first_difference(*map(lines, pair)) is None


OTHER = [
    (lambda x: x, lambda x: x.relu()),
    (lambda x: x * 2, lambda x: x * 3),
    (lambda x: x - x.exp(), lambda x: x.exp() - x),
    (lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)),
    (lambda x: x.view(2, 3, 2).mT.flatten(1), lambda x: x.view(2, 2, 3).mT.flatten(1)),
    (lambda x: x.softmax(1), lambda x: x.softmax(0)),
    (lambda x: F.layer_norm(x, (6,)), lambda x: F.layer_norm(x, (6,), eps=1e-3)),
    (lambda x: x + torch.tensor([1.0] * 6), lambda x: x + torch.tensor([1.0] * 5 + [2.0])),
    (lambda x: x.max(1, keepdim=True)[0] + x, lambda x: x.min(1, keepdim=True)[0] + x),
    (lambda x: F.dropout(x, 0.1), lambda x: F.dropout(x, 0.2)),
    (lambda x: x.flip(1), lambda x: x.roll(1, 1)),
]


@pytest.mark.parametrize("pair", OTHER, ids=range(len(OTHER)))
def test_other_functions_differ(pair):
    assert first_difference(*map(lines, pair)) is not None


def test_other_parameters_differ():
    class Twice(nn.Module):
        def __init__(self, first: str) -> None:
            super().__init__()
            self.a, self.b, self.first = nn.Linear(4, 4), nn.Linear(4, 4), first

        def forward(self, x: Tensor) -> Tensor:
            return getattr(self, self.first)(x)

    one, other = (Twice(name) for name in "ab")
    forms = (normal_form(m, read_model(m, [(torch.randn(2, 4),)]).graph) for m in (one, other))
    assert first_difference(*forms) is not None


def test_a_graph_that_goes_on_differs():
    every = lines(torch.relu)
    for one, other in ((every[:-1], every), (every, every[:-1])):
        assert first_difference(one, other) is every[-1]
