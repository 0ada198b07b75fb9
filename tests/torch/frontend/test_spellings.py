"""How torch says things, and what fxprune makes of each: the groups that stay free, or why none do.

Each body runs between two convolutions (see tests/torch/samples.py). What is free is pruned and
compared with the gated model.
"""

import importlib
import operator
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import fxprune
from fxprune.testing import assert_rewrite_equivalent, randomise
from fxprune.testing.torch.rounding import run
from fxprune.torch.frontend.module_spellings import MODULES
from fxprune.torch.frontend.spellings import NAMES, Spelling
from tests.torch.samples import SHAPE, between, vector
from tests.torch.test_samples import assert_counts, some_keep_sets

Pair = namedtuple("Pair", "a b")


def _uneven(x):
    a, b, c = x.chunk(3, 1)
    return torch.cat([c, a * 2, b], 1)


def _by_shape(x):
    b, c, h, w = x.shape
    return x.reshape(b, 2, c // 2, h, w).sum(1).repeat(1, 2, 1, 1)


def _product_of_sizes(x):
    n = 1
    for dim in range(1, 4):
        n *= x.size(dim)
    return x.view(-1, n)


def _indices(x):
    a, b, c, d, e, f, g, h = x.unbind(1)
    return torch.stack([h, a, b, c, d, e, f, g], 1)


def _added(x):
    y = torch.zeros_like(x)
    y.add_(x)
    return y


def _size_of_branch(m, x):
    y = m.mid(x)
    b, c, h, w = y.shape
    return (x + y).view(b, c, h, w)


def _global_response(m, x):
    length = x.norm(dim=(2, 3), keepdim=True)
    return m.p * (x * length / (length.mean(1, keepdim=True) + 0.1)) + m.q + x


def _gated(x):
    gate, value = x.chunk(2, 1)
    return F.silu(gate) * value


def _walked(m, x):
    state = torch.zeros(x.size(0), 6, dtype=x.dtype)
    for row in rows(x).unbind(1):
        state = torch.tanh(m.mid(row) + m.hidden(state))
    return state


class StandardisedConv(nn.Conv2d):
    """A convolution with standardised and scaled filters, as timm writes it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = vector(self.out_channels, 1, 1, 1)

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.3).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-6,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, groups=self.groups)


def _standardised(weight):
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return centred / (weight.std((1, 2, 3), keepdim=True) + 0.1)


def _normed_after(m, x):
    x = rows(x)
    return m.out(x + m.f(m.mid(x)))


def _digits(x):
    """Eight numbers below five for every image."""
    return (2 * x[:, :, 0, 0].abs()).clamp(max=4).long()


def tokens(x):
    """An image as one token per pixel."""
    return x.flatten(2).transpose(1, 2)


def image(x):
    return x.transpose(1, 2).unflatten(2, (8, 8))


def rows(x):
    """An image as one token per row."""
    return x.mean(3).transpose(1, 2)


UNCOUNTED = {"counted": False}  # torch's counter does not see what torch does element by element


def mid(*args, **options):
    return {"mid": nn.Conv2d(*args, **options)}


CASES = {
    # Reductions and comparisons
    "x.max(1)[0]": (lambda m, x: m.last(x - x.max(1, keepdim=True)[0]), "first:8"),
    "x.max(1).values": (lambda m, x: m.last(x - x.max(1, True).values), "first:8"),
    "x.max(1)[1]": (lambda m, x: m.last(x - x.max(1, True)[1]), "pinned: reduced by max"),
    "x.max()": (lambda m, x: m.last(x - x.max()), "pinned: reduced by max"),
    "torch.max(x, y)": (lambda m, x: m.last(torch.max(x, 2 * x)), "first:8"),
    "torch.max(x, p)": (lambda m, x: m.last(torch.max(x, m.p)), "first:8", {"p": (8, 1, 1)}),
    "torch.min(x, other=p)": (
        lambda m, x: m.last(torch.min(x, other=m.p)),
        "pinned: no rule for min",
        {"p": (8, 1, 1)},
    ),
    "torch.maximum(x, p)": (
        lambda m, x: m.last(torch.maximum(x, m.p)),
        "first:8",
        {"p": (8, 1, 1)},
    ),
    "torch.clamp(x, p)": (lambda m, x: m.last(torch.clamp(x, m.p)), "first:8", {"p": (8, 1, 1)}),
    "x.clamp(min=p)": (lambda m, x: m.last(x.clamp(min=m.p)), "first:8", {"p": (8, 1, 1)}),
    "torch.addcmul(x, p, q)": (
        lambda m, x: m.last(torch.addcmul(x, m.p, m.q)),
        "first:8",
        {"p": (8, 1, 1), "q": (8, 1, 1)},
    ),
    "torch.lerp(x, y, p)": (
        lambda m, x: m.last(torch.lerp(x, 2 * x, m.p)),
        "first:8",
        {"p": (8, 1, 1)},
    ),
    "torch.where(c, x, p)": (
        lambda m, x: m.last(torch.where(x > 0, x, m.p)),
        "first:8",
        {"p": (8, 1, 1)},
    ),
    "x.masked_fill(c, 1)": (lambda m, x: m.last(x.masked_fill(x > 0, 1.0)), "first:8"),
    "x.mean(axis=1)": (lambda m, x: m.last(x * x.mean(axis=1, keepdim=True)), "first:8"),
    "x.mean(1, keepdims=True)": (lambda m, x: m.last(x * x.mean(1, keepdims=True)), "first:8"),
    "x.sum([1], True)": (lambda m, x: m.last(x * x.sum([1], True)), "first:8"),
    "torch.mean(input=x, dim=1)": (
        lambda m, x: m.last(x * torch.mean(input=x, dim=1, keepdim=True)),
        "first:8",
    ),
    "x.mean()": (lambda m, x: m.last(x * x.mean()), "first:8"),
    "x.std((2, 3))": (lambda m, x: m.last(x / x.std((2, 3), keepdim=True)), "first:8"),
    "x.norm(dim=1)": (
        lambda m, x: m.last(x / x.norm(dim=1, keepdim=True)),
        "first:8",
    ),
    "x.norm()": (lambda m, x: m.last(x / x.norm()), "first:8"),
    "x.norm(1, 1, True)": (lambda m, x: m.last(x / x.norm(1, 1, True)), "first:8"),
    "x.norm(0, 1, True)": (lambda m, x: m.last(x / x.norm(0, 1, True)), "pinned: reduced by norm"),
    "torch.linalg.vector_norm": (
        lambda m, x: m.last(x / torch.linalg.vector_norm(x, 3, (1, 2), True)),
        "first:8",
    ),
    "F.normalize": (lambda m, x: m.last(F.normalize(x)), "first:8"),
    "x.amin(1)": (lambda m, x: m.last(x - x.amin(1, keepdim=True)), "first:8"),
    "x.var((1, 2))": (lambda m, x: m.last(x / x.var((1, 2), keepdim=True)), "first:8"),
    "x.var(unbiased=False)": (
        lambda m, x: m.last(x / x.var((1, 2), unbiased=False, keepdim=True)),
        "first:8",
    ),
    "x.var(False)": (lambda m, x: m.last(x / x.var(False)), "first:8"),
    "x.std(correction=3)": (
        lambda m, x: m.last(x / x.std((1, -1), correction=3, keepdim=True)),
        "first:8",
    ),
    "torch.std(input=x)": (lambda m, x: m.last(x / torch.std(input=x)), "first:8"),
    "torch.var_mean": (
        lambda m, x: m.last(x - torch.var_mean(x, 1, keepdim=True)[1]),
        "pinned: reduced by var_mean",
    ),
    "x.cumsum(1)": (lambda m, x: m.last(x.cumsum(1)), "pinned: compared or mixed along"),
    "torch.roll(x, 1, 1)": (lambda m, x: m.last(torch.roll(x, (1, 1), (1, 2))), "pinned: compared"),
    "torch.roll(x, shifts, dims=(2, 3))": (
        lambda m, x: m.last(torch.roll(x, shifts=(1, 1), dims=(2, 3))),
        "first:8",
    ),
    "torch.flip(x, dims=(2,))": (lambda m, x: m.last(torch.flip(x, dims=(2,))), "first:8"),
    "x.sort(1)": (lambda m, x: m.last(x.sort(1)[0]), "pinned: put in order by sort"),
    "x.topk(3, 1)": (
        lambda m, x: m.last(x.topk(3, 1)[0]),
        "pinned: put in order by topk",
        {"width": 3},
    ),
    "last(x).argmax(1)": (lambda m, x: m.last(x).argmax(1), "first:8"),
    # Shapes
    "expand_as of channels": (lambda m, x: m.last(x.mean(1, True).expand_as(x)), "first:8"),
    "x.expand(-1, 8, -1, -1) * x": (
        lambda m, x: m.last(x.mean(1, True).expand(-1, 8, -1, -1) * x),
        "first:8",
    ),
    "p.expand(x.shape)": (
        lambda m, x: m.last(x + m.p.expand(x.shape)),
        "first:8",
        {"p": (1, 8, 1, 1)},
    ),
    "p.expand(x.size(0), -1, ...)": (
        lambda m, x: m.last(m.p.expand(x.size(0), -1, x.size(2), x.size(3)) + x),
        "first:8",
        {"p": (1, 8, 1, 1)},
    ),
    "x.view_as(y)": (lambda m, x: m.last(x.flatten(2).view_as(x)), "first:8"),
    "x.reshape_as(y)": (lambda m, x: m.last(x.flatten(2).reshape_as(x)), "first:8"),
    "x.repeat(1, 2, 1, 1)": (lambda m, x: m.last(x.repeat(1, 2, 1, 1)), "first:8", {"width": 16}),
    "x.repeat(2, 1, 1, 1)": (lambda m, x: m.last(x.repeat(2, 1, 1, 1)), "first:8"),
    "x.tile(2, 1, 1)": (lambda m, x: m.last(x.tile(2, 1, 1)), "first:8", {"width": 16}),
    "torch.tile(x, dims)": (
        lambda m, x: m.last(torch.tile(x, (1, 2, 1, 1))),
        "first:8",
        {"width": 16},
    ),
    "x.repeat_interleave(2, 1)": (
        lambda m, x: m.last(x.repeat_interleave(2, 1)),
        "first:8",
        {"width": 16},
    ),
    "x.view(-1, 8, h, w)": (lambda m, x: m.last(x.view(-1, 8, x.shape[2], x.shape[3])), "first:8"),
    "x.view(size=...)": (
        lambda m, x: m.last(x.view(size=(-1, 4, 2, 8, 8)).flatten(1, 2)),
        "first/0:4 first/1:2",
    ),
    "torch.reshape(input=x, shape=...)": (
        lambda m, x: m.last(torch.reshape(input=x, shape=(-1, 4, 2, 8, 8)).flatten(1, 2)),
        "first/0:4 first/1:2",
    ),
    "x.reshape([...])": (
        lambda m, x: m.last(x.reshape([-1, 4, 2, 8, 8]).flatten(1, 2)),
        "first/0:4 first/1:2",
    ),
    "x.view(x.size(0), -1)": (
        lambda m, x: m.mid(x.view(x.size(0), -1)),
        "first:8",
        {"mid": (512, 3)},
    ),
    "x.view(-1, 8 * 64)": (lambda m, x: m.mid(x.view(-1, 512)), "first:8", {"mid": (512, 3)}),
    "x.view(-1, c * h * w)": (
        lambda m, x: m.mid(_product_of_sizes(x)),
        "first:8",
        {"mid": (512, 3)},
    ),
    "torch.flatten(input=x, start_dim=1)": (
        lambda m, x: m.mid(torch.flatten(input=x, start_dim=1)),
        "first:8",
        {"mid": (512, 3)},
    ),
    "nn.Flatten": (lambda m, x: m.mid(m.f(x)), "first:8", {"mid": (512, 3), "f": nn.Flatten()}),
    "nn.Unflatten": (
        lambda m, x: m.last(m.f(x).flatten(1, 2)),
        "first/0:4 first/1:2",
        {"f": nn.Unflatten(1, (4, 2))},
    ),
    "x.unflatten(-3, (4, -1))": (
        lambda m, x: m.last(x.unflatten(-3, (4, -1)).flatten(1, 2)),
        "first/0:4 first/1:2",
    ),
    "x.squeeze()": (
        lambda m, x: m.mid(F.adaptive_avg_pool2d(x, 1).squeeze()),
        "first:8",
        {"mid": (8, 3), "batch": 2},
    ),
    "x.squeeze(-1)": (
        lambda m, x: m.mid(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
        "first:8",
        {"mid": (8, 3)},
    ),
    "x.squeeze((1, 2, 3))": (
        lambda m, x: m.mid(F.adaptive_avg_pool2d(x, 1).squeeze((1, 2, 3))),
        "first:8",
        {"mid": (8, 3)},
    ),
    "sizes of half of the channels": (lambda m, x: m.last(_by_shape(x)), "first/0:2 first/1:4"),
    "x.view(x.shape[:1] + x.shape[1:])": (
        lambda m, x: m.last(x.flatten(1).view(x.shape[:1] + x.shape[1:])),
        "first:8",
    ),
    "x.T": (lambda m, x: m.mid(x.mean((2, 3)).T.T), "first:8", {"mid": (8, 3)}),
    "x.mT": (lambda m, x: m.last(x.mT), "first:8"),
    "x.as_strided(...)": (
        lambda m, x: m.last(x.as_strided((2, 8, 8, 8), (512, 64, 8, 1))),
        "pinned: unknown operator as_strided",
        {"batch": 2},
    ),
    # Sizes as numbers
    "x.numel()": (lambda m, x: m.last(x * (x.numel() / 100)), "first:8"),
    "x.sum(1) / x.size(1)": (lambda m, x: m.last(x * (x.sum(1, True) / x.size(1))), "first:8"),
    "x.shape[-3] ** -0.5": (lambda m, x: m.last(x * x.shape[-3] ** -0.5), "first:8"),
    "last.in_channels": (lambda m, x: m.last(x) / m.last.in_channels, "first:8"),
    "last.weight.shape[1]": (lambda m, x: m.last(x) / m.last.weight.shape[1], "first:8"),
    "x.dim() == 4": (lambda m, x: m.last(x) if x.dim() == 4 else x, "first:8"),
    "x.shape[1] > 4": (lambda m, x: m.last(x) if x.shape[1] > 4 else x, "first:8"),
    # Indexing
    "x[:, 1:2]": (lambda m, x: m.last(x + x[:, 1:2]), "first[2:8]:6"),
    "x[:, 1, None]": (lambda m, x: m.last(x + x[:, 1, None]), "pinned: indexed by position"),
    "x[:, :, None]": (lambda m, x: m.last(x[:, :, None].squeeze(2)), "first:8"),
    "p[:, None, None]": (lambda m, x: m.last(x + m.p[:, None, None]), "first:8", {"p": (8,)}),
    "x[..., None, None]": (lambda m, x: m.last(x * x.mean((2, 3))[..., None, None]), "first:8"),
    "x[:, None]": (
        lambda m, x: m.mid(x.mean((2, 3))[:, None].flatten(1)),
        "first:8",
        {"mid": (8, 3)},
    ),
    "x[None][0]": (lambda m, x: m.last(x[None][0]), "first:8"),
    "x[:, ::2]": (lambda m, x: m.last(x[:, ::2]), "pinned: strided", {"width": 4}),
    "x[:, :-2]": (lambda m, x: m.last(x[:, :-2]), "first[0:6]:6", {"width": 6}),
    "x[:, -6:-2]": (lambda m, x: m.last(x[:, -6:-2]), "first[2:6]:4", {"width": 4}),
    "x[:, :8]": (lambda m, x: m.last(x[:, :8]), "first:8"),
    "x[:, 8:]": (lambda m, x: m.last(torch.cat([x, x[:, 8:]], 1)), "first:8"),
    "x[:, :x.size(1) - 2]": (
        lambda m, x: m.last(x[:, : x.size(1) - 2]),
        "first[0:6]:6",
        {"width": 6},
    ),
    "x[:, 2:][:, :3][:, 1:]": (
        lambda m, x: m.last(x[:, 2:][:, :3][:, 1:]),
        "first[3:5]:2",
        {"width": 2},
    ),
    "x[:, :5] + x[:, 3:]": (lambda m, x: m.last(x[:, :5] * x[:, 3:]), "first[0:2]:2", {"width": 5}),
    "x[:, [0, 2, 1]]": (
        lambda m, x: m.last(x[:, [0, 2, 1]]),
        "pinned: no rule for getitem",
        {"width": 3},
    ),
    "x[:, index]": (
        lambda m, x: m.last(x[:, m.i]),
        "pinned: indexed by position",
        {"width": 3, "i": nn.Buffer(torch.tensor([0, 2, 1]))},
    ),
    "x.narrow(1, 0, 8)": (lambda m, x: m.last(x.narrow(1, 0, 8)), "first:8"),
    "x.narrow(1, -3, 2)": (lambda m, x: m.last(x.narrow(1, -3, 2)), "first[5:7]:2", {"width": 2}),
    "x.chunk(3, 1)": (lambda m, x: m.last(_uneven(x)), "first[0:3]:3 first[3:6]:3 first[6:8]:2"),
    "torch.chunk(input=x, ...)[0]": (
        lambda m, x: m.last(torch.chunk(input=x, chunks=2, dim=1)[0]),
        "first[0:4]:4",
        {"width": 4},
    ),
    "x.chunk(2, 1)[-1]": (lambda m, x: m.last(x.chunk(2, 1)[-1]), "first[4:8]:4", {"width": 4}),
    "x.split(3, 1)[1]": (lambda m, x: m.last(x.split(3, 1)[1]), "first[3:6]:3", {"width": 3}),
    "x.split(split_size=4, dim=1)": (
        lambda m, x: m.last(x.split(split_size=4, dim=1)[0]),
        "first[0:4]:4",
        {"width": 4},
    ),
    "x.split([3, 5], dim=-3)": (
        lambda m, x: m.last(x.split([3, 5], dim=-3)[0]),
        "first[0:3]:3",
        {"width": 3},
    ),
    "x.unbind(1)": (lambda m, x: m.last(_indices(x)), "pinned: taken apart by position"),
    # Normalisations
    "F.layer_norm(x, (8, 8, 8))": (lambda m, x: m.last(F.layer_norm(x, (8, 8, 8))), "first:8"),
    "F.layer_norm(x, x.shape[1:])": (lambda m, x: m.last(F.layer_norm(x, x.shape[1:])), "first:8"),
    "F.layer_norm(x, ..., eps)": (
        lambda m, x: m.last(F.layer_norm(x, (8, 8, 8), None, None, 0.5)),
        "first:8",
    ),
    "F.layer_norm(input=x, ...)": (
        lambda m, x: m.last(
            F.layer_norm(input=x, normalized_shape=[8, 8, 8], weight=m.p, bias=m.q, eps=0.3)
        ),
        "first:8",
        {"p": (8, 8, 8), "q": (8, 8, 8)},
    ),
    "F.layer_norm(x, (8, 8))": (lambda m, x: m.last(F.layer_norm(x, (8, 8))), "first:8"),
    "F.group_norm(x, 4, p, q, eps)": (
        lambda m, x: m.last(F.group_norm(x, 4, m.p, m.q, 0.3)),
        "first/0:4 first/1:2",
        {"p": (8,), "q": (8,)},
    ),
    "F.group_norm(x, num_groups=2, ...)": (
        lambda m, x: m.last(F.group_norm(x, num_groups=2, weight=m.p, bias=m.q, eps=0.3)),
        "first/0:2 first/1:4",
        {"p": (8,), "q": (8,)},
    ),
    "F.group_norm(x, 4, bias=q)": (
        lambda m, x: m.last(F.group_norm(x, 4, bias=m.q)),
        "first/0:4 first/1:2",
        {"q": (8,)},
    ),
    "GroupNorm over free positions": (
        lambda m, x: m.out(m.norm(m.mid(x.mean((2, 3))).view(-1, 4, 6)).flatten(1)),
        "first:8 mid/0:2 mid/1:2",
        {"mid": (8, 24), "out": nn.Linear(24, 3), "norm": nn.GroupNorm(2, 4)},
    ),
    "BatchNorm1d over free positions": (
        lambda m, x: m.out(m.norm(m.mid(x.mean((2, 3))).view(-1, 4, 6)).flatten(1)),
        "first:8 mid/0:4",
        {"mid": (8, 24), "out": nn.Linear(24, 3), "norm": nn.BatchNorm1d(4)},
    ),
    "F.batch_norm(x, None, None, training=True)": (
        lambda m, x: m.last(F.batch_norm(x, None, None, training=True)),
        "first:8",
    ),
    "F.batch_norm(x, running_mean=..., bias=q)": (
        lambda m, x: m.last(F.batch_norm(x, running_mean=m.r, running_var=m.s, bias=m.q)),
        "first:8",
        {"q": (8,), "r": nn.Buffer(torch.zeros(8)), "s": nn.Buffer(torch.ones(8))},
    ),
    "nn.RMSNorm": (
        lambda m, x: m.last(m.f(x.movedim(1, -1)).movedim(-1, 1)),
        "first:8",
        {"f": nn.RMSNorm(8)},
    ),
    "F.rms_norm(input=x, ...)": (
        lambda m, x: m.last(F.rms_norm(input=x, normalized_shape=[8, 8, 8], weight=m.p, eps=0.3)),
        "first:8",
        {"p": (8, 8, 8)},
    ),
    "root mean square by hand": (
        lambda m, x: m.last(m.p * (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 0.1))),
        "first:8",
        {"p": (8, 1, 1)},
    ),
    "global response normalisation": (
        lambda m, x: m.last(_global_response(m, x)),
        "first:8 add_2+:1",
        {"p": (8, 1, 1), "q": (8, 1, 1)},
    ),
    "F.instance_norm(x)": (lambda m, x: m.last(F.instance_norm(x)), "first:8"),
    "one BatchNorm for two layers": (
        lambda m, x: m.last(m.norm(m.mid(m.norm(x)))),
        "first:8",
        {"norm": nn.BatchNorm2d(8), **mid(8, 8, 1)},
    ),
    # Contractions
    "F.conv2d(input=x, ...)": (
        lambda m, x: m.last(F.conv2d(input=x, weight=m.p, groups=8)),
        "first:8",
        {"p": (8, 1, 3, 3)},
    ),
    "F.conv2d(x, groups=4)": (
        lambda m, x: m.last(F.conv2d(x, weight=m.p, bias=m.q, groups=4)),
        "first/0:4 p/1:2 first/1:2",
        {"p": (8, 2, 3, 3), "q": (8,)},
    ),
    "conv of an image without batch": (
        lambda m, x: m.last(x[0]),
        "pinned: operands of an unexpected rank for conv",
    ),
    "conv of a centred weight": (
        lambda m, x: m.last(F.conv2d(x, m.p - m.p.mean((1, 2, 3), keepdim=True))),
        "p:8 first:8",
        {"p": (8, 8, 3, 3)},
    ),
    "conv of a standardised weight": (
        lambda m, x: m.last(F.conv2d(x, m.p / m.p.std((1, 2, 3), keepdim=True))),
        "p:8 first:8",
        {"p": (8, 8, 3, 3)},
    ),
    "conv of a scaled weight": (
        lambda m, x: m.last(F.conv2d(x, m.p * m.q)),
        "p:8 first:8",
        {"p": (8, 8, 3, 3), "q": (8, 1, 1, 1)},
    ),
    "F.linear(x, p.t())": (
        lambda m, x: F.linear(x.mean((2, 3)), m.p.t()),
        "first:8",
        {"p": (8, 5)},
    ),
    "tied transpose": (
        lambda m, x: F.linear(F.linear(x.mean((2, 3)), m.p), m.p.t()),
        "p:5",
        {"p": (5, 8)},
    ),
    "x @ p": (lambda m, x: x.flatten(2).transpose(1, 2) @ m.p, "first:8", {"p": (8, 5)}),
    "p @ x": (lambda m, x: m.p @ x.flatten(2), "first:8", {"p": (5, 8)}),
    "p[1, :, :] @ x": (
        lambda m, x: torch.matmul(m.p, x.flatten(2)),
        "first:8",
        {"p": (1, 5, 8)},
    ),
    "x @ vector": (
        lambda m, x: m.last(x) * (x.mean((2, 3)) @ m.p)[:, None, None, None],
        "first:8",
        {"p": (8,), **UNCOUNTED},
    ),
    "torch.dot": (
        lambda m, x: m.last(x) * torch.dot(x.mean((0, 2, 3)), m.p),
        "first:8",
        {"p": (8,), **UNCOUNTED},
    ),
    "torch.bmm": (
        lambda m, x: m.last(image(torch.bmm(tokens(x) @ x.flatten(2), tokens(x)))),
        "first:8",
    ),
    "b.addmm(x, p)": (
        lambda m, x: m.out(m.b.addmm(x.mean((2, 3)), m.p)),
        "b:5 first:8",
        {"b": (5,), "p": (8, 5), "out": nn.Linear(5, 3)},
    ),
    "torch.addmm(beta=0.5)": (
        lambda m, x: torch.addmm(m.b, x.mean((2, 3)), m.p, beta=0.5),
        "pinned: no rule for scaled addmm",
        {"b": (5,), "p": (8, 5)},
    ),
    "torch.einsum": (
        lambda m, x: m.last(torch.einsum("bchw,oc->bohw", x, m.p)),
        "p:5 first:8",
        {"p": (5, 8), "width": 5, **UNCOUNTED},
    ),
    "torch.einsum without output": (
        lambda m, x: torch.einsum("zi, io", x.mean((2, 3)), m.p),
        "first:8",
        {"p": (8, 5), **UNCOUNTED},
    ),
    "torch.einsum('b c ...')": (
        lambda m, x: m.last(torch.einsum("b c ..., o c -> b o ...", x, m.p)),
        "p:5 first:8",
        {"p": (5, 8), "width": 5, **UNCOUNTED},
    ),
    "torch.einsum of a list": (
        lambda m, x: torch.einsum("...C,oC", [x.mean((2, 3)), m.p]),
        "first:8",
        {"p": (5, 8), **UNCOUNTED},
    ),
    "torch.einsum stretches": (
        lambda m, x: m.last(x) + torch.einsum("bc,bc->b", m.p, x.mean((2, 3)))[:, None, None, None],
        "first:8",
        {"p": (1, 1), **UNCOUNTED},
    ),
    "a weight_norm convolution": (
        lambda m, x: m.last(m.mid(x)),
        "first:8 last.weight:1:8",
        {"mid": lambda: weight_norm(nn.Conv2d(8, 8, 1))},
    ),
    "a weight_norm linear layer": (
        lambda m, x: m.out(m.mid(x.mean((2, 3)))),
        "first:8 mid:6",
        {"mid": lambda: weight_norm(nn.Linear(8, 6)), "out": nn.Linear(6, 3)},
    ),
    "weight_norm of a whole weight": (
        lambda m, x: m.last(F.conv2d(x, torch._weight_norm(m.p, m.q, -1))),
        "p:8 first:8",
        {"p": (8, 8, 1, 1), "q": ()},
    ),
    "spectral_norm": (
        lambda m, x: m.last(m.mid(x)),
        "pinned: unknown operator",
        {"mid": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))},
    ),
    "nn.Bilinear": (
        lambda m, x: m.out(m.f(m.mid(x.mean((2, 3))), x.amax((2, 3)))),
        "first:8 mid:6 f:5",
        {"mid": (8, 6), "f": nn.Bilinear(6, 8, 5), "out": nn.Linear(5, 3), **UNCOUNTED},
    ),
    "cosine head": (
        lambda m, x: m.q * F.linear(F.normalize(x.mean((2, 3))), F.normalize(m.p)),
        "first:8",
        {"p": (5, 8), "q": (1,)},
    ),
    "F.cosine_similarity": (
        lambda m, x: m.last(x) * F.cosine_similarity(x, x.cos())[:, None],
        "first:8",
    ),
    "nn.CosineSimilarity with a parameter": (
        lambda m, x: m.last(x) * m.f(m.p[:, None, None], x)[:, None],
        "first:8",
        {"p": (8,), "f": nn.CosineSimilarity(-3)},
    ),
    "F.cosine_similarity, one stretched": (
        lambda m, x: m.last(x) * F.cosine_similarity(x, x.mean(1, True))[:, None],
        "pinned: nothing in Between can be pruned",
    ),
    "torch.baddbmm of a bias": (
        lambda m, x: m.last(
            image(torch.baddbmm(m.p, tokens(x), m.q.expand(x.size(0), -1, -1), alpha=0.5))
        ),
        "p:2:6 first:8",
        {"p": (1, 1, 6), "q": (8, 6), "width": 6},
    ),
    # Standardised weights
    "weights standardised by hand": (
        lambda m, x: m.last(F.conv2d(x, _standardised(m.p))),
        "p:6 first:8",
        {"p": (6, 8, 3, 3), "width": 6},
    ),
    "weights standardised by a batch norm": (
        lambda m, x: m.last(m.f(x)),
        "first:8 f:6",
        {"f": StandardisedConv(8, 6, 3), "width": 6},
    ),
    "weights standardised in groups": (
        lambda m, x: m.last(m.f(x)),
        "first/0:2 first/1:4 f/1:3",
        {"f": StandardisedConv(8, 6, 3, groups=2, bias=False), "width": 6},
    ),
    # Tables
    **{
        f"nn.EmbeddingBag, {mode}": (
            lambda m, x: m.mid(m.f(_digits(x))) + m.last(x).mean(),
            "last:4 f.weight:1:6",
            {"f": nn.EmbeddingBag(5, 6, mode=mode), "mid": (6, 3)},
        )
        for mode in ("sum", "mean", "max")
    },
    "nn.EmbeddingBag with offsets": (
        lambda m, x: (
            m.mid(m.f(_digits(x).flatten(), torch.arange(0, 8 * x.size(0), 8))) + m.last(x).mean()
        ),
        "last:4 f.weight:1:6",
        {"f": nn.EmbeddingBag(5, 6), "mid": (6, 3)},
    ),
    "nn.EmbeddingBag with weights": (
        lambda m, x: m.mid(m.f(_digits(x), per_sample_weights=x[:, :, 0, 0])) + m.last(x).mean(),
        "last:4 f.weight:1:6",
        {"f": nn.EmbeddingBag(5, 6, mode="sum"), "mid": (6, 3)},
    ),
    **{
        f"{name} with rows of a largest norm": (
            lambda m, x, f=f: m.mid(f(_digits(x), 9.0 * m.p, max_norm=1.0)),
            "pinned: nothing in Between can be pruned",
            {"p": (5, 6), "mid": (6, 3)},
        )
        for name, f in {"F.embedding": F.embedding, "F.embedding_bag": F.embedding_bag}.items()
    },
    # Patches and positions
    "nn.Unfold": (
        lambda m, x: m.mid(m.f(x).mT),
        "first:8",
        {"f": nn.Unfold((2, 3), padding=1, dilation=2), "mid": (48, 3)},
    ),
    "F.unfold, then F.fold": (
        lambda m, x: m.last(F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2)),
        "first:8",
    ),
    "x.unfold(2, 3, 1)": (
        lambda m, x: m.last(x.unfold(2, 3, 1).mean(-1)),
        "first:8",
    ),
    "F.affine_grid, then F.grid_sample": (
        lambda m, x: m.last(
            F.grid_sample(
                x,
                F.affine_grid(m.mid(x.mean((2, 3))).view(-1, 2, 3), x.shape, align_corners=False),
                align_corners=False,
            )
        ),
        "first:8",
        {"mid": (8, 6)},
    ),
    # Arrays of one value
    "torch.zeros(...) beside": (
        lambda m, x: m.last(torch.cat([x, torch.zeros(x.size(0), 4, 8, 8, dtype=x.dtype)], 1)),
        "first:8 last.weight:1[8:12]:4",
        {"width": 12},
    ),
    "torch.ones(x.shape)": (
        lambda m, x: m.last(x * torch.ones(x.shape, dtype=x.dtype)),
        "first:8",
    ),
    "torch.full([...], 0.5)": (
        lambda m, x: m.last(x * torch.full([x.shape[0], 8, 1, 1], 0.5, dtype=x.dtype)),
        "first:8",
    ),
    "x.new_full(size=...)": (
        lambda m, x: m.last(x + x.new_full(size=(x.shape[0], 8, 8, 8), fill_value=0.5)),
        "first:8",
    ),
    # Recurrent layers
    **{
        f"nn.{kind.__name__}, {claim}": (
            lambda m, x: m.out(m.f(rows(x))[0]),
            "first:8 f.weight_ih_l0:6" if kind is nn.RNN else "first:8 f.weight_ih_l0/1:6",
            {
                "f": kind(8, 6, batch_first=True, **options),
                "out": nn.Linear(6, 3),
            },
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for claim, options in {"one layer": {}, "two layers": {"num_layers": 2}}.items()
    },
    "nn.LSTM, both directions of two layers": (
        lambda m, x: m.out(m.f(rows(x))[0]),
        "first:8 f.weight_ih_l0/1:6",
        {
            "f": nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True, bias=False),
            "out": nn.Linear(12, 3),
        },
    ),
    "nn.GRU, time first": (
        lambda m, x: m.out(m.f(rows(x).transpose(0, 1))[0][-1]),
        "first:8 f.weight_ih_l0/1:6",
        {"f": nn.GRU(8, 6), "out": nn.Linear(6, 3)},
    ),
    "nn.GRU, a state of its own": (
        lambda m, x: m.out(m.f(rows(x), m.mid(x.mean((2, 3)))[None])[0]),
        "first:8 mid:6",
        {"f": nn.GRU(8, 6, batch_first=True), "mid": (8, 6), "out": nn.Linear(6, 3)},
    ),
    "nn.LSTM, states made of zeros": (
        lambda m, x: m.out(m.f(rows(x), (x.new_zeros(1, x.size(0), 6),) * 2)[0]),
        "first:8 f.weight_ih_l0/1:6",
        {"f": nn.LSTM(8, 6, batch_first=True), "out": nn.Linear(6, 3)},
    ),
    "nn.LSTM, all last states": (
        lambda m, x: m.out(m.f(rows(x))[1][0].transpose(0, 1).flatten(1)),
        "first:8 f.weight_ih_l0/1:6",
        {
            "f": nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True),
            "out": nn.Linear(24, 3),
        },
    ),
    "nn.LSTM, one after another": (
        lambda m, x: m.out(m.g(*m.f(rows(x)))[0]),
        "first:8 f.weight_ih_l0/1:6",
        {
            "f": nn.LSTM(8, 6, batch_first=True),
            "g": nn.LSTM(6, 6, batch_first=True),
            "out": nn.Linear(6, 3),
        },
    ),
    "nn.LSTM with projections": (
        lambda m, x: m.out(m.f(rows(x))[0]),
        "pinned: projected states of lstm",
        {"f": nn.LSTM(8, 6, proj_size=4, batch_first=True), "out": nn.Linear(4, 3)},
    ),
    "nn.LSTMCell": (
        lambda m, x: m.out(m.f(x.mean((2, 3)))[0]),
        "first:8 f.weight_ih/1:6",
        {"f": nn.LSTMCell(8, 6), "out": nn.Linear(6, 3)},
    ),
    "nn.RNNCell, relu, no bias": (
        lambda m, x: m.out(m.f(x.mean((2, 3)), m.mid(x.amax((2, 3))))),
        "first:8 mid:6",
        {
            "f": nn.RNNCell(8, 6, bias=False, nonlinearity="relu"),
            "mid": (8, 6),
            "out": nn.Linear(6, 3),
        },
    ),
    "a recurrence by hand": (
        lambda m, x: m.out(_walked(m, x)),
        "first:8 mid:6 add_1+:1",
        {"mid": (8, 6), "hidden": nn.Linear(6, 6), "out": nn.Linear(6, 3)},
    ),
    "bias.sum()": (lambda m, x: m.last(x) + m.first.bias.sum(), "first:8"),
    # Concatenation, padding, pooling
    "torch.cat(axis=1)": (lambda m, x: m.last(torch.cat([x, x], axis=1)), "first:8", {"width": 16}),
    "torch.cat(tensors=...)": (
        lambda m, x: m.last(torch.cat(tensors=[x, x], dim=1)),
        "first:8",
        {"width": 16},
    ),
    "zeros_like beside": (
        lambda m, x: m.last(torch.cat([x, torch.zeros_like(x)], 1)),
        "first:8",
        {"width": 16},
    ),
    "F.pad(input=x, pad=...)": (
        lambda m, x: m.last(F.pad(input=x, pad=(0, 0, 0, 0, 1, 1))),
        "first:8",
        {"width": 10},
    ),
    "F.pad by -1": (
        lambda m, x: m.last(F.pad(x, (0, 0, 0, 0, -1, -1))),
        "pinned: padded from",
        {"width": 6},
    ),
    "F.pad(mode=circular)": (
        lambda m, x: m.last(F.pad(x, (1, 1, 1, 1), mode="circular")),
        "first:8",
    ),
    "nn.ZeroPad2d": (lambda m, x: m.last(m.f(x)), "first:8", {"f": nn.ZeroPad2d(1)}),
    "nn.ReflectionPad2d": (lambda m, x: m.last(m.f(x)), "first:8", {"f": nn.ReflectionPad2d(1)}),
    "nn.ConstantPad3d on channels": (
        lambda m, x: m.last(m.f(x)),
        "pinned: unexpected rank",
        {"f": nn.ConstantPad3d((0, 0, 0, 0, 1, 1), 0.5), "width": 10},
    ),
    "nn.MaxPool2d(return_indices=True)": (
        lambda m, x: m.last(m.f(x)[0]),
        "pinned: unexpected rank",
        {"f": nn.MaxPool2d(2, return_indices=True)},
    ),
    "F.pixel_shuffle(upscale_factor=2)": (
        lambda m, x: m.last(F.pixel_shuffle(x, upscale_factor=2)),
        "first/0:2",
        {"width": 2},
    ),
    "x.amax over shuffled pixels": (
        lambda m, x: m.mid(F.pixel_shuffle(x, 2).amax((2, 3))),
        "first/0:2",
        {"mid": (2, 3)},
    ),
    "nn.Upsample": (lambda m, x: m.last(m.f(x)), "first:8", {"f": nn.Upsample(scale_factor=2)}),
    "F.interpolate(size=x.shape[-2:])": (
        lambda m, x: m.last(F.interpolate(m.mid(x), size=x.shape[-2:])),
        "first:8 mid:8",
        mid(8, 8, 3, stride=2),
    ),
    "nn.PReLU()": (lambda m, x: m.last(m.f(x)), "first:8", {"f": nn.PReLU()}),
    "nn.GLU": (lambda m, x: m.last(m.f(x)), "first[0:4]:4", {"f": nn.GLU(1), "width": 4}),
    "a silu gate": (
        lambda m, x: m.last(F.silu(m.mid(x)) * m.up(x)),
        "first:8 up:6",
        {"width": 6, "up": nn.Conv2d(8, 6, 1), **mid(8, 6, 1)},
    ),
    "a silu gate, both at once": (
        lambda m, x: m.last(_gated(m.mid(x))),
        "first:8 mid[0:6]:6",
        {"width": 6, **mid(8, 12, 1)},
    ),
    "nn.ChannelShuffle": (
        lambda m, x: m.last(m.f(x)),
        "first/0:2 first/1:4",
        {"f": nn.ChannelShuffle(2)},
    ),
    "nn.LocalResponseNorm": (
        lambda m, x: m.last(m.f(x)),
        "pinned: nothing in Between can be pruned",
        {"f": nn.LocalResponseNorm(3)},
    ),
    # Additions
    "torch.add(f(x), x, alpha=0.5)": (
        lambda m, x: m.last(torch.add(m.mid(x), x, alpha=0.5)),
        "first:8",
        mid(8, 8, 1),
    ),
    "x - f(x)": (lambda m, x: m.last(x - m.mid(x)), "first:8", mid(8, 8, 1)),
    "x + one channel": (lambda m, x: m.last(x + m.mid(x)), "first:8", mid(8, 1, 1)),
    "x + gamma * f(x)": (
        lambda m, x: m.last(x + m.p * m.mid(x)),
        "first:8 add+:1",
        {"p": (8, 1, 1), **mid(8, 8, 1)},
    ),
    "layer scale": (
        lambda m, x: m.last(x + m.mid(x) * m.p),
        "first:8 add+:1",
        {"p": (8, 1, 1), **mid(8, 8, 1)},
    ),
    **{
        f"x + norm(f(x)), {type(norm).__name__}": (
            _normed_after,
            "first:8 add+:1",
            {"f": norm, "mid": (8, 8), "out": nn.Linear(8, 3)},
        )
        for norm in (nn.LayerNorm(8), nn.RMSNorm(8))
    },
    "x + group_norm(f(x))": (
        lambda m, x: m.last(x + m.f(m.mid(x))),
        "first/0:2 first/1:4 add+:1",
        {"f": nn.GroupNorm(2, 8), **mid(8, 8, 1)},
    ),
    "size of a branch, used after it": (
        lambda m, x: m.last(_size_of_branch(m, x)),
        "first:8",
        mid(8, 8, 1),
    ),
    "zeros, then x added in place": (lambda m, x: m.last(_added(x)), "first:8 add_+:1"),
    # Outputs
    "a dict": (lambda m, x: {"a": m.last(x), "b": [m.mid(x)]}, "first:8", mid(8, 4, 1)),
    "a named tuple": (lambda m, x: Pair(m.last(x), m.mid(x)), "first:8", mid(8, 4, 1)),
    "the channels themselves": (lambda m, x: (m.last(x), x), "pinned: network output"),
    "a parameter": (lambda m, x: (m.last(x), m.p), "first:8", {"p": (8,)}),
    "unused parameters": (lambda m, x: m.last(x), "first:8", {"p": (8, 3), **mid(8, 4, 1)}),
    # Refused
    "x[mask]": (
        lambda m, x: m.last(x[:, m.i]),
        "refused: fails at getitem",
        {"width": 3, "i": nn.Buffer(torch.tensor([True] * 3 + [False] * 5))},
    ),
}


def model_of(body, width=8, batch=3, counted=True, **parts):
    """The model of a case: sizes are parameters, pairs of sizes called `mid` linear layers."""
    built = {}
    for name, part in parts.items():
        if isinstance(part, tuple):
            part = nn.Linear(*part) if name == "mid" else vector(*part)
        built[name] = part() if callable(part) and not isinstance(part, nn.Module) else part
    generator = torch.Generator().manual_seed(0)
    model = between(body, width, **built).double().eval()
    randomise(model, generator)
    return model, torch.randn(batch, *SHAPE[1:], dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    ("body", "expected", "parts"),
    [pytest.param(*case[:2], case[2] if len(case) > 2 else {}, id=n) for n, case in CASES.items()],
)
def test_spelling(body, expected, parts):
    model, x = model_of(body, **parts)
    outcome, _, message = expected.partition(": ")
    if outcome == "pinned":
        with pytest.raises(fxprune.NothingToPruneError, match=message):
            fxprune.prepare(model, x)
        return
    if outcome == "refused":
        with pytest.raises((fxprune.TraceError, fxprune.InputError), match=message):
            fxprune.prepare(model, x)
        return
    gated = fxprune.prepare(model, x, target=1.0)
    groups = [group for group in fxprune.groups(gated) if not group.pin]
    assert " ".join(f"{group.name}:{group.size}" for group in groups) == expected
    assert_rewrite_equivalent(model, gated, inputs=[x])
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        assert_rewrite_equivalent(gated, folded, inputs=[x])
        if parts.get("counted", True):
            assert_counts(gated, folded, x)


# Attention


class Attention(nn.Module):
    """Heads of 3 features, fewer of them for keys and values, and how they attend."""

    def __init__(self, attend, heads=2, shared=1):
        super().__init__()
        self.query = nn.Linear(8, 3 * heads)
        self.key = nn.Linear(8, 3 * heads // shared)
        self.value = nn.Linear(8, 3 * heads // shared)
        self.read = nn.Linear(3 * heads, 8)
        self.attend, self.heads, self.shared = attend, heads, shared

    def forward(self, x):
        queries = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys, values = (
            part(x).unflatten(-1, (self.heads // self.shared, -1)).transpose(1, 2)
            for part in (self.key, self.value)
        )
        return self.read(self.attend(queries, keys, values).transpose(1, 2).flatten(2))


attend = F.scaled_dot_product_attention


def _by_hand(q, k, v):
    return (q @ k.mT * q.size(-1) ** -0.5).softmax(-1) @ v


def _linear(q, k, v):
    q, k = q.relu(), k.relu() + 1
    return q @ (k.mT @ v) / (1 + q @ k.sum(-2).unsqueeze(-1))


def _repeated(x, times):
    return x[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)


def _turned(x):
    """Rotary positions, as transformers writes them."""
    steps = torch.outer(torch.arange(x.size(-2)), 1e-2 ** torch.arange(0, 1, 1 / 2))
    steps = torch.cat([steps, steps[:, :1]], -1).to(x)
    a, b = x.split([1, 2], -1)
    return x * steps.cos() + torch.cat([-b, a], -1) * steps.sin()


def _masked(q, k, v):
    mask = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).tril()
    return attend(q, k, v, attn_mask=mask, dropout_p=0.0)


HEADS = "first:8 f.query/0:2 f.query/1:3 f.value/1:3 f.read:8"
GROUPED = "first:8 f.query/0:2 f.query/1:2 f.query/2:3 f.value/1:3 f.read:8"

ATTENTION = {
    "by hand": (lambda: Attention(_by_hand), HEADS),
    "F.scaled_dot_product_attention": (lambda: Attention(attend), HEADS),
    "a scale": (lambda: Attention(lambda q, k, v: attend(q, k, v, scale=0.3)), HEADS),
    "causal": (lambda: Attention(lambda q, k, v: attend(q, k, v, is_causal=True)), HEADS),
    "a mask": (lambda: Attention(_masked), HEADS),
    "a mask that depends on the input": (
        lambda: Attention(lambda q, k, v: attend(q, k, v, (k.sum((1, 3)) > 0)[:, None, None])),
        HEADS,
    ),
    "shared keys": (
        lambda: Attention(lambda q, k, v: attend(q, k, v, enable_gqa=True), 4, 2),
        GROUPED,
    ),
    "one key for all": (
        lambda: Attention(lambda q, k, v: attend(q, k, v, enable_gqa=True), 4, 4),
        "first:8 f.query/0:4 f.query/1:3 f.value:3 f.read:8",
    ),
    "repeated keys": (
        lambda: Attention(lambda q, k, v: attend(q, _repeated(k, 2), _repeated(v, 2)), 4, 2),
        GROUPED,
    ),
    "interleaved keys": (
        lambda: Attention(
            lambda q, k, v: attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)), 4, 2
        ),
        "first:8 f.query/0:2 f.query/2:3 f.value/1:3 f.read:8",
    ),
    "rotary positions": (
        lambda: Attention(lambda q, k, v: attend(_turned(q), _turned(k), v)),
        "first:8 f.query/0:2 f.value/1:3 f.read:8 add+:1 add_1+:1",
    ),
    "no softmax": (lambda: Attention(_linear), HEADS),
}


@pytest.mark.parametrize(("layer", "expected"), ATTENTION.values(), ids=ATTENTION)
def test_attention(layer, expected):
    test_spelling(lambda m, x: m.out(m.f(rows(x))), expected, {"f": layer, "out": nn.Linear(8, 3)})


LATER = torch.ones(8, 8, dtype=torch.bool).triu(1)
PACKED = "first:8 f.in_proj_weight/1:2 f.in_proj_weight/2:4 f.out_proj:8"
APART = (
    "first:8 f.in_proj_weight[0:8]/0:2 f.in_proj_weight[0:8]/1:4 f.in_proj_weight[16:24]/1:4"
    " f.out_proj:8"
)
ENCODER = (
    "first:8 f.self_attn.in_proj_weight/1:2 f.self_attn.in_proj_weight/2:4 f.linear1:12 f+:1 f++:1"
)
DECODER = (
    "first:8 f.self_attn.in_proj_weight/1:2 f.self_attn.in_proj_weight/2:4"
    " f.multihead_attn.in_proj_weight[0:8]/0:2 f.multihead_attn.in_proj_weight[0:8]/1:4"
    " f.linear1:12 f+:1 f++:1 f+++:1"
)


def _multihead(**options):
    return lambda: nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})


def _encoder(**options):
    options = {"dropout": 0.0, "batch_first": True, **options}
    return lambda: nn.TransformerEncoderLayer(8, 2, 12, **options)


def _decoder(**options):
    return lambda: nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True, **options)


TRANSFORMERS = {
    "attention to itself": (_multihead(), lambda f, x: f(x, x, x)[0], PACKED),
    "without biases": (_multihead(bias=False), lambda f, x: f(x, x, x)[0], PACKED),
    "rows first": (
        _multihead(batch_first=False),
        lambda f, x: f(*(x.transpose(0, 1).clone(),) * 3)[0].transpose(0, 1),
        PACKED,
    ),
    "without weights": (_multihead(), lambda f, x: f(x, x, x, need_weights=False)[0], PACKED),
    "attention to something else": (
        _multihead(),
        lambda f, x: f(x, x[:, 2:].cos(), x[:, 2:].cos())[0],
        APART,
    ),
    "keys and values of other widths": (
        _multihead(kdim=5, vdim=3),
        lambda f, x: f(x, x[..., :5], x[..., 5:])[0],
        "first[0:5]:5 first[5:8]:3 f.q_proj_weight/0:2 f.q_proj_weight/1:4 f.v_proj_weight/1:4"
        " f.out_proj:8",
    ),
    "a mask": (
        _multihead(),
        lambda f, x: f(x, x, x, attn_mask=LATER, need_weights=False)[0],
        PACKED,
    ),
    "padding": (
        _multihead(),
        lambda f, x: f(x, x, x, key_padding_mask=_padding(x), need_weights=False)[0],
        PACKED,
    ),
    "biases as keys": (_multihead(add_bias_kv=True), lambda f, x: f(x, x, x)[0], PACKED),
    "an encoder layer": (_encoder(), lambda f, x: f(x), ENCODER),
    "an encoder layer, norm first": (_encoder(norm_first=True), lambda f, x: f(x), ENCODER),
    "an encoder layer, causal": (_encoder(), lambda f, x: f(x, LATER, is_causal=True), ENCODER),
    "an encoder layer, padding": (
        _encoder(activation="gelu"),
        lambda f, x: f(x, src_key_padding_mask=_padding(x)),
        ENCODER,
    ),
    "an encoder layer, dropout": (_encoder(dropout=0.1), lambda f, x: f(x), ENCODER),
    "a decoder layer": (_decoder(), lambda f, x: f(x, x[:, 2:].cos()), DECODER),
    "a decoder layer, norm first, masked": (
        _decoder(norm_first=True),
        lambda f, x: f(x, x[:, 2:].cos(), tgt_mask=LATER, tgt_is_causal=True),
        DECODER,
    ),
}


def _padding(x):
    """The last two rows, for every image."""
    return (torch.arange(x.size(1)) > 5).expand(x.size(0), -1)


@pytest.mark.parametrize(("layer", "call", "expected"), TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_transformer(layer, call, expected):
    test_spelling(
        lambda m, x: m.out(call(m.f, rows(x))), expected, {"f": layer, "out": nn.Linear(8, 3)}
    )


# The table against torch

UNARY = [name for name, spelling in NAMES.items() if spelling == Spelling("elementwise")]
BITS = ("invert", "bitwise_not")
ARGUMENTS = {
    "fill": (0.5,),
    "full_like": (0.5,),
    "threshold": (0.1, 2.0),
    "clamp": (-0.5, 0.5),
    "clip": (-0.5, 0.5),
    "clamp_min": (0.1,),
    "clamp_max": (0.1,),
    "mvlgamma": (1,),
    "special_multigammaln": (1,),
}
COMPLEX = ("imag",)


def function_of(name):
    """A function or method of torch by its bare name, or a function of autograd by its full one."""
    if "." in name:
        home, _, kind = name.rpartition(".")
        return getattr(importlib.import_module(home), kind).apply
    if name.endswith("polygamma"):
        return lambda x: torch.polygamma(1, x)
    for home in (torch, F, operator, torch._C._special, torch._C._nn):
        if hasattr(home, name):
            return getattr(home, name)
    own = name if hasattr(torch.Tensor, name) else f"{name}_"
    return lambda x, *args: getattr(x, own)(*args)


@pytest.mark.parametrize("name", UNARY)
def test_what_the_table_calls_elementwise_looks_at_one_position(name):
    prepared = (lambda x: x > 0.3) if name in BITS else torch.clone
    prepared = torch.Tensor.cdouble if name in COMPLEX else prepared
    assert_elementwise(lambda x: function_of(name)(prepared(x), *ARGUMENTS.get(name, ())))


def assert_elementwise(function):
    x = 0.4 * torch.rand(2, 5, 4, dtype=torch.float64) + 0.05
    other = x.clone()
    other[1, 2, 1] += 0.5
    same = torch.ones(2, 5, 4, dtype=torch.bool)
    same[1, 2, 1] = False
    left, right = (function(given).nan_to_num() for given in (x.clone(), other))
    assert left.shape == x.shape
    assert torch.equal(left[same], right[same])


@pytest.mark.parametrize("function", [lambda x: x.softmax(1), lambda x: x.cumsum(2), F.normalize])
def test_check_of_elementwise_functions_can_fail(function):
    with pytest.raises(AssertionError):
        assert_elementwise(function)


ARGUMENTS_OF_MODULES = {nn.Threshold: (0.1, 2.0)}
ELEMENTWISE = [kind for kind, spelling in MODULES.items() if spelling.op == "elementwise"]


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_what_the_table_calls_an_elementwise_module_looks_at_one_position(kind):
    assert_elementwise(kind(*ARGUMENTS_OF_MODULES.get(kind, ())).eval())


def modules_of(operator, rank):
    names = [k.__name__ for k, s in MODULES.items() if s.op == operator]
    return [name for name in names if name.endswith(f"{rank}d")]


ARGUMENTS_OF_POOLS = {
    "AdaptiveAvgPool": (2,),
    "AdaptiveMaxPool": (2,),
    "AvgPool": (2,),
    "MaxPool": (2,),
    "LPPool": (2, 2),
    "ConstantPad": (1, 0.5),
}


CHANNELWISE = [
    name
    for operator in ("channelwise", "average_pool", "adaptive_average_pool")
    for rank in (1, 2, 3)
    for name in modules_of(operator, rank)
]


@pytest.mark.parametrize("name", CHANNELWISE)
def test_what_the_table_calls_channelwise_keeps_channels_apart(name):
    rank, kind = int(name[-2]), name[:-2]
    module = getattr(nn, name)(*ARGUMENTS_OF_POOLS.get(kind, (1,))).eval()
    x = torch.rand(2, 4, *(6,) * rank, dtype=torch.float64)
    other = x.clone()
    other[:, 2] += 1.0
    left, right = module(x), module(other)
    assert left.shape[:2] == x.shape[:2]
    assert torch.equal(left[:, [0, 1, 3]], right[:, [0, 1, 3]])
    assert not torch.equal(left[:, 2], right[:, 2])


def test_outputs_keep_their_containers():
    model, x = model_of(lambda m, x: Pair({"a": m.last(x)}, [x.sum(), None]))
    folded = fxprune.fold(fxprune.prepare(model, x, target=1.0))
    result = folded(x)
    assert isinstance(result, Pair)
    assert list(result.a) == ["a"]
    assert result.b[1] is None
    assert [tensor.shape for tensor in run(folded, [x])] == [(3, 4, 8, 8), ()]
