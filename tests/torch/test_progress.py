"""The line about a gated model that trains."""

import re

import pytest
import torch

import fxprune
from tests.torch.models import Residual, images, randomise


def line(gated: torch.nn.Module) -> tuple[int, int, list[tuple[float, str, float]]]:
    """Steps done, steps in all, and of every cost with a target where it is and shall be."""
    text = fxprune.progress(gated)
    done, steps = map(int, re.match(r"step (\d+) of (\d+): ", text).groups())
    costs = re.findall(r"([\d.]+)% of ([^(]+) \(target ([\d.]+)%\)", text)
    return done, steps, [(float(now), name, float(target)) for now, name, target in costs]


@pytest.mark.parametrize("shrink_every", [0, 2])
def test_line_goes_from_all_to_the_target(shrink_every):
    """In shares of what was prepared, also where the model has become smaller since."""
    target = {"macs": 0.5, "params": 0.7}
    gated = fxprune.prepare(
        randomise(Residual()), images(1), target=target, steps=6, shrink_every=shrink_every
    )
    full = fxprune.report(gated, latency=False).before
    assert line(gated) == (0, 6, [(100.0, "macs", 50.0), (100.0, "params", 70.0)])
    optimizer = torch.optim.SGD(gated.train().parameters(), lr=0.01)
    for _ in range(8):
        optimizer.zero_grad()
        gated(images(4)).square().sum().backward()
        optimizer.step()
    done, steps, costs = line(gated)
    after = fxprune.report(gated, latency=False).after
    assert done == steps == 6
    for now, name, aim in costs:
        assert now == pytest.approx(100 * after[name] / full[name], abs=0.06) and now <= aim
