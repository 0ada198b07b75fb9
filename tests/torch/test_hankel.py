"""Models without values are compared with values that take no memory, and told apart."""

import copy

import pytest
import torch
from torch import nn

from fxprune.torch.hankel import with_values
from fxprune.torch.precision import agree
from tests.torch.models import Residual, images
from tests.torch.test_language_models import gpt2, tokens


def empty(make):
    with torch.device("meta"):
        return make().eval()


def elements(tensor):
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def test_values_take_no_memory_and_go_again():
    model = empty(lambda: nn.Sequential(nn.Embedding(10**6, 10**5), nn.Conv2d(64, 32, 3)))
    with with_values(model):
        table, kernel = model[0].weight, model[1].weight
        assert table.shape == (10**6, 10**5) and elements(table) == 10**6 + 10**5 - 1
        assert kernel.shape == (32, 64, 3, 3) and not kernel.is_meta
        rows = table[:100, :100]
        assert torch.linalg.matrix_rank(rows) == 100
    assert all(parameter.is_meta for parameter in model.parameters())


def test_shared_tensors_stay_shared_and_what_has_values_keeps_them():
    model = empty(gpt2)
    model.transformer.ln_f.weight = nn.Parameter(torch.full((16,), 7.0))
    with with_values(model):
        assert model.lm_head.weight is model.transformer.wte.weight
        assert bool((model.transformer.ln_f.weight == 7).all())


@pytest.mark.parametrize(("make", "example"), [(Residual, images(1)), (gpt2, tokens())])
def test_models_alike_agree_without_values(make, example):
    assert agree(empty(make), empty(make), [(example,)])


def test_another_activation_is_told_without_values():
    one = empty(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    other = copy.deepcopy(one)
    other[1] = nn.GELU()
    assert agree(one, copy.deepcopy(one), [(torch.randn(2, 4),)])
    assert not agree(one, other, [(torch.randn(2, 4),)])


def test_another_mask_is_told_without_values(monkeypatch):
    """Rows of the table of tokens differ, so it matters which tokens are seen."""
    one, other = empty(gpt2), empty(gpt2)
    attention = other.transformer.h[0].attn
    forward = attention.forward

    def unmasked(states, *args, **options):
        return forward(states, *args, **{**options, "attention_mask": torch.zeros(1, 1, 7, 7)})

    monkeypatch.setattr(attention, "forward", unmasked)
    assert not agree(one, other, [(tokens(),)])
