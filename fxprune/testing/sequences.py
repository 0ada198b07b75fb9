"""Random sequence networks: stem, composite steps, head, and the table of all kinds of steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from fxprune.testing import image_steps
from fxprune.testing import sequence_steps as steps
from fxprune.testing.attention import Attention, forms
from fxprune.testing.chains import (
    Example,
    Family,
    Kind,
    Place,
    Spelling,
    Step,
    always,
    even,
    inner_text,
    inside,
    nests,
    parameter,
    several,
)
from fxprune.testing.sequence_steps import CHANNELS

_VOCABULARY = 7
_FEATURES = 3


# How networks start ------------------------------------------------------------------------------


def stem(draw: DrawFn) -> tuple[Step, Example]:
    """Features or tokens are embedded; an MLP follows, so that something can always be pruned."""
    return draw(st.sampled_from((_features, _tokens)))(draw)


def _features(draw: DrawFn) -> tuple[Step, Example]:
    length = draw(st.sampled_from((4, 3, 6)))
    wide, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    step = Step(
        f"x = linear(relu(linear(x)))  # {_FEATURES} -> {wide} -> {channels}",
        Place(channels, (length,)),
        lambda s, x: s.second(F.relu(s.first(x))),
        {"first": nn.Linear(_FEATURES, wide), "second": nn.Linear(wide, channels)},
    )

    def example(generator: torch.Generator) -> Tensor:
        return torch.randn(2, length, _FEATURES, dtype=torch.float64, generator=generator)

    return step, example


def _tokens(draw: DrawFn) -> tuple[Step, Example]:
    length = draw(st.sampled_from((4, 3, 6)))
    channels, hidden = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    extra = draw(st.integers(0, 1))
    table = torch.arange(length)

    def embedded(s: Any, x: Any) -> Any:
        return s.embedding(x) + s.positions(s.table)

    spellings: list[Spelling] = [
        ("x = embedding(x) + position", lambda s, x: s.embedding(x) + s.position),
        ("x = embedding(x) + positions(arange)", embedded),
        (
            "x = embedding(x) + positions(torch.arange(x.size(1)))",
            lambda s, x: s.embedding(x) + s.positions(torch.arange(x.size(1))),
        ),
        (
            "x = F.embedding(x, weight) * c ** 0.5 + sinusoids",
            lambda s, x: F.embedding(x, s.embedding.weight) * channels**0.5 + s.sinusoids,
        ),
    ]
    text, embed = draw(st.sampled_from(spellings))

    def run(s: Any, x: Any) -> Any:
        x = embed(s, x)
        if extra:
            x = torch.cat([s.cls.expand(x.shape[0], -1, -1), x], 1)
        return x + s.down(F.gelu(s.up(x)))

    lines = [text + f"  # {_VOCABULARY} -> {channels}"]
    lines += ["x = torch.cat([cls.expand(b, -1, -1), x], 1)"] * extra
    lines += [f"x = x + linear(gelu(linear(x)))  # by {hidden}"]
    parts: dict[str, nn.Module | Tensor] = {
        "embedding": nn.Embedding(_VOCABULARY, channels),
        "up": nn.Linear(channels, hidden),
        "down": nn.Linear(hidden, channels),
        "position": parameter(1, length, channels),
        "positions": nn.Embedding(length, channels),
        "table": table,
        "sinusoids": torch.outer(table, torch.arange(1, channels + 1)).sin(),
        "cls": parameter(1, 1, channels),
    }
    step = Step("\n".join(lines), Place(channels, (length + extra,)), run, parts)

    def example(generator: torch.Generator) -> Tensor:
        return torch.randint(_VOCABULARY, (2, length), generator=generator)

    return step, example


# Composite steps ---------------------------------------------------------------------------------


_ADDITIONS: list[Spelling] = [
    ("x = x + inner(x)", lambda s, x: x + s.inner(x)),
    ("x = inner(x) + x", lambda s, x: s.inner(x) + x),
    ("x = inner(x).add_(x)", lambda s, x: s.inner(x).add_(x)),
    ("x = torch.add(x, inner(x), alpha=0.5)", lambda s, x: torch.add(x, s.inner(x), alpha=0.5)),
    ("x = x + gamma * inner(x)", lambda s, x: x + s.gamma * s.inner(x)),
    ("x = x + dropout(inner(x))", lambda s, x: x + F.dropout(s.inner(x), 0.0, s.training)),
]


def _to(draw: DrawFn, place: Place, channels: int) -> Step:
    """A step that computes `channels`: a linear layer, or one of the kinds that may stand here."""
    builds = [to for name, to in _COMPUTING.items() if SEQUENCE_KINDS[name] in place.kinds]
    return draw(st.sampled_from(builds or [steps.linear_to]))(draw, place, channels)


def residual(draw: DrawFn, place: Place) -> Step:
    """A chain is added to its own input; the input is normalised before, or the sum, or neither."""
    inner, after = inside(draw, place)
    inner.append(_to(draw, after, place.channels))
    text, add = draw(st.sampled_from(_ADDITIONS))
    order = draw(st.sampled_from(("plain", "before", "after")))
    parts: dict[str, nn.Module | Tensor] = {"inner": inner, "gamma": parameter(place.channels)}
    if order == "before":
        inner.insert(0, steps.normalisation(draw, place))
    if order == "after":
        norm = steps.normalisation(draw, place)
        parts["norm"] = norm
        return Step(
            f"{text}; {norm}  # inner:{inner_text(inner)}",
            place,
            lambda s, x: s.norm(add(s, x)),
            parts,
        )
    return Step(f"{text}  # inner:{inner_text(inner)}", place, add, parts)


def crossing(draw: DrawFn, place: Place) -> Step:
    """What a chain computes attends to the chain's input, or to some of its tokens."""
    inner, after = inside(draw, place)
    stride = draw(st.sampled_from((1, 2)))
    length = -(-place.length // stride)
    source = "x" if stride == 1 else f"x[:, ::{stride}]"
    note = f"inner:{inner_text(inner)}"
    if draw(st.booleans()):
        heads = draw(st.sampled_from((1, *after.divisors)))
        mha = nn.MultiheadAttention(
            after.channels, heads, kdim=place.channels, vdim=place.channels, batch_first=True
        )
        return Step(
            f"y = inner(x); x = y + mha(y, {source}, {source})[0]  # {heads} heads, {note}",
            after,
            lambda s, x: (y := s.inner(x)) + s.layer(y, x[:, ::stride], x[:, ::stride])[0],
            {"inner": inner, "layer": mha},
        )
    form = forms(draw)
    layer = Attention(
        form, after.channels, after.channels, (place.length, length), other=place.channels
    )
    return Step(
        f"y = inner(x); x = y + attention(y, {source})  # {form}, {note}",
        after,
        lambda s, x: (y := s.inner(x)) + s.layer(y, x[:, ::stride]),
        {"inner": inner, "layer": layer},
    )


def concatenation(draw: DrawFn, place: Place) -> Step:
    """Two chains side by side, or a chain beside its input."""
    names = ("second",) if draw(st.booleans()) else ("first", "second")
    parts: dict[str, nn.Sequential] = {}
    channels = place.channels * (len(names) == 1)
    for name in names:
        inner, after = inside(draw, place)
        last = _to(draw, after, draw(st.sampled_from(CHANNELS)))
        inner.append(last)
        channels += last.after.channels
        parts[name] = inner
    first = "first(x)" if len(names) == 2 else "x"
    text = f"x = torch.cat([{first}, second(x)], -1)"
    text += "".join(f"\n {name}:{inner_text(part)}" for name, part in parts.items())
    return Step(
        text,
        replace(place, channels=channels),
        lambda s, x: torch.cat([s.first(x) if len(names) == 2 else x, s.second(x)], -1),
        parts,
    )


def split_and_join(draw: DrawFn, place: Place) -> Step:
    """The channels are cut in two, one part is worked on, both are joined again."""
    first = draw(st.integers(1, place.channels - 1))
    second = place.channels - first
    inner, after = inside(draw, replace(place, channels=second))
    inner.insert(0, _to(draw, replace(place, channels=second), second))

    def run(s: Any, x: Any) -> Any:
        a, b = x.split([first, second], dim=-1)
        return torch.cat([s.inner(b), a], dim=-1)

    return Step(
        f"a, b = x.split([{first}, {second}], -1); x = cat([inner(b), a])  # inner:"
        + inner_text(inner),
        replace(place, channels=first + after.channels),
        run,
        {"inner": inner},
    )


def shared(draw: DrawFn, place: Place) -> Step:
    """One block of a residual stream, run twice."""
    inner = _to(draw, place, place.channels)

    def run(s: Any, x: Any) -> Any:
        x = x + s.inner(x)
        return x + s.inner(x)

    return Step(
        f"x = x + inner(x); x = x + inner(x)  # inner:\n  {inner}", place, run, {"inner": inner}
    )


# The table ---------------------------------------------------------------------------------------


def _small(place: Place) -> bool:
    return place.channels <= 12


def _not_shared(place: Place) -> bool:
    """What others read under another name must not be overwritten."""
    return place.memory != "view of shared"


SEQUENCE_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "linear": Kind(steps.linear, always),
        "activation": Kind(image_steps.activation, always),
        "normalisation": Kind(steps.normalisation, always),
        "residual": Kind(residual, nests),
        "mlp": Kind(steps.mlp, always),
        "attention": Kind(steps.attention, always),
        "multihead": Kind(steps.multihead, _small),
        "crossing": Kind(crossing, lambda p: nests(p) and _small(p)),
        "concatenation": Kind(concatenation, lambda p: nests(p) and _small(p)),
        "split_and_join": Kind(split_and_join, lambda p: nests(p) and several(p)),
        "shared": Kind(shared, always),
        "recurrent": Kind(steps.recurrent, always, result="view"),
        "convolution": Kind(steps.convolution, always, result="view"),
        "token_mixing": Kind(steps.token_mixing, always, result="view"),
        "latents": Kind(steps.latents, always, keeps_size=False),
        "in_place": Kind(steps.in_place, _not_shared, result="same"),
        "slice_write": Kind(steps.slice_write, _small),
        "layer_scale": Kind(steps.layer_scale, always),
        "zero_dropout": Kind(steps.zero_dropout, always, result="view"),
        "channel_mixing": Kind(steps.channel_mixing, always),
        "gated_unit": Kind(steps.gated_unit, even),
        "channel_slice": Kind(steps.channel_slice, always, result="view"),
        "merging": Kind(
            steps.merging,
            lambda p: _small(p) and p.length % 2 == 0 and p.length > 2,
            keeps_size=False,
            result="view",
        ),
        "parting": Kind(
            steps.parting,
            lambda p: even(p) and p.length <= 6,
            keeps_size=False,
            result="view",
        ),
        "tokens": Kind(steps.tokens, always, keeps_size=False, result="view"),
        "pinning": Kind(steps.pinning, always),
    }
)
"""The kinds of steps of sequence networks, by name."""

_COMPUTING: Mapping[str, Callable[[DrawFn, Place, int], Step]] = MappingProxyType(
    {
        "linear": steps.linear_to,
        "mlp": steps.mlp_to,
        "attention": steps.attention_to,
        "recurrent": steps.recurrent_to,
        "convolution": steps.convolution_to,
    }
)


# How networks end --------------------------------------------------------------------------------


def head(draw: DrawFn, stem: Step, place: Place) -> Step:
    """Classes of the sequence or of every token; logits by the weight of the embedding."""
    classes, c = 3, place.channels
    every, flat = nn.Linear(c, classes), nn.Linear(c * place.length, classes)
    heads: list[tuple[str, Callable[[Any, Any], Any], dict[str, nn.Module | Tensor]]] = [
        ("return linear(x)", lambda s, x: s.layer(x), {"layer": every}),
        ("return linear(x.mean(1))", lambda s, x: s.layer(x.mean(1)), {"layer": every}),
        ("return linear(x.amax(1))", lambda s, x: s.layer(x.amax(1)), {"layer": every}),
        ("return linear(x[:, 0])", lambda s, x: s.layer(x[:, 0]), {"layer": every}),
        (
            "return linear(norm(x)[:, -1])",
            lambda s, x: s.layer(s.norm(x)[:, -1]),
            {"layer": every, "norm": nn.LayerNorm(c)},
        ),
        ("return linear(x.flatten(1))", lambda s, x: s.layer(x.flatten(1)), {"layer": flat}),
        (
            "return linear((x * score(x).softmax(1)).sum(1))",
            lambda s, x: s.layer((x * s.score(x).softmax(1)).sum(1)),
            {"layer": every, "score": nn.Linear(c, 1)},
        ),
        (
            "return linear(adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(-1))",
            lambda s, x: s.layer(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(-1)),
            {"layer": every},
        ),
    ]
    if hasattr(stem, "embedding"):
        heads += _tied_heads(stem.get_parameter("embedding.weight"), place)
    text, run, parts = draw(st.sampled_from(heads))
    return Step(text, place, run, parts)


def _tied_heads(
    weight: nn.Parameter, place: Place
) -> list[tuple[str, Callable[[Any, Any], Any], dict[str, nn.Module | Tensor]]]:
    """Logits of the tokens by the weight that embeds them."""
    words, size = weight.shape
    tied = nn.Linear(size, words)
    tied.weight = weight
    last = nn.Linear(place.channels, size)
    if place.channels != size:
        return [
            (
                "return tied(gelu(linear(x)))",
                lambda s, x: s.tied(F.gelu(s.last(x))),
                {"tied": tied, "last": last},
            ),
        ]
    return [
        ("return tied(x)", lambda s, x: s.tied(x), {"tied": tied}),
        ("return x @ embedding.t()", lambda s, x: x @ s.tied.weight.t(), {"tied": tied}),
        (
            "return F.linear(norm(x), embedding)",
            lambda s, x: F.linear(s.norm(x), s.tied.weight),
            {"tied": tied, "norm": nn.LayerNorm(size)},
        ),
    ]


SEQUENCES = Family(stem, SEQUENCE_KINDS, head)
"""Networks on (batch, length) tokens or (batch, length, channels) features."""
