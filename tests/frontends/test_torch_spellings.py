"""How torch says things, and what fxprune makes of each: the groups that stay free, or why none do.

Each body runs between two convolutions (see tests/samples.py). What is free is pruned and compared
with the gated model.
"""

from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.frontends.torch_spellings import MODULES, NAMES, Spelling
from fxprune.record import record_of
from fxprune.testing import assert_costs, assert_same_function, randomise
from fxprune.testing.checkers import run
from tests.samples import SHAPE, between, vector
from tests.test_samples import some_keep_sets

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


def mid(*args, **options):
    return {"mid": nn.Conv2d(*args, **options)}


CASES = {
    # Reductions and comparisons
    "x.max(1)[0]": (lambda m, x: m.last(x - x.max(1, keepdim=True)[0]), "pinned: reduced by max"),
    "x.max(1).values": (lambda m, x: m.last(x - x.max(1, True).values), "pinned: reduced by max"),
    "x.max()": (lambda m, x: m.last(x - x.max()), "pinned: reduced by max"),
    "torch.max(x, y)": (lambda m, x: m.last(torch.max(x, 2 * x)), "first:8"),
    "torch.max(x, p)": (lambda m, x: m.last(torch.max(x, m.p)), "first:8", {"p": (8, 1, 1)}),
    "torch.min(x, other=p)": (
        lambda m, x: m.last(torch.min(x, other=m.p)),
        "pinned: unknown operator min",
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
        "pinned: unknown operator norm",
    ),
    "x.cumsum(1)": (lambda m, x: m.last(x.cumsum(1)), "pinned: compared or mixed along"),
    "torch.roll(x, 1, 1)": (lambda m, x: m.last(torch.roll(x, (1, 1), (1, 2))), "pinned: compared"),
    "x.sort(1)": (lambda m, x: m.last(x.sort(1)[0]), "pinned: unknown operator sort"),
    "x.topk(3, 1)": (
        lambda m, x: m.last(x.topk(3, 1)[0]),
        "pinned: unknown operator topk",
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
        "pinned: unknown operator repeat_interleave",
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
        "pinned: unknown operator getitem",
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
        "p:8",
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
    "p @ x": (lambda m, x: m.p @ x.flatten(2), "pinned: unexpected rank", {"p": (5, 8)}),
    "p[1, :, :] @ x": (
        lambda m, x: torch.matmul(m.p, x.flatten(2)),
        "pinned: unexpected rank",
        {"p": (1, 5, 8)},
    ),
    "x @ vector": (
        lambda m, x: m.last(x) * (x.mean((2, 3)) @ m.p)[:, None, None, None],
        "pinned: unexpected rank",
        {"p": (8,)},
    ),
    "torch.einsum": (
        lambda m, x: torch.einsum("bchw,oc->bohw", x, m.p),
        "pinned: unknown operator einsum",
        {"p": (5, 8)},
    ),
    "weight_norm": (
        lambda m, x: m.last(m.mid(x)),
        "pinned: unknown operator parametrised",
        {"mid": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))},
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


def model_of(body, width=8, batch=3, **parts):
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
    assert_same_function(model, gated, [x])
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        assert_same_function(gated, folded, [x])
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        assert_costs(folded, [x], record_of(gated).analysis.costs.at(sizes))


# The table against torch

UNARY = [name for name, spelling in NAMES.items() if spelling == Spelling("elementwise")]
ARGUMENTS = {
    "threshold": (0.1, 2.0),
    "clamp": (-0.5, 0.5),
    "clip": (-0.5, 0.5),
    "clamp_min": (0.1,),
    "clamp_max": (0.1,),
}


def function_of(name):
    """A function or method of torch by its bare name."""
    for home in (torch, F):
        if hasattr(home, name):
            return getattr(home, name)
    return lambda x, *args: getattr(x, name)(*args)


@pytest.mark.parametrize("name", UNARY)
def test_what_the_table_calls_elementwise_looks_at_one_position(name):
    assert_elementwise(lambda x: function_of(name)(x, *ARGUMENTS.get(name, ())))


def assert_elementwise(function):
    x = torch.rand(2, 5, 4, dtype=torch.float64) + 0.1
    other = x.clone()
    other[1, 2, 1] += 1.0
    same = torch.ones(2, 5, 4, dtype=torch.bool)
    same[1, 2, 1] = False
    left, right = function(x.clone()), function(other)
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


@pytest.mark.parametrize("name", [n for rank in (1, 2, 3) for n in modules_of("channelwise", rank)])
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
