"""Every operator of the table and every structural rule, in a model, pruned."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import fxprune
from fxprune.passes.infer import RULES
from fxprune.passes.operators import OPERATORS
from fxprune.testing import assert_costs, assert_rewrite_equivalent, randomise
from fxprune.torch.frontend.program import read_model
from fxprune.torch.record import record_of
from tests.torch.samples import ONNX_ONLY, SAMPLES, SHAPE

TABLE = tuple(name for name in (*OPERATORS, *RULES) if "." not in name and name not in ONNX_ONLY)
UNCOUNTED = ("bilinear", "einsum")
"""What torch's counter does not see, or only where torch multiplies matrices for it."""


def sample(name):
    generator = torch.Generator().manual_seed(0)
    model = SAMPLES[name][0]().double().eval()
    randomise(model, generator)
    return model, torch.randn(SHAPE, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", TABLE)
def test_sample_uses_the_operator(name):
    model, x = sample(name)
    assert name in {node.op for node in read_model(model, [(x,)]).ir.nodes}


@pytest.mark.parametrize("name", TABLE)
def test_sample_has_these_free_groups(name):
    model, x = sample(name)
    groups = fxprune.groups(fxprune.prepare(model, x, target=1.0, in_kind=False))
    assert " ".join(f"{g.name}:{g.size}" for g in groups if not g.pin) == SAMPLES[name][1]


@pytest.mark.parametrize("name", TABLE)
def test_sample_folds_to_what_it_computes_gated(name):
    model, x = sample(name)
    gated = fxprune.prepare(model, x, target=1.0)
    assert_rewrite_equivalent(model, gated, inputs=[x], rtol=0.0)
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        assert_rewrite_equivalent(gated, folded, inputs=[x])
        if name not in UNCOUNTED:
            assert_counts(gated, folded, x)


def assert_counts(gated, folded, x):
    """What the costs of the gated model predict for the folded one is what torch counts there."""
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    with sdpa_kernel(SDPBackend.MATH):  # torch's counter sees no other kernel of a CPU
        assert_costs(folded, [x], record_of(gated).analysis.costs.at(sizes))


def some_keep_sets(gated):
    """The first half, the last position, every second one; branches open and closed.

    The last ones stay as well, as far as not any number may stay.
    """
    for first, kept in enumerate((lambda i, n: i < (n + 1) // 2, lambda i, n: i == n - 1,
                                  lambda i, n: i % 2 == 0)):  # fmt: skip
        yield {
            group.name: [bool(first)] if group.kind == "branch"
            else as_many_as_may([kept(i, group.size) for i in range(group.size)], group)
            for group in fxprune.groups(gated) if not group.pin
        }  # fmt: skip


def as_many_as_may(flags, group):
    for place in reversed(range(group.size)):
        if sum(flags) >= group.least and sum(flags) % group.multiple == 0:
            break
        flags[place] = True
    return flags
