"""Weights that make up for closed positions."""

import pytest
import torch
from torch import nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.models import Residual, images, plain, randomise


def data(count=4, size=16):
    return [images(size, seed=seed).double() for seed in range(count)]


def error(gated, whole):
    x = images(32, seed=9).double()
    with torch.no_grad():
        wanted = whole.eval()(x)
        return float((gated.eval()(x) - wanted).norm() / wanted.norm())


def half_closed(model, **settings):
    """The odd channels of every group are closed."""
    gated = fxprune.prepare(model, images(1).double(), **settings)
    keep = fxprune.keep_set(gated)
    odd = {
        n: torch.arange(len(k)) % 2 == 0 if len(k) > 1 else torch.tensor([True])
        for n, k in keep.items()
    }
    fxprune.set_keep_set(gated, odd)
    return gated


@torch.no_grad()
def doubled(model):
    """Every odd channel of the first layer is the one before it."""
    for parameter in (model[0].weight, model[0].bias):
        parameter[1::2] = parameter[::2]
    return model


def test_channels_that_others_can_make_up_for_are_not_missed():
    whole = doubled(randomise(plain()).double())
    gated = half_closed(whole)
    assert error(gated, whole) > 0.1
    assert fxprune.refit(gated, data(), ridge=1e-12) == 1
    assert error(gated, whole) < 1e-8
    fxprune.verify(gated, fxprune.fold(gated))


def test_open_columns_take_the_weight_of_the_closed_ones():
    whole = doubled(randomise(plain()).double())
    gated = half_closed(whole)
    fxprune.refit(gated, data(), ridge=1e-12)
    fitted, old = gated.get_submodule("2").weight, whole[2].weight
    assert torch.allclose(fitted[:, ::2], old[:, ::2] + old[:, 1::2], rtol=1e-5, atol=1e-7)
    assert torch.equal(fitted[:, 1::2], old[:, 1::2]), "closed columns stay"


def test_residual_networks_come_closer_to_what_they_were():
    whole = randomise(Residual()).double()
    gated = half_closed(whole)
    before = error(gated, whole)
    assert fxprune.refit(gated, data()) > 0
    assert error(gated, whole) < 0.8 * before
    fxprune.verify(gated, fxprune.fold(gated))


def test_nothing_closed_nothing_fitted():
    gated = fxprune.prepare(randomise(Residual()).double().train(), images(1).double())
    with assert_unchanged(gated):
        assert fxprune.refit(gated, data()) == 0


@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_the_model_stay(mode):
    whole = randomise(Residual()).double()
    gated = half_closed(whole).train(mode)
    with assert_unchanged(whole):
        fxprune.refit(gated, [(x, torch.zeros(16)) for x in data()])
    assert gated.training == gated.stem.training == mode


def test_closed_branch_is_left_alone():
    whole = randomise(Residual()).double()
    gated = fxprune.prepare(whole, images(1).double())
    fxprune.set_keep_set(gated, {"body+": [False]})
    weight = gated.body[3].weight.clone()
    fxprune.refit(gated, data())
    assert torch.equal(gated.body[3].weight, weight)


def test_data_that_does_not_fit_is_refused():
    gated = half_closed(randomise(plain()).double())
    for wrong, match in (
        ([], "refit needs batches of inputs"),
        ([{"x": 1}], "this model was traced without x"),
        ([images(2).double(), 3], "batch 1 of data|an array"),
        ([torch.full((1, 3, 8, 8), torch.nan).double()], "batch 0 of data holds NaN"),
    ):
        with pytest.raises(fxprune.InputError, match=match), assert_unchanged(gated):
            fxprune.refit(gated, wrong)
    with pytest.raises(fxprune.InputError, match="got a plain Sequential"):
        fxprune.refit(nn.Sequential(), data())
