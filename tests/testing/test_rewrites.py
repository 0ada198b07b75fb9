"""The tutorial on rewrites of others finds what is wrong with one, and lets another pass."""

import copy

import pytest
import torch
from torch import nn

from examples.testing_rewrites import REWRITES, Rewrite, counterexample, fused_by_fx, of_modules
from fxprune.testing import assert_rewrite_equivalent, randomise


class CalledTwice(nn.Module):
    """The counter-example that the tutorial finds, without what is not needed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(self.conv(x).relu()))


def test_fuse_of_torch_folds_a_norm_into_both_calls_of_a_convolution():
    network = CalledTwice().double().eval()
    randomise(network, torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(
            network, fused_by_fx(network), inputs=[torch.randn(2, 3, 4, 4).double()]
        )


def test_rewrite_that_is_right_passes():
    ao = next(rewrite for rewrite in REWRITES if "ao" in rewrite.name)
    assert counterexample(ao, 8) == ("", "")
    assert str(ao).startswith("torch.ao.quantization.fuse_modules (torch ")


def test_rewrite_that_is_wrong_is_found_with_a_plain_network():
    def halve(network):
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.first.weight *= 0.5
        return other

    source, error = counterexample(Rewrite("halve", "torch", of_modules(halve)), 8)
    assert "first differing layer: first (Conv2d)" in error
    assert source.count("nn.Conv2d") == 3
