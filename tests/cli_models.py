"""What the tests of the command line name as `module:factory`."""

import numpy as np
from torch import Tensor, nn

from tests.torch.decoders import decoder, tokens
from tests.torch.models import Residual, images, plain, randomise


def residual() -> tuple[nn.Module, Tensor]:
    """The same weights at every call."""
    return randomise(Residual()), images(1)


def other() -> tuple[nn.Module, Tensor]:
    """The same network with other weights."""
    return randomise(Residual(), seed=1), images(1)


def noisy() -> tuple[nn.Module, Tensor]:
    """Says something while it is made."""
    print("I am being made")
    return residual()


def without_example() -> nn.Module:
    """Needs a shape."""
    return randomise(plain())


def plain_model() -> tuple[nn.Module, Tensor]:
    """One free group, called 0."""
    return randomise(plain()), images(1)


def drawn() -> tuple[nn.Module, Tensor]:
    """Other weights for every seed."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), images(1)


def closed() -> tuple[nn.Module, Tensor]:
    """Nothing in it is free."""
    return nn.Sequential(nn.Linear(4, 3)), images(1, size=(4,))


def failing() -> nn.Module:
    """Cannot be made."""
    raise KeyError("no weights")


def text() -> str:
    """No model at all."""
    return "model"


def batches() -> list[Tensor]:
    """Some data for `residual`."""
    return [images(8, seed=seed) for seed in range(4)]


def arrays() -> list[np.ndarray]:
    """The same for ONNX files."""
    return [batch.numpy() for batch in batches()]


def decoder_of_two_blocks() -> tuple[nn.Module, Tensor]:
    """Attention with shared keys, gated MLPs."""
    return decoder(), tokens()
