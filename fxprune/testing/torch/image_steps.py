"""The steps of random image networks, on (batch, channels, *size) with one to three axes of size.

Steps that only have a meaning for pictures (pixel shuffle, padded shortcuts) ask for two.
"""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch.programs import Context, Step, spelled

CHANNELS = (4, 2, 3, 6, 8, 12)
"""Numbers of channels that layers have."""


def axes(place: Context) -> str:
    """The axes beside batch and channels, as torch takes them: `(2, 3)`."""
    return str(tuple(range(2, 2 + place.dims)))


def ones(place: Context) -> str:
    """One position for each of those axes: `1, 1`."""
    return ", ".join("1" * place.dims)


def widened(place: Context) -> str:
    """An index that gives a vector those axes: `[:, None, None]`."""
    return f"[:, {', '.join(['None'] * place.dims)}]"


# Layers that compute ---------------------------------------------------------------------------


def conv_to(draw: DrawFn, place: Context, channels: int, groups: int = 1) -> Step:
    """A convolution that keeps the size, as a module or as a function."""
    kernel, bias = draw(st.sampled_from((1, 3))), draw(st.booleans())
    mode = draw(st.sampled_from(("zeros", "circular"))) if kernel == 3 else "zeros"
    notes = f", padding={kernel // 2}" * (kernel == 3) + f", groups={groups}" * (groups > 1)
    made = notes + ", bias=False" * (not bias) + f', padding_mode="{mode}"' * (mode != "zeros")
    spellings = ["x = self.conv(x)"]
    if mode == "zeros":
        spellings.append(f"x = F.conv{place.dims}d(x, self.conv.weight, self.conv.bias{notes})")
    return spelled(
        draw,
        replace(place, channels=channels),
        spellings,
        {"conv": f"nn.Conv{place.dims}d({place.channels}, {channels}, {kernel}{made})"},
    )


def conv(draw: DrawFn, place: Context) -> Step:
    """A plain convolution."""
    return conv_to(draw, place, draw(st.sampled_from(CHANNELS)))


def depthwise(draw: DrawFn, place: Context) -> Step:
    """A filter, or two, per channel."""
    return conv_to(draw, place, place.channels * draw(st.sampled_from((1, 2))), place.channels)


def grouped(draw: DrawFn, place: Context) -> Step:
    """A convolution in groups."""
    groups = draw(st.sampled_from(place.divisors))
    return conv_to(draw, place, groups * draw(st.sampled_from((2, 1, 3))), groups)


def strided(draw: DrawFn, place: Context) -> Step:
    """A convolution that changes the size."""
    channels = draw(st.sampled_from(CHANNELS))
    stride, padding = draw(st.sampled_from(((2, 1), (1, 0), (2, 0))))
    size = tuple((n + 2 * padding - 3) // stride + 1 for n in place.size)
    layer = f"nn.Conv{place.dims}d({place.channels}, {channels}, 3, {stride}, {padding})"
    return Step("x = self.conv(x)", replace(place, channels=channels, size=size), {"conv": layer})


def transposed(draw: DrawFn, place: Context) -> Step:
    """A transposed convolution, plain or grouped."""
    groups = draw(st.sampled_from((1, *place.divisors)))
    channels = groups * draw(st.sampled_from((2, 1, 3)))
    d, settings = place.dims, f"padding=1, groups={groups}"
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            "x = self.conv(x)",
            f"x = F.conv_transpose{d}d(x, self.conv.weight, self.conv.bias, {settings})",
        ],
        {"conv": f"nn.ConvTranspose{d}d({place.channels}, {channels}, 3, {settings})"},
    )


def channels_last_linear(draw: DrawFn, place: Context) -> Step:
    """A linear layer on the channels, the last axis for a while."""
    channels, bias = draw(st.sampled_from(CHANNELS)), draw(st.booleans())
    there = (0, *range(2, 2 + place.dims), 1)
    back = (0, 1 + place.dims, *range(1, 1 + place.dims))
    return spelled(
        draw,
        replace(place, channels=channels),
        [
            f"x = self.linear(x.permute{there}).permute{back}",
            "x = self.linear(x.flatten(2).transpose(1, 2)).transpose(1, 2)"
            f".unflatten(2, {place.size})",
            "x = (x.movedim(1, -1) @ self.linear.weight.t()).movedim(-1, 1)",
        ],
        {"linear": f"nn.Linear({place.channels}, {channels}, bias={bias})"},
    )


def shared(draw: DrawFn, place: Context) -> Step:
    """One convolution, called twice."""
    step = conv_to(draw, place, place.channels)
    return replace(step, code=f"{step.code}\nx = F.relu(x)\n{step.code}")


def tied(draw: DrawFn, place: Context) -> Step:
    """Two convolutions that have one weight and biases of their own."""
    kernel = draw(st.sampled_from((1, 3)))
    settings = f"{place.channels}, {place.channels}, {kernel}, padding={kernel // 2}"
    layer = f"nn.Conv{place.dims}d({settings})"
    return Step(
        "x = self.second(torch.sigmoid(self.first(x)))",
        place,
        {"first": layer, "second": layer, "second.weight": "self.first.weight"},
    )


def standardised(draw: DrawFn, place: Context) -> Step:
    """A convolution whose filters have mean zero and deviation one (Qiao et al. 2019)."""
    channels, d = draw(st.sampled_from(CHANNELS)), place.dims
    code = f"""\
w = self.conv.weight.reshape(1, {channels}, -1)
w = F.batch_norm(w, None, None, training=True).reshape_as(self.conv.weight)
x = F.conv{d}d(x, w, self.conv.bias, padding=1)"""
    layer = f"nn.Conv{d}d({place.channels}, {channels}, 3, padding=1)"
    return Step(code, replace(place, channels=channels), {"conv": layer})


def attention(draw: DrawFn, place: Context) -> Step:
    """Attention between positions: contractions of two computed arrays."""
    layer = f"nn.Conv{place.dims}d({place.channels}, {draw(st.sampled_from((2, 3, 4)))}, 1)"
    code = """\
q, k = self.query(x).flatten(2).transpose(1, 2), self.key(x).flatten(2)
x = (x.flatten(2) @ torch.bmm(q, k).softmax(-1).transpose(1, 2)).view(x.shape)"""
    return Step(code, place, {"query": layer, "key": layer})


# Layers that carry -----------------------------------------------------------------------------


def activation(draw: DrawFn, place: Context) -> Step:
    """An activation, with f(0) = 0 or not."""
    return spelled(
        draw,
        place,
        [
            "x = F.relu(x)",
            "x = x.relu()",
            "x = torch.sigmoid(x)",
            "x = F.softplus(x)",
            "x = x.cos()",
            "x = F.hardsigmoid(x)",
            "x = x + 1",
            "x = 2 - x",
            "x = x.clamp(min=0.1)",
            "x = x / (1 + x.abs())",
            "x = F.leaky_relu(x, 0.2)",
            "x = F.logsigmoid(x)",
            "x = torch.fmax(x, x.sin())",
            "x = torch.asinh(x) + torch.special.expit(x)",
            "x = torch.copysign(x, x.cos()).sinc()",
            "x = torch.special.erfc(x) - torch.hypot(x, x + 1)",
            "x, y = torch.broadcast_tensors(x, x.mean())\nx = x - y",
        ],
    )


def activation_module(draw: DrawFn, place: Context) -> Step:
    """An activation or pass-through module."""
    layers = (
        "nn.ReLU()",
        "nn.Softplus()",
        "nn.Hardsigmoid()",
        "nn.GELU()",
        "nn.PReLU()",
        f"nn.PReLU({place.channels})",
        "nn.Identity()",
    )
    return Step("x = self.act(x)", place, {"act": draw(st.sampled_from(layers))})


def in_place(draw: DrawFn, place: Context) -> Step:
    """What overwrites its operand; a network with it may not be differentiable."""
    return spelled(
        draw,
        place,
        [
            "x.relu_()",
            "x = F.relu(x, inplace=True)",
            "x += 0.5",
            "x = self.relu(x)",
            "x = self.swish(x)",
            "x.mul_(self.gamma)",
        ],
        {
            "relu": "nn.ReLU(inplace=True)",
            "swish": "nn.Hardswish(inplace=True)",
            "gamma": f"nn.Parameter(torch.zeros({place.channels}, {ones(place)}))",
        },
    )


def normalisation(draw: DrawFn, place: Context) -> Step:
    """Batch, group, layer or instance normalisation, with or without parameters."""
    c, d, affine = place.channels, place.dims, draw(st.booleans())
    groups = draw(st.sampled_from(place.groupings))
    layers = (
        f"nn.BatchNorm{d}d({c}, affine={affine})",
        f"nn.BatchNorm{d}d({c}, affine={affine}, momentum=None)",
        f"nn.BatchNorm{d}d({c}, affine={affine}, track_running_stats=False)",
        f"nn.GroupNorm({groups}, {c}, affine={affine})",
        f"nn.LayerNorm({(c, *place.size)}, elementwise_affine={affine})",
        f"nn.InstanceNorm{d}d({c}, affine={affine})",
        f"nn.InstanceNorm{d}d({c}, affine={affine}, track_running_stats=True)",
    )
    return Step("x = self.norm(x)", place, {"norm": draw(st.sampled_from(layers))})


def functional_normalisation(draw: DrawFn, place: Context) -> Step:
    """A normalisation written as a function, or over the channels of an image."""
    c = place.channels
    groups = draw(st.sampled_from(place.groupings))
    vector = f"nn.Parameter(torch.zeros({c}))"
    return spelled(
        draw,
        place,
        [
            f"x = F.layer_norm(x.movedim(1, -1), ({c},), self.weight, self.bias).movedim(-1, 1)",
            f"x = F.group_norm(x, {groups}, self.weight, self.bias)",
            "x = F.instance_norm(x, weight=self.weight, bias=self.bias)",
            "mean, var = self.norm.running_mean, self.norm.running_var\n"
            "x = F.batch_norm(x, mean, var, self.weight, self.bias, self.training)",
            f"x = x - x.mean({axes(place)}, keepdim=True) + self.bias.view(1, -1, {ones(place)})",
        ],
        {"weight": vector, "bias": vector, "norm": f"nn.BatchNorm{place.dims}d({c})"},
    )


def pooling(draw: DrawFn, place: Context) -> Step:
    """Pooling that keeps the size."""
    d = place.dims
    return spelled(
        draw,
        place,
        [
            f"x = F.max_pool{d}d(x, 3, 1, 1)",
            f"x = F.avg_pool{d}d(x, 3, stride=1, padding=1)",
            "x = self.pool(x)",
            f"x = F.interpolate(F.adaptive_avg_pool{d}d(x, 2), size={place.size})",
        ],
        {"pool": f"nn.AvgPool{d}d(3, stride=1, padding=1)"},
    )


def downsampling(draw: DrawFn, place: Context) -> Step:
    """Pooling or strided indexing that halves the size."""
    after = replace(place, size=tuple((n + 1) // 2 for n in place.size))
    steps = ", ".join(["::2"] * place.dims)
    return spelled(
        draw,
        after,
        ["x = self.pool(x)", f"x = x[:, :, {steps}]", f"x = x[..., {steps}]"],
        {"pool": f"nn.MaxPool{place.dims}d(2, ceil_mode=True)"},
    )


def dropout(draw: DrawFn, place: Context) -> Step:
    """Dropout, which evaluation skips."""
    return spelled(
        draw,
        place,
        [
            "x = self.dropout(x)",
            "x = F.dropout(x, 0.3, training=self.training)",
            f"x = F.dropout{place.dims}d(x, 0.3, self.training)",
        ],
        {"dropout": "nn.Dropout(0.3)"},
    )


def layer_scale(draw: DrawFn, place: Context) -> Step:
    """A factor or term per channel, held by the model itself."""
    return spelled(
        draw,
        place,
        [
            "x = x * self.gamma",
            f"x = self.gamma * x + self.beta{widened(place)}",
            f"x = x + self.beta.view(1, -1, {ones(place)})",
            "x = x.mul(self.gamma.unsqueeze(0))",
        ],
        {
            "gamma": f"nn.Parameter(torch.zeros({place.channels}, {ones(place)}))",
            "beta": f"nn.Parameter(torch.zeros({place.channels}))",
        },
    )
