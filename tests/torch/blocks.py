"""Blocks of published networks, written anew and made small: what users will want to prune.

Each keeps the spellings of its published code where they are out of the ordinary. `Classifier` puts
a block of feature maps between a stem and a head, so that both of its ends can be pruned; the
systems at the end of this file are whole models.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8
"""Channels that go into a block, and come out unless it says otherwise."""


class Classifier(nn.Module):
    """A stem, one block, and a linear classifier of its averaged feature maps."""

    def __init__(self, block: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = unit(3, WIDTH)
        self.block = block
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def plain(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(
        conv(inputs, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs)
    )


def unit(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return plain(inputs, outputs, kernel, **options).append(nn.ReLU(inplace=True))


def depthwise(channels: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """One filter per channel, and batch norm."""
    return plain(channels, channels, kernel, groups=channels, **options)


# Spatial exploitation ---------------------------------------------------------------------------


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky et al. 2012): response normalisation, convolutions on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(WIDTH, 12, 5)
        self.normalise = nn.LocalResponseNorm(5)
        self.second = conv(12, WIDTH, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.normalise(F.relu(self.first(x))), 3, 2)
        return F.relu(self.second(x))


class VGG(nn.Sequential):
    """VGG (Simonyan & Zisserman 2014): 3x3 convolutions with biases, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            conv(WIDTH, 10),
            nn.ReLU(True),
            conv(10, 12),
            nn.ReLU(True),
            nn.MaxPool2d(2, 2),
            nn.Flatten(),
            nn.Linear(12 * 16, WIDTH),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Unflatten(1, (WIDTH, 1, 1)),
        )


class Inception(nn.Module):
    """Inception of GoogLeNet (Szegedy et al. 2014): kernels of four sizes side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one = unit(WIDTH, 4, 1)
        self.three = nn.Sequential(unit(WIDTH, 3, 1), unit(3, 6))
        self.five = nn.Sequential(unit(WIDTH, 2, 1), unit(2, 5, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(WIDTH, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Factorised(nn.Module):
    """Inception-v3 (Szegedy et al. 2015): a kernel as a row and a column, and both in parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Conv2d(WIDTH, 6, (1, 7), padding=(0, 3), bias=False)
        self.column = nn.Conv2d(6, 10, (7, 1), padding=(3, 0), bias=False)
        self.norm = nn.BatchNorm2d(10, eps=0.001)
        self.wide = nn.Conv2d(10, 4, (1, 3), padding=(0, 1))
        self.high = nn.Conv2d(10, 4, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.column(self.row(x))), inplace=True)
        return torch.cat([self.wide(x), self.high(x)], 1)


# Depth ------------------------------------------------------------------------------------------


class Highway(nn.Module):
    """Highway network (Srivastava et al. 2015): a learned gate between a layer and its input."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = conv(WIDTH, WIDTH)
        self.gate = conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return gate * F.relu(self.transform(x)) + (1 - gate) * x


class Residual(nn.Module):
    """The bottleneck of ResNet (He et al. 2015), its shortcut a strided projection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(WIDTH, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = conv(6, 5, stride=2, bias=False), nn.BatchNorm2d(5)
        self.conv3, self.bn3 = nn.Conv2d(5, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = plain(WIDTH, 12, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ShortcutA(nn.Module):
    """ResNet for CIFAR-10 (He et al. 2015): its shortcut drops pixels and adds zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(WIDTH, 6, stride=2, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = conv(6, 12, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        return F.relu(out)


class InceptionResidual(nn.Module):
    """Inception-ResNet (Szegedy et al. 2016): a scaled concatenation of paths on a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.one = unit(WIDTH, 4, 1)
        self.three = nn.Sequential(unit(WIDTH, 3, 1), unit(3, 5))
        self.up = conv(9, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + 0.3 * self.up(torch.cat((self.one(x), self.three(x)), dim=1)))


# Multi-path -------------------------------------------------------------------------------------


class Dense(nn.Module):
    """DenseNet (Huang et al. 2016): every layer reads all before it; a transition halves them."""

    def __init__(self, growth: int = 4, layers: int = 3) -> None:
        super().__init__()
        widths = [WIDTH + growth * index for index in range(layers + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv(width, growth, bias=False))
            for width in widths[:-1]
        )
        self.transition = nn.Sequential(
            nn.BatchNorm2d(widths[-1]), nn.ReLU(), conv(widths[-1], WIDTH, 1), nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.transition(torch.cat(features, 1))


class MultiScale(nn.Module):
    """HRNet (Sun et al. 2019): two resolutions that exchange what they see, then are aggregated."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low = unit(WIDTH, 6), unit(WIDTH, 10, stride=2)
        self.up, self.down = plain(10, 6, 1), plain(6, 10, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.high(x), self.low(x)
        size = high.shape[-2:]
        mixed = high + F.interpolate(self.up(low), size=size, mode="bilinear", align_corners=False)
        coarse = F.relu(low + self.down(high))
        return torch.cat([F.relu(mixed), F.interpolate(coarse, scale_factor=2)], 1)


class Fractal(nn.Module):
    """FractalNet (Larsson et al. 2016): the mean of a short and a long path."""

    def __init__(self) -> None:
        super().__init__()
        self.short = unit(WIDTH, 10)
        self.long = nn.Sequential(unit(WIDTH, 6), unit(6, 10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.short(x), self.long(x)]).mean(dim=0)


class Hourglass(nn.Module):
    """U-Net (Ronneberger et al. 2015): down, up by a transposed convolution, and a copy across."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.MaxPool2d(2), unit(WIDTH, 12))
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.merge = unit(6 + WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([x, self.up(self.down(x))], dim=1))


# Width ------------------------------------------------------------------------------------------


class WideResidual(nn.Module):
    """Wide ResNet (Zagoruyko & Komodakis 2016): activations first, dropout between wide layers."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(WIDTH), conv(WIDTH, 16)
        self.dropout = nn.Dropout(p=0.3)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), conv(16, 16)
        self.shortcut = nn.Sequential(nn.Conv2d(WIDTH, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.conv1(F.relu(self.bn1(x))))
        out = self.conv2(F.relu(self.bn2(out)))
        out += self.shortcut(x)
        return out


class ResNeXt(nn.Module):
    """ResNeXt (Xie et al. 2016): a residual of four transformations as one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = unit(WIDTH, 16, 1), plain(16, WIDTH, 1)
        self.group = unit(16, 16, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.expand(self.group(self.reduce(x))))


class Pyramidal(nn.Module):
    """PyramidNet (Han et al. 2016): every block is wider; zeros fill up the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(WIDTH), conv(WIDTH, 10), nn.BatchNorm2d(10), nn.ReLU(), conv(10, 11)
        )
        self.norm = nn.BatchNorm2d(11)

    def forward(self, x: Tensor) -> Tensor:
        out, shortcut = self.norm(self.body(x)), x
        batch, width = out.size(0), out.size(1) - shortcut.size(1)
        zeros = torch.zeros(batch, width, *out.shape[2:], dtype=x.dtype, device=x.device)
        out += torch.cat((shortcut, zeros), 1)
        return out


class Separable(nn.Module):
    """Xception (Chollet 2016): depthwise and pointwise convolutions around a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.ReLU(), depthwise(WIDTH), plain(WIDTH, 10, 1)),
            *(nn.ReLU(), depthwise(10), plain(10, 12, 1), nn.MaxPool2d(3, 2, 1)),
        )
        self.skip = plain(WIDTH, 12, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class MultiScaleResidual(nn.Module):
    """Res2Net (Gao et al. 2019): pieces of a layer, each of which reads the result of the last."""

    def __init__(self, pieces: int = 4) -> None:
        super().__init__()
        self.width = 12 // pieces
        self.reduce, self.expand = unit(WIDTH, 12, 1), plain(12, WIDTH, 1)
        self.convs = nn.ModuleList(unit(self.width, self.width) for _ in range(pieces - 1))

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.reduce(x), self.width, 1)
        out = last = self.convs[0](pieces[0])
        for layer, piece in zip(self.convs[1:], pieces[1:-1], strict=True):
            last = layer(last + piece)
            out = torch.cat((out, last), 1)
        return F.relu(self.expand(torch.cat((out, pieces[-1]), 1)) + x)


# Feature-map exploitation -----------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    """SE-ResNet (Hu et al. 2017): channels of the residual scaled by what all of them saw."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(WIDTH, 12), plain(12, WIDTH))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(WIDTH, 4, bias=False),
            nn.ReLU(),
            nn.Linear(4, WIDTH, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        b, c, _, _ = residual.size()
        scale = self.fc(self.pool(residual).view(b, c)).view(b, c, 1, 1)
        return F.relu(residual * scale.expand_as(residual) + x)


class CompetitiveSqueezeExcite(nn.Module):
    """CMPE-SE (Hu et al. 2018): residual and identity compete for the scale of the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(WIDTH, 12), plain(12, WIDTH))
        self.residual, self.identity = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.excite = nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        squeezed = [F.adaptive_avg_pool2d(y, 1).flatten(1) for y in (residual, x)]
        views = F.relu(torch.cat([self.residual(squeezed[0]), self.identity(squeezed[1])], 1))
        return F.relu(x + residual * self.excite(views).sigmoid()[:, :, None, None])


class InnerImaging(nn.Module):
    """CMPE-SE with inner imaging (Hu et al. 2018): both squeezed maps are the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain(WIDTH, WIDTH)
        self.imaging = nn.Conv2d(1, 3, (2, 1))
        self.fc = nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Linear(4, WIDTH), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        image = torch.stack([residual.mean((2, 3)), x.mean((2, 3))], 1).unsqueeze(1)
        scale = self.fc(F.relu(self.imaging(image)).mean(1).squeeze(1))
        return x + residual * scale.view(*scale.shape, 1, 1)


class SelectiveKernel(nn.Module):
    """SKNet (Li et al. 2019): per channel, a softmax over kernels of two sizes."""

    def __init__(self, paths: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, 10, 3, padding=1 + i, dilation=1 + i), nn.BatchNorm2d(10)
            )
            for i in range(paths)
        )
        self.squeeze = nn.Linear(10, 4)
        self.fcs = nn.ModuleList(nn.Linear(4, 10) for _ in range(paths))

    def forward(self, x: Tensor) -> Tensor:
        features = torch.stack([conv(x) for conv in self.convs], dim=1)
        squeezed = self.squeeze(features.sum(dim=1).mean(-1).mean(-1))
        scores = torch.stack([fc(squeezed) for fc in self.fcs], dim=1)
        return (features * scores.softmax(dim=1)[..., None, None]).sum(dim=1)


class EfficientChannel(nn.Module):
    """ECA-Net (Wang et al. 2019): a channel is scaled by a convolution over its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.body = unit(WIDTH, 10)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        y = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


# Channel boosting -------------------------------------------------------------------------------


class ChannelBoosted(nn.Module):
    """Channel-boosted CNN (Khan et al. 2018): an auto-encoder's channels join the original ones."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(WIDTH, 12, stride=2), nn.Sigmoid())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid()
        )
        self.read = unit(6 + WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.cat([self.decoder(self.encoder(x)), x], 1))


class FrozenAuxiliary(nn.Module):
    """Channel boosting by transfer learning: the auxiliary learner is fixed, not trained along."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = unit(WIDTH, 6).requires_grad_(False)
        self.read = unit(6 + WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            auxiliary = self.auxiliary(x)
        return self.read(torch.cat([x, auxiliary.detach()], 1))


# Attention --------------------------------------------------------------------------------------


class ChannelAttention(nn.Module):
    """The first half of CBAM: one perceptron reads the mean and the maximum of every map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = (x.size(2), x.size(3))
        total = self.mlp(F.avg_pool2d(x, size, stride=size))
        total = total + self.mlp(F.max_pool2d(x, size, stride=size))
        return x * torch.sigmoid(total).unsqueeze(2).unsqueeze(3).expand_as(x)


class SpatialAttention(nn.Module):
    """The second half of CBAM: a map of where to look, from the maximum and mean of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = plain(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([torch.amax(x, 1, keepdim=True), torch.mean(x, 1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(pooled))


class PublishedSpatialAttention(SpatialAttention):
    """The second half of CBAM as its authors spell it: the values of `torch.max`."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = (torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1))
        return x * torch.sigmoid(self.spatial(torch.cat(pooled, dim=1)))


class CBAM(nn.Module):
    """CBAM (Woo et al. 2018) on a residual: attention to channels, then to places."""

    def __init__(self, spatial: type[SpatialAttention] = SpatialAttention) -> None:
        super().__init__()
        self.body = plain(WIDTH, WIDTH)
        self.attention = nn.Sequential(ChannelAttention(WIDTH), spatial())

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.attention(self.body(x)))


class ConcurrentAttention(nn.Module):
    """scSE (Roy et al. 2018): channels and places are scaled side by side, then added up."""

    def __init__(self) -> None:
        super().__init__()
        self.body = unit(WIDTH, 12)
        self.channels = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(12, 6, 1), nn.ReLU(), conv(6, 12, 1), nn.Sigmoid()
        )
        self.places = nn.Sequential(conv(12, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x * self.channels(x) + x * self.places(x)


class ResidualAttention(nn.Module):
    """Residual attention network (Wang et al. 2017): (1 + mask) * trunk, the mask an hourglass."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(unit(WIDTH, 12), unit(12, WIDTH))
        self.down = nn.Sequential(nn.MaxPool2d(3, 2, 1), unit(WIDTH, 10))
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)
        self.mask = nn.Sequential(unit(10, 6, 1), conv(6, WIDTH, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.mask(self.up(self.down(x)))) * self.trunk(x)


class NonLocal(nn.Module):
    """Non-local network (Wang et al. 2017): every place attends to every place of pooled maps."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.channels = channels
        self.g = nn.Sequential(conv(WIDTH, channels, 1), nn.MaxPool2d(2))
        self.theta = conv(WIDTH, channels, 1)
        self.phi = nn.Sequential(conv(WIDTH, channels, 1), nn.MaxPool2d(2))
        self.out = plain(channels, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        g = self.g(x).view(batch, self.channels, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, self.channels, -1).permute(0, 2, 1)
        phi = self.phi(x).view(batch, self.channels, -1)
        y = torch.matmul(F.softmax(torch.matmul(theta, phi), dim=-1), g)
        y = y.permute(0, 2, 1).contiguous().view(batch, self.channels, *x.size()[2:])
        return self.out(y) + x


class GlobalContext(nn.Module):
    """GCNet (Cao et al. 2019): one attention map for all places, a normalised bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(WIDTH, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(WIDTH, 6, 1), nn.LayerNorm([6, 1, 1]), nn.ReLU(), nn.Conv2d(6, WIDTH, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channel, height, width = x.size()
        inputs = x.view(batch, channel, height * width).unsqueeze(1)
        mask = self.mask(x).view(batch, 1, height * width).softmax(2).unsqueeze(-1)
        context = torch.matmul(inputs, mask).view(batch, channel, 1, 1)
        return x + self.transform(context)


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al. 2021): rows and columns pass through one bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.body = unit(WIDTH, 12)
        self.reduce = nn.Sequential(plain(12, 6, 1), nn.Hardswish())
        self.rows, self.columns = conv(6, 12, 1), conv(6, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        _, _, h, w = x.size()
        rows = F.adaptive_avg_pool2d(x, (h, 1))
        columns = F.adaptive_avg_pool2d(x, (1, w)).permute(0, 1, 3, 2)
        rows, columns = torch.split(self.reduce(torch.cat([rows, columns], dim=2)), [h, w], dim=2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()


# Whole systems ----------------------------------------------------------------------------------


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's batch norm that activates as well, by functional calls of its own."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return F.silu(x, inplace=True)


class Excite(nn.Module):
    """The squeeze-and-excitation of EfficientNet: 1x1 convolutions on the mean of every map."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * scale.sigmoid()


class MBConv(nn.Module):
    """The inverted residual of EfficientNet: expand, filter every channel, excite, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.has_skip = inputs == outputs and stride == 1
        self.conv_pw = conv(inputs, middle, 1, bias=False)
        self.bn1 = BatchNormAct2d(middle)
        self.conv_dw = conv(middle, middle, kernel, stride=stride, groups=middle, bias=False)
        self.bn2 = BatchNormAct2d(middle)
        self.se = Excite(middle, 3)
        self.conv_pwl = conv(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        x = self.bn3(self.conv_pwl(self.se(x)))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class TinyNet(nn.Module):
    """TinyNet (Han et al. 2020): EfficientNet with another balance of resolution and depth."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = conv(3, WIDTH, stride=2, bias=False), BatchNormAct2d(WIDTH)
        self.blocks = nn.Sequential(MBConv(WIDTH, 6, 3, 1, 2), MBConv(6, 6, 5, 1, 2))
        self.conv_head, self.bn2 = conv(6, 12, 1, bias=False), BatchNormAct2d(12)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.bn1(self.conv_stem(x)))
        x = self.bn2(self.conv_head(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MultiView(nn.Module):
    """The multi-view fusion of MVFNet around a layer: some channels look along time and space."""

    def __init__(self, net: nn.Module, channels: int, segments: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.net, self.segments = net, segments
        self.planes = planes = int(channels * alpha)
        self.shift_conv = nn.Conv3d(planes, planes, (3, 1, 1), padding=(1, 0, 0), groups=planes)
        self.h_conv = nn.Conv3d(planes, planes, (1, 3, 1), padding=(0, 1, 0), groups=planes)
        self.w_conv = nn.Conv3d(planes, planes, (1, 1, 3), padding=(0, 0, 1), groups=planes)
        self.bn, self.activation = nn.BatchNorm3d(planes), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        nt, c, h, w = x.size()
        x = x.view(nt // self.segments, self.segments, c, h, w).transpose(1, 2)
        parts = list(x.split([self.planes, c - self.planes], dim=1))
        out = self.shift_conv(parts[0]) + self.h_conv(parts[0]) + self.w_conv(parts[0])
        parts[0] = self.activation(self.bn(out))
        x = torch.cat(parts, dim=1).transpose(1, 2).contiguous().view(nt, c, h, w)
        return self.net(x)


class MVFNet(nn.Module):
    """MVFNet (Wu et al. 2021): a bottleneck of a 2D network whose first layer sees a video."""

    def __init__(self, segments: int = 4) -> None:
        super().__init__()
        self.segments = segments
        self.stem = unit(3, WIDTH)
        self.conv1 = MultiView(nn.Conv2d(WIDTH, 6, 1, bias=False), WIDTH, segments)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2, self.conv3 = unit(6, 5), plain(5, WIDTH, 1)
        self.fc = nn.Linear(WIDTH, 5)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.stem(clips.reshape((-1, *clips.shape[2:])))
        x = F.relu(x + self.conv3(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = F.adaptive_avg_pool2d(x, 1).reshape(-1, self.segments, WIDTH)
        return self.fc(x.mean(dim=1))


class InteractE(nn.Module):
    """InteractE (Vashishth et al. 2020): link prediction by circular, depthwise convolution."""

    def __init__(self, entities: int = 9, relations: int = 4, perm: int = 2) -> None:
        super().__init__()
        self.perm, self.k_w, self.k_h, self.filters, self.kernel = perm, 3, 4, 6, 3
        dim = self.k_w * self.k_h
        self.ent_embed, self.rel_embed = nn.Embedding(entities, dim), nn.Embedding(relations, dim)
        self.bn0, self.inp_drop = nn.BatchNorm2d(perm), nn.Dropout(0.2)
        self.conv_filt = nn.Parameter(torch.zeros(self.filters, 1, self.kernel, self.kernel))
        self.bn1, self.feature_drop = nn.BatchNorm2d(self.filters * perm), nn.Dropout2d(0.5)
        self.flat = 2 * dim * self.filters * perm
        self.fc, self.hidden_drop = nn.Linear(self.flat, dim), nn.Dropout(0.5)
        self.bn2 = nn.BatchNorm1d(dim)
        self.bias = nn.Parameter(torch.zeros(entities))
        self.register_buffer("chequer", self._chequer())

    def _chequer(self) -> Tensor:
        """Per permutation, entity and relation features that alternate like a chequered board."""
        dim, generator = self.k_w * self.k_h, torch.Generator().manual_seed(0)
        boards = []
        for number in range(self.perm):
            entity = torch.randperm(dim, generator=generator).view(self.k_w, self.k_h)
            relation = dim + torch.randperm(dim, generator=generator).view(self.k_w, self.k_h)
            for row in range(self.k_w):
                pair = (entity[row], relation[row])
                boards.append(torch.stack(pair if (row + number) % 2 else pair[::-1], 1).view(-1))
        return torch.cat(boards)

    def forward(self, sub: Tensor, rel: Tensor) -> Tensor:
        comb = torch.cat([self.ent_embed(sub), self.rel_embed(rel)], dim=1)
        stack = comb[:, self.chequer].reshape((-1, self.perm, 2 * self.k_w, self.k_h))
        x, p = self.inp_drop(self.bn0(stack)), self.kernel // 2
        x = torch.cat([x[..., -p:], x, x[..., 0:p]], dim=3)
        x = torch.cat([x[..., -p:, :], x, x[..., 0:p, :]], dim=2)
        filters = self.conv_filt.repeat(self.perm, 1, 1, 1)
        x = F.relu(self.bn1(F.conv2d(x, filters, padding=0, groups=self.perm)))
        x = self.hidden_drop(self.fc(self.feature_drop(x).view(-1, self.flat)))
        x = torch.mm(F.relu(self.bn2(x)), self.ent_embed.weight.transpose(1, 0))
        x += self.bias.expand_as(x)
        return torch.sigmoid(x)


class SpatialPyramid(nn.Module):
    """Spatial pyramid pooling (He et al. 2014): maxima over grids of several sizes."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.AdaptiveMaxPool2d(level) for level in levels)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        return torch.cat([pool(x).flatten(1) for pool in self.pools], dim=1)


class AngularLogit(nn.Module):
    """Cosines between a representation and one direction per class (ArcFace, Deng et al. 2018)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight))


class CV4Code(nn.Module):
    """The ConvNet of CV4Code (Shi et al. 2022): source text as an image of symbols."""

    def __init__(self, symbols: int = 6) -> None:
        super().__init__()
        self.symbols = symbols
        self.conv, self.bn = conv(symbols, WIDTH, 7, stride=2), nn.BatchNorm2d(WIDTH)
        self.residual = Residual()
        self.pyramid = SpatialPyramid((2, 1))
        self.bottleneck = nn.Linear(12 * 5, 10)
        self.angular = AngularLogit(10, 5)

    def forward(self, text: Tensor) -> Tensor:
        x = F.one_hot(text, self.symbols).transpose(1, 3).transpose(2, 3)
        x = F.relu(self.bn(self.conv(x.to(self.conv.weight.dtype))))
        x = self.pyramid(self.residual(F.max_pool2d(x, 3, 2, 1)))
        return self.angular(F.relu(self.bottleneck(x)))


class SetScorer(nn.Module):
    """rho(phi(a) + phi(b)) of Deep Sets (Zaheer et al. 2017), rho(phi(a) - phi(b)) if ordered."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.rho = nn.Sequential(
            nn.Linear(hidden, width), nn.ReLU(), nn.LayerNorm(width), nn.Dropout(0.1)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.phi(a), self.phi(b)
        return self.rho(a + b), self.rho(a - b)


class Deductive(nn.Module):
    """Question-aware deductive solver (Zhang 2023): scores pairs of quantities, updates by GRUs."""

    def __init__(self, quantities: int = 3, steps: int = 2, width: int = 10) -> None:
        super().__init__()
        self.steps = steps
        pairs = torch.combinations(torch.arange(quantities), 2, with_replacement=True)
        self.register_buffer("pairs", pairs, persistent=False)
        self.encode, self.ask = nn.Linear(6, width), nn.Linear(6, width)
        self.scorer = SetScorer(width, 12)
        self.label = nn.Linear(width, 1)
        self.variable_gru, self.question_gru = nn.GRUCell(width, width), nn.GRUCell(width, width)
        self.stopper_transformation = nn.Linear(width, width)
        self.stopper = nn.Linear(width, 2)

    def forward(self, tokens: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        variables, question = torch.tanh(self.encode(tokens)), torch.tanh(self.ask(question))
        scores, stops = [], []
        for _ in range(self.steps):
            left, right = variables[:, self.pairs[:, 0]], variables[:, self.pairs[:, 1]]
            candidates = torch.cat(self.scorer(left, right), dim=1)
            score = self.label(candidates).squeeze(-1)
            best = torch.bmm(F.softmax(score, -1).unsqueeze(1), candidates).squeeze(1)
            question = self.question_gru(self.stopper_transformation(best), question)
            stops.append(self.stopper(question))
            variables = self._updated(variables, best)
            scores.append(score)
        return torch.stack(scores, 1), torch.stack(stops, 1)

    def _updated(self, variables: Tensor, best: Tensor) -> Tensor:
        batch, number, width = variables.size()
        news = best.unsqueeze(1).expand(batch, number, width).reshape(-1, width)
        return self.variable_gru(news, variables.reshape(-1, width)).view(batch, number, width)
