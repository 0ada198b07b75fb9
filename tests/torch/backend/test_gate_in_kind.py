"""What prepare returns is the user's model: gates are in its layers, whoever calls them."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.backend.test_in_kind import Attention, Model, Plain, folded_at


class Twice(nn.Module):
    """Two branches that end in one layer: each has a gate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.shared(torch.relu(x))
        return self.out(torch.tanh(x) + self.shared(torch.relu(x)))


class Norm(nn.Module):
    """A root mean square norm, as models of transformers write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Normed(nn.Module):
    """A stream that a norm of its own module looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(5, 12), Norm(12), nn.Linear(12, 2)

    def loss(self, x: Tensor) -> Tensor:
        """What a trainer calls instead of forward."""
        return self(x).square().mean() + self.head(self.norm(self.stem(x))).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def gated_at(model: nn.Module, x: Tensor, keep: float = 0.5, seed: int = 0) -> Any:
    gated = fxprune.prepare(model.eval(), x, target=1.0)
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for group in fxprune.groups(gated):
        if group.kind != "branch" and not group.pin:
            chosen[group.name] = torch.rand(group.size, generator=generator) < keep
            chosen[group.name][0] = True
    fxprune.set_keep_set(gated, chosen)
    return gated.eval()


def test_gated_is_of_the_models_class_with_its_keys_and_methods():
    gated, _, x = folded_at(Model(Attention(), Plain()))
    assert isinstance(gated, Model)
    assert type(gated.blocks[0].part) is Attention
    assert isinstance(gated.stem, nn.Linear)
    assert gated.features(x).shape == (2, 7, 12)
    own = [name for name in gated.state_dict() if not name.startswith("fxprune_gates")]
    assert own == list(Model(Attention(), Plain()).state_dict())


def test_parts_called_by_hand_are_gated():
    gated, folded, x = folded_at(Model(Attention()))
    assert relative_error(folded(x), gated.head(gated.features(x))) < 1e-5
    assert relative_error(folded(x), folded.head(folded.features(x))) < 1e-5


def test_a_layer_whose_calls_differ_is_gated_where_it_is_called():
    x = torch.randn(3, 4)
    model = Twice()
    gated = fxprune.prepare(model.eval(), x, target=1.0)
    assert torch.equal(gated(x), model(x))
    free = [group for group in fxprune.groups(gated) if not group.pin]
    assert [group.kind for group in free].count("branch") == 2
    for group in free:
        everything = {other.name: [True] * other.size for other in free}
        one = [i == 0 and group.kind != "branch" for i in range(group.size)]
        fxprune.set_keep_set(gated, {**everything, group.name: one})
        fxprune.verify(gated, fxprune.fold(gated))


def test_only_the_module_in_whose_code_a_gate_acts_gets_generated_code():
    x = torch.randn(3, 5)
    gated = gated_at(Normed(), x)
    assert list(generated_code(gated)) == ["norm"]
    assert isinstance(gated.norm, Norm)
    folded = fxprune.fold(gated)
    assert not generated_code(folded)
    width = folded.head.in_features
    assert (len(folded.norm.weight), folded.stem.out_features) == (width, width)
    fxprune.verify(gated, folded)


def test_trainers_may_call_another_method_than_forward():
    x = torch.randn(16, 5)
    gated = fxprune.prepare(Normed(), x, target=0.4, steps=8)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        gated.loss(x).backward()
        optimizer.step()
    folded = fxprune.fold(gated)
    assert folded.stem.out_features < 12
    assert relative_error(gated.eval().loss(x), folded.eval().loss(x)) < 1e-5


def test_a_forward_sees_the_gates_of_now():
    x = torch.randn(3, 5)
    gated = gated_at(Normed(), x)
    name = next(group.name for group in fxprune.groups(gated) if not group.pin)
    for kept in (0, 5):
        fxprune.set_keep_set(gated, {name: [i == kept for i in range(12)]})
        folded = fxprune.fold(gated).eval()
        assert relative_error(gated.head(gated.norm(gated.stem(x))), folded(x)) < 1e-5
        assert relative_error(gated(x), folded(x)) < 1e-5


@pytest.mark.parametrize("kind", [Normed, Twice])
def test_copies_and_pickles_have_gates_of_their_own(kind):
    x = torch.randn(3, 5 if kind is Normed else 4)
    gated = gated_at(kind(), x)
    file = io.BytesIO()
    torch.save(gated, file)
    file.seek(0)
    expected = gated(x)
    for other in (copy.deepcopy(gated), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        free = {g.name: [i == 0 for i in range(g.size)] for g in fxprune.groups(other) if not g.pin}
        fxprune.set_keep_set(other, free)
        assert not torch.equal(other(x), expected)
        assert torch.equal(gated(x), expected)
        fxprune.verify(other, fxprune.fold(other))


def test_a_frozen_model_stays_in_evaluation():
    gated = fxprune.prepare(Normed(), torch.randn(3, 5), method="autobot")
    assert isinstance(gated, Normed)
    gated.train()
    assert not gated.training and not gated.stem.training and gated.fxprune_gates.training
    assert not any(p.requires_grad for n, p in gated.named_parameters() if "gates" not in n)
    folded = fxprune.fold(copy.deepcopy(gated))
    assert type(folded) is Normed
    assert all(p.requires_grad for p in folded.parameters())
    assert folded.train().stem.training


def test_gates_in_a_sequence_of_layers_hand_through_what_they_get():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 4)
    gated = gated_at(model, x)
    assert isinstance(gated, nn.Sequential)
    assert torch.equal(gated(x), gated[:3](x))
    assert len(fxprune.fold(gated)) == 3
