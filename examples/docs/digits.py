"""What scripts of the gallery have in common: handwritten digits, a small network, a short loop."""

from typing import Any

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn

OURS, THEIRS, MUTED = "#2f6fb3", "#b3731d", "#8c959f"
"""Colours that can be told apart on light and dark paper."""

STYLE = {
    "figure.figsize": (7, 3.6),
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
}


def restyle(*_: Any) -> None:
    """Figures look like this from here on; sphinx-gallery calls it before every script."""
    plt.rcParams.update(STYLE)


restyle()


def images_and_labels() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """1,400 images of 8 x 8 to learn from and 397 to test on, each with labels; in [0, 1]."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learn, test = shuffled[:1400], shuffled[1400:]
    return (images[learn], labels[learn]), (images[test], labels[test])


class Block(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """The skip and the branch."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


def network(seed: int = 0) -> nn.Module:
    """A residual network of 80,000 weights for images of 8 x 8."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        Block(24),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        Block(48),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """An ordinary one, in batches of 50."""
    model.train()
    for batch in torch.randperm(len(images)).split(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * (model.eval()(images).argmax(1) == labels).float().mean().item()


def trained(epochs: int = 7) -> nn.Module:
    """The network after a short training, whose learning rate ends near zero."""
    (images, labels), _ = images_and_labels()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        epoch(model, optimizer, images, labels)
        schedule.step()
    return model.eval()
