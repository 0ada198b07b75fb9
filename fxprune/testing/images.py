"""Random image networks: stem, composite steps, head, and the table of all kinds of steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from fxprune.testing import image_steps as steps
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
    several,
    spelled,
)
from fxprune.testing.image_steps import CHANNELS


def residual(draw: DrawFn, place: Place) -> Step:
    """An addition of a chain to its own input."""
    inner, after = inside(draw, place)
    inner.append(steps.conv_to(draw, after, place.channels))
    return spelled(
        draw,
        place,
        [(text + inner_text(inner), run) for text, run in _ADDITIONS],
        {"inner": inner},
    )


def _added_in_place(step: Any, x: Any) -> Any:
    y = step.inner(x)
    y += x
    return y


_ADDITIONS: list[Spelling] = [
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
    inner, after = inside(draw, place)
    channels = draw(st.sampled_from(CHANNELS))
    stride = draw(st.sampled_from((1, 2)))
    inner.append(Step("x = last(x)", after, _last))
    last = nn.Conv2d(after.channels, channels, 3, stride=stride, padding=1)
    shortcut = nn.Conv2d(place.channels, channels, 1, stride=stride, bias=draw(st.booleans()))
    inner[-1].layer = last
    size = (-(-place.height // stride), -(-place.width // stride))
    note = f"  # {place.channels} -> {channels}, stride {stride}; inner:{inner_text(inner)}"
    return spelled(
        draw,
        replace(place, channels=channels, size=size),
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
    size = ((place.height + 1) // 2, (place.width + 1) // 2)
    return Step(
        f"x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, {before}, {after})) + conv3(x, stride=2)",
        replace(place, channels=channels, size=size),
        lambda s, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after)) + s.layer(x),
        {"layer": layer},
    )


def concatenation(draw: DrawFn, place: Place) -> Step:
    """Several chains side by side, and maybe their input."""
    inputs = draw(st.integers(0, 1))
    parts: dict[str, nn.Sequential] = {}
    channels = inputs * place.channels
    for index in range(draw(st.integers(2 - inputs, 2))):
        inner, after = inside(draw, place)
        last = steps.conv(draw, after)
        inner.append(last)
        parts[f"branch{index}"] = inner
        channels += last.after.channels
    names = tuple(parts)
    items = ["x"] * inputs + [f"{name}(x)" for name in names]
    text = f"x = torch.cat([{', '.join(items)}], 1)  # {place.channels} -> {channels}"
    text += "".join(f"\n {name}:{inner_text(part)}" for name, part in parts.items())
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
    inner, after = inside(draw, replace(place, channels=second))
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
            (text + inner_text(inner), run)
            for text, run in (
                (f"a, b = x.split([{first}, {second}], 1); x = cat([a, inner(b)])", by_split),
                (f"a, b = x.tensor_split(({first},), 1); x = cat([inner(b), a])", by_chunk),
                (f"x = cat([x[:, :{first}], inner(x[:, {first}:])])", by_slice),
            )
        ],
        {"inner": inner},
    )


# The table -------------------------------------------------------------------------------------


def _several_pixels(place: Place) -> bool:
    return place.height * place.width > 1


def _small(place: Place) -> bool:
    return place.channels <= 12


def _wide(place: Place) -> bool:
    return min(place.height, place.width) >= 4


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "conv": Kind(steps.conv, always),
        "activation": Kind(steps.activation, always),
        "normalisation": Kind(steps.normalisation, _several_pixels),
        "residual": Kind(residual, nests),
        "concatenation": Kind(concatenation, nests),
        "projection": Kind(projection, nests, keeps_size=False),
        "padded_shortcut": Kind(padded_shortcut, _small, keeps_size=False),
        "split_and_join": Kind(split_and_join, lambda p: nests(p) and several(p)),
        "depthwise": Kind(steps.depthwise, _small),
        "grouped": Kind(steps.grouped, several),
        "strided": Kind(steps.strided, _wide, keeps_size=False),
        "transposed": Kind(steps.transposed, always),
        "channels_last_linear": Kind(steps.channels_last_linear, always),
        "shared": Kind(steps.shared, always),
        "tied": Kind(steps.tied, always),
        "attention": Kind(steps.attention, always),
        "activation_module": Kind(steps.activation_module, always, result="view"),
        "in_place": Kind(steps.in_place, lambda p: p.memory != "view of shared", result="same"),
        "functional_normalisation": Kind(steps.functional_normalisation, _several_pixels),
        "pooling": Kind(steps.pooling, _wide),
        "downsampling": Kind(steps.downsampling, _wide, keeps_size=False, result="view"),
        "dropout": Kind(steps.dropout, always, result="view"),
        "layer_scale": Kind(steps.layer_scale, always),
        "squeeze_excitation": Kind(squeeze_excitation, always),
        "channel_shuffle": Kind(steps.channel_shuffle, several, result="view"),
        "channel_slice": Kind(steps.channel_slice, always, result="view"),
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
        "gated_unit": Kind(steps.gated_unit, even),
        "channel_mixing": Kind(steps.channel_mixing, always),
        "pinning": Kind(steps.pinning, always),
    }
)
"""The kinds of steps of image networks, by name."""


def stem(draw: DrawFn) -> tuple[Step, Example]:
    """Two plain convolutions, so that something can always be pruned."""
    size = draw(st.sampled_from(((6, 6), (7, 6), (8, 10))))
    wide, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
    step = Step(
        f"x = conv3(relu(conv3(x)))  # 3 -> {wide} -> {channels}",
        Place(channels, size),
        lambda s, x: s.second(F.relu(s.first(x))),
        {
            "first": nn.Conv2d(3, wide, 3, padding=1),
            "second": nn.Conv2d(wide, channels, 3, padding=1),
        },
    )

    def example(generator: torch.Generator) -> Tensor:
        return torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)

    return step, example


def head(draw: DrawFn, stem: Step, place: Place) -> Step:
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


IMAGES = Family(stem, KINDS, head)
"""Networks on (batch, channels, height, width)."""
