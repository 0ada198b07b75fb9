"""How are the CIFAR examples trained? By this ordinary loop, which knows nothing of gates."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

import fxprune
from examples.cifar_data import Cifar

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to: mean training loss, and accuracies as shares of 1."""

    number: int
    loss: float
    train_accuracy: float
    test_accuracy: float

    def __str__(self) -> str:
        return (
            f"epoch {self.number}: loss {self.loss:.3f}, "
            f"train {self.train_accuracy:.2%}, test {self.test_accuracy:.2%}"
        )


def train(
    model: nn.Module,
    data: Cifar,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 128,
    seed: int = 0,
    autocast: torch.dtype | None = None,
    teacher: nn.Module | None = None,
) -> list[Epoch]:
    """Train with SGD under a one-cycle learning rate, and leave the model in eval mode.

    Args:
        model: what maps images to logits; it is trained in place.
        data: batches to learn from, and the test images that every epoch ends with.
        epochs: passes over the training images.
        lr: the highest learning rate, reached after a fifth of all steps and then lowered to zero.
        batch_size: images in one step.
        seed: decides order and augmentation of the images.
        autocast: the type of the forward pass, for instance `torch.bfloat16`.
        teacher: a trained model to learn from as well, in eval mode.
    """
    precision = torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext()
    steps = -(-len(data.train) // batch_size)
    optimizer = SGD(model.parameters(), lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scheduler = OneCycleLR(optimizer, lr, epochs * steps, pct_start=0.2, cycle_momentum=False)
    history = []
    for number in range(1, epochs + 1):
        model.train()
        total_loss = correct = 0.0
        batches = data.train_batches(batch_size, seed=seed + number)
        for images, labels in tqdm(batches, f"epoch {number}/{epochs}", steps, mininterval=1):
            with precision:
                logits = model(images).float()
                loss = F.cross_entropy(logits, labels)
                if teacher is not None:
                    with torch.no_grad():
                        wanted = teacher(images).float()
                    loss = fxprune.distillation_loss(logits, wanted, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total_loss += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
        n = len(data.train)
        history.append(Epoch(number, total_loss / n, correct / n, accuracy(model, data)))
        tqdm.write(str(history[-1]))
    return history


@torch.inference_mode()
def predictions(model: nn.Module, data: Cifar) -> Tensor:
    """The class that the model, put into eval mode, gives to each test image."""
    model.eval()
    return torch.cat([model(images).argmax(1) for images, _ in data.test_batches()])


def accuracy(model: nn.Module, data: Cifar) -> float:
    """The share of test images that the model, put into eval mode, classifies correctly."""
    return (predictions(model, data) == data.test.labels).double().mean().item()
