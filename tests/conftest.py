"""What every test runs under: one thread, the same random numbers and examples, in any order.

With `--hypothesis-seed=N` examples are drawn anew; `python -m tests.campaign` draws many more.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: workers share the cores

import functools
import gc
import random

import numpy as np
import pytest
import torch
from hypothesis import register_random, settings
from torch.onnx._internal.exporter._registration import ONNXRegistry

import tests.vision  # noqa: F401  (before any test imports torchvision or timm)
from fxprune import timing
from fxprune.onnx import latency
from fxprune.torch import measuring
from tests.worlds import made, world  # noqa: F401  (fixtures)

settings.register_profile("same", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("drawn", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


# Every export would parse the source of torch's translations anew, which takes most of its time.
ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))

# Tests look at which latencies are measured, not at what they are.
measuring._SECONDS = latency._SECONDS = 0.1
timing._TURN_MS, timing._MOST_ROUNDS = 0.1, timing._LEAST_ROUNDS


class TorchRandom:
    """torch's generator as Hypothesis wants it: a replayed example sees the same tensors."""

    seed = staticmethod(torch.default_generator.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()  # Hypothesis keeps only a weak reference
register_random(TORCH_RANDOM)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("hypothesis_seed") is not None:
        settings.load_profile("drawn")


def pytest_collection_finish() -> None:
    """Garbage is not looked for in what was imported, which is half a million objects."""
    gc.freeze()


def _seed_all() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart() -> None:
    """What a file draws while it is imported does not depend on the files before it."""
    _seed_all()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """What tests share does not depend on which of them is first."""
    if fixturedef.scope != "function":
        _seed_all()


@pytest.fixture(autouse=True)
def seed() -> None:
    _seed_all()
