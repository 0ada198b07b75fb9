"""Pruning without training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import Auxiliary, Residual, images, plain, randomise

METHODS = ("magnitude", "group_norm", "bn_scale", "taylor", "random")


def batches(count=3):
    return [(images(5, seed=seed), torch.arange(5)) for seed in range(count)]


def model():
    return randomise(Residual(dropout=0.2))


@pytest.mark.parametrize("method", METHODS)
def test_one_call_meets_the_target_and_leaves_the_model_alone(method):
    whole = model().train()
    if method == "random":
        torch.manual_seed(0)
        folded = fxprune.prune(whole, images(1), target=0.4, method=method)
    else:
        with assert_unchanged(whole):
            folded = fxprune.prune(whole, images(1), target=0.4, method=method, data=batches())
    costs = fxprune.report(folded, latency=False).as_dict()
    assert 0.2 < costs["macs_after"] / costs["macs_before"] <= 0.4
    assert folded(images(2)).shape == (2, 5)


def test_every_group_keeps_its_least_share():
    narrow = nn.Sequential(nn.Conv2d(3, 10, 1), nn.ReLU(), nn.Conv2d(10, 8, 3), nn.Conv2d(8, 5, 1))
    with torch.no_grad():
        narrow[0].weight[0] *= 1000  # by its largest, all others look small
    free, kept = (
        fxprune.prune(narrow, images(1), target=0.4, least=x).get_submodule("0").out_channels
        for x in (0.0, 0.4)
    )
    assert free < 4 == kept


def importance(model, method, name="0", **settings):
    gated = fxprune.prepare(model, images(1), **settings)
    return fxprune.importance(gated, method, batches(1))[name]


def test_magnitude_is_the_norm_of_the_filters_over_the_largest():
    two = randomise(plain())
    norms = two[0].weight.detach().abs().sum((1, 2, 3)).double()
    assert torch.allclose(importance(two, "magnitude"), norms / norms.max())


def test_group_norm_counts_makers_and_readers():
    two = randomise(plain())
    squares = two[0].weight.detach().double().square().sum((1, 2, 3))
    squares += two[0].bias.detach().double().square()
    squares += two[2].weight.detach().double().square().sum((0, 2, 3))
    assert torch.allclose(importance(two, "group_norm"), squares / squares.max())


def test_norm_scale_is_that_of_the_normalisation():
    residual = model()
    scale = residual.body[1].weight.detach().double().abs()
    assert torch.allclose(importance(residual, "bn_scale", "body.0"), scale / scale.max())


def test_parts_of_a_concatenation_are_ranked_by_their_own_columns():
    class Concatenated(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
            self.head = nn.Conv2d(10, 2, 1)

        def forward(self, x):
            return self.head(torch.cat([self.left(x), self.right(x)], 1))

    two = randomise(Concatenated())
    squares = two.right.weight.detach().double().square().sum((1, 2, 3))
    squares += two.right.bias.detach().double().square()
    squares += two.head.weight[:, 4:].detach().double().square().sum((0, 2, 3))
    assert torch.allclose(importance(two, "group_norm", "right"), squares / squares.max())


def test_taylor_is_the_root_of_the_squared_gradient_of_the_gates():
    two = nn.Sequential(*plain(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    randomise(two)
    gated = fxprune.prepare(two, images(1))
    x, y = images(4), torch.arange(4)
    squares = torch.zeros(8)
    for channel in range(8):
        scale = torch.ones(8, requires_grad=True)
        hidden = torch.relu(two[0](x)) * scale.view(1, -1, 1, 1)
        loss = F.cross_entropy(two[2](hidden).mean((2, 3)), y)
        squares[channel] = torch.autograd.grad(loss, scale)[0][channel].square()
    found = fxprune.importance(gated, "taylor", [(x, y)])["0"]
    assert torch.allclose(found / found.sum(), squares.sqrt() / squares.sqrt().sum(), rtol=1e-4)


def test_taylor_leaves_modes_and_gradients_alone():
    gated = fxprune.prepare(model().train(), images(1))
    gated.head.weight.grad = torch.ones_like(gated.head.weight)
    with assert_unchanged(gated):
        fxprune.importance(gated, "taylor", batches())


def test_branches_close_last_by_weights():
    gated = fxprune.prepare(model(), images(1))
    found = fxprune.importance(gated, "group_norm")
    (branch,) = (value for name, value in found.items() if name.endswith("+"))
    channels = [value.max() for name, value in found.items() if not name.endswith("+")]
    assert branch > max(channels)


def test_own_loss_serves_any_output():
    def loss(model, batch):
        images, labels = batch
        outputs = model(images)
        return F.cross_entropy(outputs[0] if isinstance(outputs, tuple) else outputs, labels)

    with pytest.raises(fxprune.InputError, match="mappings, got Tensor: give loss="):
        fxprune.prune(model(), images(1), method="taylor", data=[images(2)])
    fxprune.prune(
        randomise(Auxiliary()), images(1), target=0.6, method="taylor", data=batches(), loss=loss
    )


def test_correction_brings_the_output_back():
    whole = model().eval()
    x = images(32, seed=7)
    errors = []
    for correct in (False, True):
        folded = fxprune.prune(
            whole, images(1), target=0.6, data=[images(64)], correct=correct
        ).eval()
        errors.append(float((folded(x) - whole(x)).norm().detach()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"correct": True}, "correct=True needs data"),
        ({"method": "best"}, "unknown method 'best'; known without training are taylor, magnitude"),
        ({"method": "taylor"}, 'method="taylor" needs data'),
        ({"method": "taylor", "data": []}, "the data is empty"),
        ({"method": "bn_scale"}, "finds nothing to rank by"),
    ],
)
def test_what_does_not_fit_is_refused(settings, match):
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.prune(plain(), images(1), **settings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda values: values.pop("0"), "importance is {}: give numbers"),
        (lambda values: values.update({"0": [1.0]}), "importance of 0 must be 8 numbers"),
        (lambda values: values.update({"0": [float("nan")] * 8}), "importance of 0 must be 8"),
    ],
)
def test_importance_must_fit_the_groups(change, match):
    gated = fxprune.prepare(plain(), images(1))
    values = dict(fxprune.importance(gated))
    change(values)
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.reach_target(gated, values)


def test_own_importance_decides():
    gated = fxprune.prepare(plain(), images(1), target=0.5)
    fxprune.reach_target(gated, {"0": torch.arange(8.0)})
    assert fxprune.keep_set(gated)["0"].tolist() == [False] * 4 + [True] * 4
