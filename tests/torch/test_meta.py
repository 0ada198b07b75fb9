"""Models without weights, on the meta device, are planned: groups, costs, keep-sets, folds."""

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.torch.gates.module import PREFIX
from tests.torch.models import Auxiliary, Residual, half, images
from tests.torch.test_language_models import gpt2, llama, tokens

MODELS = {
    "residual": (Residual, images(1)),
    "shared twice": (Auxiliary, images(1)),
    "llama": (llama, {"input_ids": tokens()}),
    "gpt2": (gpt2, {"input_ids": tokens()}),
}


@pytest.fixture(params=MODELS)
def pair(request) -> tuple[Any, Any]:
    """The same model with weights and without, gated."""
    make, example = MODELS[request.param]
    with torch.device("meta"):
        without = make()
    return tuple(fxprune.prepare(each, example, target=0.5) for each in (make(), without))


def test_a_model_without_weights_has_the_groups_and_costs_of_one_with_weights(pair):
    real, empty = pair
    assert fxprune.groups(empty) == fxprune.groups(real)
    reports = [fxprune.report(each, latency=False) for each in pair]
    assert reports[0].after == reports[1].after
    assert reports[0].file_bytes == reports[1].file_bytes


def test_a_model_without_weights_folds_to_the_sizes_of_one_with_weights(pair):
    keep = half(pair[0], branches=1.0)
    shapes = []
    for gated in pair:
        fxprune.set_keep_set(gated, keep)
        state = fxprune.fold(gated).state_dict()
        shapes.append({name: tensor.shape for name, tensor in state.items()})
    assert shapes[0] == shapes[1]


def test_gates_have_values_though_the_model_has_none(pair):
    _, empty = pair
    assert not any(tensor.is_meta for tensor in getattr(empty, PREFIX).state_dict().values())
    fxprune.reach_target(empty, fxprune.importance(empty, "random"))
    report = fxprune.report(empty, latency=False)
    assert 0 < report.reached["macs"] <= report.targets["macs"]


def gated() -> nn.Module:
    return fxprune.prepare(Residual().to("meta"), images(1))


def folded() -> Any:
    closed = gated()
    fxprune.set_keep_set(closed, half(closed))
    return fxprune.fold(closed)


VERBS = {
    "importance": lambda folder: fxprune.importance(gated()),
    "taylor": lambda folder: fxprune.importance(gated(), "taylor", [(images(2), torch.zeros(2))]),
    "fold": lambda folder: fxprune.fold(gated()),
    "prune": lambda folder: fxprune.prune(Residual().to("meta"), images(1)),
    "refit": lambda folder: fxprune.refit(gated(), [images(2)]),
    "save": lambda folder: fxprune.save(folded(), folder),
    "verify": lambda folder: fxprune.verify(gated(), folded()),
    "report": lambda folder: fxprune.report(gated(), latency=True),
    "export": lambda folder: fxprune.export_onnx(folded(), folder / "model.onnx", images(1)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_weights_says_so(verb, tmp_path):
    with pytest.raises(fxprune.InputError, match=r"weight of the model is on the meta device"):
        VERBS[verb](tmp_path)
    assert not list(tmp_path.iterdir())


def test_latency_is_predicted_on_a_device_that_computes():
    empty = fxprune.prepare(Residual().to("meta"), images(1), target={"latency": 0.9})
    assert len(fxprune.keep_set(empty)) == 3
