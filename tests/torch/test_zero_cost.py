"""Scores before training: formulas held against slow references, gated models against folded."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged, keep_sets, networks
from fxprune.torch.codes import codes_of, kernel
from tests.torch.models import Auxiliary, Residual, half, images, randomise

METHODS = ("naswot", "synflow", "snip", "zico")
LABELLED = [(images(6, seed=seed), torch.arange(6) % 5) for seed in range(3)]


class WithModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 5, 3)
        self.last = nn.LeakyReLU()
        self.head = nn.Linear(80, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        return self.head(self.last(self.second(x)).flatten(1))


class WithFunctions(WithModules):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.first(x)))
        return self.head(F.leaky_relu(self.second(x)).flatten(1))


def hooked(model: nn.Module, x: Tensor) -> float:
    """As published: hooks on modules whose type is called ReLU, in training mode."""
    total = np.zeros((len(x), len(x)))

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        code = (inputs[0] > 0).flatten(1).double().numpy()
        total[:] += code @ code.T + (1 - code) @ (1 - code).T

    relus = [module for module in model.modules() if "ReLU" in type(module).__name__]
    handles = [relu.register_forward_pre_hook(look) for relu in relus]
    model.train()(x)
    for handle in handles:
        handle.remove()
    return float(np.linalg.slogdet(total)[1])


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10**6))
def test_the_kernel_is_units_minus_hamming_distance(samples, units, seed):
    generator = np.random.default_rng(seed)
    code = generator.random((samples, units)) > 0.5
    parts = torch.tensor(code).split(max(units // 2, 1), dim=1)
    distance = (code[:, None] != code[None]).sum(axis=2)
    assert (kernel(parts) == units - distance).all()


def test_naswot_is_that_of_the_published_hooks():
    model = randomise(WithModules())
    assert fxprune.score(model, [images(6)]) == pytest.approx(
        hooked(randomise(WithModules()), images(6)), rel=1e-6
    )


def test_functions_count_as_modules_do():
    by_modules = fxprune.score(randomise(WithModules()), [images(6)])
    assert fxprune.score(randomise(WithFunctions()), [images(6)]) == by_modules


def test_two_samples_of_one_code_are_told_apart_by_nothing():
    twice = torch.cat([images(3), images(1)])
    assert fxprune.score(randomise(WithModules()), [twice]) == -math.inf
    assert fxprune.score(randomise(WithModules()), [images(3), twice]) == -math.inf


def test_codes_are_those_of_open_units():
    gated = fxprune.prepare(randomise(Residual()), images())
    units = sum(code.shape[1] for code in codes_of(gated, images(3)))
    assert units == 64 * (8 + 12 + 8)
    keep = {"stem.0": [1, 0] * 4, "body.0": [1, 0, 0] * 4, "body+": [1]}
    fxprune.set_keep_set(gated, keep)
    assert sum(code.shape[1] for code in codes_of(gated, images(3))) == 64 * (4 + 4 + 4)
    fxprune.set_keep_set(gated, {**keep, "body+": [0]})
    assert sum(code.shape[1] for code in codes_of(gated, images(3))) == 64 * (4 + 4)


def test_synflow_is_a_sum_over_paths():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    first, second = (model[i].weight.detach().double().abs() for i in (0, 2))
    paths = (second @ first).sum()  # every weight is on some: once for each of the two layers
    assert fxprune.score(model, [torch.randn(2, 3)], "synflow") == pytest.approx(2 * float(paths))


def test_snip_and_zico_are_those_of_their_formulas():
    model = randomise(Residual()).train()
    grads: list[dict[str, np.ndarray]] = []
    for x, y in LABELLED:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        named = model.named_parameters()
        grads.append({n: p.grad.double().numpy().copy() for n, p in named if p.dim() > 1})
    snip = zico = 0.0
    for name in grads[0]:
        found = np.stack([each[name] for each in grads])
        weight = model.get_parameter(name).detach().double().numpy()
        snip += np.abs(weight * found.mean(axis=0)).sum()
        zico += np.log((np.abs(found).mean(axis=0) / found.std(axis=0)).sum())
    model = randomise(Residual())
    assert fxprune.score(model, LABELLED, "snip") == pytest.approx(snip, rel=1e-4)
    assert fxprune.score(model, LABELLED, "zico") == pytest.approx(zico, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [Residual, Auxiliary])
def test_a_gated_model_has_the_score_of_the_folded_one(model, method):
    gated = fxprune.prepare(randomise(model()).double(), images().double())
    data = [(x.double(), y) for x, y in LABELLED]
    for seed in range(3):
        fxprune.set_keep_set(gated, half(gated, seed=seed, branches=0.5))
        folded = fxprune.score(fxprune.fold(gated), data, method)
        assert fxprune.score(gated, data, method) == pytest.approx(folded, rel=1e-9)


@settings(max_examples=12)
@given(networks(max_nodes=4), st.data())
def test_random_networks_have_the_scores_of_what_they_are_folded_to(network, data):
    gated = fxprune.prepare(network.double(), tuple(x.double() for x in network.inputs))
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated)))
    folded = fxprune.fold(gated)
    batch = tuple(torch.cat([x, x.flip(0)]).double() for x in network.inputs)
    for method in ("naswot", "synflow"):
        try:
            wanted = fxprune.score(folded, [(batch,)], method)
        except fxprune.InputError as error:
            with pytest.raises(fxprune.InputError, match=str(error)[:20]):
                fxprune.score(gated, [(batch,)], method)
        else:
            assert fxprune.score(gated, [(batch,)], method) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_models_stay_as_they_are(method):
    model = randomise(Residual(dropout=0.5)).train()
    for parameter in model.head.parameters():
        parameter.requires_grad_(False)
    gated = fxprune.prepare(model, images())
    state = torch.get_rng_state()
    with assert_unchanged(model, gated):
        fxprune.score(model, LABELLED, method)
        fxprune.score(gated, LABELLED, method)
    assert not model.head.weight.requires_grad and model.stem[0].weight.requires_grad
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_scored_is_told():
    smooth = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(fxprune.InputError, match="ReLUs"):
        fxprune.score(smooth, [torch.randn(2, 3)])
    with pytest.raises(fxprune.InputError, match="two or more"):
        fxprune.score(randomise(Residual()), LABELLED[:1], "zico")
    with pytest.raises(fxprune.InputError, match="empty"):
        fxprune.score(randomise(Residual()), [], "snip")
