"""What the bodies of the samples are made of, and the model around one."""

from collections import namedtuple

import torch
from torch import nn

from fxprune.testing import randomise
from tests.torch.samples import SHAPE, between, vector

Pair = namedtuple("Pair", "a b")


def tokens(x):
    """An image as one token per pixel."""
    return x.flatten(2).transpose(1, 2)


def image(x):
    return x.transpose(1, 2).unflatten(2, (8, 8))


def rows(x):
    """An image as one token per row."""
    return x.mean(3).transpose(1, 2)


UNCOUNTED = {"counted": False}  # torch's counter does not see what torch does element by element


def mid(*args, **options):
    return {"mid": nn.Conv2d(*args, **options)}


def model_of(body, width=8, batch=3, counted=True, **parts):
    """The model of a case: sizes are parameters, pairs of sizes called `mid` linear layers."""
    built = {}
    for name, part in parts.items():
        if isinstance(part, tuple):
            part = nn.Linear(*part) if name == "mid" else vector(*part)
        built[name] = part() if callable(part) and not isinstance(part, nn.Module) else part
    generator = torch.Generator().manual_seed(0)
    model = between(body, width, **built).double().eval()
    randomise(model, generator)
    return model, torch.randn(batch, *SHAPE[1:], dtype=torch.float64, generator=generator)
