"""Small models for tests of the public functions."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.passes.ties import steps_of

IMAGE = (3, 8, 8)


class Residual(nn.Module):
    """Two convolutions, a residual block with batch norm, dropout, a linear classifier."""

    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.body = nn.Sequential(
            nn.Conv2d(width, width + 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(width + 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(width + 4, width, 3, padding=1),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.head(self.dropout(x.mean((2, 3))))


class Auxiliary(nn.Module):
    """Returns a second prediction in training, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.aux = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1))
        self.body = nn.Conv2d(8, 10, 3)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.norm(self.stem(x)))
        y = self.head(torch.sigmoid(self.body(x))).mean((2, 3))
        if self.training:
            return y, self.aux(x).mean((2, 3))
        return y


def plain() -> nn.Sequential:
    """Two convolutions; the 8 channels between them form the only free group, called 0."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw everything anew: default biases, scales and statistics hide folding errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.copy_(noise * 1.4 * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.3 * noise + name.endswith("weight"))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def images(batch: int = 2, seed: int = 0, size: tuple[int, ...] = IMAGE) -> Tensor:
    """Random images in the default precision."""
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0
) -> list[float]:
    """Some steps in float64 on four images, other ones at every step; the losses."""
    losses = []
    for step in range(first, first + steps):
        loss = F.cross_entropy(model(images(4, seed=step).double()), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def half(gated: nn.Module, seed: int = 0, branches: float = 0.8) -> dict[str, Tensor]:
    """A random keep-set: every position with probability 1/2, at least one per group.

    Branches stay with probability `branches`, and groups that are tied keep one half.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = [group for group in fxprune.groups(gated) if not group.pin]
    sizes = {group.name: group.size for group in groups}
    keep = {}
    for group in groups:
        share = 0.5 if group.kind != "branch" else branches
        flags = torch.rand(group.size, generator=generator) < share
        if group.tied:
            flags = torch.randperm(group.size, generator=generator) < half_of(group, sizes)
        elif group.kind != "branch":
            flags[torch.randint(group.size, (1,), generator=generator)] = True
            while int(flags.sum()) < group.least or int(flags.sum()) % group.multiple:
                flags[torch.randint(group.size, (1,), generator=generator)] = True
        keep[group.name] = flags
    return keep


def half_of(group: fxprune.GroupInfo, sizes: Mapping[str, int]) -> int:
    """A half of the positions of a group, or what comes next to it for all that are tied."""
    steps = steps_of((group.size, *(sizes[name] for name in group.tied)), group.size // group.unit)
    some = range(max(steps // 2, 1) * group.size // steps, group.size, group.size // steps)
    allowed = (n for n in some if n >= group.least and n % group.multiple == 0)
    return next(allowed, group.size)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor of a nested output, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in tensors_in(item)]


def assert_equal(left: Any, right: Any) -> None:
    """Two (nested) outputs are the same bits."""
    for a, b in zip(tensors_in(left), tensors_in(right), strict=True):
        assert torch.equal(a, b)


def relative_error(expected: Any, got: Any) -> float:
    """The largest difference relative to the largest expected value, over all tensors."""
    tensors = ([tensor.detach() for tensor in tensors_in(value)] for value in (expected, got))
    pairs = zip(*tensors, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
