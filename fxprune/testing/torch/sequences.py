"""Random sequence networks: stem, composite steps, head, and the table of all kinds of steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch import image_steps
from fxprune.testing.torch import sequence_steps as steps
from fxprune.testing.torch.attention import attention, forms
from fxprune.testing.torch.programs import (
    Block,
    Context,
    Family,
    Step,
    StepKind,
    always,
    even,
    inside,
    nests,
    several,
    spelled,
)
from fxprune.testing.torch.sequence_steps import CHANNELS, parameter

_VOCABULARY = 7
_FEATURES = 3
_LENGTHS = (4, 3, 6)


# How networks start ------------------------------------------------------------------------------


def stem(draw: DrawFn, inputs: tuple[str, ...]) -> tuple[Step, tuple[str, ...]]:
    """Features or tokens are embedded; an MLP follows, so that something can always be pruned.

    Other inputs are features of as many tokens; they are added, or attended to.
    """
    step, length, expression = draw(st.sampled_from((_features, _tokens)))(draw)
    code, channels = step.code, step.after.channels
    parts = dict(step.parts)
    for name in inputs[1:]:
        code += "\n" + draw(
            st.sampled_from(
                (
                    f"x = x + self.of_{name}({name}).mean(1, keepdim=True)",
                    f"x = x + self.mha(x, self.of_{name}({name}), {name})[0]",
                )
            )
        )
        parts[f"of_{name}"] = f"nn.Linear({_FEATURES}, {channels})"
        parts["mha"] = f"nn.MultiheadAttention({channels}, 1, vdim={_FEATURES}, batch_first=True)"
    others = [_normal(length)] * (len(inputs) - 1)
    return replace(step, code=code, parts=parts), (expression, *others)


def _normal(length: int) -> str:
    return f"torch.randn(2, {length}, {_FEATURES}, dtype=torch.float64, generator=generator)"


def _features(draw: DrawFn) -> tuple[Step, int, str]:
    length = draw(st.sampled_from(_LENGTHS))
    wide, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    parts = {
        "first": f"nn.Linear({_FEATURES}, {wide})",
        "second": f"nn.Linear({wide}, {channels})",
    }
    step = Step("x = self.second(F.relu(self.first(x)))", Context(channels, (length,)), parts)
    return step, length, _normal(length)


def _tokens(draw: DrawFn) -> tuple[Step, int, str]:
    length = draw(st.sampled_from(_LENGTHS))
    channels, hidden = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    extra = draw(st.integers(0, 1))
    code = draw(
        st.sampled_from(
            (
                "x = self.embedding(x) + self.position",
                "x = self.embedding(x) + self.positions(self.table)",
                "x = self.embedding(x) + self.positions(torch.arange(x.size(1)))",
                f"x = F.embedding(x, self.embedding.weight) * {channels}**0.5 + self.sinusoids",
            )
        )
    )
    code += "\nx = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)" * extra
    code += "\nx = x + self.down(F.gelu(self.up(x)))"
    speeds = f"torch.arange(1, {channels + 1})"
    parts = {
        "embedding": f"nn.Embedding({_VOCABULARY}, {channels})",
        "up": f"nn.Linear({channels}, {hidden})",
        "down": f"nn.Linear({hidden}, {channels})",
        "position": parameter(1, length, channels),
        "positions": f"nn.Embedding({length}, {channels})",
        "table": f"torch.arange({length})",
        "sinusoids": f"torch.outer(torch.arange({length}), {speeds}).sin()",
        "cls": parameter(1, 1, channels),
    }
    tokens = f"torch.randint({_VOCABULARY}, (2, {length}), generator=generator)"
    return Step(code, Context(channels, (length + extra,)), parts), length, tokens


# Composite steps ---------------------------------------------------------------------------------


def _to(draw: DrawFn, place: Context, channels: int) -> Step:
    """A step that computes `channels`: a linear layer, or one of the kinds that may stand here."""
    builds = [to for name, to in _COMPUTING.items() if SEQUENCE_OPS[name] in place.kinds]
    return draw(st.sampled_from(builds or [steps.linear_to]))(draw, place, channels)


def residual(draw: DrawFn, place: Context) -> Step:
    """A chain is added to its own input; the input is normalised before, or the sum, or neither."""
    inner, after = inside(draw, place)
    inner.append(_to(draw, after, place.channels))
    code = draw(
        st.sampled_from(
            (
                "x = x + self.inner(x)",
                "x = self.inner(x) + x",
                "x = self.inner(x).add_(x)",
                "x = torch.add(x, self.inner(x), alpha=0.5)",
                "x = x + self.gamma * self.inner(x)",
                "x = x + F.dropout(self.inner(x), 0.0, self.training)",
            )
        )
    )
    order = draw(st.sampled_from(("plain", "before", "after")))
    parts: dict[str, str | Block] = {"gamma": parameter(place.channels)}
    if order == "before":
        inner.insert(0, steps.normalisation(draw, place))
    if order == "after":
        norm = steps.normalisation(draw, place)
        code, parts = f"{code}\n{norm.code}", {**parts, **norm.parts}
    return Step(code, place, {"inner": Block(tuple(inner)), **parts})


def crossing(draw: DrawFn, place: Context) -> Step:
    """What a chain computes attends to the chain's input, or to some of its tokens."""
    inner, after = inside(draw, place)
    stride = draw(st.sampled_from((1, 2)))
    length = -(-place.length // stride)
    source = "x" if stride == 1 else f"x[:, ::{stride}]"
    parts: dict[str, str | Block] = {"inner": Block(tuple(inner))}
    if draw(st.booleans()):
        heads, c = draw(st.sampled_from((1, *after.divisors))), place.channels
        settings = f"{after.channels}, {heads}, kdim={c}, vdim={c}, batch_first=True"
        parts["mha"] = f"nn.MultiheadAttention({settings})"
        code = f"y = self.inner(x)\nx = y + self.mha(y, {source}, {source})[0]"
        return Step(code, after, parts)
    lengths = (place.length, length)
    parts["attention"] = attention(
        forms(draw), after.channels, after.channels, lengths, other=place.channels
    )
    return Step(f"y = self.inner(x)\nx = y + self.attention(y, {source})", after, parts)


def concatenation(draw: DrawFn, place: Context) -> Step:
    """Two chains side by side, or a chain beside its input."""
    names = ("second",) if draw(st.booleans()) else ("first", "second")
    parts: dict[str, Block] = {}
    channels = place.channels * (len(names) == 1)
    for name in names:
        inner, after = inside(draw, place)
        inner.append(_to(draw, after, draw(st.sampled_from(CHANNELS))))
        channels += inner[-1].after.channels
        parts[name] = Block(tuple(inner))
    first = "self.first(x)" if len(names) == 2 else "x"
    return Step(
        f"x = torch.cat([{first}, self.second(x)], -1)", replace(place, channels=channels), parts
    )


def split_and_join(draw: DrawFn, place: Context) -> Step:
    """The channels are cut in two, one part is worked on, both are joined again."""
    first = draw(st.integers(1, place.channels - 1))
    second = place.channels - first
    inner, after = inside(draw, replace(place, channels=second))
    inner.insert(0, _to(draw, replace(place, channels=second), second))
    code = f"a, b = x.split([{first}, {second}], dim=-1)\nx = torch.cat([self.inner(b), a], -1)"
    channels = first + after.channels
    return Step(code, replace(place, channels=channels), {"inner": Block(tuple(inner))})


def shared(draw: DrawFn, place: Context) -> Step:
    """One block of a residual stream, run twice."""
    inner = _to(draw, place, place.channels)
    code = "x = x + self.inner(x)\nx = x + self.inner(x)"
    return Step(code, place, {"inner": Block((inner,))})


# The table ---------------------------------------------------------------------------------------


def _small(place: Context) -> bool:
    return place.channels <= 12


def _not_shared(place: Context) -> bool:
    """What others read under another name must not be overwritten."""
    return place.memory != "view of shared"


SEQUENCE_OPS: Mapping[str, StepKind] = MappingProxyType(
    {
        "linear": StepKind(steps.linear, always),
        "activation": StepKind(image_steps.activation, always),
        "normalisation": StepKind(steps.normalisation, always),
        "residual": StepKind(residual, nests),
        "mlp": StepKind(steps.mlp, always),
        "attention": StepKind(steps.attention, always),
        "bilinear": StepKind(steps.bilinear, _small),
        "multihead": StepKind(steps.multihead, _small),
        "crossing": StepKind(crossing, lambda p: nests(p) and _small(p)),
        "concatenation": StepKind(concatenation, lambda p: nests(p) and _small(p)),
        "split_and_join": StepKind(split_and_join, lambda p: nests(p) and several(p)),
        "shared": StepKind(shared, always),
        "recurrent": StepKind(steps.recurrent, always, result="view"),
        "convolution": StepKind(steps.convolution, always, result="view"),
        "token_mixing": StepKind(steps.token_mixing, always, result="view"),
        "latents": StepKind(steps.latents, always, keeps_size=False),
        "in_place": StepKind(steps.in_place, _not_shared, result="same"),
        "slice_write": StepKind(steps.slice_write, _small),
        "layer_scale": StepKind(steps.layer_scale, always),
        "zero_dropout": StepKind(steps.zero_dropout, always, result="view"),
        "channel_mixing": StepKind(steps.channel_mixing, always),
        "gated_unit": StepKind(steps.gated_unit, even),
        "channel_slice": StepKind(steps.channel_slice, always, result="view"),
        "merging": StepKind(
            steps.merging,
            lambda p: _small(p) and p.length % 2 == 0 and p.length > 2,
            keeps_size=False,
            result="view",
        ),
        "parting": StepKind(
            steps.parting,
            lambda p: even(p) and p.length <= 6,
            keeps_size=False,
            result="view",
        ),
        "tokens": StepKind(steps.tokens, always, keeps_size=False, result="view"),
        "pinning": StepKind(steps.pinning, always),
    }
)
"""The kinds of steps of sequence networks, by name."""

_COMPUTING: Mapping[str, Callable[[DrawFn, Context, int], Step]] = MappingProxyType(
    {
        "linear": steps.linear_to,
        "mlp": steps.mlp_to,
        "attention": steps.attention_to,
        "recurrent": steps.recurrent_to,
        "convolution": steps.convolution_to,
    }
)


# How networks end --------------------------------------------------------------------------------


def head(draw: DrawFn, stem: Step, place: Context) -> Step:
    """Classes of the sequence or of every token; logits by the weight of the embedding."""
    classes, c = 3, place.channels
    spellings = [
        "return self.linear(x)",
        "return self.linear(x.mean(1))",
        "return self.linear(x.amax(1))",
        "return self.linear(x[:, 0])",
        "return self.linear(self.norm(x)[:, -1])",
        "return self.flat(x.flatten(1))",
        "return self.linear((x * self.score(x).softmax(1)).sum(1))",
        "return self.linear(F.adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(-1))",
    ]
    parts = {
        "linear": f"nn.Linear({c}, {classes})",
        "flat": f"nn.Linear({c * place.length}, {classes})",
        "norm": f"nn.LayerNorm({c})",
        "score": f"nn.Linear({c}, 1)",
    }
    if "embedding" in stem.parts:
        size = stem.after.channels
        parts["last"] = f"nn.Linear({c}, {size})"
        parts["tied"] = f"nn.Linear({size}, {_VOCABULARY})"
        parts["tied.weight"] = "self.embedding.weight"
        spellings += (
            [
                "return self.tied(x)",
                "return x @ self.embedding.weight.t()",
                "return F.linear(self.norm(x), self.embedding.weight)",
            ]
            if c == size
            else ["return self.tied(F.gelu(self.last(x)))"]
        )
    return spelled(draw, place, spellings, parts)


SEQUENCES = Family(stem, SEQUENCE_OPS, head)
"""Networks on (batch, length) tokens or (batch, length, channels) features."""
