"""How do CIFAR images reach a training loop fast enough for a CPU? As uint8 tensors, decoded once.

Nothing is done image by image after that. Cropping is one indexed read from a strided view of the
padded images, flipping one `torch.where`, normalising one subtraction and one division. A seed
fixes order, crops and flips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4
Channels = tuple[float, float, float]
MEAN: Channels = (0.485, 0.456, 0.406)
STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Split:
    """Decoded images, uint8 of shape (n, 3, 32, 32), and their classes, int64 of shape (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Cifar:
    """Both splits of CIFAR-10 or CIFAR-100, and what their batches are normalised with."""

    train: Split
    test: Split
    mean: Channels = MEAN
    std: Channels = STD

    def train_batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, randomly cropped and flipped; the seed decides all of it."""
        generator = torch.Generator().manual_seed(seed)
        windows = crop_windows(self.train.images)
        for chosen in torch.randperm(len(self.train), generator=generator).split(size):
            images = flipped(cropped(windows, chosen, generator), generator)
            yield self.normalised(images), self.train.labels[chosen]

    def test_batches(self, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images in their order, unchanged but for normalisation."""
        for chosen in torch.arange(len(self.test)).split(size):
            yield self.normalised(self.test.images[chosen]), self.test.labels[chosen]

    def normalised(self, images: Tensor) -> Tensor:
        """Images of 0..255 as floats of about zero mean and unit deviation, channels last."""
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def load(source: str, mean: Channels = MEAN, std: Channels = STD) -> Cifar:
    """CIFAR-10 or CIFAR-100 from a folder of parquet files or from the Hugging Face hub.

    Args:
        source: what `datasets.load_dataset` takes: a path, or a hub name such as "uoft-cs/cifar10".
        mean: per channel, of images scaled to 0..1.
        std: likewise.
    """
    train, test = decoded(source)
    return Cifar(train, test, mean, std)


@lru_cache(maxsize=1)
def decoded(source: str) -> tuple[Split, Split]:
    """The training and the test split, decoded once per process."""
    columns = datasets.load_dataset(source)
    return split_tensors(columns["train"]), split_tensors(columns["test"])


def split_tensors(columns: datasets.Dataset) -> Split:
    label = "fine_label" if "fine_label" in columns.column_names else "label"
    images = np.stack([np.asarray(image) for image in columns["img"]])
    return Split(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(columns[label][:]),
    )


def crop_windows(images: Tensor) -> Tensor:
    """All crops of the zero-padded images, as one strided view of shape (n, 3, 9, 9, 32, 32)."""
    height, width = images.shape[2:]
    padded = F.pad(images, (PADDING,) * 4)
    return padded.unfold(2, height, 1).unfold(3, width, 1)


def cropped(windows: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """The chosen images, each at a random one of its crops."""
    top, left = torch.randint(2 * PADDING + 1, (2, len(chosen)), generator=generator)
    return windows[chosen, :, top, left]


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images, each mirrored left to right with probability one half."""
    mirror = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirror, images.flip(3), images)
