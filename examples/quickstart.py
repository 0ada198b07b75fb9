"""The whole of fxprune on real data: 1,797 handwritten digits, half of the multiply-accumulates.

python examples/quickstart.py                     # scikit-learn's digits, under a minute
python examples/quickstart.py --data uoft-cs/cifar10   # the same steps on CIFAR-10
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxprune

EPOCHS = 12


def small_resnet() -> nn.Module:
    """A residual network for 8x8 images with 10 classes."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.body(x))

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Block(32),
        Block(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        Block(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[TensorDataset, Tensor, Tensor]:
    """Training set, test images and test labels."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    return TensorDataset(images[train], labels[train]), images[test], labels[test]


def train(model: nn.Module, data: TensorDataset) -> None:
    """An ordinary training loop; nothing in it knows about pruning."""
    loader = DataLoader(data, batch_size=50, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    model.train()
    for _ in range(EPOCHS):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of test images that are classified correctly."""
    return float((model.eval()(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train the dense network and the gated one equally long; fold, export, compare."""
    torch.manual_seed(0)
    data, images, labels = digits()
    dense = small_resnet()
    gated = fxprune.prepare(dense, images[:1], target=0.5, steps=200)

    train(dense, data)
    train(gated, data)

    folded = fxprune.fold(gated)
    path = fxprune.export_onnx(folded, "digits.onnx", overwrite=True)
    print(fxprune.verify(gated, folded, path, inputs=[images]))
    print(fxprune.report(gated))
    for name, model in {"dense": dense, "gated": gated, "folded": folded}.items():
        print(f"test accuracy {name:7} {accuracy(model, images, labels):.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="run examples/cifar10.py on this data set instead")
    if chosen := parser.parse_args().data:
        command = [sys.executable, "-m", "examples.cifar10", "--data", chosen]
        sys.exit(subprocess.call(command, cwd=Path(__file__).parent.parent))
    main()
