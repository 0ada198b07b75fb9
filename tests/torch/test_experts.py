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
from tests.torch.test_language_models import assert_generates, generated, tokens
from tests.torch.test_uniform import MIXTURES

QUICK = ("mixtral", "deepseek_v3")
ALL = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MIXTURES]
WIDTH = "model.layers.1.mlp.experts.gate_up_proj:1[0:{}]"
EXPERTS = "model.layers.1.mlp.gate"


def mixture(name: str, experts: str = "eager", **numbers: Any) -> Any:
    """Random weights of a size that tells experts apart; `experts` is how they are computed."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **{**MIXTURES[name], **numbers})
    make = transformers.AutoModelForCausalLM.from_config
    model = make(config, experts_implementation=experts).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model


def prepared(name: str, experts: str = "eager", **options: Any) -> Any:
    model = mixture(name, experts)
    return fxprune.prepare(model, {"input_ids": tokens()}, target=1.0, **options).eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def by_name(gated: Any) -> dict[str, fxprune.GroupInfo]:
    return {group.name: group for group in fxprune.groups(gated)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_experts_their_width_and_the_stream_are_free(name, experts):
    groups = by_name(prepared(name, experts))
    wide = 24 if name == "mixtral" else MIXTURES[name].get("moe_intermediate_size", 24)
    wide = 24 if name == "olmoe" else wide
    free = {each: group.size for each, group in groups.items() if not group.pin}
    assert free[WIDTH.format(wide)] == wide
    assert free["model.layers.0.self_attn.o_proj"] == 16
    assert free[EXPERTS + "/1" * (name == "deepseek_v3")] == 4


@pytest.mark.parametrize("name", ALL)
def test_gates_are_in_the_parameters_of_experts(name):
    gated = prepared(name)
    assert not [path for path in generated_code(gated) if path.endswith(".experts")]
    assert torch.equal(logits(mixture(name), tokens(5)), logits(gated, tokens(5)))


@pytest.mark.parametrize("name", ALL)
def test_a_folded_mixture_is_the_gated_one(name):
    gated = prepared(name)
    exact = in_precision(gated, torch.float64)

    @settings(max_examples=4, deadline=None)
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


@pytest.mark.parametrize("name", ALL)
def test_costs_are_those_of_the_experts_that_are_chosen(name):
    gated = prepared(name)
    record = record_of(gated)
    assert record is not None
    for keep in ({}, half(gated)):
        fxprune.set_keep_set(gated, keep)
        sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
        assert_costs(fxprune.fold(gated), [tokens()], record.analysis.costs.at(sizes))


@pytest.mark.parametrize("branch", ["model.layers.0++", "model.layers.1+"])
def test_a_mixture_without_a_branch_generates_with_its_cache(branch):
    gated = prepared("mixtral")
    fxprune.set_keep_set(gated, {branch: [False]})
    folded = fxprune.fold(gated).eval()
    assert list(generated_code(folded)) == [branch.rstrip("+")]
    assert_generates(gated, folded, 5)


# Whole experts --------------------------------------------------------------------------------


def _experts_of(config: Any) -> int:
    """How many experts a configuration says there are."""
    names = ("num_local_experts", "n_routed_experts", "num_experts")
    return next(getattr(config, name) for name in names if hasattr(config, name))


@pytest.mark.parametrize("name", ALL)
def test_a_configuration_says_how_many_experts_are_left(name, tmp_path):
    gated = prepared(name, uniform=True)
    chosen = {n: g for n, g in by_name(gated).items() if n.startswith(EXPERTS) and not g.pin}
    ((one, group),) = chosen.items()
    each = {n: [False, True, True, True] for n in (one, *group.tied)}
    fxprune.set_keep_set(gated, each)
    folded = fxprune.fold(gated).eval()
    assert generated_code(folded) == {}
    assert _experts_of(folded.config) == MIXTURES[name].get("n_routed_experts", 4) * 3 // 4
    folded.save_pretrained(tmp_path)
    again = type(folded).from_pretrained(tmp_path, experts_implementation="eager").eval()
    assert torch.equal(logits(folded, tokens()), logits(again, tokens()))
    said = generated(folded, tokens(5), use_cache=True)
    assert torch.equal(said, generated(again, tokens(5), use_cache=False))


def test_as_many_experts_stay_as_are_chosen():
    gated = prepared("mixtral")
    experts = by_name(gated)[EXPERTS]
    assert (experts.label, experts.kind, experts.least) == (
        "model.layers.1.mlp: experts",
        "experts",
        2,
    )
    with pytest.raises(fxprune.KeepSetError, match="keep all, or at least 2"):
        fxprune.set_keep_set(gated, {EXPERTS: [True, False, False, False]})
    least = fxprune.prune(mixture("mixtral"), {"input_ids": tokens()}, target={"params": 0.35})
    assert {len(layer.mlp.experts.down_proj) for layer in least.model.layers} <= {2, 3, 4}


@pytest.mark.parametrize("name", QUICK)
def test_gradients_tell_what_experts_are_worth(name):
    gated = prepared(name)
    batch = {"input_ids": tokens(), "labels": tokens()}
    worth = fxprune.importance(gated, "taylor", [batch])
    experts = [values for group, values in worth.items() if group.startswith(EXPERTS)]
    assert len(experts) == 1
    assert bool((experts[0] > 0).any())


def test_norms_tell_what_experts_are_worth():
    model = mixture("mixtral")
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[2] *= 1e-3
        model.model.layers[1].mlp.experts.gate_up_proj[2] *= 1e-3
    worth = fxprune.importance(fxprune.prepare(model, {"input_ids": tokens()}))
    assert int(worth[EXPERTS].argmin()) == 2


def test_what_is_left_of_experts_returns_its_scores_and_their_loss():
    gated = prepared("mixtral", uniform=True)
    experts = [group.name for group in fxprune.groups(gated) if group.kind == "experts"]
    fxprune.set_keep_set(gated, {name: [True, True, False, True] for name in experts})
    folded = fxprune.fold(gated).train()
    assert folded.config.num_local_experts == 3
    told = folded(tokens(), labels=tokens(), output_router_logits=True)
    assert told.router_logits[1].shape[-1] == 3
    assert told.aux_loss > 0
    told.loss.backward()
    assert folded.model.layers[1].mlp.gate.weight.grad.abs().sum() > 0


def test_scores_that_the_model_returns_pin_experts():
    model = mixture("mixtral", output_router_logits=True)
    groups = fxprune.groups(fxprune.prepare(model, {"input_ids": tokens()}))
    (experts,) = (group for group in groups if f"{EXPERTS}.weight:0" in group.members)
    assert experts.pin


# Rows of the kernel ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "multiple"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_the_kernel_takes_rows_of_sixteen_bytes(dtype, multiple):
    model = mixture("mixtral", "grouped_mm").to(dtype)
    gated = fxprune.prepare(model, {"input_ids": tokens()}).eval()
    groups = by_name(gated)
    for name in (WIDTH.format(24), "model.layers.0.self_attn.o_proj"):
        assert groups[name].multiple == multiple
    with pytest.raises(fxprune.KeepSetError, match=f"in a multiple of {multiple}"):
        fxprune.set_keep_set(gated, {WIDTH.format(24): [i < multiple + 1 for i in range(24)]})


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(keep_sets(prepared("mixtral", "grouped_mm")))
def test_what_is_kept_runs_in_the_kernel(keep):
    gated = prepared("mixtral", "grouped_mm")
    fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated).eval()
    for length in (1, 5, 11):
        ids = tokens(length)
        assert relative_error(logits(gated, ids), logits(folded, ids)) < 1e-4


def test_the_kernel_is_verified_in_a_precision_that_it_does_not_have():
    gated = prepared("mixtral", "grouped_mm")
    fxprune.set_keep_set(gated, half(gated))
    verdict = fxprune.verify(gated, fxprune.fold(gated))
    assert max(comparison.error for comparison in verdict.comparisons) < 1e-5
