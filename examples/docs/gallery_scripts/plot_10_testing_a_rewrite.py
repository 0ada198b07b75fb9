"""
Testing a rewrite
=================

A rewrite that folds batch norms into convolutions, and forgets that a convolution may be called
twice. ``fxprune.testing`` draws networks until one tells, and makes it as small as it can.
"""

import copy

import torch
from hypothesis import find, settings
from torch.fx.experimental.optimization import fuse

from examples.docs.digits import OURS, plt
from fxprune.testing import assert_rewrite_equivalent, networks


def is_wrong(network: torch.nn.Module) -> bool:
    try:
        assert_rewrite_equivalent(network, fuse(copy.deepcopy(network)))
    except AssertionError:
        return True
    return False


drawn = networks(("conv", "normalisation", "shared"), max_nodes=4)
smallest = find(
    drawn, is_wrong, settings=settings(max_examples=300, deadline=None, derandomize=True)
)

# %%
# The smallest network found, as Python that runs with torch alone:

print(smallest.source())

# %%
# How far apart the two are, value by value:

with torch.no_grad():
    inputs = smallest.inputs
    before, after = smallest(*inputs), fuse(copy.deepcopy(smallest))(*inputs)
figure, axes = plt.subplots()
axes.scatter(before.flatten(), after.flatten(), s=10, color=OURS)
low, high = before.min(), before.max()
axes.plot([low, high], [low, high], ":", color="grey")
axes.set(xlabel="value before the rewrite", ylabel="value after")
figure.tight_layout()
