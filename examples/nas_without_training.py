"""NAS without training (Mellor et al. 2021): do scores of untrained networks rank trained ones?

python -m examples.nas_without_training

Thirty keep-sets of an untrained network, all of about the same MACs, are scored as they are, and
then trained on scikit-learn's digits, each in the same way. The table has what every score says,
and Kendall's rank correlation of each with the test accuracy.
"""

import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fxprune

SCORES = ("naswot", "synflow", "snip", "zico", "params", "memory")


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8, in a fixed random order, and their classes."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    return images[order], torch.tensor(found.target)[order]


def network() -> nn.Module:
    """Six convolutions with norms, untrained."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(model: nn.Module, epochs: int = 4, few: int = 300) -> float:
    """The test accuracy of a network after some epochs on a few images."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(few, generator=generator).split(50):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(images[few:]).argmax(1) == labels[few:]
    return float(right.float().mean())


def compared(trials: int = 30, target: float = 0.3) -> fxprune.Found:
    """All scores, and what training comes to, of keep-sets of equal MACs."""
    images, labels = digits()
    gated = fxprune.prepare(network(), images[:2], target=target)
    data = [(images[start : start + 64], labels[start : start + 64]) for start in (0, 64, 128)]
    return fxprune.search(gated, [*SCORES, trained], trials=trials, sampler="random", data=data)


def main() -> None:
    found = compared()
    print(found.table)
    accuracies = found.table.column("trained")
    for name in SCORES:
        tau = kendalltau(found.table.column(name), accuracies).statistic
        print(f"{name:8} Kendall's tau with test accuracy: {tau:+.2f}")
    best = max(found, key=lambda trial: trial.scores["naswot"]).scores["trained"]
    mean = sum(accuracies) / len(accuracies)
    print(f"picked by naswot: {best:.1%}; mean of all: {mean:.1%}; best: {max(accuracies):.1%}")


if __name__ == "__main__":
    main()
