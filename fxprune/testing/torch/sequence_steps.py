"""The steps of random sequence networks, on (batch, length, channels)."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch.attention import attention as written
from fxprune.testing.torch.attention import forms
from fxprune.testing.torch.programs import Context, Step, spelled

CHANNELS = (4, 2, 3, 6, 8)
"""Numbers of channels that layers have."""


def parameter(*shape: int) -> str:
    """A parameter whose values come later."""
    return f"nn.Parameter(torch.zeros{shape})" if len(shape) > 1 else _vector(*shape)


def _vector(size: int) -> str:
    return f"nn.Parameter(torch.zeros({size}))"


# Layers that compute; those that end in `_to` are given the number of channels they return -------


def linear_to(draw: DrawFn, place: Context, channels: int) -> Step:
    """A linear layer on the channels, in its many spellings."""
    bias = draw(st.booleans())
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            "x = self.linear(x)",
            "x = F.linear(x, self.linear.weight, self.linear.bias)",
            "x = x @ self.weight + self.bias",
            'x = torch.einsum("bnc,dc->bnd", x, self.linear.weight)',
            "y = torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight)\n"
            f"x = y.view(*x.size()[:-1], {channels})",
            "y = F.conv1d(x.transpose(1, 2), self.linear.weight.unsqueeze(-1), self.linear.bias)\n"
            "x = y.transpose(1, 2)",
        ],
        {
            "linear": f"nn.Linear({place.channels}, {channels}, bias={bias})",
            "weight": parameter(place.channels, channels),
            "bias": parameter(channels),
        },
    )


def linear(draw: DrawFn, place: Context) -> Step:
    """A linear layer."""
    return linear_to(draw, place, draw(st.sampled_from(CHANNELS)))


def mlp_to(draw: DrawFn, place: Context, channels: int) -> Step:
    """Two linear layers with an activation between, or a unit that is gated."""
    c, hidden, bias = place.channels, draw(st.sampled_from(CHANNELS)), draw(st.booleans())
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            "x = self.down(F.gelu(self.up(x)))",
            "x = self.down(self.up(x).tanh().relu() ** 2)",
            "x = self.down(self.up(x) * self.gate(x).sigmoid())",
            "x = self.down(F.glu(self.both(x), dim=-1))",
            "a, b = self.both(x).chunk(2, dim=-1)\nx = self.down(a * F.gelu(b).tanh())",
            "x = self.norm(x)\nx = self.down(F.silu(self.up(x)) * self.gate(x))",
            'y = torch.einsum("bnc,ehc->bneh", x, self.experts).relu()\n'
            'y = torch.einsum("bneh,bne->bnh", y, self.router(x).softmax(-1))\n'
            "x = self.down(y)",
        ],
        {
            "up": f"nn.Linear({c}, {hidden}, bias={bias})",
            "gate": f"nn.Linear({c}, {hidden}, bias={bias})",
            "both": f"nn.Linear({c}, {2 * hidden}, bias={bias})",
            "norm": f"nn.LayerNorm({c})",
            "experts": parameter(2, hidden, c),
            "router": f"nn.Linear({c}, 2)",
            "down": f"nn.Linear({hidden}, {channels}, bias={bias})",
        },
    )


def mlp(draw: DrawFn, place: Context) -> Step:
    """An MLP."""
    return mlp_to(draw, place, draw(st.sampled_from(CHANNELS)))


def bilinear(draw: DrawFn, place: Context) -> Step:
    """Channels are multiplied with each other, or with those of the token before."""
    c, channels = place.channels, draw(st.sampled_from(CHANNELS))
    return spelled(
        draw,
        replace(place, channels=channels),
        ["x = self.bilinear(x, x.tanh())", "x = self.bilinear(x, x.roll(1, 1))"],
        {"bilinear": f"nn.Bilinear({c}, {c}, {channels})"},
    )


def attention_to(draw: DrawFn, place: Context, channels: int) -> Step:
    """Attention of a sequence to itself, written by hand."""
    block = written(forms(draw), place.channels, channels, (place.length, place.length))
    return Step("x = self.attention(x)", replace(place, channels=channels), {"attention": block})


def attention(draw: DrawFn, place: Context) -> Step:
    """Attention of a sequence to itself."""
    return attention_to(draw, place, draw(st.sampled_from(CHANNELS)))


def multihead(draw: DrawFn, place: Context) -> Step:
    """`nn.MultiheadAttention`, or a layer with it."""
    c, n = place.channels, place.length
    heads = draw(st.sampled_from((1, *place.divisors)))
    bias, extra = draw(st.booleans()), draw(st.booleans())
    spellings = [
        "x = self.mha(x, x, x)[0]",
        "x = self.mha(x, x, x, need_weights=False)[0]",
        "y = x.transpose(0, 1)\n"
        "y, _ = self.first(y, y, y, need_weights=False, attn_mask=self.blocked)\n"
        "x = y.transpose(0, 1)",
        "x = self.encoder(x)",
    ]
    if not extra:
        weighed = "y, w = self.mha(x, x, x, average_attn_weights=False)\n"
        spellings.insert(3, weighed + "x = y * w.amax((1, 3))[..., None]")
    more = ", add_bias_kv=True, add_zero_attn=True" * extra
    first = f', norm_first={extra}, activation="gelu"'
    return spelled(
        draw,
        place,
        spellings,
        {
            "mha": f"nn.MultiheadAttention({c}, {heads}, bias={bias}{more}, batch_first=True)",
            "first": f"nn.MultiheadAttention({c}, {heads}, bias={bias})",
            "blocked": f"torch.ones({n}, {n}).triu(1).bool()",
            "encoder": "nn.TransformerEncoderLayer("
            f"{c}, {heads}, 3, dropout=0.0, batch_first=True{first})",
        },
    )


def recurrent_to(draw: DrawFn, place: Context, channels: int) -> Step:
    """A recurrent network over the tokens; in both directions for even numbers of channels."""
    kind = draw(st.sampled_from(("LSTM", "GRU", "RNN")))
    both = channels % 2 == 0 and draw(st.booleans())
    layers, bias = draw(st.sampled_from((1, 2))), draw(st.booleans())
    settings = f"{place.channels}, {channels // (1 + both)}, num_layers={layers}, bias={bias}"
    settings += ", bidirectional=True" * both
    spellings = [
        "x, _ = self.cell(x)",
        "y, _ = self.time_first(x.transpose(0, 1))\nx = y.transpose(0, 1)",
    ]
    if not both:
        state = "state[0]" if kind == "LSTM" else "state"
        spellings.append(f"y, state = self.cell(x)\nx = y + {state}[-1].unsqueeze(1)")
    return spelled(
        draw,
        replace(place, channels=channels),
        spellings,
        {
            "cell": f"nn.{kind}({settings}, batch_first=True)",
            "time_first": f"nn.{kind}({settings})",
        },
    )


def recurrent(draw: DrawFn, place: Context) -> Step:
    """A recurrent network."""
    return recurrent_to(draw, place, draw(st.sampled_from(CHANNELS)))


def convolution_to(draw: DrawFn, place: Context, channels: int) -> Step:
    """A convolution over the tokens: plain, in groups, or of what came before only."""
    common = [n for n in (1, *place.divisors) if channels % n == 0]
    groups = draw(st.sampled_from(common))
    conv = f"nn.Conv1d({place.channels}, {channels}, 3, padding={{}}, groups={groups})"
    parameters = f"self.conv.weight, self.conv.bias, groups={groups}"
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            "x = self.conv(x.transpose(1, 2)).transpose(1, 2)",
            "x = self.causal(x.mT)[..., :-2].mT",
            "y = F.pad(x.permute(0, 2, 1), (2, 0))\n"
            f"x = F.conv1d(y, {parameters}).permute(0, 2, 1)",
        ],
        {"conv": conv.format(1), "causal": conv.format(2)},
    )


def convolution(draw: DrawFn, place: Context) -> Step:
    """A convolution over the tokens."""
    return convolution_to(draw, place, draw(st.sampled_from(CHANNELS)))


def token_mixing(draw: DrawFn, place: Context) -> Step:
    """Tokens are mixed by weights that do not depend on them, every channel alike."""
    hidden, n = draw(st.sampled_from(CHANNELS)), place.length
    return spelled(
        draw,
        place,
        [
            'x = torch.einsum("bnc,mn->bmc", x, self.mix)',
            "x = self.down(F.gelu(self.up(x.transpose(1, 2)))).transpose(1, 2)",
            "x = self.mix @ x",
            "x = x - x.mean(1, keepdim=True)",
            f"x = x.cumsum(1) / {n}",
            "x = x.flip(1)",
            "x = torch.roll(x, 1, 1)",
        ],
        {
            "mix": parameter(n, n),
            "up": f"nn.Linear({n}, {hidden})",
            "down": f"nn.Linear({hidden}, {n})",
        },
    )


# Layers that carry -------------------------------------------------------------------------------


def normalisation(draw: DrawFn, place: Context) -> Step:
    """A normalisation of every token."""
    c = place.channels
    mean = "mean = x.mean(-1, keepdim=True)\n"
    variance = "var = (x - mean).square().mean(-1, keepdim=True)\n"
    return spelled(
        draw,
        place,
        [
            "x = self.norm(x)",
            "x = F.layer_norm(x, x.shape[-1:])",
            "x = F.layer_norm(x, (x.size(-1),), self.norm.weight, self.norm.bias)",
            "x = self.rms_norm(x)",
            "x = F.rms_norm(x, (x.shape[-1],), eps=1e-6)",
            "x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm.weight",
            mean + variance + "x = self.norm.weight * ((x - mean) / torch.sqrt(var + 1e-5))",
            mean + "std = x.std(-1, keepdim=True, unbiased=False)\n"
            "x = (x - mean) / (std + 1) * self.norm.weight",
            "x = F.normalize(x, dim=-1)",
            "x = x / x.norm(dim=-1, keepdim=True).clamp(min=0.1)",
            "x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)",
        ],
        {
            "norm": f"nn.LayerNorm({c})",
            "rms_norm": f"nn.RMSNorm({c}, eps=1e-6)",
            "batch_norm": f"nn.BatchNorm1d({c})",
        },
    )


def in_place(draw: DrawFn, place: Context) -> Step:
    """What overwrites its operand, whole or in part; such a network may not be differentiable."""
    part = draw(st.integers(1, place.channels))
    return spelled(
        draw,
        place,
        [
            "x += self.bias",
            "x = x.add_(self.bias)",
            "x = F.relu_(x)",
            "x[:, 0] = 0.5",
            "x[:, 0] += self.bias",
            f"x[..., :{part}].mul_(2)",
        ],
        {"bias": parameter(place.channels)},
    )


def slice_write(draw: DrawFn, place: Context) -> Step:
    """A new array is filled slice by slice."""
    part, c = draw(st.integers(1, place.channels)), place.channels
    code, channels = draw(
        st.sampled_from(
            [
                ("y = torch.zeros_like(x)\ny[:, 1:] = x[:, :-1]\nx = y + self.bias", c),
                (f"x = x.clone()\nx[..., :{part}] = x[..., :{part}].sigmoid()", c),
                ("x = x.clone()\nx[:, -1] = self.bias", c),
                (
                    f"y = x.new_zeros(x.shape[0], x.shape[1], {c + part})\n"
                    f"y[:, :, {part}:] = x\nx = y",
                    c + part,
                ),
                (
                    f"y = torch.empty(x.shape[0], x.shape[1], {2 * c}, dtype=x.dtype)\n"
                    f"y[..., :{c}] = x\ny[..., {c}:] = torch.sigmoid(x)\nx = y",
                    2 * c,
                ),
                ("y = x * self.bias\ny[:, ::2] += x[:, ::2]\nx = y", c),
            ]
        )
    )
    return Step(code, replace(place, channels=channels), {"bias": parameter(c)})


def layer_scale(draw: DrawFn, place: Context) -> Step:
    """A factor or term per channel, per token, or both, held by the model itself."""
    c, n = place.channels, place.length
    return spelled(
        draw,
        place,
        [
            "x = x * self.gamma",
            "x = self.gamma * x + self.beta",
            "x = x + self.position",
            f"x = x + self.positions(torch.arange({n}))",
            "x = x + self.position[:, : x.size(1)]",
            "x = torch.addcmul(self.beta, x, self.gamma)",
            "x = torch.lerp(x, x.roll(1, 1), self.gamma)",
        ],
        {
            "gamma": parameter(c),
            "beta": parameter(c),
            "position": parameter(1, n, c),
            "positions": f"nn.Embedding({n}, {c})",
        },
    )


def zero_dropout(draw: DrawFn, place: Context) -> Step:
    """Dropout that drops nothing."""
    return spelled(
        draw,
        place,
        ["x = self.dropout(x)", "x = F.dropout(x, 0.0, self.training)"],
        {"dropout": "nn.Dropout(0.0)"},
    )


# Layers that move channels or tokens -------------------------------------------------------------


def channel_mixing(draw: DrawFn, place: Context) -> Step:
    """A factor or term computed over all channels, or per channel over all tokens."""
    c = place.channels
    return spelled(
        draw,
        place,
        [
            "x = x * x.mean(-1, keepdim=True).sigmoid()",
            "x = x * self.linear(x.mean(1)).sigmoid()[:, None]",
            "x = x - x.amax(-1, keepdim=True)",
            "x = x + x.sum(-1).tanh()[..., None]",
            "x = x * self.score(x).softmax(1)",
            "y = F.normalize(x, dim=1)\n"
            'w = torch.einsum("bnc,bnd->bcd", y, y).softmax(-1)\n'
            'x = torch.einsum("bcd,bnd->bnc", w, x)',
        ],
        {"linear": f"nn.Linear({c}, {c})", "score": f"nn.Linear({c}, 1)"},
    )


def gated_unit(draw: DrawFn, place: Context) -> Step:
    """Half of the channels gates the other half."""
    return spelled(
        draw,
        replace(place, channels=place.channels // 2),
        [
            "a, b = x.chunk(2, dim=-1)\nx = a * torch.sigmoid(b)",
            "x = F.glu(x)",
            "y = x.reshape(*x.shape[:-1], -1, 2)\nx = y[..., 0] * y[..., 1].tanh()",
            "a, b = x.unflatten(-1, (2, -1)).unbind(-2)\nx = a.sigmoid() * b",
        ],
    )


def channel_slice(draw: DrawFn, place: Context) -> Step:
    """Some consecutive channels."""
    start = draw(st.integers(0, place.channels - 1))
    stop = draw(st.integers(start + 1, place.channels))
    return spelled(
        draw,
        replace(place, channels=stop - start),
        [f"x = x[..., {start}:{stop}]", f"x = x.narrow(-1, {start}, {stop - start})"],
    )


def merging(draw: DrawFn, place: Context) -> Step:
    """Two tokens become one of twice the channels."""
    half = place.length // 2
    return spelled(
        draw,
        replace(place, channels=2 * place.channels, size=(half,)),
        [
            f"x = x.reshape(-1, {half}, 2 * x.size(-1))",
            "x = torch.cat((x[:, ::2], x[:, 1::2]), -1)",
        ],
    )


def parting(draw: DrawFn, place: Context) -> Step:
    """A token becomes two of half the channels."""
    return spelled(
        draw,
        replace(place, channels=place.channels // 2, size=(2 * place.length,)),
        [
            "x = x.reshape(x.size(0), 2 * x.size(1), x.size(2) // 2)",
            "x = torch.cat(x.chunk(2, -1), 1)",
        ],
    )


def tokens(draw: DrawFn, place: Context) -> Step:
    """Tokens are left out, or learned ones come to the others."""
    more = draw(st.sampled_from((1, 2)))
    n = place.length
    spellings = [
        ("x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)", n + more),
        ("x = torch.cat([x, self.extra.repeat(x.size(0), 1, 1)], 1)", n + more),
    ]
    if n > 2:
        spellings += [
            ("x = x[:, 1:]", n - 1),
            ("x = x[:, ::2]", (n + 1) // 2),
            ("x = x.unfold(1, 2, 1).mean(-1)", n - 1),
        ]
    code, length = draw(st.sampled_from(spellings))
    return Step(code, replace(place, size=(length,)), {"extra": parameter(1, more, place.channels)})


def latents(draw: DrawFn, place: Context) -> Step:
    """Learned queries attend to the sequence and take its place."""
    number, channels = draw(st.sampled_from((3, 2))), draw(st.sampled_from(CHANNELS))
    block = written(forms(draw), channels, channels, (number, place.length), other=place.channels)
    return Step(
        "x = self.attention(self.queries.expand(x.shape[0], -1, -1), x)",
        replace(place, channels=channels, size=(number,)),
        {"attention": block, "queries": parameter(1, number, channels)},
    )


def pinning(draw: DrawFn, place: Context) -> Step:
    """What the passes cannot express, so that its channels must stay."""
    return spelled(
        draw,
        place,
        [
            "x = x.softmax(-1)",
            "x = x.flip(-1)",
            "x = x.cumsum(-1)",
            "x = x.sort(-1)[0]",
            "x = x + x[..., 0, None]",
            "x = x * x[..., ::2].mean(-1, keepdim=True)",
            "x = x + x.argmax(-1, keepdim=True)",
        ],
    )
