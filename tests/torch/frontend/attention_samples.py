"""Attention, written in many ways, and torch's transformers: the groups that stay free."""

import torch
import torch.nn.functional as F
from torch import nn


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
        "first:8 f.query/0:2 f.value/1:3 f.read:8",
    ),
    "no softmax": (lambda: Attention(_linear), HEADS),
}


# Transformers ----------------------------------------------------------------------------------


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
