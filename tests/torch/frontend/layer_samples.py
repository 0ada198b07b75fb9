"""Layers and what does their work, as torch says it: the groups that stay free, or why none do."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from tests.torch.frontend.bodies import UNCOUNTED, image, mid, rows, tokens
from tests.torch.samples import vector


def _global_response(m, x):
    length = x.norm(dim=(2, 3), keepdim=True)
    return m.p * (x * length / (length.mean(1, keepdim=True) + 0.1)) + m.q + x


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


def _digits(x):
    """Eight numbers below five for every image."""
    return (2 * x[:, :, 0, 0].abs()).clamp(max=4).long()


LAYERS = {
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
}
