"""Sizes that a model's own code computes from one another keep equal shares, and its code runs."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.testing import keep_sets
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from fxprune.torch.record import record_of


class Attention(nn.Module):
    """Divides the channels that come in by a number of heads, as many published models do."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        shape = (b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Multihead(nn.Module):
    """torch's own attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Chunked(nn.Module):
    """A gate and a value, halves of what one layer makes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.both, self.proj = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.proj(torch.cat([F.silu(gate), value], -1)[..., : gate.shape[-1]] * value)


class Halves(nn.Module):
    """Two halves of what one layer makes, each read by a layer of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * width)
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).chunk(2, dim=-1)
        return self.left(left.relu()) + self.right(right.sigmoid())


class TwoOfOne(nn.Module):
    """One attribute is the size of two axes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = 2 * width
        self.up, self.gate = nn.Linear(width, self.inner), nn.Linear(width, self.inner)
        self.down, self.more = nn.Linear(self.inner, width), nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x).relu().view(*x.shape[:-1], self.inner)
        gate = self.gate(x).sigmoid().view(*x.shape[:-1], self.inner)
        return self.down(up) + self.more(gate)


class Windows(nn.Module):
    """Heads beside the batch, whose number is only a factor of it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.size = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def heads(self, x: Tensor) -> Tensor:
        b, n = x.shape[:2]
        x = x.reshape(b, n, -1, self.size).transpose(1, 2)
        return x.reshape(self.num_heads * b, n, self.size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        y = torch.bmm(torch.bmm(q, k.mT).softmax(-1), v)
        y = y.reshape(x.shape[0], self.num_heads, -1, self.size).transpose(1, 2)
        return self.proj(y.flatten(2))


class Model(nn.Module):
    """Residual blocks of one kind, with an MLP each."""

    def __init__(self, kind: Any, width: int = 24, heads: tuple[int, ...] = (4, 4)) -> None:
        super().__init__()
        self.stem = nn.Linear(5, width)
        self.parts = nn.ModuleList(kind(width, number) for number in heads)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)) for _ in heads
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for part, mlp in zip(self.parts, self.mlps, strict=True):
            x = x + part(self.norm(x))
            x = x + mlp(x)
        return self.head(self.norm(x))


KINDS = {each.__name__: each for each in (Attention, Multihead, Chunked, Halves, TwoOfOne, Windows)}
TIED = ("Attention", "Multihead", "Halves", "TwoOfOne")


def gated_model(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return fxprune.prepare(Model(KINDS[kind]).eval(), torch.randn(2, 7, 5), **options)


def branches_open(gated: Any) -> dict[str, list[bool]]:
    return {group.name: [True] for group in fxprune.groups(gated) if group.kind == "branch"}


def assert_own_and_same(gated: Any, folded: Any) -> None:
    assert generated_code(folded) == {}
    assert_same(gated, folded)


def assert_same(gated: Any, folded: Any) -> None:
    exact = [copy.deepcopy(model).double().eval() for model in (gated, folded)]
    for size in ((1, 3, 5), (2, 7, 5), (5, 11, 5)):
        x = torch.randn(size, dtype=torch.float64)
        with torch.no_grad():
            assert relative_error(exact[0](x), exact[1](x)) <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_code_of_its_own_runs_under_every_keep_set(kind, data):
    gated = gated_model(kind, target=1.0)
    fxprune.set_keep_set(gated, {**data.draw(keep_sets(gated)), **branches_open(gated)})
    assert_own_and_same(gated, fxprune.fold(gated))


@pytest.mark.parametrize("kind", TIED)
def test_groups_say_what_they_are_tied_to(kind):
    groups = {group.name: group for group in fxprune.groups(gated_model(kind))}
    tied = {name: group.tied for name, group in groups.items() if group.tied}
    assert tied
    for name, others in tied.items():
        assert not groups[name].pin
        assert all(name in groups[other].tied for other in others)


def test_channels_follow_heads_of_all_layers():
    gated = gated_model("Attention")
    heads = ("parts.0.qkv/1", "parts.1.qkv/1")
    groups = {group.name: group for group in fxprune.groups(gated)}
    assert set(groups["stem"].tied) == set(heads)
    assert "computes its size from others" in groups["parts.0.qkv/2"].pin


def test_layers_of_other_numbers_of_heads_are_tied_by_shares():
    torch.manual_seed(0)
    model = Model(Attention, heads=(4, 2))
    gated = fxprune.prepare(model.eval(), torch.randn(2, 7, 5), target=0.5)
    fxprune.reach_target(gated, fxprune.importance(gated))
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    assert (sizes["stem"], sizes["parts.0.qkv/1"], sizes["parts.1.qkv/1"]) == (12, 2, 1)
    assert_own_and_same(gated, fxprune.fold(gated))


def test_without_ties_code_is_generated():
    gated = gated_model("Attention", target=1.0, in_kind=False)
    assert not any(group.tied for group in fxprune.groups(gated))
    fxprune.set_keep_set(gated, {"stem": [True] * 7 + [False] * 17})
    folded = fxprune.fold(gated)
    assert set(generated_code(folded)) == {"parts.0", "parts.1"}
    x = torch.randn(3, 4, 5)
    assert relative_error(gated.eval()(x), folded(x)) < 1e-5


def test_a_keep_set_of_unequal_shares_is_refused_and_changes_nothing():
    gated = gated_model("Attention")
    before = fxprune.keep_set(gated)
    with pytest.raises(fxprune.KeepSetError, match="keep equal shares"):
        fxprune.set_keep_set(gated, {"stem": [True] * 6 + [False] * 18})
    after = fxprune.keep_set(gated)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_ignored_leaves_whole_what_is_tied_to_it():
    gated = gated_model("Attention", ignore=["stem"])
    pins = {group.name: group.pin for group in fxprune.groups(gated)}
    assert pins["parts.0.qkv/1"]
    assert pins["parts.1.qkv/1"]
    assert not any(group.tied for group in fxprune.groups(gated))


@pytest.mark.parametrize("method", ["static", "autobot", "hard_concrete", "consensus"])
def test_gates_that_learn_keep_ties(method):
    share = 0.07 if method == "autobot" else 0.03  # autobot closes no branches
    gated = gated_model("Attention", target={"params": share}, steps=6, method=method).train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05)
    for _ in range(8):
        gated(torch.randn(4, 7, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    assert sizes["stem"] == 6 * sizes["parts.0.qkv/1"] == 6 * sizes["parts.1.qkv/1"] < 24
    assert_same(gated, fxprune.fold(gated))
    fxprune.set_keep_set(gated, branches_open(gated))
    assert_own_and_same(gated, fxprune.fold(gated))


@pytest.mark.parametrize("round_to", [1, 2, 4])
def test_rounding_is_that_of_every_tied_group(round_to):
    gated = gated_model("Attention", target=0.6, round_to=round_to)
    fxprune.reach_target(gated, fxprune.importance(gated))
    for name, flags in fxprune.keep_set(gated).items():
        kept = int(flags.sum())
        assert len(flags) == 1 or kept % round_to == 0 or kept == len(flags), name


@pytest.mark.parametrize("kind", TIED)
def test_ties_go_on_after_shrinking(kind):
    gated = gated_model(kind, target=0.6, steps=12).train()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05)
    for step in range(14):
        gated(torch.randn(4, 7, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (5, 9):
            fxprune.shrink(gated, optimizer)
            record = record_of(gated)
            assert record is not None
            free = {group.name for group in record.analysis.free_groups}
            assert all(free.issuperset(tie.groups) for tie in record.analysis.ties)
    assert_same(gated, fxprune.fold(gated))


@pytest.mark.parametrize("kind", ["Attention", "Multihead"])
def test_what_was_tied_to_what_is_gone_stays_whole(kind):
    gated = gated_model(kind, target=1.0)
    stem = next(group for group in fxprune.groups(gated) if group.name == "stem")
    keep = {"stem": [True] * 6 + [False] * 18, **{name: [True] + [False] * 3 for name in stem.tied}}
    fxprune.set_keep_set(gated, keep)
    fxprune.shrink(gated, torch.optim.SGD(gated.parameters(), lr=0.1))
    groups = {group.name: group for group in fxprune.groups(gated)}
    assert groups["stem"].pin == "was pinned before the model was shrunk"
    assert not groups["mlps.0.0"].pin


def test_a_checkpoint_holds_tied_sizes(tmp_path):
    model = Model(Attention)
    gated = fxprune.prepare(model, torch.randn(2, 7, 5), target=0.5)
    fxprune.reach_target(gated, fxprune.importance(gated))
    folded = fxprune.fold(gated)
    fxprune.save(folded, tmp_path / "small")
    loaded = fxprune.load(tmp_path / "small", model)
    x = torch.randn(3, 4, 5)
    assert torch.equal(loaded(x), folded(x))
    assert loaded.parts[1].num_heads == folded.parts[1].num_heads


@pytest.mark.parametrize("cut", [(4, 16), 3])
def test_parts_of_other_sizes_are_not_tied(cut):
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.Linear(5, 20), nn.ModuleList(nn.LazyLinear(2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            parts = torch.tensor_split(self.up(x), cut, dim=-1)
            return sum(head(part) for head, part in zip(self.head, parts, strict=True))

    model, x = Parts(), torch.randn(2, 5)
    model(x)
    gated = fxprune.prepare(model.eval(), x, target=1.0)
    free = [g for g in fxprune.groups(gated) if g.kind != "branch" and not g.pin]
    assert [bool(group.tied) for group in free] == [cut == 3 and g.size == 7 for g in free]
    assert sum(group.size for group in free) == 20
