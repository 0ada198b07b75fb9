"""Channels, ranks or neither: chosen layer by layer, and the target is met by what comes out."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import TargetError
from fxprune.passes.factorisation import FORMS
from fxprune.targets import absolute
from fxprune.testing import assert_costs, assert_rewrite_equivalent, assert_unchanged, count_macs
from fxprune.torch.measuring import costs_of
from fxprune.torch.mixture import mixed
from fxprune.torch.pairs import layer_of, pairs_of, rank_of
from fxprune.torch.record import gated_record

X = torch.randn(8, 3, 12, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0))
ALL = tuple(FORMS.values())


def model(rank=0):
    """Three convolutions with norms; with `rank` the weights of the second have no more than it."""
    torch.manual_seed(5)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )
    if rank:
        with torch.no_grad():
            factors = torch.randn(16, rank), torch.randn(rank, 16 * 9) / 12
            layers[3].weight.copy_((factors[0] @ factors[1]).view(16, 16, 3, 3))
    return layers.double().eval()


def gates(module, target):
    return fxprune.prepare(module, X[:1], target=target)


@pytest.mark.parametrize("data", [None, [X]], ids=["weights", "data"])
@pytest.mark.parametrize(
    "target", [0.3, {"params": 0.5}, {"memory": 0.9}, {"3": {"macs": 0.5}, "macs": 0.6}]
)
def test_targets_are_met_to_one_position_and_pairs_pay(target, data):
    whole = model()
    gated = mixed(whole, target, ALL, gates, data)
    _, record = gated_record(gated)
    kept = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    original = gated_record(gates(whole, target))[1]
    costs = fxprune.report(gated, latency=False)
    assert costs.targets == original.targets
    assert all(costs.reached[name] <= limit for name, limit in costs.targets.items())
    for name, size in record.analysis.costs.full.items():
        if kept[name] < size:
            more = {**kept, name: kept[name] + 1}
            gates_costs = {key: _cost(record.analysis, key)(more) for key in costs.targets}
            assert any(gates_costs[key] > limit for key, limit in costs.targets.items()), name
    folded = fxprune.fold(gated)
    assert_costs(folded, [X], costs_of(folded))
    assert_rewrite_equivalent(gated, folded, inputs=[X], rtol=1e-10)
    for pair in pairs_of(folded).values():
        assert FORMS[pair.form].pays(layer_of(pair), rank_of(pair))


def _cost(analysis, key):
    cost, _, inside = key.partition(" of ")
    costs = analysis.costs_inside(inside) if inside else analysis.costs
    return costs.polynomials[cost]


@pytest.mark.parametrize("data", [None, [X]], ids=["weights", "data"])
def test_what_is_there_twice_goes_first(data):
    """A layer of rank 3 is two thin ones at no loss; without forms channels would have to go."""
    whole = model(rank=3)
    layer = count_macs(nn.Sequential(whole[3]), [torch.zeros(1, 16, 12, 12).double()])
    full = count_macs(whole, [X[:1]])
    target = 1 - 0.6 * layer / full  # 3 (144 + 16) of 2,304 weights are enough
    with assert_unchanged(whole):
        pruned = fxprune.prune(whole, X[:1], target=target, factorise="low_rank", data=data)
    assert [item.name for item in fxprune.factors(pruned) if item.form] == ["3"]
    assert_rewrite_equivalent(whole, pruned, inputs=[X], rtol=1e-8)
    assert count_macs(pruned, [X[:1]]) <= target * full


def test_the_better_of_two_forms_is_chosen():
    pruned = fxprune.prune(model(rank=3), X[:1], target=0.8, factorise=["separable", "low_rank"])
    assert {item.name: item.form for item in fxprune.factors(pruned)}["3"] == "low_rank"


def test_nothing_is_two_where_all_may_stay():
    whole = model()
    pruned = fxprune.prune(whole, X[:1], target=1.0, factorise=tuple(FORMS))
    assert not pairs_of(pruned)
    assert_rewrite_equivalent(whole, pruned, inputs=[X], rtol=0.0)


def test_what_is_ignored_stays_whole():
    pruned = fxprune.prune(
        model(rank=3), X[:1], target=0.6, factorise="low_rank", ignore=["3"], data=[X], correct=True
    )
    assert "3" not in pairs_of(pruned)
    assert pruned[3].out_channels == 16


def test_models_are_saved_and_loaded_with_their_pairs(tmp_path):
    pruned = fxprune.prune(model(rank=3), X[:1], target=0.5, factorise=tuple(FORMS))
    fxprune.save(pruned, tmp_path / "pruned")
    loaded = fxprune.load(tmp_path / "pruned", model())
    assert_rewrite_equivalent(pruned, loaded, inputs=[X], rtol=0.0)
    said = str(fxprune.report(pruned, latency=False))
    assert fxprune.report(loaded, latency=False).before["macs"] == count_macs(model(), [X[:1]])
    assert "as two layers: " in said
    assert "3 (low_rank, rank " in said


def test_a_part_alone_is_factorised():
    whole = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1).double(), model(rank=3))
    pruned = fxprune.prune(whole, X[:1], target=0.6, factorise="low_rank", scope="1", data=[X])
    assert list(pairs_of(pruned)) == ["1.3"]
    part = fxprune.report(pruned, latency=False)
    assert part.after["macs"] <= 0.6 * part.before["macs"]
    assert_rewrite_equivalent(whole[0], pruned[0], inputs=[X], rtol=0.0)


def test_a_model_becomes_the_smaller_one_itself():
    whole, options = model(rank=3), {"target": 0.6, "factorise": "low_rank"}
    expected = fxprune.prune(whole, X[:1], **options)
    assert fxprune.prune(whole, X[:1], copy=False, **options) is whole
    assert list(pairs_of(whole)) == ["3"]
    assert_rewrite_equivalent(expected, whole, inputs=[X], rtol=0.0)


@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
def test_limits_of_a_number_or_less_are_numbers_all_the_same(name):
    """One is a share where the user says it, and one multiply-accumulate where we do."""
    with pytest.raises(TargetError, match="with every group at its smallest"):
        fxprune.prepare(model(), X[:1], target=absolute({name: 1.0}))
    assert fxprune.prepare(model(), X[:1], target={name: 1.0}) is not None
