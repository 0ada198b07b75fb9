"""What fold returns is the user's model: its class, its code, on smaller layers."""

import copy
import importlib
import io
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.models import half


class Attention(nn.Module):
    """Takes the sizes of its heads from attributes."""

    def __init__(self, width: int = 12, heads: int = 3, scale: float | None = 0.5) -> None:
        super().__init__()
        self.heads, self.dim, self.scale = heads, width // heads, scale
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.heads, self.dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.o(y.transpose(1, 2).reshape(*x.shape[:-1], self.heads * self.dim))


class Plain(nn.Module):
    """Has a size in its code that no attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)).view(*x.shape[:-1], 8))


class Block(nn.Module):
    """A residual branch around a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.norm, self.part = nn.LayerNorm(12), part

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(self.norm(x))


class Rectified(Block):
    """A block that does something without its branch, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Model(nn.Module):
    """An encoder with methods and attributes of its own."""

    def __init__(self, *parts: nn.Module, kind: type[Block] = Block) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 12)
        self.blocks = nn.ModuleList(map(kind, parts))
        self.head = nn.Linear(12, 2)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def folded_at(model: nn.Module, seed: int = 0, **closed: bool) -> tuple[Any, Any, Tensor]:
    """Gated and folded at about half of every group, with these branches closed."""
    x = torch.randn(2, 7, 5)
    gated = fxprune.prepare(model.eval(), x, target=1.0)
    keep = {}
    generator = torch.Generator().manual_seed(seed)
    for group in fxprune.groups(gated):
        if group.kind == "branch":
            keep[group.name] = [not closed.get(group.name, False)]
        elif not group.pin:
            keep[group.name] = torch.rand(group.size, generator=generator) < 0.5
            keep[group.name][0] = True
    fxprune.set_keep_set(gated, keep)
    return gated.eval(), fxprune.fold(gated).eval(), x


def assert_same(gated: nn.Module, folded: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        assert relative_error(gated(x), folded(x)) < 1e-5


def test_folded_is_of_the_models_own_class_with_its_methods():
    gated, folded, x = folded_at(Model(Attention()))
    assert type(folded) is Model
    assert type(folded.blocks[0].part) is Attention
    assert folded.features(x).shape[-1] == folded.stem.out_features < 12
    assert_same(gated, folded, x)


def test_attributes_say_the_sizes_that_their_code_now_needs():
    gated = fxprune.prepare(Model(Attention()).eval(), torch.randn(2, 7, 5), target=1.0)
    (heads,) = (g.name for g in fxprune.groups(gated) if not g.pin and g.size == 3)
    fxprune.set_keep_set(gated, {heads: [True, False, True]})
    part = fxprune.fold(gated).blocks[0].part
    assert (type(part.heads), part.heads, part.dim, part.o.in_features) == (int, 2, 4, 8)


def test_own_code_runs_at_other_sizes():
    gated, folded, _ = folded_at(Model(Attention(), Attention()))
    for shape in ((1, 3, 5), (4, 9, 5)):
        assert_same(gated, folded, torch.randn(shape))


def test_one_attribute_of_two_axes_leaves_both_whole():
    gated, _, _ = folded_at(Model(Attention()))
    pins = [group.pin for group in fxprune.groups(gated) if group.pin]
    assert any(pin.startswith("code of blocks.0.part computes its size") for pin in pins)


def test_what_torch_takes_a_scale_from_stays_whole():
    gated, folded, x = folded_at(Model(Attention(scale=None)))
    pins = [group.pin for group in fxprune.groups(gated)]
    assert any("takes its scale from it" in pin for pin in pins)
    assert_same(gated, folded, x)


def test_dimensions_inside_of_heads_can_be_asked_for():
    x = torch.randn(2, 7, 5)
    free = [
        sum(not group.pin for group in fxprune.groups(fxprune.prepare(model, x, in_kind=in_kind)))
        for model in [Model(Attention()).eval()]
        for in_kind in (True, False)
    ]
    assert free[1] == free[0] + 2


def test_only_the_module_whose_code_has_a_size_gets_generated_code():
    gated, folded, x = folded_at(Model(Attention(), Plain()))
    assert type(folded) is Model
    ((path, reason),) = generated_code(folded).items()
    assert path == "blocks.1.part"
    assert "no attribute says" in reason
    assert isinstance(folded.blocks[1].part, Plain)
    assert_same(gated, folded, x)
    assert_same(gated, folded, torch.randn(3, 4, 5))


def test_a_closed_branch_needs_code_for_its_addition_only():
    model = Model(Attention(), Plain(), kind=Rectified)
    gated, folded, x = folded_at(model, **{"blocks.0+": True})
    assert type(folded) is Model
    assert "blocks.0" in generated_code(folded)
    assert isinstance(folded.blocks[0], Block)
    assert not list(folded.blocks[0].parameters())
    assert_same(gated, folded, x)


@pytest.mark.parametrize("parts", [(Attention,), (Plain, Attention)], ids=["own", "generated"])
def test_copies_and_pickles_compute_the_same(parts):
    _, folded, x = folded_at(Model(*(part() for part in parts)))
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    for other in (copy.deepcopy(folded), torch.load(file, weights_only=False)):
        assert type(other.blocks[0]) is Block
        assert torch.equal(other(x), folded(x))
        assert generated_code(other) == generated_code(folded)


HOME = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())
"""
ELSEWHERE = """
import sys, torch
sys.modules["fxprune"] = None  # as if it were not installed
sys.path.insert(0, sys.argv[1])
model, x, y = torch.load(sys.argv[1] + "/model.pt", weights_only=False)
assert type(model).__name__ == "Net" and model.a.out_features < 8
assert torch.equal(model(x), y)
"""


def test_pickle_of_own_code_loads_where_fxprune_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "home.py").write_text(HOME)
    monkeypatch.syspath_prepend(tmp_path)
    _, folded, x = folded_at(importlib.import_module("home").Net())
    torch.save((folded, x, folded(x)), tmp_path / "model.pt")
    run = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    assert subprocess.run(run, capture_output=True, text=True).stderr == ""
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)[0]
    assert fxprune.report(loaded, latency=False) == fxprune.report(folded, latency=False)


def test_a_branch_on_the_mode_stays_one():
    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            return self.b(y * 2 if self.training else y)

    gated, folded, x = folded_at(Modes())
    assert type(folded) is Modes
    assert_same(gated.train(), folded.train(), x)
    assert_same(gated.eval(), folded.eval(), x)


def test_generated_code_refuses_what_it_was_not_recorded_with():
    class Masked(Plain):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            y = super().forward(x)
            return y if mask is None else y * mask

    class Caller(Model):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.blocks[0].part(x, x[..., :1]))

    _, folded, x = folded_at(Caller(Masked()))
    folded(x)
    with pytest.raises(fxprune.InputError, match="an array mask, not None"):
        folded.blocks[0].part(folded.stem(x))


def test_the_users_model_is_untouched():
    model = Model(Attention(), Plain())
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    folded_at(model)
    assert all(
        module.__dict__.keys() == before[name].keys() and module.__class__.__module__ == __name__
        for name, module in model.named_modules()
        if type(module).__module__ == __name__
    )
    assert (model.blocks[0].part.heads, model.blocks[0].part.dim) == (3, 4)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


class Halves(nn.Module):
    """A gated product of two halves, as many models write it."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.outer = nn.Linear(12, 16), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).chunk(2, dim=-1)
        return self.outer(torch.relu(left) * right)


class Joined(nn.Module):
    """Cuts heads out of one layer, by products of attributes behind an ellipsis."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim = 3, 4
        self.both, self.outer = nn.Linear(12, 24), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        both, end = self.both(x), self.heads * self.dim
        left, right = both[..., :end], both[..., end:]
        shape = (*x.shape[:-1], -1, self.dim)
        return self.outer((left.view(shape) * right.view(shape)).flatten(-2))


class Named(nn.Module):
    """An argument has the name of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(12, 8))
        self.outer = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(x @ self.x).view(*x.shape[:-1], 8))


@pytest.mark.parametrize("part", [Halves, Joined])
def test_cuts_that_follow_their_layers_are_left_to_own_code(part):
    gated, folded, x = folded_at(Model(part(), part()), seed=1)
    assert folded.blocks[0].part.outer.in_features < part().outer.in_features
    assert generated_code(folded) == {}
    assert_same(gated, folded, x)


def test_arguments_may_have_the_names_of_parameters():
    gated, folded, x = folded_at(Model(Named(), Named()))
    assert set(generated_code(folded)) == {"blocks.0.part", "blocks.1.part"}
    assert_same(gated, folded, x)


class Powered(Attention):
    """Computes its scale from an attribute in its code."""

    def forward(self, x: Tensor) -> Tensor:
        self.scale = self.dim**-0.5
        return super().forward(x)


def test_what_code_computes_a_scale_from_stays_whole():
    gated, folded, x = folded_at(Model(Powered(scale=None)))
    assert folded.blocks[0].part.dim == 4
    assert generated_code(folded) == {}
    assert_same(gated, folded, x)


def test_modules_of_one_class_get_code_after_one_recording(monkeypatch):
    from fxprune.torch.backend import fold_in_kind

    calls = []
    real = fold_in_kind._difference
    monkeypatch.setattr(fold_in_kind, "_difference", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr(fold_in_kind, "owners_without", lambda *args: {})
    gated, folded, x = folded_at(Model(*(Plain() for _ in range(4))))
    assert len(generated_code(folded)) == 4
    assert all(
        "otherwise" in reason or "fails" in reason for reason in generated_code(folded).values()
    )
    assert len(calls) == 2
    assert_same(gated, folded, x)


class Fusable(nn.Module):
    """A convolution and its norm, which may be made one, as detectors do before they are used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.seen.append(int(x.shape[-1]))
        x = self.conv(x)
        return torch.nn.functional.silu(x if self.norm is None else self.norm(x))


class Cut(nn.Module):
    """Has code of its own that folding must change, around modules that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Fusable(3, 12), Fusable(6, 6)
        self.last = Fusable(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return x + self.last(torch.cat([left, right + self.second(right)], 1))


def cut_in_halves(size: int = 6) -> tuple[Any, Any]:
    """A model with generated code for itself, gated and folded: uneven parts."""
    torch.manual_seed(0)
    gated = fxprune.prepare(Cut().eval(), torch.randn(2, 3, size, size), target=1.0, in_kind=False)
    return folded_unevenly(gated)


def folded_unevenly(gated: Any) -> tuple[Any, Any]:
    """Every group at another size, so that parts are uneven."""
    keep_set = fxprune.keep_set(gated)
    channels = [name for name, flags in keep_set.items() if len(flags) > 1]
    keep = {
        name: torch.arange(len(keep_set[name])) < 2 + number for number, name in enumerate(channels)
    }
    fxprune.set_keep_set(gated, keep)
    return gated.eval(), fxprune.fold(gated).eval()


def test_generated_code_calls_what_is_inside_as_it_is():
    gated, folded = cut_in_halves()
    seen: list[str] = []
    for model in (gated, folded):
        assert "" in generated_code(model)
        for name in ("first", "second", "last"):
            model.get_submodule(name).register_forward_hook(lambda *_, n=name: seen.append(n))
        model(torch.randn(1, 3, 5, 5))
        assert seen == ["first", "second", "last"]
        assert model.first.seen[-1] == 5  # its own code
        seen.clear()


def test_layers_inside_of_generated_code_may_be_fused():
    gated, folded = cut_in_halves()
    x = torch.randn(2, 3, 7, 7)
    for model in (gated, folded):
        before = model(x)
        for name in ("first", "second", "last"):
            part = model.get_submodule(name)
            scale = part.norm.weight / (part.norm.running_var + part.norm.eps).sqrt()
            with torch.no_grad():
                part.conv.weight.mul_(scale.view(-1, 1, 1, 1))
                part.conv.bias.sub_(part.norm.running_mean).mul_(scale).add_(part.norm.bias)
            part.norm = None
        assert relative_error(before, model(x)) < 1e-5


class Overwriting(nn.Module):
    """Changes what it is given, and is called for that alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


class ForItsEffect(nn.Module):
    """Calls a module without reading what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 12, 1), Overwriting(), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.act(y)
        left, right = y.chunk(2, 1)
        return x + torch.tanh(self.last(torch.cat([left, right.sigmoid()], 1)))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_module_that_is_called_for_its_effect_keeps_it(in_place, inside):
    part = ForItsEffect()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), part, nn.Conv2d(3, 3, 1)) if inside else part
    model.eval()
    x = torch.randn(2, 3, 6, 6)
    if not in_place:
        part.act.forward = torch.tanh  # has no effect
    gated = fxprune.prepare(model, x, target=1.0, in_kind=False)
    assert torch.equal(model(x), gated.eval()(x))
    gated, folded = folded_unevenly(gated)
    assert generated_code(folded)
    assert relative_error(gated(x), folded(x)) < 1e-5


class TwoAttentions(nn.Module):
    """torch's attention in a residual branch, and behind it another that needs generated code."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.inside = nn.MultiheadAttention(8, 2, vdim=5 if apart else 8, batch_first=True)
        self.behind = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)

    def forward(self, y: Tensor) -> Tensor:
        x = torch.relu(self.stem(y))
        x = x + self.inside(x, x, y if self.apart else x)[0]
        return self.head(self.behind(x, x, x)[0])


@pytest.mark.parametrize("apart", [True, False])
def test_attention_gets_code_beside_one_whose_branch_is_gone(apart):
    torch.manual_seed(0)
    model, x = TwoAttentions(apart).eval(), torch.randn(2, 7, 5)
    gated = fxprune.prepare(model, x, target=1.0, in_kind=False)
    (branch,) = (group.name for group in fxprune.groups(gated) if group.kind == "branch")
    fxprune.set_keep_set(gated, {"stem": [True, False] * 4, branch: [False]})
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded)
    assert not list(folded.inside.parameters())
    for shape in ((2, 7, 5), (3, 4, 5)):
        assert_same(gated.eval(), folded, torch.randn(shape))


class InWindows(nn.Module):
    """Attention inside of the windows that a picture is cut into, of four pixels a side."""

    def __init__(self, heads: int = 2, dim: int = 4) -> None:
        super().__init__()
        self.size, self.heads, self.dim = 4, heads, dim
        self.qkv, self.proj = nn.Linear(12, 3 * heads * dim), nn.Linear(heads * dim, 12)

    def windows(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // self.size, self.size, w // self.size, self.size)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, self.size**2, c)

    def whole(self, y: Tensor, h: int, w: int) -> Tensor:
        b = y.shape[0] // (h * w // self.size // self.size)
        y = y.reshape(b, h // self.size, w // self.size, self.size, self.size, -1)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)

    def forward(self, x: Tensor) -> Tensor:
        y = self.windows(x)
        parts = self.qkv(y).reshape(*y.shape[:2], 3, self.heads, self.dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.whole(self.proj(y), *x.shape[2:])


class InBlocks(nn.Module):
    """Attention of blocks of four pixels a side to what lies around each: a halo of one pixel."""

    def __init__(self, heads: int = 2, dim: int = 6) -> None:
        super().__init__()
        self.block, self.heads, self.dim, self.out = 4, heads, dim, heads * dim
        self.q, self.kv = nn.Conv2d(12, heads * dim, 1), nn.Conv2d(12, 2 * heads * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows, columns, size = h // self.block, w // self.block, self.block
        count = rows * columns
        q = self.q(x).reshape(-1, self.dim, rows, size, columns, size).permute(0, 1, 3, 5, 2, 4)
        q = q.reshape(b * self.heads, self.dim, -1, count).transpose(1, 3)
        kv = F.pad(self.kv(x), (1, 1, 1, 1)).unfold(2, size + 2, size).unfold(3, size + 2, size)
        kv = kv.reshape(b * self.heads, 2 * self.dim, count, -1).permute(0, 2, 3, 1)
        k, v = torch.split(kv, [self.dim, self.dim], dim=-1)
        y = ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 3)
        y = y.reshape(-1, size, size, rows, columns).permute(0, 3, 1, 4, 2)
        return y.reshape(b, self.out, h, w)


class Picture(nn.Module):
    """A part between convolutions of one pixel, in a residual branch."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.stem, self.mid = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 12, 1)
        self.part, self.head = part, nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(torch.relu(self.stem(x)))
        return self.head(x + self.part(x))


@pytest.mark.parametrize("in_kind", [True, False])
@pytest.mark.parametrize("sides", [(4, 4), (4, 8), (8, 8)])
@pytest.mark.parametrize("part", [InWindows, InBlocks])
def test_one_window_is_cut_like_many(part, sides, in_kind):
    torch.manual_seed(0)
    model = Picture(part()).eval()
    gated = fxprune.prepare(model, torch.randn(2, 3, *sides), target=1.0, in_kind=in_kind)
    channels = [g for g in fxprune.groups(gated) if g.kind != "branch" and not g.pin]
    fxprune.set_keep_set(gated, {g.name: torch.arange(g.size) % 2 == 0 for g in channels})
    folded = fxprune.fold(gated).eval()
    assert folded.stem.out_channels == 5
    assert folded.mid.out_channels <= 6
    assert not in_kind or generated_code(folded) == {}
    for shape in ((2, 3, *sides), (3, 3, 8, 8), (1, 3, 4, 12)):
        assert_same(gated.eval(), folded, torch.randn(shape))


WINDOWED = {
    "halonet_h1": ({}, 256, (256, 512)),
    "samvit_base_patch16": (
        {"img_size": 64, "window_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4},
        64,
        (64,),
    ),
}
"""Models of timm that cut a picture into windows: options, the size at which it is one, sizes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WINDOWED)
def test_published_models_of_one_window_run_their_own_code(name):
    timm = pytest.importorskip("timm")
    options, size, sizes = WINDOWED[name]
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    gated = fxprune.prepare(model, torch.randn(2, 3, size, size), target=0.6)
    fxprune.reach_target(gated, fxprune.importance(gated))
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    for each in sizes:
        assert_same(gated.eval(), folded, torch.randn(1, 3, each, each))


class Cached(nn.Module):
    """Keeps what it has computed from its parameters, by size, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 8), nn.Linear(8, 12)
        self.bias = nn.Parameter(torch.randn(8))
        self.cache: dict[int, Tensor] = {}
        self.last: Tensor | None = None
        self.calls = 0
        self.register_buffer("steps", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        length = x.shape[1]
        if length not in self.cache:
            self.cache[length] = self.bias.tanh()
        if self.steps.shape[0] != length:
            self.steps = torch.linspace(0, 1, length)
        self.last = torch.relu(self.inner(x)) + self.cache[length]
        return self.outer(self.last * self.steps[:, None])


@pytest.mark.parametrize("gradients", [True, False])
def test_what_the_model_has_kept_since_is_no_longer_true(gradients):
    x = torch.randn(2, 7, 5)
    gated = fxprune.prepare(Model(Cached(), Cached()).eval(), x, target=1.0)
    with torch.set_grad_enabled(gradients):
        gated(x)
    fxprune.set_keep_set(gated, half(gated, branches=1.0))
    with torch.set_grad_enabled(gradients):
        gated(x)
    folded = fxprune.fold(gated)
    assert generated_code(folded) == {}
    part = folded.blocks[1].part
    assert (part.cache, part.last) == ({}, None)
    assert part.calls == 2
    assert gated.blocks[1].part.cache
    for module in gated.modules():  # masks are others than when this was kept
        if isinstance(module, Cached):
            module.cache.clear()
    assert_same(gated, folded, x)


class Scaled(Plain):
    """Needs generated code, and is like its twin but for one number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.relu(self.inner(x)).view(*x.shape[:-1], 8) * self.factor)


@pytest.mark.parametrize("factors", [(1.5, 1.5), (1.5, 3.0)])
def test_modules_that_are_alike_but_for_one_number_are_no_twins(factors):
    model = Model(*map(Scaled, factors)).eval()
    gated, folded, x = folded_at(model)
    assert set(generated_code(folded)) == {"blocks.0.part", "blocks.1.part"}
    assert_same(gated, folded, x)
    everything = {name: torch.ones_like(flags) for name, flags in fxprune.keep_set(gated).items()}
    fxprune.set_keep_set(gated, everything)
    assert torch.equal(gated(x), model(x))


def test_twins_are_recorded_once(monkeypatch):
    from fxprune.torch.backend import outline

    recorded = []
    real = outline.read_model
    monkeypatch.setattr(
        outline, "read_model", lambda *args, **more: recorded.append(1) or real(*args, **more)
    )
    fxprune.prepare(Model(*(Normed() for _ in range(4))).eval(), torch.randn(2, 7, 5))
    assert len(recorded) == 2  # a norm, and a block around it


class Normed(nn.Module):
    """A norm written by hand, in whose code gates act."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(12))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
