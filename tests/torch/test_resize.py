"""TinyNet's rule: the published networks come out, and MACs are those that were asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxprune
from fxprune.torch.resize import DEPTHS, RESOLUTIONS, SHARES, rule
from tests.test_arguments import rubik


def test_the_rule_goes_through_the_published_networks():
    for share, resolution, depth in zip(SHARES, RESOLUTIONS, DEPTHS, strict=True):
        assert rule(share) == pytest.approx((resolution, depth))
    assert rule(2.0) == (1.0, 1.0) and rule(0.01) == (0.475, 0.6)


@settings(max_examples=6)
@given(st.floats(0.1, 2.0))
def test_macs_are_those_that_were_asked_for(share):
    base = 16 * 16 * (3 * 16 + 4 * 9 * 16 * 16)
    found = fxprune.resize(rubik, share * base if share > 1 else share)
    model, example = rubik(**found.config)
    assert found.macs == fxprune.testing.count_macs(model, (example,))
    channels = round(16 * found.width)  # one more or less is farther away
    for other in (channels - 1, channels + 1):
        model, example = rubik(found.resolution, found.depth, other / 16)
        off = abs(fxprune.testing.count_macs(model, (example,)) - share * base)
        assert abs(found.macs - share * base) <= off


def test_resolution_and_depth_can_be_given():
    found = fxprune.resize(rubik, 0.5, resolution=0.75, depth=1.5)
    assert (found.resolution, found.depth) == (0.75, 1.5)
    assert "MACs" in str(found) and torch.is_tensor(rubik(**found.config)[1])
    with pytest.raises(fxprune.TargetError, match="widths of"):
        fxprune.resize(rubik, 1e15)
