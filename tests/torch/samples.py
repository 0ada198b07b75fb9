"""A small torch model for every operator of the table and every structural rule."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers.integrations.moe  # noqa: F401  (it registers an operator)
from torch import Tensor, nn

from fxprune.onnx.frontend.spellings import SPELLINGS
from fxprune.torch.frontend.module_spellings import MODULES
from fxprune.torch.frontend.spellings import NAMES

SHAPE = (2, 3, 8, 8)

ONNX_ONLY = {spelling.op for spelling in SPELLINGS.values()} | {
    "depth_to_space",
    "add_layer_norm",
    "add_rms_norm",
    "conv_add",
    "heads_attention",
}
ONNX_ONLY -= {spelling.op for spelling in (*NAMES.values(), *MODULES.values())}
"""Operators that torch has no word for; their samples are in tests/onnx/frontend/samples.py."""


class Between(nn.Module):
    """`body` between two convolutions: `first` makes 8 channels, `last` reads what comes out."""

    def __init__(self, body: Callable[[Any, Any], Any], width: int, parts: Mapping[str, Any]):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(width, 4, 3, padding=1)
        self.body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.first(x))


def between(body: Callable[[Any, Any], Any], width: int = 8, **parts: Any) -> Between:
    """A model around `body(model, x)`, which calls `model.last` itself."""
    return Between(body, width, parts)


def vector(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(sizes))


class Embedded(nn.Module):
    """An embedding of input that is turned into indices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 6)
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.embed((x.abs() * 2).clamp(max=4).long()))


def _unbound(m: Any, x: Any) -> Any:
    left, right = x.unflatten(1, (2, 4)).unbind(1)
    return m.last(left - right.relu())


def _to_tokens(x: Any) -> Any:
    return x.flatten(2).transpose(1, 2)


def _to_image(tokens: Any) -> Any:
    return tokens.transpose(1, 2).unflatten(2, (8, 8))


def _attention(m: Any, x: Any) -> Any:
    query, key, value = m.mid(_to_tokens(x)).chunk(3, -1)
    return m.last(_to_image(F.scaled_dot_product_attention(query, key, value)))


def _correlation(m: Any, x: Any) -> Any:
    tokens = _to_tokens(x)
    return m.last(_to_image(torch.baddbmm(tokens, tokens @ tokens.mT, tokens)))


def _in_runs(m: Any, x: Any) -> Any:
    rows = _to_tokens(x).flatten(0, 1)
    ends = torch.tensor([1, 1, 4], dtype=torch.int32) * (rows.shape[0] // 4)
    products = torch.ops.transformers.grouped_mm_fallback(rows, m.mid.mT, ends)
    return m.last(products.view(-1, 8, 8, 6).movedim(-1, 1))


def _mixture(m: Any, x: Any) -> Any:
    rows = _to_tokens(x).flatten(0, 1)
    shares, chosen = m.router(rows).softmax(-1).topk(2, -1)
    numbers, order = chosen.flatten().sort()
    ends = torch.histc(numbers.double(), 5, 0, 4).cumsum(0).int()
    made = torch.ops.transformers.grouped_mm_fallback(rows[order // 2], m.mid, ends)
    made = (made * shares.flatten()[order, None])[order.argsort()]
    return m.last(made.view(-1, 2, 6).sum(1).view(-1, 8, 8, 6).movedim(-1, 1))


_MIXTURE = (
    lambda: between(_mixture, 6, router=nn.Linear(8, 5), mid=vector(5, 8, 6)),
    "router:5 first:8 mid:2:6",
)


def _rotated(m: Any, x: Any) -> Any:
    still, turned = m.mid(_to_tokens(x)).split(4, -1)
    pairs = torch.view_as_complex(turned.unflatten(-1, (2, 2)))
    turned = torch.view_as_real(pairs * 1j).flatten(-2)
    return m.last(_to_image(torch.cat([still, turned], -1)))


def _recurrent(m: Any, x: Any) -> Any:
    return m.last(_to_image(m.mid(_to_tokens(x))[0]))


def _overwritten(m: Any, x: Any) -> Any:
    x[:, 4:] = m.mid(x)
    return m.last(x)


def _normalised_weight(m: Any, x: Any) -> Any:
    return m.last(F.conv2d(x, torch._weight_norm(m.mid, m.length)))


def _standardised(m: Any, x: Any) -> Any:
    weight = F.batch_norm(m.mid.flatten(1)[None], None, None, training=True, eps=1e-6)
    return m.last(F.conv2d(x, weight.reshape_as(m.mid), padding=1))


SAMPLES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # operator: (model, its free groups and branches)
    "conv": (
        lambda: between(lambda m, x: m.last(m.mid(x)), 12, mid=nn.Conv2d(8, 12, 3, groups=4)),
        "first/0:4 first/1:2 mid/1:3",
    ),
    "conv_transpose": (
        lambda: between(
            lambda m, x: m.last(m.mid(x)), 6, mid=nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)
        ),
        "first/0:2 first/1:4 last.weight:1/1:3",
    ),
    "linear": (
        lambda: between(
            lambda m, x: m.last(m.mid(x.transpose(1, 3)).transpose(1, 3)), 6, mid=nn.Linear(8, 6)
        ),
        "first:8 mid:6",
    ),
    "matmul": (
        lambda: between(
            lambda m, x: m.last((x.movedim(1, -1) @ m.mid).movedim(-1, 1)), 6, mid=vector(8, 6)
        ),
        "first:8 mid:1:6",
    ),
    "einsum": (
        lambda: between(
            lambda m, x: m.last(torch.einsum("bchw,oc->bohw", x, m.mid)), 6, mid=vector(6, 8)
        ),
        "mid:6 first:8",
    ),
    "attention": (
        lambda: between(_attention, 6, mid=nn.Linear(8, 18)),
        "first:8 mid[12:18]:6 mid[0:6]:6",
    ),
    "recurrent": (
        lambda: between(_recurrent, 6, mid=nn.LSTM(8, 6, batch_first=True)),
        "first:8 last.weight:1:6",
    ),
    "recurrent_cell": (
        lambda: between(
            lambda m, x: m.read(m.mid(x.mean((2, 3)))), mid=nn.GRUCell(8, 6), read=nn.Linear(6, 3)
        ),
        "first:8 mid.weight_ih/1:6",
    ),
    "weight_norm": (
        lambda: between(_normalised_weight, 6, mid=vector(6, 8, 1, 1), length=vector(6, 1, 1, 1)),
        "mid:6 first:8",
    ),
    "addmm": (
        lambda: between(
            lambda m, x: m.last(
                torch.addmm(m.bias, _to_tokens(x).flatten(0, 1), m.mid)
                .view(-1, 8, 8, 6)
                .movedim(-1, 1)
            ),
            6,
            mid=vector(8, 6),
            bias=vector(6),
        ),
        "first:8 mid:1:6",
    ),
    "grouped_mm": (lambda: between(_in_runs, 6, mid=vector(3, 6, 8)), "mid:1:6 first:8"),
    "complex_pairs": (
        lambda: between(_rotated, mid=nn.Linear(8, 8)),
        "first:8 mid[0:4]:4",
    ),
    "baddbmm": (lambda: between(_correlation), "first:8"),
    "cosine": (
        lambda: between(lambda m, x: m.last(x) * F.cosine_similarity(x, x.cos())[:, None]),
        "first:8",
    ),
    "bilinear": (
        lambda: between(
            lambda m, x: m.last(_to_image(m.mid(_to_tokens(x), _to_tokens(x.cos())))),
            6,
            mid=nn.Bilinear(8, 8, 6),
        ),
        "first:8 mid:6",
    ),
    "embedding": (Embedded, "embed.weight:1:6"),
    "embedding_bag": (
        lambda: between(
            lambda m, x: m.read(m.mid((x[:, :, 0, 0].abs() * 2).clamp(max=4).long())),
            mid=nn.EmbeddingBag(5, 6),
            read=nn.Linear(6, 3),
        ),
        "mid.weight:1:6",
    ),
    "batch_norm": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.BatchNorm2d(8)),
        "first:8",
    ),
    "standardise": (lambda: between(_standardised, 6, mid=vector(6, 8, 3, 3)), "mid:6 first:8"),
    "instance_norm": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.InstanceNorm2d(8, affine=True)),
        "first:8",
    ),
    "layer_norm": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.LayerNorm((8, 8, 8))),
        "first:8",
    ),
    "rms_norm": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.RMSNorm((8, 8, 8))),
        "first:8",
    ),
    "group_norm": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.GroupNorm(4, 8)),
        "first/0:4 first/1:2",
    ),
    "channelwise": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.MaxPool2d(2)),
        "first:8",
    ),
    "average_pool": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.AvgPool2d(2)),
        "first:8",
    ),
    "adaptive_average_pool": (
        lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.AdaptiveAvgPool2d(2)),
        "first:8",
    ),
    "unfold": (
        lambda: between(
            lambda m, x: m.mid(F.unfold(x, 3).transpose(1, 2)), mid=nn.Linear(8 * 9, 3)
        ),
        "first:8",
    ),
    "fold": (
        lambda: between(
            lambda m, x: m.last(F.fold(m.mid(x).flatten(2), (17, 17), 3, stride=2)),
            6,
            mid=nn.Conv2d(8, 6 * 9, 1),
        ),
        "first:8 mid/0:6",
    ),
    "grid_sample": (
        lambda: between(
            lambda m, x: m.last(
                F.grid_sample(x, m.grid.expand(x.size(0), -1, -1, -1), align_corners=False)
            ),
            grid=vector(1, 6, 6, 2),
        ),
        "first:8",
    ),
    "channel_shuffle": (
        lambda: between(lambda m, x: m.last(F.channel_shuffle(x, 2))),
        "first/0:2 first/1:4",
    ),
    "pixel_shuffle": (
        lambda: between(lambda m, x: m.last(F.pixel_shuffle(x, 2)), 2),
        "first/0:2",
    ),
    "pixel_unshuffle": (
        lambda: between(lambda m, x: m.last(F.pixel_unshuffle(x, 2)), 32),
        "first:8",
    ),
    "add": (
        lambda: between(lambda m, x: m.last(x + m.mid(x)), mid=nn.Conv2d(8, 8, 1)),
        "first:8 add+:1",
    ),
    "elementwise": (lambda: between(lambda m, x: m.last(x.cos())), "first:8"),
    "reshape": (
        lambda: between(lambda m, x: m.mid(torch.flatten(x, 1)), mid=nn.Linear(8 * 8 * 8, 3)),
        "first:8",
    ),
    "permute": (
        lambda: between(lambda m, x: m.last(x.transpose(2, 3))),
        "first:8",
    ),
    "identity": (lambda: between(lambda m, x: m.last(x.contiguous())), "first:8"),
    "cat": (
        lambda: between(
            lambda m, x: m.last(torch.cat([m.mid(x), x], 1)), 13, mid=nn.Conv2d(8, 5, 1)
        ),
        "first:8 mid:5",
    ),
    "stack": (
        lambda: between(lambda m, x: m.last(torch.stack([x, x.cos()]).sum(0))),
        "first:8",
    ),
    "split": (
        lambda: between(lambda m, x: m.last(torch.cat(x.split([3, 5], 1)[::-1], 1))),
        "first[0:3]:3 first[3:8]:5",
    ),
    "broadcast_all": (
        lambda: between(lambda m, x: m.last(torch.broadcast_tensors(x, x.sigmoid())[1])),
        "first:8",
    ),
    "glu": (lambda: between(lambda m, x: m.last(F.glu(x, 1)), 4), "first[0:4]:4"),
    "prelu": (lambda: between(lambda m, x: m.last(m.mid(x)), mid=nn.PReLU(8)), "first:8"),
    "unbind": (lambda: between(_unbound, 4), "first/1:4"),
    "slice": (lambda: between(lambda m, x: m.last(x[:, 2:-1]), 5), "first[2:7]:5"),
    "select": (
        lambda: between(lambda m, x: m.mid(x[:, :, 0, 0]), mid=nn.Linear(8, 3)),
        "first:8",
    ),
    "gather": (
        lambda: between(
            lambda m, x: m.last(x.index_select(2, m.rows)),
            rows=nn.Buffer(torch.tensor([2, 0, 1, 5])),
        ),
        "first:8",
    ),
    "index_add": (
        lambda: between(
            lambda m, x: m.last(m.wide(x).index_add(1, m.places, m.mid(x))),
            10,
            wide=nn.Conv2d(8, 10, 1),
            mid=nn.Conv2d(8, 6, 1),
            places=nn.Buffer(torch.tensor([9, 0, 4, 2, 5, 8])),
        ),
        "mid:6 first:8 index_add+:1",
    ),
    "pad": (
        lambda: between(lambda m, x: m.last(F.pad(x, (0, 0, 0, 0, 2, 1))), 11),
        "first:8 last.weight:1[0:2]:2",
    ),
    "expand": (
        lambda: between(lambda m, x: m.last(x.mean(1, True).expand(-1, 6, -1, -1)), 6),
        "first:8 last.weight:1:6",
    ),
    "tile": (lambda: between(lambda m, x: m.last(x.repeat(1, 2, 1, 1)), 16), "first:8"),
    "take_along": (
        lambda: between(
            lambda m, x: m.last(x.gather(2, m.rows.expand(x.size(0), 8, -1, 8))),
            rows=nn.Buffer(torch.tensor([2, 0, 1]).view(1, 1, 3, 1)),
        ),
        "first:8",
    ),
    "ranked": (lambda: between(lambda m, x: m.last(x.sort(2)[0])), "first:8"),
    "topk": (lambda: between(lambda m, x: m.last(x.topk(3, 1)[0]), 3), "first:8"),
    **dict.fromkeys(("softmax", "histc", "cumsum"), _MIXTURE),
    "windows": (lambda: between(lambda m, x: m.last(x.unfold(2, 3, 2).sum(-1))), "first:8"),
    "overwrite": (
        lambda: between(_overwritten, mid=nn.Conv2d(8, 4, 1)),
        "first[0:4]:4 first[4:8]:4",
    ),
    "repeat_interleave": (
        lambda: between(lambda m, x: m.last(x.repeat_interleave(2, 1)), 16),
        "first:8",
    ),
    "reduce": (
        lambda: between(lambda m, x: m.last(x * x.mean(1, keepdim=True))),
        "first:8",
    ),
    "along": (lambda: between(lambda m, x: m.last(x.log_softmax(2))), "first:8"),
    "size": (
        lambda: between(lambda m, x: m.last(x / x.size(1) * x.shape[1])),
        "first:8",
    ),
    "fill": (
        lambda: between(
            lambda m, x: m.last(torch.cat([x, x.new_ones(x.size(0), 3, *x.shape[2:])], 1)), 11
        ),
        "first:8 last.weight:1[8:11]:3",
    ),
    "constant": (
        lambda: between(lambda m, x: m.last(x * torch.arange(8, dtype=torch.float64))),
        "first:8",
    ),
}
