"""Every ONNX operator type that has a spelling folds to what its masked form computes."""

import random

import pytest

import fxprune
from fxprune.onnx.frontend.spellings import CONTRIBUTED, SPELLINGS
from tests.onnx.frontend.samples import SAMPLES, sample

PINNING = ("LRN",)
"""Operator types whose sample has no free group."""


@pytest.mark.parametrize("op_type", sorted(set(SAMPLES) - set(PINNING)))
def test_masked_and_folded_models_agree(op_type):
    model = sample(op_type)
    analysis = fxprune.inspect_onnx(model)
    assert analysis.free_groups, [str(group) for group in analysis.groups]
    chosen = random.Random(op_type)
    for _ in range(2):
        keep = {}
        for group in analysis.free_groups:
            flags = [chosen.random() < 0.6 for _ in range(group.size)]
            flags[chosen.randrange(group.size)] = True
            keep[group.name] = flags
        result = fxprune.fold_onnx(model, keep)
        assert result.verdict.comparisons


@pytest.mark.parametrize("op_type", PINNING)
def test_channels_that_are_mixed_by_number_are_pinned(op_type):
    assert not fxprune.inspect_onnx(sample(op_type)).free_groups


def test_every_sample_is_of_a_spelling():
    assert set(SAMPLES) == {*SPELLINGS, *CONTRIBUTED, "Gather", "Shape", "DepthToSpace"}
