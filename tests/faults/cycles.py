"""Prepare and fold, over and over: what stays behind?"""

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import optimizer as optimizers

import fxprune
from tests.faults.kills import X, build

WARM_UP = 5
"""Cycles until caches are filled."""
COUNTS = 3
"""After so many of them is counted, which takes longer than a cycle."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds."""

    tensors: int
    modules: int
    objects: int
    hooks: int
    files: int
    resident_mb: int

    def __str__(self) -> str:
        return (
            f"{self.tensors} tensors, {self.modules} modules, {self.objects} objects, "
            f"{self.hooks} hooks, {self.files} files, {self.resident_mb} MB"
        )


def held() -> Held:
    """Count now."""
    gc.collect()
    objects = gc.get_objects()
    hooks = (
        *optimizers._global_optimizer_pre_hooks,
        *optimizers._global_optimizer_post_hooks,
        *nn.modules.module._global_forward_hooks,
    )
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        sum(issubclass(type(each), torch.Tensor) for each in objects),
        sum(issubclass(type(each), nn.Module) for each in objects),
        len(objects),
        len(hooks),
        len(os.listdir("/proc/self/fd")),
        pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
    )


def cycle() -> None:
    """Gates, a step of training, and a fold."""
    gated = fxprune.prepare(build().train(), X, target=0.5, steps=2)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        gated(X).square().mean().backward()
        optimizer.step()
    fxprune.fold(gated)


def leaks(cycles: int, allowed_mb: int = 32) -> str:
    """Run cycles; what was held before and after.

    Raises:
        AssertionError: more is held than before.
    """
    for number in range(WARM_UP):
        cycle()
        if number >= WARM_UP - COUNTS:
            before = held()  # here, because counting fills caches as well
    for _ in range(cycles):
        cycle()
    after = held()
    for name in ("tensors", "modules", "objects", "hooks", "files"):
        old, new = getattr(before, name), getattr(after, name)
        assert new <= old, f"{new - old} more {name} after {cycles} cycles: {before}; {after}"
    grown = after.resident_mb - before.resident_mb
    assert grown <= allowed_mb, f"{grown} MB more after {cycles} cycles"
    return f"before {before}; after {after}"
