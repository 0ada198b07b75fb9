"""The steps of random image networks."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import nn

from fxprune.testing.chains import Place, Spelling, Step, parameter, spelled

CHANNELS = (4, 2, 3, 6, 8, 12)
"""Numbers of channels that layers have."""


# Layers that compute ---------------------------------------------------------------------------


def conv_to(draw: DrawFn, place: Place, channels: int, groups: int = 1) -> Step:
    """A convolution that keeps height and width, as a module or as a function."""
    kernel, bias = draw(st.sampled_from((1, 3))), draw(st.booleans())
    mode = draw(st.sampled_from(("zeros", "circular"))) if kernel == 3 else "zeros"
    layer = nn.Conv2d(
        place.channels,
        channels,
        kernel,
        padding=kernel // 2,
        groups=groups,
        bias=bias,
        padding_mode=mode,  # type: ignore[arg-type]
    )
    text = f"x = conv{kernel}(x)  # {place.channels} -> {channels}"
    text += "".join(
        note
        for note, said in (
            (f", groups {groups}", groups > 1),
            (", circular", mode != "zeros"),
            (", bias", bias),
        )
        if said
    )
    spellings: list[Spelling] = [(text, lambda s, x: s.layer(x))]
    if mode == "zeros":
        spellings.append(
            (
                text.replace("conv", "F.conv"),
                lambda s, x: F.conv2d(
                    x, s.layer.weight, s.layer.bias, padding=kernel // 2, groups=groups
                ),
            )
        )
    return spelled(draw, replace(place, channels=channels), spellings, {"layer": layer})


def conv(draw: DrawFn, place: Place) -> Step:
    """A plain convolution."""
    return conv_to(draw, place, draw(st.sampled_from(CHANNELS)))


def depthwise(draw: DrawFn, place: Place) -> Step:
    """A filter, or two, per channel."""
    return conv_to(draw, place, place.channels * draw(st.sampled_from((1, 2))), place.channels)


def grouped(draw: DrawFn, place: Place) -> Step:
    """A convolution in groups."""
    groups = draw(st.sampled_from(place.divisors))
    return conv_to(draw, place, groups * draw(st.sampled_from((2, 1, 3))), groups)


def strided(draw: DrawFn, place: Place) -> Step:
    """A convolution that changes height and width."""
    channels = draw(st.sampled_from(CHANNELS))
    stride, padding = draw(st.sampled_from(((2, 1), (1, 0), (2, 0))))
    layer = nn.Conv2d(place.channels, channels, 3, stride=stride, padding=padding)
    size = tuple((n + 2 * padding - 3) // stride + 1 for n in place.size)
    text = f"x = conv3(x)  # {place.channels} -> {channels}, stride {stride}, padding {padding}"
    after = replace(place, channels=channels, size=size)
    return Step(text, after, lambda s, x: s.layer(x), {"layer": layer})


def transposed(draw: DrawFn, place: Place) -> Step:
    """A transposed convolution, plain or grouped."""
    groups = draw(st.sampled_from((1, *place.divisors)))
    channels = groups * draw(st.sampled_from((2, 1, 3)))
    layer = nn.ConvTranspose2d(place.channels, channels, 3, stride=1, padding=1, groups=groups)
    text = f"x = conv_transpose3(x)  # {place.channels} -> {channels}, groups {groups}"
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            (text, lambda s, x: s.layer(x)),
            (
                text.replace("conv", "F.conv"),
                lambda s, x: F.conv_transpose2d(
                    x, s.layer.weight, s.layer.bias, padding=1, groups=groups
                ),
            ),
        ],
        {"layer": layer},
    )


def channels_last_linear(draw: DrawFn, place: Place) -> Step:
    """A linear layer on the channels, the last axis for a while."""
    channels = draw(st.sampled_from(CHANNELS))
    layer = nn.Linear(place.channels, channels, bias=draw(st.booleans()))
    note = f"  # {place.channels} -> {channels}"
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            (
                "x = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)" + note,
                lambda s, x: s.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
            ),
            (
                "x = linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, ...)" + note,
                lambda s, x: (
                    s.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, place.size)
                ),
            ),
            (
                "x = (x.movedim(1, -1) @ weight.t()).movedim(-1, 1)" + note,
                lambda s, x: (x.movedim(1, -1) @ s.layer.weight.t()).movedim(-1, 1),
            ),
        ],
        {"layer": layer},
    )


def shared(draw: DrawFn, place: Place) -> Step:
    """One convolution, called twice."""
    inner = conv_to(draw, place, place.channels)
    return Step(
        f"x = shared(relu(shared(x)))  # shared: {inner}",
        place,
        lambda s, x: s.inner(F.relu(s.inner(x))),
        {"inner": inner},
    )


def tied(draw: DrawFn, place: Place) -> Step:
    """Two convolutions that have one weight and biases of their own."""
    kernel = draw(st.sampled_from((1, 3)))
    first, second = (
        nn.Conv2d(place.channels, place.channels, kernel, padding=kernel // 2) for _ in range(2)
    )
    second.weight = first.weight
    return Step(
        f"x = second(sigmoid(first(x)))  # conv{kernel} of one weight",
        place,
        lambda s, x: s.second(torch.sigmoid(s.first(x))),
        {"first": first, "second": second},
    )


def attention(draw: DrawFn, place: Place) -> Step:
    """Attention between positions: contractions of two computed arrays."""
    inner = draw(st.sampled_from((2, 3, 4)))
    query, key = (nn.Conv2d(place.channels, inner, 1) for _ in range(2))

    def run(s: Any, x: Any) -> Any:
        q, k = s.query(x).flatten(2).transpose(1, 2), s.key(x).flatten(2)
        return (x.flatten(2) @ torch.bmm(q, k).softmax(-1).transpose(1, 2)).view(x.shape)

    text = f"x = (x.flatten(2) @ softmax(query(x) @ key(x))).view(x.shape)  # by {inner}"
    return Step(text, place, run, {"query": query, "key": key})


# Layers that carry -----------------------------------------------------------------------------


def activation(draw: DrawFn, place: Place) -> Step:
    """An activation, with f(0) = 0 or not."""
    return spelled(
        draw,
        place,
        [
            ("x = F.relu(x)", lambda s, x: F.relu(x)),
            ("x = x.relu()", lambda s, x: x.relu()),
            ("x = torch.sigmoid(x)", lambda s, x: torch.sigmoid(x)),
            ("x = F.softplus(x)", lambda s, x: F.softplus(x)),
            ("x = x.cos()", lambda s, x: x.cos()),
            ("x = F.hardsigmoid(x)", lambda s, x: F.hardsigmoid(x)),
            ("x = x + 1", lambda s, x: x + 1),
            ("x = 2 - x", lambda s, x: 2 - x),
            ("x = x.clamp(min=0.1)", lambda s, x: x.clamp(min=0.1)),
            ("x = x / (1 + x.abs())", lambda s, x: x / (1 + x.abs())),
            ("x = F.leaky_relu(x, 0.2)", lambda s, x: F.leaky_relu(x, 0.2)),
        ],
    )


def activation_module(draw: DrawFn, place: Place) -> Step:
    """An activation or pass-through module."""
    layers: list[nn.Module] = [
        nn.ReLU(),
        nn.Softplus(),
        nn.Hardsigmoid(),
        nn.GELU(),
        nn.PReLU(),
        nn.PReLU(place.channels),
        nn.Identity(),
    ]
    layer = draw(st.sampled_from(layers))
    return Step(f"x = {layer}(x)", place, lambda s, x: s.layer(x), {"layer": layer})


def in_place(draw: DrawFn, place: Place) -> Step:
    """What overwrites its operand; a network with it may not be differentiable."""

    def add_half(s: Any, x: Any) -> Any:
        x += 0.5
        return x

    return spelled(
        draw,
        place,
        [
            ("x.relu_()", lambda s, x: x.relu_()),
            ("x = F.relu(x, inplace=True)", lambda s, x: F.relu(x, inplace=True)),
            ("x += 0.5", add_half),
            ("x = ReLU(inplace=True)(x)", lambda s, x: s.relu(x)),
            ("x = Hardswish(inplace=True)(x)", lambda s, x: s.swish(x)),
            ("x.mul_(gamma)", lambda s, x: x.mul_(s.gamma)),
        ],
        {
            "relu": nn.ReLU(inplace=True),
            "swish": nn.Hardswish(inplace=True),
            "gamma": parameter(place.channels, 1, 1),
        },
    )


def normalisation(draw: DrawFn, place: Place) -> Step:
    """Batch, group, layer or instance normalisation, with or without parameters."""
    channels, sizes = place.channels, (place.channels, place.height, place.width)
    affine = draw(st.booleans())
    groups = draw(st.sampled_from((1, *place.divisors)))
    layers: list[nn.Module] = [
        nn.BatchNorm2d(channels, affine=affine),
        nn.BatchNorm2d(channels, affine=affine, momentum=None),
        nn.BatchNorm2d(channels, affine=affine, track_running_stats=False),
        nn.GroupNorm(groups, channels, affine=affine),
        nn.LayerNorm(sizes, elementwise_affine=affine),
        nn.InstanceNorm2d(channels, affine=affine),
        nn.InstanceNorm2d(channels, affine=affine, track_running_stats=True),
    ]
    layer = draw(st.sampled_from(layers))
    return Step(f"x = {layer}(x)", place, lambda s, x: s.layer(x), {"layer": layer})


def functional_normalisation(draw: DrawFn, place: Place) -> Step:
    """A normalisation written as a function, or over the channels of an image."""
    channels = place.channels
    groups = draw(st.sampled_from((1, *place.divisors)))
    parts: dict[str, nn.Module | nn.Parameter] = {
        "weight": parameter(channels),
        "bias": parameter(channels),
    }
    norm = nn.BatchNorm2d(channels)
    return spelled(
        draw,
        place,
        [
            (
                "x = F.layer_norm(x.permute(0, 2, 3, 1), ...).permute(0, 3, 1, 2)",
                lambda s, x: F.layer_norm(
                    x.permute(0, 2, 3, 1), (channels,), s.weight, s.bias
                ).permute(0, 3, 1, 2),
            ),
            (
                f"x = F.group_norm(x, {groups}, weight, bias)",
                lambda s, x: F.group_norm(x, groups, s.weight, s.bias),
            ),
            (
                "x = F.instance_norm(x, weight=weight, bias=bias)",
                lambda s, x: F.instance_norm(x, weight=s.weight, bias=s.bias),
            ),
            (
                "x = F.batch_norm(x, ..., training=self.training)",
                lambda s, x: F.batch_norm(
                    x,
                    s.norm.running_mean,
                    s.norm.running_var,
                    s.weight,
                    s.bias,
                    training=s.training,
                ),
            ),
            (
                "x = x - x.mean((2, 3), keepdim=True)",
                lambda s, x: x - x.mean((2, 3), keepdim=True) + s.bias.view(1, -1, 1, 1),
            ),
        ],
        {**parts, "norm": norm},
    )


def pooling(draw: DrawFn, place: Place) -> Step:
    """Pooling that keeps height and width."""
    return spelled(
        draw,
        place,
        [
            ("x = F.max_pool2d(x, 3, 1, 1)", lambda s, x: F.max_pool2d(x, 3, 1, 1)),
            (
                "x = F.avg_pool2d(x, 3, stride=1, padding=1)",
                lambda s, x: F.avg_pool2d(x, 3, stride=1, padding=1),
            ),
            ("x = pool(x)", lambda s, x: s.pool(x)),
            (
                "x = F.interpolate(F.adaptive_avg_pool2d(x, 2), size)",
                lambda s, x: F.interpolate(F.adaptive_avg_pool2d(x, 2), size=place.size),
            ),
        ],
        {"pool": nn.AvgPool2d(3, stride=1, padding=1)},
    )


def downsampling(draw: DrawFn, place: Place) -> Step:
    """Pooling or strided indexing that halves height and width."""
    after = replace(place, size=((place.height + 1) // 2, (place.width + 1) // 2))
    return spelled(
        draw,
        after,
        [
            ("x = pool(x)  # max, 2", lambda s, x: s.pool(x)),
            ("x = x[:, :, ::2, ::2]", lambda s, x: x[:, :, ::2, ::2]),
            ("x = x[..., ::2, ::2]", lambda s, x: x[..., ::2, ::2]),
        ],
        {"pool": nn.MaxPool2d(2, ceil_mode=True)},
    )


def dropout(draw: DrawFn, place: Place) -> Step:
    """Dropout, which evaluation skips."""
    return spelled(
        draw,
        place,
        [
            ("x = dropout(x)", lambda s, x: s.layer(x)),
            (
                "x = F.dropout(x, 0.3, self.training)",
                lambda s, x: F.dropout(x, 0.3, training=s.training),
            ),
            (
                "x = F.dropout2d(x, 0.3, self.training)",
                lambda s, x: F.dropout2d(x, 0.3, s.training),
            ),
        ],
        {"layer": nn.Dropout(0.3)},
    )


def layer_scale(draw: DrawFn, place: Place) -> Step:
    """A factor or term per channel, held by the model itself."""
    return spelled(
        draw,
        place,
        [
            ("x = x * gamma", lambda s, x: x * s.gamma),
            (
                "x = gamma * x + beta[:, None, None]",
                lambda s, x: s.gamma * x + s.beta[:, None, None],
            ),
            ("x = x + beta.view(1, -1, 1, 1)", lambda s, x: x + s.beta.view(1, -1, 1, 1)),
            ("x = x.mul(gamma.unsqueeze(0))", lambda s, x: x.mul(s.gamma.unsqueeze(0))),
        ],
        {"gamma": parameter(place.channels, 1, 1), "beta": parameter(place.channels)},
    )


# Layers that move channels ---------------------------------------------------------------------


def channel_shuffle(draw: DrawFn, place: Place) -> Step:
    """A shuffle of groups of channels."""
    groups = draw(st.sampled_from(place.divisors))
    each, height, width = place.channels // groups, place.height, place.width

    def by_sizes(s: Any, x: Any) -> Any:
        b, c, h, w = x.size()
        return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)

    def by_shape(s: Any, x: Any) -> Any:
        y = x.reshape(x.shape[0], groups, x.shape[1] // groups, x.shape[2], x.shape[3])
        return y.permute(0, 2, 1, 3, 4).reshape(x.shape)

    return spelled(
        draw,
        place,
        [
            (
                f"x = x.view(-1, {groups}, {each}, ...).transpose(1, 2).reshape(...)",
                lambda s, x: (
                    x.reshape(-1, groups, each, height, width)
                    .transpose(1, 2)
                    .reshape(-1, groups * each, height, width)
                ),
            ),
            (f"x = shuffle of x.size() by {groups}", by_sizes),
            (f"x = shuffle of x.shape by {groups}", by_shape),
            (
                f"x = x.unflatten(1, ({groups}, -1)).transpose(2, 1).flatten(1, 2)",
                lambda s, x: x.unflatten(1, (groups, -1)).transpose(2, 1).flatten(1, 2),
            ),
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
            (f"x = x[:, {start}:{stop}]", lambda s, x: x[:, start:stop]),
            (
                f"x = x.narrow(1, {start}, {stop - start})",
                lambda s, x: x.narrow(1, start, stop - start),
            ),
            (
                f"x = x[:, {start - place.channels}:][:, :{stop - start}]",
                lambda s, x: x[:, start - place.channels :][:, : stop - start],
            ),
        ],
    )


def channel_padding(draw: DrawFn, place: Place) -> Step:
    """Channels of a constant, before and after."""
    before, after = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    value = draw(st.sampled_from((0.0, 0.5)))
    return Step(
        f"x = F.pad(x, (0, 0, 0, 0, {before}, {after}), value={value})",
        replace(place, channels=place.channels + before + after),
        lambda s, x: F.pad(x, (0, 0, 0, 0, before, after), value=value),
    )


def pixel_shuffle(draw: DrawFn, place: Place) -> Step:
    """Channels to pixels."""
    size = (place.height * 2, place.width * 2)
    after = replace(place, channels=place.channels // 4, size=size)
    return spelled(
        draw,
        after,
        [
            ("x = F.pixel_shuffle(x, 2)", lambda s, x: F.pixel_shuffle(x, 2)),
            ("x = pixel_shuffle(x)", lambda s, x: s.shuffle(x)),
        ],
        {"shuffle": nn.PixelShuffle(2)},
    )


def pixel_unshuffle(draw: DrawFn, place: Place) -> Step:
    """Pixels to channels."""
    size = (place.height // 2, place.width // 2)
    after = replace(place, channels=place.channels * 4, size=size)
    return Step("x = F.pixel_unshuffle(x, 2)", after, lambda s, x: F.pixel_unshuffle(x, 2))


def gated_unit(draw: DrawFn, place: Place) -> Step:
    """Half of the channels gates the other half."""

    def by_chunk(s: Any, x: Any) -> Any:
        a, b = x.chunk(2, dim=1)
        return a * torch.sigmoid(b)

    def by_split(s: Any, x: Any) -> Any:
        a, b = torch.split(x, place.channels // 2, dim=1)
        return b.tanh() * a

    def by_size(s: Any, x: Any) -> Any:
        half = x.size(1) // 2
        return x[:, :half] * x[:, half:].sigmoid()

    return spelled(
        draw,
        replace(place, channels=place.channels // 2),
        [
            ("a, b = x.chunk(2, dim=1); x = a * sigmoid(b)", by_chunk),
            ("a, b = torch.split(x, half, 1); x = b.tanh() * a", by_split),
            ("x = x[:, :half] * x[:, half:].sigmoid()  # half = x.size(1) // 2", by_size),
            ("x = F.glu(x, 1)", lambda s, x: F.glu(x, 1)),
        ],
    )


def channel_mixing(draw: DrawFn, place: Place) -> Step:
    """A map computed over all channels, which scales them."""

    def by_mean_and_max(s: Any, x: Any) -> Any:
        y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(s.spatial(y))

    return spelled(
        draw,
        place,
        [
            (
                "x = x * sigmoid(x.mean(1, keepdim=True))",
                lambda s, x: x * torch.sigmoid(x.mean(1, keepdim=True)),
            ),
            ("x = x - x.mean((1, 2, 3), keepdim=True)", lambda s, x: x - x.mean((1, 2, 3), True)),
            (
                "x = x + x.sum(1).unsqueeze(1).tanh()",
                lambda s, x: x + x.sum(1).unsqueeze(1).tanh(),
            ),
            ("x = x * sigmoid(conv(cat([x.mean(1), x.amax(1)])))", by_mean_and_max),
            (
                "x = x - torch.amax(x, dim=1, keepdim=True)",
                lambda s, x: x - torch.amax(x, dim=1, keepdim=True),
            ),
        ],
        {"spatial": nn.Conv2d(2, 1, 3, padding=1)},
    )


def pinning(draw: DrawFn, place: Place) -> Step:
    """What the passes cannot express, so that its channels must stay."""
    return spelled(
        draw,
        place,
        [
            ("x = x.softmax(1)", lambda s, x: x.softmax(1)),
            ("x = x.flip(1)", lambda s, x: x.flip(1)),
            ("x = torch.roll(x, 1, 1)", lambda s, x: torch.roll(x, 1, 1)),
            ("x = x - x.max(1, keepdim=True)[0]", lambda s, x: x - x.max(1, keepdim=True)[0]),
            ("x = x.cumsum(1)", lambda s, x: x.cumsum(1)),
            ("x = F.normalize(x)", lambda s, x: F.normalize(x)),
            ("x = x + x[:, :1] + x[:, 0].unsqueeze(1)", lambda s, x: x + x[:, 0].unsqueeze(1)),
        ],
    )
