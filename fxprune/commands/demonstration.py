"""The network that `fxprune demo` prunes."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a skip: a branch that can be removed whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The skip and the branch."""
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


def network() -> tuple[nn.Module, Tensor]:
    """A small residual classifier of images, the same at every call, and an example input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            *(Block(32) for _ in range(4)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )
    return model, torch.zeros(1, 3, 32, 32)
