"""Steps of random image networks that move, mix and pick channels."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fxprune.testing.torch.programs import Context, Step, spelled


def channel_shuffle(draw: DrawFn, place: Context) -> Step:
    """A shuffle of groups of channels."""
    groups = draw(st.sampled_from(place.divisors))
    each, size = place.channels // groups, ", ".join(map(str, place.size))
    names = ", ".join("hwd"[: place.dims])
    sizes = ", ".join(f"x.shape[{axis}]" for axis in range(2, 2 + place.dims))
    order = (0, 2, 1, *range(3, 3 + place.dims))
    return spelled(
        draw,
        place,
        [
            f"x = x.reshape(-1, {groups}, {each}, {size}).transpose(1, 2)"
            f".reshape(-1, {groups * each}, {size})",
            f"b, c, {names} = x.size()\n"
            f"x = x.view(b, {groups}, c // {groups}, {names}).transpose(1, 2).contiguous()\n"
            f"x = x.view(b, -1, {names})",
            f"y = x.reshape(x.shape[0], {groups}, x.shape[1] // {groups}, {sizes})\n"
            f"x = y.permute{order}.reshape(x.shape)",
            f"x = x.unflatten(1, ({groups}, -1)).transpose(2, 1).flatten(1, 2)",
            f"x = F.channel_shuffle(x, {groups})",
        ][: 5 if place.dims == 2 else 4],
    )


def channel_slice(draw: DrawFn, place: Context) -> Step:
    """Some consecutive channels."""
    start = draw(st.integers(0, place.channels - 1))
    stop = draw(st.integers(start + 1, place.channels))
    return spelled(
        draw,
        replace(place, channels=stop - start),
        [
            f"x = x[:, {start}:{stop}]",
            f"x = x.narrow(1, {start}, {stop - start})",
            f"x = x[:, {start - place.channels}:][:, :{stop - start}]",
        ],
    )


def channel_scatter(draw: DrawFn, place: Context) -> Step:
    """A layer that adds to some channels, in any order."""
    written = draw(st.permutations(range(place.channels)))
    written = written[: draw(st.integers(1, place.channels))]
    return spelled(
        draw,
        place,
        [
            "x = x.index_add(1, self.places, self.conv(x))",
            "x = torch.index_add(x, dim=1, index=self.places, source=self.conv(x))",
        ],
        {
            "conv": f"nn.Conv{place.dims}d({place.channels}, {len(written)}, 1)",
            "places": f"torch.tensor({written})",
        },
    )


def channel_padding(draw: DrawFn, place: Context) -> Step:
    """Channels of a constant, before and after."""
    before, after = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    value = draw(st.sampled_from((0.0, 0.5)))
    widths = (0,) * 2 * place.dims + (before, after)
    return Step(
        f"x = F.pad(x, {widths}, value={value})",
        replace(place, channels=place.channels + before + after),
    )


def pixel_shuffle(draw: DrawFn, place: Context) -> Step:
    """Channels to pixels."""
    size = tuple(2 * n for n in place.size)
    return spelled(
        draw,
        replace(place, channels=place.channels // 4, size=size),
        ["x = F.pixel_shuffle(x, 2)", "x = self.shuffle(x)"],
        {"shuffle": "nn.PixelShuffle(2)"},
    )


def pixel_unshuffle(draw: DrawFn, place: Context) -> Step:
    """Pixels to channels."""
    size = tuple(n // 2 for n in place.size)
    after = replace(place, channels=place.channels * 4, size=size)
    return Step("x = F.pixel_unshuffle(x, 2)", after)


def patches(draw: DrawFn, place: Context) -> Step:
    """Pixels are gathered from elsewhere: neighbours as channels, or read between pixels."""
    grid = f"torch.linspace(-1, 1, {2 * place.size[0] * place.size[1]})"
    return spelled(
        draw,
        place,
        [
            f"x = F.fold(F.unfold(x, 3, padding=1), {place.size}, 3, padding=1)",
            f"x = (self.weight @ F.unfold(x, 3, padding=1)).unflatten(-1, {place.size})",
            "x = F.grid_sample(x, self.grid.expand(x.shape[0], -1, -1, -1), align_corners=False)",
        ],
        {
            "grid": f"{grid}.view(1, {place.size[0]}, {place.size[1]}, 2)",
            "weight": f"nn.Parameter(torch.zeros({place.channels}, {9 * place.channels}))",
        },
    )


def gated_unit(draw: DrawFn, place: Context) -> Step:
    """Half of the channels gates the other half."""
    half = place.channels // 2
    return spelled(
        draw,
        replace(place, channels=half),
        [
            "a, b = x.chunk(2, dim=1)\nx = a * torch.sigmoid(b)",
            f"a, b = torch.split(x, {half}, dim=1)\nx = b.tanh() * a",
            "half = x.size(1) // 2\nx = x[:, :half] * x[:, half:].sigmoid()",
            "x = F.glu(x, 1)",
        ],
    )


def channel_mixing(draw: DrawFn, place: Context) -> Step:
    """A map computed over all channels, which scales them."""
    whole = (1, *range(2, 2 + place.dims))
    return spelled(
        draw,
        place,
        [
            "x = x * torch.sigmoid(x.mean(1, keepdim=True))",
            f"x = x - x.mean({whole}, keepdim=True)",
            "x = x + x.sum(1).unsqueeze(1).tanh()",
            "x = x - x.sum(1, keepdim=True) / x.size(1)",
            "y = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)\n"
            "x = x * torch.sigmoid(self.spatial(y))",
            "x = x - torch.amax(x, dim=1, keepdim=True)",
        ],
        {"spatial": f"nn.Conv{place.dims}d(2, 1, 3, padding=1)"},
    )


def pinning(draw: DrawFn, place: Context) -> Step:
    """What the passes cannot express, so that its channels must stay."""
    return spelled(
        draw,
        place,
        [
            "x = x.softmax(1)",
            "x = x.flip(1)",
            "x = torch.roll(x, 1, 1)",
            "x = x - x.max(1, keepdim=True)[0]",
            "x = x.cumsum(1)",
            "x = F.normalize(x)",
            "x = x + x[:, 0].unsqueeze(1)",
            "x = x * x[:, ::2].mean(1, keepdim=True)",
        ],
    )
