"""Random image networks: stem, composite steps, head, and the table of all kinds of steps."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch import channel_steps
from fxprune.testing.torch import image_steps as steps
from fxprune.testing.torch.image_steps import CHANNELS, axes, widened
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

# Composite steps -------------------------------------------------------------------------------


def residual(draw: DrawFn, place: Context) -> Step:
    """An addition of a chain to its own input."""
    inner, after = inside(draw, place)
    inner.append(steps.conv_to(draw, after, place.channels))
    return spelled(
        draw,
        place,
        [
            "x = x + self.inner(x)",
            "x = self.inner(x) + x",
            "y = self.inner(x)\ny += x\nx = y",
            "x = self.inner(x).add_(x)",
            "x = torch.add(x, self.inner(x))",
            "x = F.relu_(self.inner(x) + x)",
            "x = sum([x, self.inner(x), x])",
        ],
        {"inner": Block(tuple(inner))},
    )


def projection(draw: DrawFn, place: Context) -> Step:
    """A residual block whose shortcut changes the number of channels, and maybe the size."""
    inner, after = inside(draw, place)
    channels, stride = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from((1, 2)))
    conv, bias = f"nn.Conv{place.dims}d", draw(st.booleans())
    last = f"{conv}({after.channels}, {channels}, 3, {stride}, padding=1)"
    shortcut = f"{conv}({place.channels}, {channels}, 1, {stride}, bias={bias})"
    inner.append(Step("x = self.last(x)", after, {"last": last}))
    return spelled(
        draw,
        replace(place, channels=channels, size=tuple(-(-n // stride) for n in place.size)),
        ["x = self.shortcut(x) + self.inner(x)", "x = self.inner(x).add(self.shortcut(x))"],
        {"inner": Block(tuple(inner)), "shortcut": shortcut},
    )


def padded_shortcut(draw: DrawFn, place: Context) -> Step:
    """He et al.'s option A: the shortcut skips pixels and gets channels of zeros."""
    before, after = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    channels = place.channels + before + after
    return Step(
        f"x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, {before}, {after})) + self.conv(x)",
        replace(place, channels=channels, size=tuple((n + 1) // 2 for n in place.size)),
        {"conv": f"nn.Conv2d({place.channels}, {channels}, 3, stride=2, padding=1)"},
    )


def concatenation(draw: DrawFn, place: Context) -> Step:
    """Several chains side by side, and maybe their input."""
    inputs = draw(st.integers(0, 1))
    parts: dict[str, Block] = {}
    channels = inputs * place.channels
    for index in range(draw(st.integers(2 - inputs, 2))):
        inner, after = inside(draw, place)
        inner.append(steps.conv(draw, after))
        parts[f"branch{index}"] = Block(tuple(inner))
        channels += inner[-1].after.channels
    items = ["x"] * inputs + [f"self.{name}(x)" for name in parts]
    return Step(f"x = torch.cat([{', '.join(items)}], 1)", replace(place, channels=channels), parts)


def squeeze_excitation(draw: DrawFn, place: Context) -> Step:
    """A factor per channel that comes from the means of all channels."""
    c, middle, d = place.channels, draw(st.sampled_from((2, 3))), place.dims
    conv = f"nn.Conv{d}d"
    names = ", ".join("hwd"[:d])
    one = ", ".join("1" * d)
    return spelled(
        draw,
        place,
        [
            f"y = self.conv_up(F.silu(self.conv_down(x.mean({axes(place)}, keepdim=True))))\n"
            "x = x * F.hardsigmoid(y)",
            f"y = self.up(F.relu(self.down(x.mean({axes(place)}))))\n"
            f"x = x * y.sigmoid()[:, :{widened(place)[2:]}",
            f"b, c, {names} = x.shape\n"
            f"y = self.up(self.down(F.adaptive_avg_pool{d}d(x, 1).view(b, c)))\n"
            f"x = torch.sigmoid(y).view(b, c, {one}).expand_as(x) * x",
            f"y = self.up(F.relu(self.down(x.mean({axes(place)})))).sigmoid()\n"
            f"x = y.view(-1, {c}, {one}).expand(-1, {c}, *x.shape[2:]) * x",
        ],
        {
            "down": f"nn.Linear({c}, {middle})",
            "up": f"nn.Linear({middle}, {c})",
            "conv_down": f"{conv}({c}, {middle}, 1)",
            "conv_up": f"{conv}({middle}, {c}, 1)",
        },
    )


def split_and_join(draw: DrawFn, place: Context) -> Step:
    """The channels are cut in two, one part is worked on, both are joined again."""
    first = draw(st.integers(1, place.channels - 1))
    second = place.channels - first
    inner, after = inside(draw, replace(place, channels=second))
    inner.insert(0, steps.conv_to(draw, replace(place, channels=second), second))
    return spelled(
        draw,
        replace(place, channels=first + after.channels),
        [
            f"a, b = x.split([{first}, {second}], dim=1)\nx = torch.cat([a, self.inner(b)], dim=1)",
            f"a, b = torch.tensor_split(x, ({first},), dim=1)\n"
            "x = torch.cat((self.inner(b), a), 1)",
            f"x = torch.cat((x[:, :{first}], self.inner(x[:, {first}:])), 1)",
        ],
        {"inner": Block(tuple(inner))},
    )


# The table -------------------------------------------------------------------------------------


def _several_pixels(place: Context) -> bool:
    return max(place.size) > 1


def _small(place: Context) -> bool:
    return place.channels <= 12


def _wide(place: Context) -> bool:
    return min(place.size) >= 4


def _flat(place: Context) -> bool:
    return place.dims == 2


def _shuffles_to_pixels(place: Context) -> bool:
    return _flat(place) and place.channels % 4 == 0 and max(place.size) <= 10


def _shuffles_to_channels(place: Context) -> bool:
    return _flat(place) and place.channels <= 4 and not any(n % 2 for n in place.size)


IMAGE_OPS: Mapping[str, StepKind] = MappingProxyType(
    {
        "conv": StepKind(steps.conv, always),
        "activation": StepKind(steps.activation, always),
        "normalisation": StepKind(steps.normalisation, _several_pixels),
        "residual": StepKind(residual, nests),
        "concatenation": StepKind(concatenation, nests),
        "projection": StepKind(projection, nests, keeps_size=False),
        "padded_shortcut": StepKind(
            padded_shortcut, lambda p: _small(p) and _flat(p), keeps_size=False
        ),
        "split_and_join": StepKind(split_and_join, lambda p: nests(p) and several(p)),
        "depthwise": StepKind(steps.depthwise, _small),
        "grouped": StepKind(steps.grouped, several),
        "strided": StepKind(steps.strided, _wide, keeps_size=False),
        "transposed": StepKind(steps.transposed, always),
        "channels_last_linear": StepKind(steps.channels_last_linear, always),
        "shared": StepKind(steps.shared, always),
        "tied": StepKind(steps.tied, always),
        "standardised": StepKind(steps.standardised, always),
        "attention": StepKind(steps.attention, always),
        "activation_module": StepKind(steps.activation_module, always, result="view"),
        "in_place": StepKind(steps.in_place, lambda p: p.memory != "view of shared", result="same"),
        "functional_normalisation": StepKind(steps.functional_normalisation, _several_pixels),
        "pooling": StepKind(steps.pooling, _wide),
        "downsampling": StepKind(steps.downsampling, _wide, keeps_size=False, result="view"),
        "dropout": StepKind(steps.dropout, always, result="view"),
        "layer_scale": StepKind(steps.layer_scale, always),
        "squeeze_excitation": StepKind(squeeze_excitation, always),
        "channel_shuffle": StepKind(channel_steps.channel_shuffle, several, result="view"),
        "channel_slice": StepKind(channel_steps.channel_slice, always, result="view"),
        "channel_scatter": StepKind(channel_steps.channel_scatter, always),
        "channel_padding": StepKind(channel_steps.channel_padding, _small),
        "pixel_shuffle": StepKind(
            channel_steps.pixel_shuffle, _shuffles_to_pixels, keeps_size=False
        ),
        "pixel_unshuffle": StepKind(
            channel_steps.pixel_unshuffle, _shuffles_to_channels, keeps_size=False
        ),
        "patches": StepKind(channel_steps.patches, _flat),
        "gated_unit": StepKind(channel_steps.gated_unit, even),
        "channel_mixing": StepKind(channel_steps.channel_mixing, always),
        "pinning": StepKind(channel_steps.pinning, always),
    }
)
"""The kinds of steps of image networks, by name."""

_SIZES = {1: ((6,), (7,), (10,)), 2: ((6, 6), (7, 6), (8, 10)), 3: ((4, 4, 4), (5, 4, 4))}


def images(dims: int) -> Family:
    """Networks on (batch, channels, *size) with `dims` axes of size."""

    def stem(draw: DrawFn, inputs: tuple[str, ...]) -> tuple[Step, tuple[str, ...]]:
        """Two plain convolutions, so that something can always be pruned; other inputs join."""
        size = draw(st.sampled_from(_SIZES[dims]))
        wide, channels = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(CHANNELS))
        place, conv = Context(channels, size), f"nn.Conv{dims}d"
        code = "x = self.second(F.relu(self.first(x)))"
        for name in inputs[1:]:
            join = (f"x = x + self.of_{name}({name})", f"x = x * self.of_{name}({name}).sigmoid()")
            code += "\n" + draw(st.sampled_from(join))
        parts = {
            "first": f"{conv}(3, {wide}, 3, padding=1)",
            "second": f"{conv}({wide}, {channels}, 3, padding=1)",
            **{f"of_{name}": f"{conv}(2, {channels}, 1)" for name in inputs[1:]},
        }
        shapes = [(2, 3, *size)] + [(2, 2, *size)] * (len(inputs) - 1)
        normal = "torch.randn({}, dtype=torch.float64, generator=generator)"
        return Step(code, place, parts), tuple(map(normal.format, shapes))

    return Family(stem, IMAGE_OPS, head)


def head(draw: DrawFn, stem: Step, place: Context) -> Step:
    """What turns the last image into the result."""
    classes, c, d = 3, place.channels, place.dims
    pixels = 1
    for n in place.size:
        pixels *= n
    return spelled(
        draw,
        place,
        [
            "return self.conv(x)",
            f"return self.linear(x.mean({axes(place)}))",
            "return self.flat(torch.flatten(x, 1))",
            "return self.flat(x.reshape(x.size(0), -1))",
            f"return self.linear(F.adaptive_avg_pool{d}d(x, 1).flatten(1))",
            f"return self.linear(x.amax({tuple(range(-1, -1 - d, -1))}))",
        ],
        {
            "conv": f"nn.Conv{d}d({c}, {classes}, 1)",
            "linear": f"nn.Linear({c}, {classes})",
            "flat": f"nn.Linear({c * pixels}, {classes})",
        },
    )
