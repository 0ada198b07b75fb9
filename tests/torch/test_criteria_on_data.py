"""Criteria on data, against slow references by hand, and their laws."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.criteria import ON_DATA, ON_FLOW
from fxprune.testing import assert_unchanged
from tests.torch.models import Auxiliary, Residual, images, plain, randomise

STATISTICS = {
    "activation": lambda x: np.abs(x).mean(1),
    "wanda": lambda x: np.square(x).mean(1),
    "flap": lambda x: x.var(1, ddof=1),
}
"""Of an array of shape (positions, samples)."""


def data(count=3, size=4):
    return [images(size, seed=seed) for seed in range(count)]


def found(model, method, batches=None, example=None, **settings):
    gated = fxprune.prepare(model, images(1) if example is None else example, **settings)
    values = fxprune.importance(gated, method, data() if batches is None else batches)
    return {name: value.double().numpy() for name, value in values.items()}


def over_mean(numbers):
    return numbers / numbers.mean()


def by_position(tensor, dim=1):
    """The numbers of every position of an axis."""
    return tensor.detach().double().movedim(dim, 0).flatten(1).numpy()


def norms(weight, dim=1):
    return np.square(by_position(weight, dim)).sum(1)


def score(method, tensor, weight):
    """What a reader adds to the score of its positions."""
    return STATISTICS[method](by_position(tensor)) * (
        1 if method == "activation" else norms(weight)
    )


# By hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ON_FLOW)
def test_a_channel_counts_by_what_its_reader_sees(method):
    two = randomise(plain())
    hidden = torch.relu(two[0](torch.cat(data())))
    wanted = over_mean(score(method, hidden, two[2].weight))
    assert found(two, method)["0"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", ON_FLOW)
def test_every_reader_of_a_stream_counts(method):
    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 1)
            self.left, self.right = nn.Conv2d(6, 5, 3), nn.Conv2d(6, 5, 3)

        def forward(self, x):
            x = self.stem(x)
            return self.left(x).sigmoid() + self.right(x.relu())

    model = randomise(Stream())
    x = model.stem(torch.cat(data()))
    wanted = score(method, x, model.left.weight) + score(method, x.relu(), model.right.weight)
    assert found(model, method)["stem"] == pytest.approx(over_mean(wanted), rel=1e-5)


@pytest.mark.parametrize("method", ON_FLOW)
def test_positions_behind_a_flatten_have_their_own_weights(method):
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)))
    hidden = model[2](model[1](model[0](torch.cat(data()))))
    each = score(method, hidden, model[3].weight).reshape(5, 16).sum(1)
    assert found(model, method)["0"] == pytest.approx(over_mean(each), rel=1e-5)


def test_weights_that_a_call_transposes_count_as_well():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.weight = nn.Linear(3, 6), nn.Parameter(torch.zeros(6, 4))

        def forward(self, x):
            return self.first(x) @ (2 * self.weight)

    model = randomise(Transposed())
    x = torch.randn(7, 3)
    wanted = over_mean(score("wanda", model.first(x), model.weight.T))
    (own,) = found(model, "wanda", [x], x).values()
    assert own == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def influences(model, batches):
    """1 - cos, by block, of the vectors of channels at every position."""
    x, turned = model[0](torch.cat(batches)), []
    for block in list(model)[1:-1]:
        y = x + block.body(x)
        turned.append(1 - float(torch.cosine_similarity(x, y, 1).double().mean()))
        x = y
    return np.array(turned)


class Added(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale, self.body = scale, nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        return x + self.body(x)


def blocks():
    """Blocks that change their input more and more."""
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 6, 1), *map(Added, (0.1, 0.5, 2)), nn.Conv2d(6, 2, 1))
    )
    with torch.no_grad():
        for block in list(model)[1:-1]:
            block.body.weight *= block.scale
    return model


@pytest.mark.parametrize("method", [*ON_FLOW, "block_influence"])
def test_branches_rank_by_how_far_they_turn_what_they_are_added_to(method):
    model = blocks()
    ranks = found(model, method)
    branches = [float(own[0]) for name, own in ranks.items() if name.endswith("+")]
    wanted = over_mean(influences(model, data()))
    assert branches == pytest.approx(wanted.tolist(), rel=1e-4)
    channels = [own.max() for name, own in ranks.items() if not name.endswith("+")]
    if method == "block_influence":
        assert min(own.min() for n, own in ranks.items() if not n.endswith("+")) > max(branches)
    else:
        assert min(branches) < max(channels), "depth does not close last"


def test_block_influence_closes_the_weakest_block_first():
    gated = fxprune.prepare(blocks(), images(1), target=0.75)
    fxprune.reach_target(gated, fxprune.importance(gated, "block_influence", data()))
    keep = fxprune.keep_set(gated)
    branches = [bool(flags[0]) for name, flags in keep.items() if name.endswith("+")]
    assert branches == [False, True, True]
    assert all(flags.all() for name, flags in keep.items() if not name.endswith("+"))


def test_saliency_is_what_closing_does_to_the_outputs():
    model = randomise(Residual()).eval()
    x = images(8)
    gated = fxprune.prepare(model, images(1))
    ranks = fxprune.importance(gated, "saliency", [x])
    before = model(x).detach()
    for kind in (False, True):
        changes, given = [], []
        for name, own in ranks.items():
            if name.endswith("+") is kind:
                change = []
                for position in range(len(own)):
                    one = copy.deepcopy(gated)
                    keep = [i != position for i in range(len(own))]
                    fxprune.set_keep_set(one, {name: keep})
                    after = fxprune.fold(one).eval()(x).detach()
                    change.append(float((after - before).square().sum() / before.square().sum()))
                changes.append(np.array(change))
                given.append(own.numpy())
        for change, own in zip(changes, given, strict=True):
            assert own == pytest.approx(over_mean(change), rel=1e-4)


# Laws -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in ON_DATA if m != "saliency"])
def test_scores_do_not_depend_on_how_data_is_cut(method):
    model = randomise(Residual())
    x = images(8)
    one, all_at_once = (found(model, method, list(torch.split(x, size))) for size in (1, 8))
    uneven = found(model, method, iter([x[:5], x[5:]]))
    for name, own in one.items():
        assert own == pytest.approx(all_at_once[name], rel=1e-4)
        assert uneven[name] == pytest.approx(all_at_once[name], rel=1e-4)


@pytest.mark.parametrize("method", [m for m in ON_DATA if m != "block_influence"])
def test_a_dead_channel_ranks_last(method):
    model = randomise(plain())
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = -1
    own = found(model, method)["0"]
    assert own[3] == 0
    assert np.delete(own, 3).min() > 0


@pytest.mark.parametrize("method", ON_FLOW)
@pytest.mark.parametrize("power", ["flow", "weights"])
def test_scores_scale_as_their_formula_says(method, power):
    """One channel of three times the size, or read by weights of three times the size."""
    model = randomise(plain())
    larger = copy.deepcopy(model)
    with torch.no_grad():
        if power == "flow":
            larger[0].weight[2] *= 3
            larger[0].bias[2] *= 3
        else:
            larger[2].weight[:, 2] *= 3
    left, right = (found(each, method)["0"] for each in (model, larger))
    others = [i for i in range(8) if i != 2]
    factor = (right[2] / right[others].sum()) / (left[2] / left[others].sum())
    wanted = {
        "flow": 3 if method == "activation" else 9,
        "weights": 1 if method == "activation" else 9,
    }
    assert factor == pytest.approx(wanted[power], rel=1e-4)


def test_fluctuation_ignores_what_is_constant():
    model = randomise(plain())
    with torch.no_grad():
        model[0].weight[5] = 0
        model[0].bias[5] = 100
    own = {method: found(model, method)["0"] for method in ON_FLOW}
    assert own["flap"][5] == pytest.approx(0, abs=1e-9)
    assert own["wanda"].argmax() == own["activation"].argmax() == 5


@pytest.mark.parametrize("method", ON_DATA)
def test_looking_leaves_the_model_alone(method):
    gated = fxprune.prepare(randomise(Residual(dropout=0.3)).train(), images(1))
    batches = data()
    copies = [batch.clone() for batch in batches]
    with assert_unchanged(gated):
        fxprune.importance(gated, method, batches)
    assert gated.training
    assert all(map(torch.equal, batches, copies))


# What data may be -------------------------------------------------------------------------------


class Named(nn.Module):
    """Two inputs, and labels that decide on a loss."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x, y=None, labels=None):
        h = self.a(x).relu()
        h = h if y is None else h + self.b(y)
        logits = self.c(h)
        return {"logits": logits} if labels is None else {"logits": logits, "loss": logits.sum()}


@pytest.mark.parametrize("method", [m for m in ON_DATA if m != "block_influence"])
def test_labels_may_come_with_the_inputs(method):
    model, x, y = randomise(Named()), torch.randn(5, 4), torch.randn(5, 3)
    gated = fxprune.prepare(model, (x, y))
    labels = torch.zeros(5).long()
    forms = [(x, y), (x, y, labels), ((x, y), labels), {"x": x, "y": y}, {"y": y, "x": x}]
    forms += [({"x": x, "y": y}, labels)]
    if method != "saliency":  # whose outputs would have a loss among them
        forms += [{"x": x, "y": y, "labels": labels}]
    first, *others = (fxprune.importance(gated, method, [form]) for form in forms)
    for other in others:
        assert all(torch.allclose(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", [m for m in ON_DATA if m != "block_influence"])
def test_parts_are_observed_in_the_whole(method):
    whole = randomise(nn.Sequential(nn.Conv2d(3, 3, 1), plain(), nn.Conv2d(4, 2, 1)))
    x = torch.cat(data())
    gated = fxprune.prepare(whole, images(1), scope="1")
    inside = fxprune.importance(gated, method, data())
    if method == "saliency":
        assert inside["0"].std() > 0
        return
    alone = found(whole[1], method, [whole[0](x).detach()])
    assert inside["0"].numpy() == pytest.approx(alone["0"], rel=1e-4)


def test_only_what_evaluation_runs_is_observed():
    ranks = found(randomise(Auxiliary()).train(), "wanda")
    assert ranks["stem"].min() > 0
    assert all(np.isfinite(own).all() for own in ranks.values())


@pytest.mark.parametrize("method", ON_DATA)
@pytest.mark.parametrize("given", [None, [], iter(())])
def test_missing_data_is_told(method, given):
    match = f'method="{method}" (needs data|got no batch)'
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.prune(plain(), images(1), method=method, data=given)


def test_data_that_does_not_fit_is_told():
    with pytest.raises(fxprune.InputError, match="does not run on batch 1 of data"):
        fxprune.prune(plain(), images(1), method="wanda", data=[images(1), torch.zeros(2, 7)])


# Criteria of one's own --------------------------------------------------------------------------


def squares(weight):
    """The square norm for every position."""
    others = tuple(axis for axis in range(weight.array.ndim) if axis != weight.axis)
    return np.square(weight.array).sum(others)


def own_wanda(group):
    return sum(squares(reader.weight) * reader.flow.square for reader in group.readers)


def own_magnitude(group):
    weights = ((weight.array, weight.axis) for weight in group.makers)
    return sum(
        np.abs(np.moveaxis(array, axis, 0)).sum(tuple(range(1, array.ndim)))
        for array, axis in weights
    )


@pytest.mark.parametrize(("own", "named"), [(own_wanda, "wanda"), (own_magnitude, "magnitude")])
def test_a_function_is_given_weights_and_what_flows(own, named):
    model = randomise(Residual())
    left, right = found(model, own), found(model, named)
    for name, ranks in left.items():
        if not name.endswith("+"):
            assert over_mean(ranks) == pytest.approx(over_mean(right[name]), rel=1e-6)


def test_axes_of_heads_stand_by_themselves():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 12) for _ in range(3))
            self.out = nn.Linear(12, 5)

        def forward(self, x):
            q, k, v = (
                f(x).view(x.shape[0], -1, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(x.transpose(1, 2).reshape(x.shape[0], -1, 12))

    seen = {}

    def look(group):
        seen[group.size, group.name] = group
        return np.ones(group.size)

    model, x = randomise(Heads()), torch.randn(2, 5, 6)
    found(model, look, [x], x)
    heads = next(group for (size, _), group in seen.items() if size == 3)
    (reader,) = heads.readers
    assert (reader.weight.array.shape, reader.weight.axis) == ((5, 3, 4), 1)
    wanted = model.out.weight.detach().double().reshape(5, 3, 4).numpy()
    assert np.array_equal(reader.weight.array, wanted)
    assert reader.flow.mean.shape == (3,)
    assert {weight.array.shape for weight in heads.makers} == {(3, 4, 6)}


def test_without_data_a_function_sees_weights_alone():
    def own(group):
        assert all(reader.flow is None for reader in group.readers)
        return squares(group.makers[0])

    gated = fxprune.prepare(randomise(Residual()), images(1))
    ranks = fxprune.importance(gated, own)
    (branch,) = (value for name, value in ranks.items() if name.endswith("+"))
    assert branch > max(value.max() for name, value in ranks.items() if not name.endswith("+"))


def three():
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3)
        )
    )


def test_a_group_of_which_nothing_is_said_loses_what_the_others_lose():
    model = three()
    gated = fxprune.prepare(model, images(1), target=0.4)
    ranks = fxprune.importance(gated, lambda group: range(8) if group.name == "0" else None)
    assert over_mean(ranks["0"].numpy()) == pytest.approx(over_mean(np.arange(8.0)))
    order = ranks["2"].argsort().tolist()
    assert order == fxprune.importance(gated, "group_norm")["2"].argsort().tolist()
    fxprune.reach_target(gated, ranks)
    kept = {name: float(flags.float().mean()) for name, flags in fxprune.keep_set(gated).items()}
    assert abs(kept["0"] - kept["2"]) <= 1 / 8


def test_importance_may_leave_out_groups():
    gated = fxprune.prepare(three(), images(1), target=0.4)
    fxprune.reach_target(gated, {"2": 1000 * torch.arange(12.0)})
    keep = fxprune.keep_set(gated)
    assert keep["2"].tolist() == sorted(keep["2"].tolist())
    assert abs(float(keep["0"].float().mean()) - float(keep["2"].float().mean())) <= 1 / 8


def test_a_branch_that_importance_leaves_out_closes_last():
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.5)
    names = [name for name in fxprune.keep_set(gated) if not name.endswith("+")]
    sizes = {name: len(fxprune.keep_set(gated)[name]) for name in names}
    fxprune.reach_target(gated, {name: range(size) for name, size in sizes.items()})
    assert all(
        bool(flags[0]) for name, flags in fxprune.keep_set(gated).items() if name.endswith("+")
    )


@pytest.mark.parametrize(
    ("own", "match"),
    [
        (lambda group: [1.0], r"returned something of shape \(1,\) for group 0.*8 finite numbers"),
        (lambda group: np.ones((8, 1)), r"of shape \(8, 1\)"),
        (lambda group: [math.nan] * 8, "returned NaN or infinity for group 0"),
        (lambda group: [math.inf] * 8, "returned NaN or infinity"),
        (lambda group: "text", "fails on group '0': ValueError"),
        (lambda group: group.nothing, "fails on group '0': AttributeError"),
        (lambda: 0, "fails on group '0': TypeError"),
        (lambda group: None, "method <lambda> finds nothing to rank by"),
    ],
)
def test_what_a_function_must_not_return_is_told(own, match):
    with pytest.raises(fxprune.InputError, match=match):
        found(plain(), own)
