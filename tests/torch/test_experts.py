"""Mixtures of experts of transformers, whose experts are stacked in arrays."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from torch import Tensor

import fxprune
from fxprune.testing import assert_costs, keep_sets
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.precision import in_precision, relative_error
from fxprune.torch.record import record_of
from tests.torch.models import half
from tests.torch.test_language_models import tokens
from tests.torch.test_uniform import LLAMA

EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
MIXTURES = {
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "qwen3_moe": {**EXPERTS, "head_dim": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 20},
    "olmoe": EXPERTS,
}


def mixture(name: str, experts: str = "eager", **numbers: Any) -> Any:
    """Random weights of a size that tells experts apart; `experts` is how they are computed."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **{**MIXTURES[name], **numbers})
    make = transformers.AutoModelForCausalLM.from_config
    model = make(config, experts_implementation=experts).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def free(gated: Any) -> dict[str, int]:
    return {g.name: g.size for g in fxprune.groups(gated) if not g.pin and g.kind == "channel"}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_the_stream_and_the_width_of_experts_are_free(name, experts):
    gated = fxprune.prepare(mixture(name, experts), {"input_ids": tokens()})
    widths = {n: size for n, size in free(gated).items() if ".experts." in n}
    wide = 24 if name in ("mixtral", "olmoe") else 12
    assert widths == {
        f"model.layers.{layer}.mlp.experts.gate_up_proj:1[0:{wide}]": wide for layer in range(2)
    }
    assert free(gated)["model.layers.0.self_attn.o_proj"] == 16


@pytest.mark.parametrize("name", MIXTURES)
def test_gates_are_in_the_parameters_of_experts(name):
    model = mixture(name)
    gated = fxprune.prepare(model, {"input_ids": tokens()})
    assert not [path for path in generated_code(gated) if path.endswith(".experts")]
    assert torch.equal(logits(model, tokens(5)), logits(gated, tokens(5)))


EXACT = settings(max_examples=4, deadline=None)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_folded_mixture_is_the_gated_one(name):
    gated = fxprune.prepare(mixture(name), {"input_ids": tokens()}).eval()
    exact = in_precision(gated, torch.float64)

    @EXACT
    @given(keep_sets(gated))
    def check(keep):
        for each in (gated, exact):
            fxprune.set_keep_set(each, keep)
        folded = fxprune.fold(gated).eval()
        found = logits(in_precision(folded, torch.float64), tokens())
        assert relative_error(logits(exact, tokens()), found) < 1e-10
        for length in (1, 5, 11):
            ids = tokens(length)
            assert relative_error(logits(gated, ids), logits(folded, ids)) < 1e-4

    check()


@pytest.mark.parametrize("name", MIXTURES)
def test_costs_are_those_of_the_experts_that_are_chosen(name):
    gated = fxprune.prepare(mixture(name), {"input_ids": tokens()}).eval()
    record = record_of(gated)
    for keep in ({}, half(gated)):
        fxprune.set_keep_set(gated, keep)
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        assert_costs(fxprune.fold(gated), [tokens()], record.analysis.costs.at(sizes))
