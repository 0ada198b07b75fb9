"""Language models of transformers generate once pruned, with their cache and without."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import fxprune
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import relative_error
from tests.torch.backend.test_depth import without
from tests.torch.models import half

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def telling(model: Any) -> Any:
    """The model with weights that let positions be told; fresh ones hardly do."""
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    model.generation_config.eos_token_id = None  # go on
    return model.eval()


def llama() -> Any:
    torch.manual_seed(0)
    return telling(LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, pad_token_id=0)))


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_head=4, n_layer=2, vocab_size=50, n_positions=40)
    return telling(GPT2LMHeadModel(config))


def gptj() -> Any:
    torch.manual_seed(0)
    config = GPTJConfig(n_embd=16, n_head=4, n_layer=2, vocab_size=50, rotary_dim=4)
    return telling(GPTJForCausalLM(config))


def bloom() -> Any:
    torch.manual_seed(0)
    return telling(BloomForCausalLM(BloomConfig(hidden_size=16, n_head=4, vocab_size=50)))


def gemma2() -> Any:
    """Layers that look back over all positions, and over some of them, in turn."""
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, **HEADS, head_dim=4, pad_token_id=0, sliding_window=4)
    return telling(Gemma2ForCausalLM(config))


def tokens(length: int = 7) -> Tensor:
    return torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(length))


def generated(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Greedy decoding."""
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **options}
    found: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found


def assert_goes_on(model: Any, length: int) -> None:
    """What comes later has the same logits whether a cache knows what came before or not."""
    ids, known = tokens(length), length // 2
    with torch.no_grad():
        before = model(ids[:, :known], use_cache=True).past_key_values
        after = model(ids[:, known:], past_key_values=before, use_cache=True).logits
        assert relative_error(model(ids).logits[:, known:], after) < 1e-4


def assert_generates(gated: Any, folded: Any, length: int) -> None:
    """The folded model says what the gated one would say, with a cache and without."""
    ids = tokens(length)
    for model in (gated, folded):
        assert_goes_on(model, length)
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
    (gpt2, "transformer.h.0+"),
    pytest.param(gpt2, "transformer.h.1+", marks=pytest.mark.slow),
    pytest.param(gpt2, "transformer.h.1++", marks=pytest.mark.slow),
    (gptj, "transformer.h.0+"),
]


@pytest.mark.parametrize(("make", "branch"), BRANCHES)
def test_a_language_model_without_a_branch_generates(make, branch):
    gated = fxprune.prepare(make(), {"input_ids": tokens()}, target=1.0)
    fxprune.set_keep_set(gated, {**half(gated, branches=1.0), branch: [False]})
    folded = fxprune.fold(gated).eval()
    assert list(generated_code(folded)) == [branch.rstrip("+")]
    assert type(folded).__name__ in repr(folded)  # with what is left of the branch
    for length in (5, 9):
        assert_generates(gated.eval(), folded, length)


def test_a_model_whose_attention_adds_the_stream_itself_keeps_its_attention_and_cache():
    gated = fxprune.prepare(bloom(), {"input_ids": tokens()}, target=1.0)
    assert generated_code(gated) == {}
    branches = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    assert branches == ["transformer.h.0++", "transformer.h.1++"]  # "+" would be attention
    fxprune.set_keep_set(gated, {**half(gated, branches=1.0), branches[0]: [False]})
    folded = fxprune.fold(gated).eval()
    for length in (5, 9):
        assert_generates(gated.eval(), folded, length)


def test_attention_that_a_cache_asks_for_its_length_stays_where_layers_have_different_caches():
    gated = fxprune.prepare(gemma2(), {"input_ids": tokens()}, target=1.0)
    names = list(fxprune.keep_set(gated))
    assert "model.layers.0+" not in names
    assert "model.layers.1+" in names
    free = fxprune.prepare(gemma2(), {"input_ids": tokens()}, target=1.0, in_kind=False)
    assert "model.layers.0+" in fxprune.keep_set(free)


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


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (llama, "model.layers.0"),
        pytest.param(gpt2, "transformer.h.0", marks=pytest.mark.slow),
        pytest.param(gemma2, "model.layers.1", marks=pytest.mark.slow),
    ],
)
def test_language_models_of_fewer_layers_come_back_from_their_configuration(make, layer, tmp_path):
    model = make()
    gated, folded = without(model, {"input_ids": tokens()}, layer)
    assert folded.config.num_hidden_layers == model.config.num_hidden_layers - 1 == 1
    if make is llama:
        assert folded.config.num_key_value_heads == 2  # as many as there were layers
    assert generated_code(folded) == {}
    for length in (5, 9):
        assert_generates(gated.eval(), folded.eval(), length)
    folded.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(tokens()).logits, folded(tokens()).logits)
