"""Layers as two: exactly the same function, whatever the layer, and a word about what is whole."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import fxprune
from fxprune.errors import InputError, NothingToPruneError
from fxprune.passes.factorisation import FORMS
from fxprune.testing import assert_rewrite_equivalent, assert_unchanged, keep_sets, randomise
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.pairs import Pair, layer_of, rank_of
from tests.torch.test_laws import drawn, examples

EXACT = 1e-10


def seeded():
    return torch.Generator().manual_seed(1)


IMAGE, VOLUME, SIGNAL = (2, 4, 11, 12), (2, 4, 7, 8, 9), (2, 4, 15)
CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(4, 12, 3, padding=1), IMAGE),
    "wide": (lambda: nn.Conv2d(4, 40, 3, bias=False), IMAGE),
    "uneven": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2)), IMAGE),
    "strided": (lambda: nn.Conv2d(4, 6, 3, 2, 1), IMAGE),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=(2, 1)), IMAGE),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), IMAGE),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGE),
    "volume": (lambda: nn.Conv3d(4, 6, (3, 2, 3), (2, 1, 2), (1, 0, 1)), VOLUME),
    "replicated": (lambda: nn.Conv3d(4, 6, 3, padding=1, padding_mode="replicate"), VOLUME),
}
OTHERS = {
    "signal": (lambda: nn.Conv1d(4, 6, 3, 2, 1), SIGNAL),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1, 2), IMAGE),
    "tall": (lambda: nn.Linear(4, 9), (2, 3, 4)),
    "broad": (lambda: nn.Linear(9, 4, bias=False), (2, 9)),
    "lookup": (lambda: nn.Embedding(30, 6, padding_idx=3), None),
}
CASES = [(name, form) for name in CONVOLUTIONS for form in FORMS]
CASES += [(name, "low_rank") for name in OTHERS] + [("signal", "separable")]


def layer_and_input(name):
    """A layer with random weights in float64, and what it is given."""
    build, shape = (CONVOLUTIONS | OTHERS)[name]
    layer = build().double()
    randomise(layer, seeded())
    inputs = torch.randn(shape, dtype=torch.double) if shape else torch.randint(30, (2, 5))
    return layer, inputs


@pytest.mark.parametrize("on_data", [False, True], ids=["weights", "data"])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_two_layers_are_exactly_the_one_and_merge_to_it(name, form, on_data):
    layer, x = layer_and_input(name)
    model = nn.Sequential(layer)
    with assert_unchanged(model):
        pairs = fxprune.factorise(model, form=form, data=[x, x] if on_data else None)
    pair = pairs[0]
    assert isinstance(pair, Pair)
    assert rank_of(pair) == FORMS[form].full_rank(layer_of(layer))
    assert_rewrite_equivalent(model, pairs, inputs=[x], rtol=EXACT)
    torch.testing.assert_close(pair.weight, layer.weight, rtol=EXACT, atol=EXACT)
    merged = fxprune.merge(pairs)
    assert repr(merged) == repr(model)  # full rank never pays
    assert_rewrite_equivalent(model, merged, inputs=[x], rtol=EXACT)


@pytest.mark.parametrize("name", [*CONVOLUTIONS, "signal", "tall", "lookup"])
def test_a_pair_answers_for_the_layer_it_was(name):
    layer, _ = layer_and_input(name)
    pair = fxprune.factorise(nn.Sequential(layer), form="low_rank")[0]
    asked = [n for n in layer.__constants__ if n not in ("max_norm", "norm_type")]
    asked = [n for n in asked if n not in ("transposed", "output_padding", "sparse")]
    asked = [n for n in asked if n != "scale_grad_by_freq"]
    for attribute in asked:
        assert getattr(pair, attribute) == getattr(layer, attribute), attribute
    with pytest.raises(AttributeError):
        pair.no_such_thing  # noqa: B018


@pytest.mark.parametrize("form", FORMS)
def test_positions_without_which_least_is_lost_are_the_last(form):
    """The truncated pair is the best of its rank: Eckart & Young, on white inputs."""
    layer = nn.Conv2d(4, 12, 3).double()
    pair = fxprune.factorise(nn.Sequential(layer), form=form)[0]
    weight, errors = layer.weight.detach(), []
    rank = rank_of(pair)
    with torch.no_grad():
        for closed in range(rank):
            without = copy.deepcopy(pair)
            kernel = without.second.kernel_size
            without.second.weight.view(12, -1, rank, *kernel)[:, :, closed] = 0
            errors.append(float((without.weight - weight).norm()))
    assert errors == sorted(errors, reverse=True)
    if form == "low_rank":
        singular = torch.linalg.svdvals(weight.flatten(1))
        torch.testing.assert_close(torch.tensor(errors).double(), singular, rtol=1e-6, atol=1e-6)


def test_on_data_the_last_positions_change_least_of_what_the_layer_returns():
    torch.manual_seed(0)
    layer = nn.Linear(6, 6, bias=False).double()
    mixing = torch.randn(6, 6, dtype=torch.double) * torch.tensor([9.0, 3, 1, 0.3, 0.1, 0.01])
    x = torch.randn(200, 6, dtype=torch.double) @ mixing.T
    model = nn.Sequential(layer)
    lost = {}
    for name, data in (("weights", None), ("data", [x])):
        pair = fxprune.factorise(model, data=data)[0]
        with torch.no_grad():
            pair.second.weight[:, 3:] = 0
            lost[name] = float((pair(x) - layer(x)).norm())
    best = torch.linalg.svdvals(layer(x).detach())[3:].norm()
    assert lost["data"] == pytest.approx(float(best), rel=1e-8)
    assert lost["weights"] > 1.5 * lost["data"]


@pytest.mark.parametrize("form", FORMS)
def test_the_default_criterion_closes_the_smallest_singular_values(form):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(4, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 1)).double()
    pairs = fxprune.factorise(model, ["0"], form)
    gated = fxprune.prepare(pairs, torch.randn(1, 4, 8, 8, dtype=torch.double), target=1.0)
    (group,) = (g for g in fxprune.groups(gated) if g.kind == "rank")
    assert (group.place, group.size) == ("0", rank_of(pairs[0]))
    scores = fxprune.importance(gated)[group.name].tolist()
    assert scores == sorted(scores, reverse=True)


# What is whole, and why


class Odd(nn.Linear):
    """A subclass with code of its own."""

    def forward(self, x):
        return super().forward(x) + 1


class Holder(nn.Module):
    """Calls a layer that it holds in a plain list, too."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.calls = [self.layer]

    def forward(self, x):
        return self.other(self.calls[0](x))


def tied():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False), nn.Linear(9, 3))
    model[1].weight = model[0].weight
    return model


def hooked():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].register_forward_hook(lambda module, args, result: None)
    return model


LEFT = {
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3)),
        "2 groups",
    ),
    "subclass": (lambda: nn.Sequential(Odd(4, 4), nn.Linear(4, 4)), "a Odd, a subclass"),
    "parametrised": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)),
        "a ParametrizedLinear, a subclass",
    ),
    "hooked": (hooked, "it has hooks"),
    "tied": (tied, "its weights are those of 1.weight, too"),
    "held": (Holder, "Holder holds it in an attribute"),
    "normed": (
        lambda: nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 4)),
        "max_norm",
    ),
    "thin": (
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 4), nn.Linear(4, 4)),
        "rank is one",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_two_is_whole_with_the_reason(case):
    build, reason = LEFT[case]
    model = build()
    pairs = fxprune.factorise(model)
    first, *others = fxprune.factors(pairs)
    assert reason in first.reason
    assert others[-1].form == "low_rank"
    with pytest.raises(InputError, match=f"layers: {first.name} cannot be low_rank: "):
        fxprune.factorise(model, [first.name])


@pytest.mark.parametrize(
    ("layer", "form", "reason"),
    [
        (nn.Conv1d(4, 4, 3), "spatial", "fewer than two axes"),
        (nn.Conv2d(4, 4, (1, 3)), "spatial", "fewer than two axes"),
        (nn.Conv2d(4, 4, 1), "separable", "nothing to separate"),
        (nn.Conv3d(4, 4, (1, 3, 3)), "spatial", "one element along the axis"),
        (nn.Linear(4, 4), "separable", "nothing to separate"),
        (nn.Embedding(4, 4), "spatial", "an embedding has no kernel"),
    ],
)
def test_layers_without_a_form_say_why(layer, form, reason):
    with pytest.raises(NothingToPruneError, match=reason):
        fxprune.factorise(nn.Sequential(layer), form=form)


def test_patterns_choose_layers_and_what_means_none_is_told():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    found = fxprune.factors(fxprune.factorise(model, ["0", "2.*"]))
    assert [(item.name, item.form) for item in found] == [
        ("0.0", "low_rank"),
        ("1.0", ""),
        ("2.0", "low_rank"),
    ]
    assert found[1].reason == "nobody asked for it"
    with pytest.raises(InputError, match=r"no layer '1\.1' that could be two"):
        fxprune.factorise(model, ["1.1"])


def test_gated_models_are_refused():
    gated = fxprune.prepare(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), torch.randn(1, 4))
    for verb in (fxprune.factorise, fxprune.merge):
        with pytest.raises(InputError, match="gated"):
            verb(gated)


def test_data_that_a_model_does_not_run_on_is_told():
    model = nn.Sequential(nn.Linear(4, 8))
    with pytest.raises(InputError, match="does not run on batch 0 of data"):
        fxprune.factorise(model, data=[torch.randn(2, 5)])
    with pytest.raises(InputError, match="data has no batch"):
        fxprune.factorise(model, data=[])


# Code that does more with a layer than call it


class ReadsItsWeights(nn.Module):
    """Multiplies with the weight of a layer, and calls one that stands at two places."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.again = self.down
        randomise(self, seeded())

    def forward(self, x):
        y = nn.functional.linear(x, self.up.weight, self.up.bias).relu()
        return self.again(torch.relu(self.down(y).repeat(1, 2)[:, : self.up.out_features]))


def test_code_that_reads_weights_and_sizes_computes_the_same():
    model, x = ReadsItsWeights().double(), torch.randn(3, 6, dtype=torch.double)
    pairs = fxprune.factorise(model)
    assert pairs.again is pairs.down
    assert_rewrite_equivalent(model, pairs, inputs=[x], rtol=EXACT)
    gated = fxprune.prepare(pairs, x, target=1.0)
    ranks = {
        g.name: [i % 2 == 0 for i in range(g.size)] for g in fxprune.groups(gated) if not g.pin
    }
    fxprune.set_keep_set(gated, ranks)
    assert_rewrite_equivalent(gated, fxprune.fold(gated), inputs=[x], rtol=EXACT)


def test_the_fast_path_of_a_transformer_layer_reads_weights():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().double()
    randomise(layer, seeded())
    x = torch.randn(2, 3, 8, dtype=torch.double)
    pairs = fxprune.factorise(layer)
    whole = {item.name: item.reason for item in fxprune.factors(pairs) if item.reason}
    assert list(whole) == ["self_attn.out_proj"]
    with torch.no_grad():
        assert_rewrite_equivalent(layer, pairs, inputs=[x], rtol=EXACT)


# Afterwards


def small_model():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()
    )
    randomise(model, seeded())
    return model.double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.double)


@pytest.mark.parametrize("form", FORMS)
def test_folded_pairs_are_saved_loaded_copied_and_exported(form, tmp_path):
    model, x = small_model()
    gated = fxprune.prepare(fxprune.factorise(model, form=form), x, target=0.5)
    fxprune.reach_target(gated, fxprune.importance(gated))
    folded = fxprune.fold(gated)
    assert_rewrite_equivalent(gated, folded, inputs=[x], rtol=EXACT)
    merged = fxprune.merge(folded)
    fresh = small_model()[0]
    for name, made in (("folded", folded), ("merged", merged)):
        assert_rewrite_equivalent(folded, made, inputs=[x], rtol=EXACT)
        fxprune.save(made, tmp_path / name)
        loaded = fxprune.load(tmp_path / name, fresh)
        assert_rewrite_equivalent(made, loaded, inputs=[x], rtol=0.0)
        assert fxprune.factors(loaded) == fxprune.factors(made)
        assert fxprune.report(loaded).after == fxprune.report(made).after
    for copied in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert_rewrite_equivalent(folded, copied, inputs=[x], rtol=0.0)
    small, single = copy.deepcopy(folded).float(), x.float()  # ONNX Runtime has no double there
    fxprune.export_onnx(small, tmp_path / "model.onnx", single)  # compares with ONNX Runtime


def test_merge_keeps_what_pays():
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU()).double()
    x = torch.randn(2, 10, dtype=torch.double)
    gated = fxprune.prepare(fxprune.factorise(model), x, target=1.0)
    ranks = [g for g in fxprune.groups(gated) if g.kind == "rank"]
    fxprune.set_keep_set(
        gated,
        {g.name: [i < kept for i in range(10)] for g, kept in zip(ranks, (4, 5), strict=True)},
    )
    merged = fxprune.merge(fxprune.fold(gated))
    assert [item.form for item in fxprune.factors(merged)] == ["low_rank", ""]  # 5 (10 + 10) = 100
    assert_rewrite_equivalent(gated, merged, inputs=[x], rtol=EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_gates_learn_ranks_while_the_model_trains_and_shrinks(form):
    model, x = small_model()
    gated = fxprune.prepare(
        fxprune.factorise(model, form=form), x, target=0.5, steps=4, shrink_every=2
    )
    optimizer = torch.optim.SGD(gated.parameters(), lr=1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        gated(x).square().mean().backward()
        optimizer.step()
    report = fxprune.report(gated, latency=False)
    assert report.reached["macs"] <= report.targets["macs"]
    folded = fxprune.fold(gated)
    assert_rewrite_equivalent(gated.eval(), folded.eval(), inputs=[x], rtol=EXACT)
    assert {item.name for item in fxprune.factors(folded) if item.form} == {"0", "3"}


def test_models_without_values_become_pairs_without_values():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 6), nn.Conv2d(3, 4, 3))
    pairs = fxprune.factorise(model)
    assert {parameter.device.type for parameter in pairs.parameters()} == {"meta"}
    assert pairs[0].first.weight.shape == (6, 8)


def test_half_precision_stays_what_it_is():
    model = nn.Sequential(nn.Linear(8, 6)).bfloat16()
    pair = fxprune.factorise(model)[0]
    assert pair.first.weight.dtype == pair.second.weight.dtype == torch.bfloat16
    torch.testing.assert_close(pair.weight, model[0].weight, rtol=0.05, atol=0.05)


# Laws


@examples(5)
@given(st.data())
def test_random_networks_compute_the_same_as_pairs_gated_folded_and_merged(data):
    check_laws(data)


@pytest.mark.slow
@examples(60)
@given(st.data())
def test_many_random_networks_compute_the_same_as_pairs_gated_folded_and_merged(data):
    check_laws(data)


def check_laws(data):
    """All open is the network, gated is folded, merged is unmerged, and what is left pays."""
    network = data.draw(drawn())
    form = data.draw(st.sampled_from([*FORMS]), "form")
    try:
        pairs = fxprune.factorise(network, form=form)
    except NothingToPruneError:
        return
    assert_rewrite_equivalent(network, pairs, inputs=network.inputs)
    gated = fxprune.prepare(pairs, network.inputs, target=1.0)
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    folded = fxprune.fold(gated)
    assert_rewrite_equivalent(gated, folded, inputs=network.inputs)
    merged = fxprune.merge(folded)
    assert_rewrite_equivalent(folded, merged, inputs=network.inputs)
    for item in fxprune.factors(merged):
        if item.form and not generated_code(merged):
            pair = merged.get_submodule(item.name)
            assert FORMS[item.form].pays(layer_of(pair), rank_of(pair))
