"""Random convolutional networks and keep-sets for property tests, as Hypothesis strategies.

Networks are valid by construction: every step is drawn for the shape that reaches it, nothing is
filtered. They shrink towards three plain convolutions. Weights, biases and running statistics are
random, since a freshly initialised network hides errors (its biases are zero, its norms identity).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

import fxprune
from fxprune.testing import steps
from fxprune.testing.steps import CHANNELS, Build, Place, Step, spelled

_DEPTH = 2
"""How deep composite steps nest."""


class Network(nn.Module):
    """A random network: `stem`, `steps` and `head` run in order. `example` is an input for it."""

    def __init__(self, stem: nn.Sequential, body: list[Step], head: Step, example: Tensor) -> None:
        super().__init__()
        self.stem, self.steps, self.head = stem, nn.ModuleList(body), head
        self.example = example

    def forward(self, x: Tensor) -> Any:
        """Run every step."""
        x = self.stem(x)
        for step in self.steps:
            x = step(x)
        return self.head(x)

    def __repr__(self) -> str:
        wide, channels = (self.stem[i].out_channels for i in (0, 2))
        stem = f"x = conv3(relu(conv3(x)))  # 3 -> {wide} -> {channels}"
        lines = [f"network of {tuple(self.example.shape)}:", stem]
        return "\n  ".join([*lines, *map(_indented, self.steps), _indented(self.head)])


def _indented(step: nn.Module) -> str:
    return repr(step).replace("\n", "\n  ")


# Composite steps -------------------------------------------------------------------------------


def _chain(draw: DrawFn, place: Place, limit: int) -> list[Step]:
    """Up to `limit` steps in a row."""
    chain: list[Step] = []
    while len(chain) < limit and draw(st.integers(0, 3)):
        fitting = [name for name in place.kinds if KINDS[name].fits(place)]
        kind = KINDS[draw(st.sampled_from(fitting or ["conv"]))]
        chain.append(kind.build(draw, place))
        place = replace(chain[-1].after, memory=_memory_after(kind, place))
    return chain


def _memory_after(kind: "Kind", place: Place) -> Literal["own", "shared", "view of shared"]:
    if kind.result == "new" or place.memory == "own":
        return "own"
    return place.memory if kind.result == "same" else "view of shared"


def _inside(draw: DrawFn, place: Place) -> tuple[nn.Sequential, Place]:
    """A chain of its own that keeps height and width."""
    kinds = tuple(name for name in place.kinds if KINDS[name].keeps_size)
    inside = replace(place, kinds=kinds, depth=place.depth - 1, memory="shared")
    chain = _chain(draw, inside, limit=2)
    after = chain[-1].after if chain else place
    return nn.Sequential(*chain), replace(place, channels=after.channels)


def _inner_text(inner: nn.Module) -> str:
    return "".join(f"\n  {_indented(step)}" for step in inner.children())


def residual(draw: DrawFn, place: Place) -> Step:
    """An addition of a chain to its own input."""
    inner, after = _inside(draw, place)
    inner.append(steps.conv_to(draw, after, place.channels))
    return spelled(
        draw,
        place,
        [(text + _inner_text(inner), run) for text, run in _ADDITIONS],
        {"inner": inner},
    )


def _added_in_place(step: Any, x: Any) -> Any:
    y = step.inner(x)
    y += x
    return y


_ADDITIONS: list[steps.Spelling] = [
    ("x = x + inner(x)  # inner:", lambda s, x: x + s.inner(x)),
    ("x = inner(x) + x  # inner:", lambda s, x: s.inner(x) + x),
    ("y = inner(x); y += x; x = y  # inner:", _added_in_place),
    ("x = inner(x).add_(x)  # inner:", lambda s, x: s.inner(x).add_(x)),
    ("x = torch.add(x, inner(x))  # inner:", lambda s, x: torch.add(x, s.inner(x))),
    ("x = F.relu_(inner(x) + x)  # inner:", lambda s, x: F.relu_(s.inner(x) + x)),
    ("x = sum([x, inner(x), x])  # inner:", lambda s, x: sum([x, s.inner(x), x])),
]


def projection(draw: DrawFn, place: Place) -> Step:
    """A residual block whose shortcut changes the number of channels, and maybe the size."""
    inner, after = _inside(draw, place)
    channels = draw(st.sampled_from(CHANNELS))
    stride = draw(st.sampled_from((1, 2)))
    inner.append(Step("x = last(x)", after, _last))
    last = nn.Conv2d(after.channels, channels, 3, stride=stride, padding=1)
    shortcut = nn.Conv2d(place.channels, channels, 1, stride=stride, bias=draw(st.booleans()))
    inner[-1].layer = last
    height, width = -(-place.height // stride), -(-place.width // stride)
    note = f"  # {place.channels} -> {channels}, stride {stride}; inner:{_inner_text(inner)}"
    return spelled(
        draw,
        replace(place, channels=channels, height=height, width=width),
        [
            ("x = shortcut(x) + inner(x)" + note, lambda s, x: s.shortcut(x) + s.inner(x)),
            ("x = inner(x).add(shortcut(x))" + note, lambda s, x: s.inner(x).add(s.shortcut(x))),
        ],
        {"inner": inner, "shortcut": shortcut},
    )


def _last(step: Any, x: Any) -> Any:
    return step.layer(x)


def padded_shortcut(draw: DrawFn, place: Place) -> Step:
    """He et al.'s option A: the shortcut skips pixels and gets channels of zeros."""
    before, after = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    channels = place.channels + before + after
    layer = nn.Conv2d(place.channels, channels, 3, stride=2, padding=1)
    height, width = (place.height + 1) // 2, (place.width + 1) // 2
    return Step(
        f"x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, {before}, {after})) + conv3(x, stride=2)",
        replace(place, channels=channels, height=height, width=width),
        lambda s, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after)) + s.layer(x),
        {"layer": layer},
    )


def concatenation(draw: DrawFn, place: Place) -> Step:
    """Several chains side by side, and maybe their input."""
    inputs = draw(st.integers(0, 1))
    parts: dict[str, nn.Sequential] = {}
    channels = inputs * place.channels
    for index in range(draw(st.integers(2 - inputs, 2))):
        inner, after = _inside(draw, place)
        last = steps.conv(draw, after)
        inner.append(last)
        parts[f"branch{index}"] = inner
        channels += last.after.channels
    names = tuple(parts)
    items = ["x"] * inputs + [f"{name}(x)" for name in names]
    text = f"x = torch.cat([{', '.join(items)}], 1)  # {place.channels} -> {channels}"
    text += "".join(f"\n {name}:{_inner_text(part)}" for name, part in parts.items())
    return Step(
        text,
        replace(place, channels=channels),
        lambda s, x: torch.cat([x] * inputs + [getattr(s, name)(x) for name in names], 1),
        parts,
    )


def squeeze_excitation(draw: DrawFn, place: Place) -> Step:
    """A factor per channel that comes from the means of all channels."""
    middle = draw(st.sampled_from((2, 3)))
    parts: dict[str, nn.Module | nn.Parameter] = {
        "down": nn.Linear(place.channels, middle),
        "up": nn.Linear(middle, place.channels),
        "conv_down": nn.Conv2d(place.channels, middle, 1),
        "conv_up": nn.Conv2d(middle, place.channels, 1),
    }

    def by_linear(s: Any, x: Any) -> Any:
        return x * s.up(F.relu(s.down(x.mean((2, 3))))).sigmoid()[:, :, None, None]

    def by_view(s: Any, x: Any) -> Any:
        b, c, _, _ = x.shape
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return torch.sigmoid(s.up(s.down(y))).view(b, c, 1, 1).expand_as(x) * x

    def by_conv(s: Any, x: Any) -> Any:
        y = s.conv_up(F.silu(s.conv_down(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(y)

    text, run, names = draw(
        st.sampled_from(
            [
                (
                    "x = x * conv(conv(x.mean((2, 3), keepdim=True)))",
                    by_conv,
                    ("conv_down", "conv_up"),
                ),
                (
                    "x = x * linear(linear(x.mean((2, 3))))[:, :, None, None]",
                    by_linear,
                    ("down", "up"),
                ),
                (
                    "x = linear(linear(pool(x).view(b, c))).expand_as(x) * x",
                    by_view,
                    ("down", "up"),
                ),
            ]
        )
    )
    return Step(f"{text}  # by {middle}", place, run, {name: parts[name] for name in names})


def split_and_join(draw: DrawFn, place: Place) -> Step:
    """The channels are cut in two, one part is worked on, both are joined again."""
    cut = draw(st.integers(1, place.channels - 1))
    first, second = cut, place.channels - cut
    inner, after = _inside(draw, replace(place, channels=second))
    inner.insert(0, steps.conv_to(draw, replace(place, channels=second), second))

    def by_split(s: Any, x: Any) -> Any:
        a, b = x.split([first, second], dim=1)
        return torch.cat([a, s.inner(b)], dim=1)

    def by_chunk(s: Any, x: Any) -> Any:
        a, b = torch.tensor_split(x, (first,), dim=1)
        return torch.cat((s.inner(b), a), 1)

    def by_slice(s: Any, x: Any) -> Any:
        return torch.cat((x[:, :first], s.inner(x[:, first:])), 1)

    return spelled(
        draw,
        replace(place, channels=first + after.channels),
        [
            (text + _inner_text(inner), run)
            for text, run in (
                (f"a, b = x.split([{first}, {second}], 1); x = cat([a, inner(b)])", by_split),
                (f"a, b = x.tensor_split(({first},), 1); x = cat([inner(b), a])", by_chunk),
                (f"x = cat([x[:, :{first}], inner(x[:, {first}:])])", by_slice),
            )
        ],
        {"inner": inner},
    )


# The table -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step: how it is drawn, where it fits, whether height and width stay.

    `result` says whether what it returns is a new array, maybe a view, or what it was given.
    """

    build: Build
    fits: Callable[[Place], bool]
    keeps_size: bool = True
    result: Literal["new", "view", "same"] = "new"


def _always(place: Place) -> bool:
    return True


def _several(place: Place) -> bool:
    return place.channels > 1


def _several_pixels(place: Place) -> bool:
    return place.height * place.width > 1


def _even(place: Place) -> bool:
    return place.channels % 2 == 0


def _small(place: Place) -> bool:
    return place.channels <= 12


def _nests(place: Place) -> bool:
    return place.depth > 0


def _wide(place: Place) -> bool:
    return min(place.height, place.width) >= 4


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "conv": Kind(steps.conv, _always),
        "activation": Kind(steps.activation, _always),
        "normalisation": Kind(steps.normalisation, _several_pixels),
        "residual": Kind(residual, _nests),
        "concatenation": Kind(concatenation, _nests),
        "projection": Kind(projection, _nests, keeps_size=False),
        "padded_shortcut": Kind(padded_shortcut, _small, keeps_size=False),
        "split_and_join": Kind(split_and_join, lambda p: _nests(p) and _several(p)),
        "depthwise": Kind(steps.depthwise, _small),
        "grouped": Kind(steps.grouped, _several),
        "strided": Kind(steps.strided, _wide, keeps_size=False),
        "transposed": Kind(steps.transposed, _always),
        "channels_last_linear": Kind(steps.channels_last_linear, _always),
        "shared": Kind(steps.shared, _always),
        "tied": Kind(steps.tied, _always),
        "attention": Kind(steps.attention, _always),
        "activation_module": Kind(steps.activation_module, _always, result="view"),
        "in_place": Kind(steps.in_place, lambda p: p.memory != "view of shared", result="same"),
        "functional_normalisation": Kind(steps.functional_normalisation, _several_pixels),
        "pooling": Kind(steps.pooling, _wide),
        "downsampling": Kind(steps.downsampling, _wide, keeps_size=False, result="view"),
        "dropout": Kind(steps.dropout, _always, result="view"),
        "layer_scale": Kind(steps.layer_scale, _always),
        "squeeze_excitation": Kind(squeeze_excitation, _always),
        "channel_shuffle": Kind(steps.channel_shuffle, _several, result="view"),
        "channel_slice": Kind(steps.channel_slice, _always, result="view"),
        "channel_padding": Kind(steps.channel_padding, _small),
        "pixel_shuffle": Kind(
            steps.pixel_shuffle,
            lambda p: p.channels % 4 == 0 and max(p.height, p.width) <= 10,
            keeps_size=False,
        ),
        "pixel_unshuffle": Kind(
            steps.pixel_unshuffle,
            lambda p: p.channels <= 4 and p.height % 2 == p.width % 2 == 0,
            keeps_size=False,
        ),
        "gated_unit": Kind(steps.gated_unit, _even),
        "channel_mixing": Kind(steps.channel_mixing, _always),
        "pinning": Kind(steps.pinning, _always),
    }
)
"""The kinds of steps, by name."""


def _head(draw: DrawFn, place: Place) -> Step:
    """What turns the last image into the result."""
    pixels = place.height * place.width
    classes = 3
    linear, flat = nn.Linear(place.channels, classes), nn.Linear(place.channels * pixels, classes)
    heads: list[tuple[str, Callable[[Any, Any], Any], nn.Module]] = [
        ("return conv1(x)", lambda s, x: s.layer(x), nn.Conv2d(place.channels, classes, 1)),
        ("return linear(x.mean((2, 3)))", lambda s, x: s.layer(x.mean((2, 3))), linear),
        ("return linear(torch.flatten(x, 1))", lambda s, x: s.layer(torch.flatten(x, 1)), flat),
        (
            "return linear(x.view(x.size(0), -1))",
            lambda s, x: s.layer(x.reshape(x.size(0), -1)),
            flat,
        ),
        (
            "return linear(adaptive_avg_pool2d(x, 1).flatten(1))",
            lambda s, x: s.layer(F.adaptive_avg_pool2d(x, 1).flatten(1)),
            linear,
        ),
        ("return linear(x.amax((-1, -2)))", lambda s, x: s.layer(x.amax((-1, -2))), linear),
    ]
    text, run, layer = draw(st.sampled_from(heads))
    return Step(text, place, run, {"layer": layer})


@st.composite
def networks(draw: DrawFn, kinds: Collection[str] = tuple(KINDS), *, max_steps: int = 5) -> Network:
    """Random networks with random weights, in evaluation mode and float64.

    The first two convolutions are plain, so that something can always be pruned.

    Args:
        kinds: the names in `KINDS` of the steps they are made of.
        max_steps: how many steps follow one another, nested ones not counted.
    """
    height, width = draw(st.sampled_from(((6, 6), (7, 6), (8, 10))))
    wide, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    stem = nn.Sequential(
        nn.Conv2d(3, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, channels, 3, padding=1)
    )
    place = Place(channels, height, width, tuple(kinds), _DEPTH)
    body = _chain(draw, place, max_steps)
    head = _head(draw, body[-1].after if body else place)
    seed = draw(st.integers(0, 2**16 - 1))
    generator = torch.Generator().manual_seed(seed)
    example = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
    network = Network(stem, body, head, example).double().eval()
    randomise(network, generator)
    return network


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights, biases and running statistics anew, of a size that keeps signals near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.mul_(parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.mul_(0.3).add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)


@st.composite
def keep_sets(draw: DrawFn, gated: nn.Module) -> dict[str, list[bool]]:
    """Random keep-sets for a gated module: no group is empty, everything may be open.

    They shrink towards everything open.
    """
    keep: dict[str, list[bool]] = {}
    for group in fxprune.groups(gated):
        if group.pin:
            continue
        closable = 2 if group.kind == "branch" else 2**group.size - 1
        closed = draw(st.integers(0, closable - 1))
        keep[group.name] = [not closed >> position & 1 for position in range(group.size)]
    return keep
