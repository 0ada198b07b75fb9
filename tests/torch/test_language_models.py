"""Language models of transformers generate once pruned, with their cache and without."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.models import half

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, pad_token_id=0)).eval()


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=50, n_positions=40)
    return GPT2LMHeadModel(config).eval()


def tokens(length: int = 7) -> Tensor:
    return torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(length))


def generated(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Greedy decoding."""
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **options}
    found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found


def assert_generates(gated: Any, folded: Any, length: int) -> None:
    """The folded model says what the gated one would say, with a cache and without."""
    ids = tokens(length)
    with torch.no_grad():
        assert relative_error(gated(ids).logits, folded(ids).logits) < 1e-5
    said = generated(folded, ids, use_cache=True)
    assert torch.equal(said, generated(folded, ids, use_cache=False))
    for end in range(length, said.shape[1]):  # greedy decoding by hand, by the gated model
        with torch.no_grad():
            assert torch.equal(gated(said[:, :end]).logits[:, -1].argmax(-1), said[:, end])


@pytest.mark.parametrize("make", [llama, pytest.param(gpt2, marks=pytest.mark.slow)])
def test_a_pruned_language_model_generates(make):
    gated = fxprune.prepare(make(), {"input_ids": tokens()}, target=1.0)
    fxprune.set_keep_set(gated, half(gated, branches=1.0))
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    for length in (5, 7, 11):
        assert_generates(gated.eval(), folded, length)


BRANCHES = [
    (llama, "model.layers.0+"),
    pytest.param(llama, "model.layers.0++", marks=pytest.mark.slow),
    pytest.param(llama, "model.layers.1+", marks=pytest.mark.slow),
    (llama, "model.layers.1++"),
    pytest.param(gpt2, "transformer.h.1+", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "branch"), BRANCHES)
def test_a_language_model_without_a_branch_generates(make, branch):
    gated = fxprune.prepare(make(), {"input_ids": tokens()}, target=1.0)
    fxprune.set_keep_set(gated, {**half(gated, branches=1.0), branch: [False]})
    folded = fxprune.fold(gated).eval()
    assert list(generated_code(folded)) == [branch.rstrip("+")]
    for length in (5, 9):
        assert_generates(gated.eval(), folded, length)


def test_examples_with_and_without_a_cache_and_with_labels():
    ids = tokens()
    examples = [
        {"input_ids": ids},
        {"input_ids": ids, "use_cache": False},
        {"input_ids": ids, "labels": ids},
    ]
    gated = fxprune.prepare(llama(), examples, target=1.0)
    fxprune.set_keep_set(gated, half(gated, branches=1.0))
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    for more in ({}, {"use_cache": False}, {"labels": tokens(9)}):
        with torch.no_grad():
            left, right = (each(tokens(9), **more) for each in (gated.eval(), folded))
        assert left.keys() == right.keys()
        assert relative_error(left.logits, right.logits) < 1e-5
    assert_generates(gated, folded, 5)
