"""Weights that make up for closed positions."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune import shelf
from fxprune.testing import assert_unchanged
from fxprune.torch.refit import _columns, _outputs, _places
from tests.torch.models import Residual, images, plain, randomise


def data(count=4, size=16):
    return [images(size, seed=seed).double() for seed in range(count)]


def error(gated, whole):
    x = images(32, seed=9).double()
    with torch.no_grad():
        wanted = whole.eval()(x)
        return float((gated.eval()(x) - wanted).norm() / wanted.norm())


def half_closed(model, **settings):
    """The odd channels of every group are closed."""
    gated = fxprune.prepare(model, images(1).double(), **settings)
    keep = fxprune.keep_set(gated)
    odd = {
        n: torch.arange(len(k)) % 2 == 0 if len(k) > 1 else torch.tensor([True])
        for n, k in keep.items()
    }
    fxprune.set_keep_set(gated, odd)
    return gated


@torch.no_grad()
def doubled(model):
    """Every odd channel of the first layer is the one before it."""
    for parameter in (model[0].weight, model[0].bias):
        parameter[1::2] = parameter[::2]
    return model


def test_channels_that_others_can_make_up_for_are_not_missed():
    whole = doubled(randomise(plain()).double())
    gated = half_closed(whole)
    assert error(gated, whole) > 0.1
    assert fxprune.refit(gated, data(), ridge=1e-12) == 1
    assert error(gated, whole) < 1e-8
    fxprune.verify(gated, fxprune.fold(gated))


def test_open_columns_take_the_weight_of_the_closed_ones():
    whole = doubled(randomise(plain()).double())
    gated = half_closed(whole)
    fxprune.refit(gated, data(), ridge=1e-12)
    fitted, old = gated.get_submodule("2").weight, whole[2].weight
    assert torch.allclose(fitted[:, ::2], old[:, ::2] + old[:, 1::2], rtol=1e-5, atol=1e-7)
    assert torch.equal(fitted[:, 1::2], old[:, 1::2]), "closed columns stay"


def test_residual_networks_come_closer_to_what_they_were():
    whole = randomise(Residual()).double()
    gated = half_closed(whole)
    before = error(gated, whole)
    assert fxprune.refit(gated, data()) > 0
    assert error(gated, whole) < 0.8 * before
    fxprune.verify(gated, fxprune.fold(gated))


def test_nothing_closed_nothing_fitted():
    gated = fxprune.prepare(randomise(Residual()).double().train(), images(1).double())
    with assert_unchanged(gated):
        assert fxprune.refit(gated, data()) == 0


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_the_model_stay(mode):
    whole = randomise(Residual()).double()
    gated = half_closed(whole).train(mode)
    with assert_unchanged(whole):
        fxprune.refit(gated, [(x, torch.zeros(16)) for x in data()])
    assert gated.training == gated.stem.training == mode


def test_closed_branch_is_left_alone():
    whole = randomise(Residual()).double()
    gated = fxprune.prepare(whole, images(1).double())
    fxprune.set_keep_set(gated, {"body+": [False]})
    weight = gated.body[3].weight.clone()
    fxprune.refit(gated, data())
    assert torch.equal(gated.body[3].weight, weight)


def test_data_that_does_not_fit_is_refused():
    gated = half_closed(randomise(plain()).double())
    for wrong, match in (
        ([], "refit needs batches of inputs"),
        ([{"x": 1}], "this model was traced without x"),
        ([images(2).double(), 3], "batch 1 of data|an array"),
        ([torch.full((1, 3, 8, 8), torch.nan).double()], "batch 0 of data holds NaN"),
    ):
        with pytest.raises(fxprune.InputError, match=match), assert_unchanged(gated):
            fxprune.refit(gated, wrong)
    with pytest.raises(fxprune.InputError, match="got a plain Sequential"):
        fxprune.refit(nn.Sequential(), data())


# Batch by batch ---------------------------------------------------------------------------------


def parameters(gated):
    return torch.cat([p.detach().flatten() for p in gated.parameters()])


def refitted(whole, batches, **settings):
    gated = half_closed(whole)
    fxprune.refit(gated, batches, **settings)
    return gated


@pytest.mark.parametrize("build", [Residual, plain])
def test_weights_do_not_depend_on_how_data_is_cut(build):
    whole, x = randomise(build()).double(), torch.cat(data())
    one, all_at_once = (refitted(whole, list(torch.split(x, size))) for size in (1, 64))
    assert torch.allclose(parameters(one), parameters(all_at_once), rtol=1e-7, atol=1e-10)


def test_weights_do_not_depend_on_where_batches_wait(monkeypatch):
    whole = randomise(Residual()).double()
    in_memory = refitted(whole, data())
    monkeypatch.setattr(shelf, "IN_MEMORY", 0)
    in_files = refitted(whole, data())
    assert torch.equal(parameters(in_memory), parameters(in_files))


def test_a_layer_solves_the_least_squares_of_all_data():
    """Against numpy's solver, on all rows at once: open columns, a column of ones, the ridge."""
    whole = randomise(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))).double()
    batches = [torch.randn(7, 5).double() for _ in range(4)]
    gated = fxprune.prepare(whole, batches[0])
    fxprune.set_keep_set(gated, {"0": [True, False] * 4})
    fxprune.refit(gated, batches, ridge=0.01)
    with torch.no_grad():
        hidden = torch.tanh(whole[0](torch.cat(batches)))
        x, y = hidden[:, ::2].numpy(), whole(torch.cat(batches)).numpy()
        old = whole[2].weight[:, ::2].numpy()
    damping = np.sqrt(0.01 * np.square(x).sum(0).mean())
    rows = np.vstack([np.hstack([x, np.ones((len(x), 1))]), np.eye(4, 5) * damping])
    goal = np.vstack([y, damping * old.T])
    solved = np.linalg.lstsq(rows, goal, rcond=None)[0].T
    layer = gated.get_submodule("2")
    assert np.allclose(layer.weight[:, ::2].detach().numpy(), solved[:, :4])
    assert np.allclose(layer.bias.detach().numpy(), solved[:, 4])


@given(
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    last=st.booleans(),
    every=st.integers(1, 4),
)
def test_rows_are_what_convolutions_multiply(kernel, stride, padding, dilation, last, every):
    layer = nn.Conv2d(3, 5, kernel, stride, padding, dilation).double()
    x = torch.randn(2, 3, 7, 6).double()
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = layer(x)
    picked = torch.arange(0, _places(layer, y), every)
    columns, outputs = (of(layer, a, picked) for of, a in ((_columns, x), (_outputs, y)))
    assert torch.allclose(layer.weight.flatten(1) @ columns, outputs)
    unfolded = nn.functional.unfold(x, kernel, dilation, padding, stride)
    assert torch.equal(columns, unfolded.transpose(0, 1).flatten(1)[:, picked])


def test_with_the_old_weights_held_the_bias_makes_up_for_the_mean_of_what_is_closed():
    """An endless ridge leaves the compensation of An et al. 2024, section 3.3."""
    whole = randomise(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))).double()
    batches = [torch.randn(7, 5).double() for _ in range(4)]
    gated = fxprune.prepare(whole, batches[0])
    fxprune.set_keep_set(gated, {"0": [True, False] * 4})
    fxprune.refit(gated, batches, ridge=1e12)
    with torch.no_grad():
        mean = torch.tanh(whole[0](torch.cat(batches))).mean(0)
        wanted = whole[2].bias + whole[2].weight[:, 1::2] @ mean[1::2]
    layer = gated.get_submodule("2")
    assert torch.allclose(layer.weight, whole[2].weight, rtol=1e-6)
    assert torch.allclose(layer.bias, wanted)


def test_weights_that_another_module_has_too_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.inner = nn.Embedding(11, 6), nn.Linear(6, 9)
            self.outer, self.head = nn.Linear(9, 6), nn.Linear(6, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.outer(self.inner(self.embedding(ids)).relu()))

    whole = randomise(Tied()).double()
    ids = torch.randint(11, (40, 5))
    gated = fxprune.prepare(whole, {"ids": ids[:2]})
    fxprune.set_keep_set(gated, {"inner": [True, False, True] * 3})
    assert fxprune.refit(gated, [{"ids": ids[:25]}, {"ids": ids[25:]}]) == 1
    assert torch.equal(gated.embedding.weight, whole.embedding.weight)
    assert not torch.equal(gated.outer.weight, whole.outer.weight)


def test_batches_of_two_examples_are_refused():
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x, y=None):
            h = self.a(x).relu()
            return self.c(h if y is None else h + self.b(y))

    x, y = torch.randn(5, 4), torch.randn(5, 3)
    gated = fxprune.prepare(randomise(Either()), [(x,), (x, y)])
    fxprune.set_keep_set(gated, {"a": [True, False] * 3})
    assert fxprune.refit(gated, [{"x": x, "y": y}]) == 1
    with pytest.raises(fxprune.InputError, match="batches for several examples"):
        fxprune.refit(gated, [{"x": x}, {"x": x, "y": y}])


_PEAK = """
import resource, sys, torch, fxprune
from torch import nn
from fxprune import shelf
shelf.IN_MEMORY = 1 << 22
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [layer for _ in range(4) for layer in (nn.Linear(256, 256), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(256, 4))
gated = fxprune.prepare(model, torch.zeros(2, 256))
keep = {n: [i % 2 == 0 for i in range(len(k))] for n, k in fxprune.keep_set(gated).items()}
fxprune.set_keep_set(gated, keep)
fxprune.refit(gated, [torch.randn(512, 256)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fxprune.refit(gated, (torch.randn(512, 256) for _ in range(int(sys.argv[1]))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_more_data_takes_no_more_memory():
    """Ten times the batches; held together they would be 2 x 128 MiB of what waits."""
    few, many = (
        int(
            subprocess.run([sys.executable, "-c", _PEAK, n], check=True, capture_output=True).stdout
        )
        for n in ("25", "250")
    )
    assert many - few < 16 << 10, f"{few} and {many} KiB"
