"""How torch says things, and what fxprune makes of each: the groups that stay free, or why none do.

Each body runs between two convolutions (see tests/torch/samples.py). What is free is pruned and
compared with the gated model.
"""

import pytest
from torch import nn

import fxprune
from fxprune.testing import assert_rewrite_equivalent
from fxprune.testing.torch.rounding import run
from tests.torch.frontend.attention_samples import ATTENTION, TRANSFORMERS
from tests.torch.frontend.bodies import Pair, model_of, rows
from tests.torch.frontend.layer_samples import LAYERS
from tests.torch.frontend.tensor_samples import TENSORS
from tests.torch.test_samples import assert_counts, some_keep_sets

CASES = {**TENSORS, **LAYERS}


@pytest.mark.parametrize(
    ("body", "expected", "parts"),
    [pytest.param(*case[:2], case[2] if len(case) > 2 else {}, id=n) for n, case in CASES.items()],
)
def test_spelling(body, expected, parts):
    model, x = model_of(body, **parts)
    outcome, _, message = expected.partition(": ")
    if outcome == "pinned":
        with pytest.raises(fxprune.NothingToPruneError, match=message):
            fxprune.prepare(model, x)
        return
    if outcome == "refused":
        with pytest.raises((fxprune.TraceError, fxprune.InputError), match=message):
            fxprune.prepare(model, x)
        return
    gated = fxprune.prepare(model, x, target=1.0, in_kind=False)
    groups = [group for group in fxprune.groups(gated) if not group.pin]
    assert " ".join(f"{group.name}:{group.size}" for group in groups) == expected
    assert_rewrite_equivalent(model, gated, inputs=[x])
    for keep in some_keep_sets(gated):
        fxprune.set_keep_set(gated, keep)
        folded = fxprune.fold(gated)
        assert_rewrite_equivalent(gated, folded, inputs=[x])
        if parts.get("counted", True):
            assert_counts(gated, folded, x)


@pytest.mark.parametrize(("layer", "expected"), ATTENTION.values(), ids=ATTENTION)
def test_attention(layer, expected):
    test_spelling(lambda m, x: m.out(m.f(rows(x))), expected, {"f": layer, "out": nn.Linear(8, 3)})


@pytest.mark.parametrize(("layer", "call", "expected"), TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_transformer(layer, call, expected):
    test_spelling(
        lambda m, x: m.out(call(m.f, rows(x))), expected, {"f": layer, "out": nn.Linear(8, 3)}
    )


def test_outputs_keep_their_containers():
    model, x = model_of(lambda m, x: Pair({"a": m.last(x)}, [x.sum(), None]))
    folded = fxprune.fold(fxprune.prepare(model, x, target=1.0))
    result = folded(x)
    assert isinstance(result, Pair)
    assert list(result.a) == ["a"]
    assert result.b[1] is None
    assert [tensor.shape for tensor in run(folded, [x])] == [(3, 4, 8, 8), ()]
