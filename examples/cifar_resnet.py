"""Which network do the CIFAR examples prune? The CIFAR ResNets of arXiv 1512.03385.

Three stages of n basic blocks each, 16, 32 and 64 channels wide, make depth 6 n + 2 (section 4.2 of
He et al.). Skips have no parameters ("option A"): where a stage halves the image and doubles the
channels, the skip takes every second pixel and pads with zero channels on either side of the old.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip around them: relu(f(x) + skip(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        widening = outputs - inputs
        self.skip: nn.Module = PaddedSkip(stride, widening) if widening else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.skip(x))


class PaddedSkip(nn.Module):
    """Option A: every `stride`-th pixel, between zero channels that widen it by `widening`."""

    def __init__(self, stride: int, widening: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = widening // 2
        self.after = widening - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class CifarResNet(nn.Module):
    """ResNet-`depth` for 32x32 images.

    >>> model = CifarResNet(20)
    >>> sum(parameter.numel() for parameter in model.parameters())
    269722

    Args:
        depth: 6 n + 2 for n blocks in each stage; the paper has 20, 32, 44, 56 and 110.
        classes: the number of outputs.
        widths: channels of the three stages.
    """

    def __init__(
        self, depth: int = 20, classes: int = 10, widths: tuple[int, int, int] = WIDTHS
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, ...), got depth={depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = stage(widths[0], widths[0], 1, blocks)
        self.layer2 = stage(widths[0], widths[1], 2, blocks)
        self.layer3 = stage(widths[1], widths[2], 2, blocks)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    """A stage: `blocks` basic blocks, of which the first one changes image size and width."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def pretrained(depth: int, weights: str | Path, classes: int = 10) -> CifarResNet:
    """ResNet-`depth` with the weights of a safetensors file, which must fit exactly."""
    model = CifarResNet(depth, classes)
    model.load_state_dict(load_file(weights), strict=True)
    return model
