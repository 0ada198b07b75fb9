"""What routers do, over open positions only: the same as without the closed ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxprune.torch.backend import masked_forms

FLAGS = st.lists(st.booleans(), min_size=6, max_size=6).filter(lambda flags: sum(flags) > 1)


def scores(seed: int) -> Tensor:
    return torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(FLAGS, st.integers(0, 99))
def test_softmax_is_that_of_what_is_open(flags, seed):
    x, kept = scores(seed), torch.tensor(flags)
    found = masked_forms.softmax(x, 1, None, kept.double().view(1, -1))
    assert torch.equal(found[:, ~kept], torch.zeros(4, 6 - int(kept.sum())).double())
    torch.testing.assert_close(found[:, kept], x[:, kept].softmax(1), rtol=1e-12, atol=0.0)
    if all(flags):
        assert torch.equal(found, x.softmax(1))


@settings(max_examples=30, deadline=None)
@given(FLAGS, st.integers(0, 99), st.sampled_from([torch.float64, torch.int64]))
def test_the_largest_are_those_of_what_is_open(flags, seed, dtype):
    x, kept = (100 * scores(seed)).to(dtype), torch.tensor(flags)
    values, numbers = masked_forms.topk(x, 2, 1, True, kept.double().view(1, -1))
    expected = x[:, kept].topk(2, 1)
    assert torch.equal(values, expected.values)
    assert torch.equal(x.gather(1, numbers), values)
    assert bool(kept[numbers].all())


def test_scores_that_a_model_has_closed_stay_closed():
    x = torch.full((1, 6), -torch.inf)
    x[0, 0] = 1.0
    values, _ = masked_forms.topk(x, 2, 1, True, torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))
    assert values.tolist() == [[1.0, -torch.inf]]


@pytest.mark.parametrize("closed", [0.0, 1.0])
def test_gates_of_shares_get_the_gradient_of_weighted_shares(closed):
    x, mask = scores(0), torch.ones(1, 6, dtype=torch.float64)
    mask[0, 2] = closed
    mask.requires_grad_()
    weights = scores(1)
    (masked_forms.softmax(x, 1, None, mask) * weights).sum().backward()

    def value(gates: Tensor) -> Tensor:
        shares = x.softmax(1) * gates
        return (shares / shares.sum(1, keepdim=True) * weights).sum()

    moved = mask.detach().clone()
    moved[0, 2] += 1e-6
    slope = (value(moved) - value(mask.detach())) / 1e-6
    assert mask.grad is not None
    torch.testing.assert_close(mask.grad[0, 2], slope, rtol=1e-4, atol=1e-8)
