"""Functions of tensors, as torch says them: the groups that stay free, or why none do."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.torch.frontend.bodies import Pair, mid, rows


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


def _gated(x):
    gate, value = x.chunk(2, 1)
    return F.silu(gate) * value


def _normed_after(m, x):
    x = rows(x)
    return m.out(x + m.f(m.mid(x)))


TENSORS = {
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
        "first:8",
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
    "x[:, ::2]": (lambda m, x: m.last(x[:, ::2]), "first/0:4", {"width": 4}),
    "x[:, 1:8:2]": (lambda m, x: m.last(x[:, 1:8:2]), "first/0:4", {"width": 4}),
    "x[:, ::3]": (lambda m, x: m.last(x[:, ::3]), "pinned: strided", {"width": 3}),
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
    "zeros, then x added in place": (lambda m, x: m.last(_added(x)), "first:8"),
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
