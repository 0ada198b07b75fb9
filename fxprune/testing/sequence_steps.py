"""The steps of random sequence networks, on (batch, length, channels)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from fxprune.testing.attention import Attention, forms
from fxprune.testing.chains import Place, Spelling, Step, parameter, spelled

CHANNELS = (4, 2, 3, 6, 8)
"""Numbers of channels that layers have."""


# Layers that compute; those that end in `_to` are given the number of channels they return -------


def linear_to(draw: DrawFn, place: Place, channels: int) -> Step:
    """A linear layer on the channels, in its many spellings."""
    layer = nn.Linear(place.channels, channels, bias=draw(st.booleans()))
    note = f"  # {place.channels} -> {channels}"
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            (text + note, run)
            for text, run in (
                ("x = linear(x)", lambda s, x: s.layer(x)),
                (
                    "x = F.linear(x, weight, bias)",
                    lambda s, x: F.linear(x, s.layer.weight, s.layer.bias),
                ),
                ("x = x @ weight + bias", lambda s, x: x @ s.weight + s.bias),
                (
                    "x = einsum('bnc,dc->bnd', x, weight)",
                    lambda s, x: torch.einsum("bnc,dc->bnd", x, s.layer.weight),
                ),
                (
                    "x = torch.addmm(bias, x.view(-1, c), weight).view(b, n, -1)",
                    lambda s, x: torch.addmm(s.bias, x.reshape(-1, x.size(-1)), s.weight).view(
                        *x.size()[:-1], channels
                    ),
                ),
                (
                    "x = conv1d(x.transpose(1, 2)).transpose(1, 2)",
                    lambda s, x: F.conv1d(
                        x.transpose(1, 2), s.layer.weight.unsqueeze(-1), s.layer.bias
                    ).transpose(1, 2),
                ),
            )
        ],
        {
            "layer": layer,
            "weight": parameter(place.channels, channels),
            "bias": parameter(channels),
        },
    )


def linear(draw: DrawFn, place: Place) -> Step:
    """A linear layer."""
    return linear_to(draw, place, draw(st.sampled_from(CHANNELS)))


def mlp_to(draw: DrawFn, place: Place, channels: int) -> Step:
    """Two linear layers with an activation between, or a unit that is gated."""
    hidden, bias = draw(st.sampled_from(CHANNELS)), draw(st.booleans())

    def layer(i: int, o: int) -> nn.Linear:
        return nn.Linear(i, o, bias=bias)

    def by_chunk(s: Any, x: Any) -> Any:
        a, b = s.both(x).chunk(2, dim=-1)
        return s.down(a * F.gelu(b).tanh())

    def by_norm(s: Any, x: Any) -> Any:
        x = s.norm(x)
        return s.down(F.silu(s.up(x)) * s.gate(x))

    def by_experts(s: Any, x: Any) -> Any:
        y = torch.einsum("bnc,ehc->bneh", x, s.experts).relu()
        return s.down(torch.einsum("bneh,bne->bnh", y, s.router(x).softmax(-1)))

    forms: list[tuple[str, Callable[[Any, Any], Any], tuple[str, ...]]] = [
        ("down(F.gelu(up(x)))", lambda s, x: s.down(F.gelu(s.up(x))), ("up",)),
        ("down(relu(up(x)).square())", lambda s, x: s.down(s.up(x).tanh().relu() ** 2), ("up",)),
        (
            "down(up(x) * sigmoid(gate(x)))",
            lambda s, x: s.down(s.up(x) * s.gate(x).sigmoid()),
            ("up", "gate"),
        ),
        ("down(F.glu(both(x)))", lambda s, x: s.down(F.glu(s.both(x), dim=-1)), ("both",)),
        ("a, b = both(x).chunk(2, -1); x = down(a * gelu(b).tanh())", by_chunk, ("both",)),
        ("y = norm(x); x = down(silu(up(y)) * gate(y))", by_norm, ("up", "gate", "norm")),
        ("down(sum of experts(x) by router(x).softmax(-1))", by_experts, ("experts", "router")),
    ]
    text, run, names = draw(st.sampled_from(forms))
    text = text if text.startswith(("a, b", "y =")) else f"x = {text}"
    parts: dict[str, nn.Module | Tensor] = {
        "up": layer(place.channels, hidden),
        "gate": layer(place.channels, hidden),
        "both": layer(place.channels, 2 * hidden),
        "norm": nn.LayerNorm(place.channels),
        "experts": parameter(2, hidden, place.channels),
        "router": nn.Linear(place.channels, 2),
    }
    return Step(
        f"{text}  # {place.channels} -> {hidden} -> {channels}{', bias' * bias}",
        replace(place, channels=channels),
        run,
        {name: parts[name] for name in names} | {"down": layer(hidden, channels)},
    )


def mlp(draw: DrawFn, place: Place) -> Step:
    """An MLP."""
    return mlp_to(draw, place, draw(st.sampled_from(CHANNELS)))


def attention_to(draw: DrawFn, place: Place, channels: int) -> Step:
    """Attention of a sequence to itself, written by hand."""
    form = forms(draw)
    layer = Attention(form, place.channels, channels, (place.length, place.length))
    return Step(
        f"x = attention(x)  # {place.channels} -> {channels}, {form}",
        replace(place, channels=channels),
        lambda s, x: s.layer(x),
        {"layer": layer},
    )


def attention(draw: DrawFn, place: Place) -> Step:
    """Attention of a sequence to itself."""
    return attention_to(draw, place, draw(st.sampled_from(CHANNELS)))


def multihead(draw: DrawFn, place: Place) -> Step:
    """`nn.MultiheadAttention`, or a layer with it."""
    heads = draw(st.sampled_from((1, *place.divisors)))
    bias, extra = draw(st.booleans()), draw(st.booleans())
    layer = nn.MultiheadAttention(
        place.channels, heads, bias=bias, add_bias_kv=extra, add_zero_attn=extra, batch_first=True
    )
    last = nn.MultiheadAttention(place.channels, heads, bias=bias)
    whole = nn.TransformerEncoderLayer(
        place.channels, heads, 3, 0.0, batch_first=True, norm_first=extra, activation="gelu"
    )
    blocked = torch.ones(place.length, place.length).triu(1).bool()

    def transposed(s: Any, x: Any) -> Any:
        y = x.transpose(0, 1)
        return s.layer(y, y, y, need_weights=False, attn_mask=s.blocked)[0].transpose(0, 1)

    def weighed(s: Any, x: Any) -> Any:
        y, weights = s.layer(x, x, x, average_attn_weights=False)
        return y * weights.amax((1, 3))[..., None]

    note = f"  # {heads} heads{', bias' * bias}"
    spellings: list[tuple[str, Callable[[Any, Any], Any], dict[str, nn.Module | Tensor]]] = [
        ("x = mha(x, x, x)[0]", lambda s, x: s.layer(x, x, x)[0], {"layer": layer}),
        (
            "x = mha(x, x, x, need_weights=False)[0]",
            lambda s, x: s.layer(x, x, x, need_weights=False)[0],
            {"layer": layer},
        ),
        (
            "x = mha(y, y, y, attn_mask=mask)[0].transpose(0, 1)  # y = x.transpose(0, 1)",
            transposed,
            {"layer": last, "blocked": blocked},
        ),
    ]
    if not extra:
        spellings.append(
            ("y, w = mha(x, x, x); x = y * w.amax((1, 3))[..., None]", weighed, {"layer": layer})
        )
    spellings.append(
        ("x = TransformerEncoderLayer(...)(x)", lambda s, x: s.layer(x), {"layer": whole})
    )
    text, run, parts = draw(st.sampled_from(spellings))
    return Step(text + note + ", extra" * extra, place, run, parts)


def recurrent_to(draw: DrawFn, place: Place, channels: int) -> Step:
    """A recurrent network over the tokens; in both directions for even numbers of channels."""
    kind: Callable[..., nn.Module] = draw(st.sampled_from((nn.LSTM, nn.GRU, nn.RNN)))
    both = channels % 2 == 0 and draw(st.booleans())
    layers, bias = draw(st.sampled_from((1, 2))), draw(st.booleans())
    hidden = channels // (1 + both)

    def layer(first: bool) -> nn.Module:
        return kind(
            place.channels, hidden, layers, bias=bias, batch_first=first, bidirectional=both
        )

    def summarised(s: Any, x: Any) -> Any:
        y, state = s.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        return y + state[-1].unsqueeze(1)

    note = f"  # {place.channels} -> {channels}" + f", {layers} layers" * (layers > 1)
    note += ", both directions" * both
    name = kind.__name__.lower()
    spellings: list[tuple[str, Callable[[Any, Any], Any], bool]] = [
        (f"x = {name}(x)[0]", lambda s, x: s.layer(x)[0], True),
        (
            f"x = {name}(x.transpose(0, 1))[0].transpose(0, 1)",
            lambda s, x: s.layer(x.transpose(0, 1))[0].transpose(0, 1),
            False,
        ),
    ]
    if not both:
        spellings.append((f"y, h = {name}(x); x = y + h[-1].unsqueeze(1)", summarised, True))
    text, run, first = draw(st.sampled_from(spellings))
    return Step(
        text + note + ", bias" * bias,
        replace(place, channels=channels),
        run,
        {"layer": layer(first)},
    )


def recurrent(draw: DrawFn, place: Place) -> Step:
    """A recurrent network."""
    return recurrent_to(draw, place, draw(st.sampled_from(CHANNELS)))


def convolution_to(draw: DrawFn, place: Place, channels: int) -> Step:
    """A convolution over the tokens: plain, in groups, or of what came before only."""
    common = [n for n in (1, *place.divisors) if channels % n == 0]
    groups = draw(st.sampled_from(common))
    layer = nn.Conv1d(place.channels, channels, 3, padding=1, groups=groups)
    causal = nn.Conv1d(place.channels, channels, 3, padding=2, groups=groups)
    note = f"  # {place.channels} -> {channels}" + f", groups {groups}" * (groups > 1)
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            (
                "x = conv3(x.transpose(1, 2)).transpose(1, 2)" + note,
                lambda s, x: s.layer(x.transpose(1, 2)).transpose(1, 2),
            ),
            (
                "x = conv3(x.mT)[..., :-2].mT" + note,
                lambda s, x: s.causal(x.mT)[..., :-2].mT,
            ),
            (
                "x = F.conv1d(F.pad(x.permute(0, 2, 1), (2, 0)), ...).permute(0, 2, 1)" + note,
                lambda s, x: F.conv1d(
                    F.pad(x.permute(0, 2, 1), (2, 0)), s.layer.weight, s.layer.bias, groups=groups
                ).permute(0, 2, 1),
            ),
        ],
        {"layer": layer, "causal": causal},
    )


def convolution(draw: DrawFn, place: Place) -> Step:
    """A convolution over the tokens."""
    return convolution_to(draw, place, draw(st.sampled_from(CHANNELS)))


def token_mixing(draw: DrawFn, place: Place) -> Step:
    """Tokens are mixed by weights that do not depend on them, every channel alike."""
    hidden, n = draw(st.sampled_from(CHANNELS)), place.length
    return spelled(
        draw,
        place,
        [
            (
                "x = einsum('bnc,mn->bmc', x, mix)",
                lambda s, x: torch.einsum("bnc,mn->bmc", x, s.mix),
            ),
            (
                f"x = down(gelu(up(x.transpose(1, 2)))).transpose(1, 2)  # by {hidden}",
                lambda s, x: s.down(F.gelu(s.up(x.transpose(1, 2)))).transpose(1, 2),
            ),
            ("x = mix @ x", lambda s, x: s.mix @ x),
            ("x = x - x.mean(1, keepdim=True)", lambda s, x: x - x.mean(1, keepdim=True)),
            ("x = x.cumsum(1) / length", lambda s, x: x.cumsum(1) / n),
            ("x = x.flip(1)", lambda s, x: x.flip(1)),
            ("x = torch.roll(x, 1, 1)", lambda s, x: torch.roll(x, 1, 1)),
        ],
        {"mix": parameter(n, n), "up": nn.Linear(n, hidden), "down": nn.Linear(hidden, n)},
    )


# Layers that carry -------------------------------------------------------------------------------


def _rms(x: Any) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _standard(x: Any) -> Any:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt((x - mean).square().mean(-1, keepdim=True) + 1e-5)


NORMS: list[Spelling] = [
    ("norm(x)", lambda s, x: s.norm(x)),
    ("F.layer_norm(x, (c,))", lambda s, x: F.layer_norm(x, x.shape[-1:])),
    (
        "F.layer_norm(x, (c,), weight, bias)",
        lambda s, x: F.layer_norm(x, (x.size(-1),), s.norm.weight, s.norm.bias),
    ),
    ("rms_norm(x)", lambda s, x: s.rms_norm(x)),
    ("F.rms_norm(x, (c,))", lambda s, x: F.rms_norm(x, (x.shape[-1],), eps=1e-6)),
    ("x * rsqrt(x.pow(2).mean(-1, True) + eps) * weight", lambda s, x: _rms(x) * s.norm.weight),
    ("(x - mean) / sqrt(var + eps) * weight", lambda s, x: s.norm.weight * _standard(x)),
    (
        "(x - x.mean(-1, True)) / (x.std(-1, keepdim=True, unbiased=False) + 1) * weight",
        lambda s, x: (
            (x - x.mean(-1, True)) / (x.std(-1, keepdim=True, unbiased=False) + 1) * s.norm.weight
        ),
    ),
    ("F.normalize(x, dim=-1)", lambda s, x: F.normalize(x, dim=-1)),
    (
        "x / x.norm(dim=-1, keepdim=True).clamp(min=0.1)",
        lambda s, x: x / x.norm(dim=-1, keepdim=True).clamp(min=0.1),
    ),
    (
        "batch_norm(x.transpose(1, 2)).transpose(1, 2)",
        lambda s, x: s.batch_norm(x.transpose(1, 2)).transpose(1, 2),
    ),
]
"""Normalisations of every token; their parts are those of `norm_parts`."""


def norm_parts(channels: int) -> dict[str, nn.Module | Tensor]:
    """What the spellings of `NORMS` use."""
    return {
        "norm": nn.LayerNorm(channels),
        "rms_norm": nn.RMSNorm(channels, eps=1e-6),
        "batch_norm": nn.BatchNorm1d(channels),
    }


def normalisation(draw: DrawFn, place: Place) -> Step:
    """A normalisation of every token."""
    text, run = draw(st.sampled_from(NORMS))
    return Step(f"x = {text}", place, run, norm_parts(place.channels))


def in_place(draw: DrawFn, place: Place) -> Step:
    """What overwrites its operand, whole or in part; such a network may not be differentiable."""
    part = draw(st.integers(1, place.channels))

    def add(s: Any, x: Any) -> Any:
        x += s.bias
        return x

    def set_first(s: Any, x: Any) -> Any:
        x[:, 0] = 0.5
        return x

    def add_first(s: Any, x: Any) -> Any:
        x[:, 0] += s.bias
        return x

    def scale_part(s: Any, x: Any) -> Any:
        x[..., :part].mul_(2)
        return x

    return spelled(
        draw,
        place,
        [
            ("x += bias", add),
            ("x = x.add_(bias)", lambda s, x: x.add_(s.bias)),
            ("x = F.relu_(x)", lambda s, x: F.relu_(x)),
            ("x[:, 0] = 0.5", set_first),
            ("x[:, 0] += bias", add_first),
            (f"x[..., :{part}].mul_(2)", scale_part),
        ],
        {"bias": parameter(place.channels)},
    )


def slice_write(draw: DrawFn, place: Place) -> Step:
    """A new array is filled slice by slice."""
    part, c = draw(st.integers(1, place.channels)), place.channels

    def shifted(s: Any, x: Any) -> Any:
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, :-1]
        return y + s.bias

    def some(s: Any, x: Any) -> Any:
        y = x.clone()
        y[..., :part] = y[..., :part].sigmoid()
        return y

    def last(s: Any, x: Any) -> Any:
        y = x.clone()
        y[:, -1] = s.bias
        return y

    def widened(s: Any, x: Any) -> Any:
        y = x.new_zeros(x.shape[0], x.shape[1], c + part)
        y[:, :, part:] = x
        return y

    def twice(s: Any, x: Any) -> Any:
        b, n, _ = x.shape
        y = torch.empty(b, n, 2 * c, dtype=x.dtype)
        y[..., :c] = x
        y[..., c:] = torch.sigmoid(x)
        return y

    def every_other(s: Any, x: Any) -> Any:
        y = x * s.bias
        y[:, ::2] += x[:, ::2]
        return y

    text, run, channels = draw(
        st.sampled_from(
            [
                ("y = zeros_like(x); y[:, 1:] = x[:, :-1]; x = y + bias", shifted, c),
                (f"y = x.clone(); y[..., :{part}] = sigmoid(y[..., :{part}]); x = y", some, c),
                ("y = x.clone(); y[:, -1] = bias; x = y", last, c),
                (f"y = x.new_zeros(...); y[:, :, {part}:] = x; x = y", widened, c + part),
                ("y = empty(...); y[..., :c] = x; y[..., c:] = sigmoid(x); x = y", twice, 2 * c),
                ("y = x * bias; y[:, ::2] += x[:, ::2]; x = y", every_other, c),
            ]
        )
    )
    return Step(text, replace(place, channels=channels), run, {"bias": parameter(c)})


def layer_scale(draw: DrawFn, place: Place) -> Step:
    """A factor or term per channel, per token, or both, held by the model itself."""
    c, n = place.channels, place.length
    return spelled(
        draw,
        place,
        [
            ("x = x * gamma", lambda s, x: x * s.gamma),
            ("x = gamma * x + beta", lambda s, x: s.gamma * x + s.beta),
            ("x = x + position", lambda s, x: x + s.position),
            ("x = x + positions(arange(n))", lambda s, x: x + s.positions(torch.arange(n))),
            ("x = x + position[:, :x.size(1)]", lambda s, x: x + s.position[:, : x.size(1)]),
            ("x = torch.addcmul(beta, x, gamma)", lambda s, x: torch.addcmul(s.beta, x, s.gamma)),
            (
                "x = torch.lerp(x, x.roll(1, 1), gamma)",
                lambda s, x: torch.lerp(x, x.roll(1, 1), s.gamma),
            ),
        ],
        {
            "gamma": parameter(c),
            "beta": parameter(c),
            "position": parameter(1, n, c),
            "positions": nn.Embedding(n, c),
        },
    )


def zero_dropout(draw: DrawFn, place: Place) -> Step:
    """Dropout that drops nothing."""
    return spelled(
        draw,
        place,
        [
            ("x = dropout(x)", lambda s, x: s.layer(x)),
            ("x = F.dropout(x, 0.0, self.training)", lambda s, x: F.dropout(x, 0.0, s.training)),
        ],
        {"layer": nn.Dropout(0.0)},
    )


# Layers that move channels or tokens -------------------------------------------------------------


def channel_mixing(draw: DrawFn, place: Place) -> Step:
    """A factor or term computed over all channels, or per channel over all tokens."""
    c = place.channels

    def covariance(s: Any, x: Any) -> Any:
        y = F.normalize(x, dim=1)
        return torch.einsum("bcd,bnd->bnc", torch.einsum("bnc,bnd->bcd", y, y).softmax(-1), x)

    return spelled(
        draw,
        place,
        [
            (
                "x = x * sigmoid(x.mean(-1, keepdim=True))",
                lambda s, x: x * x.mean(-1, True).sigmoid(),
            ),
            (
                "x = x * sigmoid(linear(x.mean(1)))[:, None]",
                lambda s, x: x * s.layer(x.mean(1)).sigmoid()[:, None],
            ),
            ("x = x - x.amax(-1, keepdim=True)", lambda s, x: x - x.amax(-1, keepdim=True)),
            ("x = x + x.sum(-1).tanh()[..., None]", lambda s, x: x + x.sum(-1).tanh()[..., None]),
            ("x = x * score(x).softmax(1)", lambda s, x: x * s.score(x).softmax(1)),
            ("x = x of channels by softmax(y.mT @ y)  # y = normalize(x)", covariance),
        ],
        {"layer": nn.Linear(c, c), "score": nn.Linear(c, 1)},
    )


def gated_unit(draw: DrawFn, place: Place) -> Step:
    """Half of the channels gates the other half."""

    def by_chunk(s: Any, x: Any) -> Any:
        a, b = x.chunk(2, dim=-1)
        return a * torch.sigmoid(b)

    def by_view(s: Any, x: Any) -> Any:
        y = x.reshape(*x.shape[:-1], -1, 2)
        return y[..., 0] * y[..., 1].tanh()

    def by_unbind(s: Any, x: Any) -> Any:
        a, b = x.unflatten(-1, (2, -1)).unbind(-2)
        return a.sigmoid() * b

    return spelled(
        draw,
        replace(place, channels=place.channels // 2),
        [
            ("a, b = x.chunk(2, -1); x = a * sigmoid(b)", by_chunk),
            ("x = F.glu(x)", lambda s, x: F.glu(x)),
            ("y = x.reshape(b, n, -1, 2); x = y[..., 0] * y[..., 1].tanh()", by_view),
            ("a, b = x.unflatten(-1, (2, -1)).unbind(-2); x = a.sigmoid() * b", by_unbind),
        ],
    )


def channel_slice(draw: DrawFn, place: Place) -> Step:
    """Some consecutive channels."""
    start = draw(st.integers(0, place.channels - 1))
    stop = draw(st.integers(start + 1, place.channels))
    return spelled(
        draw,
        replace(place, channels=stop - start),
        [
            (f"x = x[..., {start}:{stop}]", lambda s, x: x[..., start:stop]),
            (
                f"x = x.narrow(-1, {start}, {stop - start})",
                lambda s, x: x.narrow(-1, start, stop - start),
            ),
        ],
    )


def merging(draw: DrawFn, place: Place) -> Step:
    """Two tokens become one of twice the channels."""

    def by_cat(s: Any, x: Any) -> Any:
        return torch.cat((x[:, ::2], x[:, 1::2]), -1)

    half = place.length // 2
    return spelled(
        draw,
        replace(place, channels=2 * place.channels, size=(half,)),
        [
            (f"x = x.reshape(-1, {half}, 2 * c)", lambda s, x: x.reshape(-1, half, 2 * x.size(-1))),
            ("x = torch.cat((x[:, ::2], x[:, 1::2]), -1)", by_cat),
        ],
    )


def parting(draw: DrawFn, place: Place) -> Step:
    """A token becomes two of half the channels."""
    after = replace(place, channels=place.channels // 2, size=(2 * place.length,))
    return spelled(
        draw,
        after,
        [
            (
                "x = x.reshape(b, 2 * n, c // 2)",
                lambda s, x: x.reshape(x.size(0), 2 * x.size(1), x.size(2) // 2),
            ),
            ("x = torch.cat(x.chunk(2, -1), 1)", lambda s, x: torch.cat(x.chunk(2, -1), 1)),
        ],
    )


def tokens(draw: DrawFn, place: Place) -> Step:
    """Tokens are left out, or learned ones come to the others."""
    more = draw(st.sampled_from((1, 2)))
    n = place.length
    forms: list[tuple[str, Callable[[Any, Any], Any], int]] = [
        (
            f"x = torch.cat([extra.expand(b, -1, -1), x], 1)  # {more} more",
            lambda s, x: torch.cat([s.extra.expand(x.shape[0], -1, -1), x], 1),
            n + more,
        ),
        (
            f"x = torch.cat([x, extra.repeat(b, 1, 1)], 1)  # {more} more",
            lambda s, x: torch.cat([x, s.extra.repeat(x.size(0), 1, 1)], 1),
            n + more,
        ),
    ]
    if n > 2:
        forms += [
            ("x = x[:, 1:]", lambda s, x: x[:, 1:], n - 1),
            ("x = x[:, ::2]", lambda s, x: x[:, ::2], (n + 1) // 2),
            ("x = x.unfold(1, 2, 1).mean(-1)", lambda s, x: x.unfold(1, 2, 1).mean(-1), n - 1),
        ]
    text, run, length = draw(st.sampled_from(forms))
    return Step(
        text, replace(place, size=(length,)), run, {"extra": parameter(1, more, place.channels)}
    )


def latents(draw: DrawFn, place: Place) -> Step:
    """Learned queries attend to the sequence and take its place."""
    number, channels = draw(st.sampled_from((3, 2))), draw(st.sampled_from(CHANNELS))
    form = forms(draw)
    layer = Attention(form, channels, channels, (number, place.length), other=place.channels)
    return Step(
        f"x = attention(queries.expand(b, -1, -1), x)  # {number} x {channels}, {form}",
        replace(place, channels=channels, size=(number,)),
        lambda s, x: s.layer(s.queries.expand(x.shape[0], -1, -1), x),
        {"layer": layer, "queries": parameter(1, number, channels)},
    )


def pinning(draw: DrawFn, place: Place) -> Step:
    """What the passes cannot express, so that its channels must stay."""
    return spelled(
        draw,
        place,
        [
            ("x = x.softmax(-1)", lambda s, x: x.softmax(-1)),
            ("x = x.flip(-1)", lambda s, x: x.flip(-1)),
            ("x = x.cumsum(-1)", lambda s, x: x.cumsum(-1)),
            ("x = x.sort(-1)[0]", lambda s, x: x.sort(-1)[0]),
            ("x = x + x[..., :1] + x[..., 0, None]", lambda s, x: x + x[..., 0, None]),
            ("x = x + x.argmax(-1, keepdim=True)", lambda s, x: x + x.argmax(-1, keepdim=True)),
        ],
    )
