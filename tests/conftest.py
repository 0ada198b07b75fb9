"""What every test runs under: an importable torchvision, a seed, and examples that replay."""

import os
import random

import pytest
import torch
from hypothesis import register_random, settings

import tests.vision  # noqa: F401  (before any test imports torchvision or timm)
from tests.worlds import made, world  # noqa: F401  (fixtures)

settings.register_profile("fxprune", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("fxprune")


class TorchRandom:
    """torch's generator as Hypothesis wants it: a replayed example sees the same tensors."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # Hypothesis keeps only a weak reference
register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
