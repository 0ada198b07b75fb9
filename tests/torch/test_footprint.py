"""What a training cost."""

import pytest
import torch
from torch import nn

import fxprune
from tests.torch.models import Residual, images, randomise


def loop(model, steps=3, batch=4):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        model.train()
        model(images(batch, seed=step)).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            model.eval()(images(7))  # what evaluation sees is not training


def test_samples_times_macs_of_a_gated_model():
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.5, steps=3)
    with fxprune.training_cost(gated) as cost:
        loop(gated)
    assert cost.samples == 12
    full = fxprune.report(gated, latency=False).before["macs"]
    assert cost.forward_macs == 12 * full, "closed positions cost until they are removed"
    assert cost.seconds > 0
    assert set(cost.as_dict()) == {"samples", "forward_macs", "seconds"}
    assert str(cost).startswith("12 samples, ")


def test_shrunk_models_cost_less_and_plain_ones_are_counted():
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.4, steps=2, shrink_every=2)
    full = fxprune.report(gated, latency=False).before["macs"]
    with fxprune.training_cost(gated) as cost:
        loop(gated, steps=4)
    assert 2.4 * 4 * full < cost.forward_macs <= (2 + 2 * 0.4) * 4 * full
    folded = fxprune.fold(gated)
    with fxprune.training_cost(folded) as cost:
        loop(folded)
    assert cost.forward_macs == 12 * fxprune.report(folded, latency=False).after["macs"]
    plain = Residual()
    with fxprune.training_cost(plain) as cost:
        loop(plain)
    assert cost.forward_macs == 12 * full


def test_counting_changes_nothing():
    runs = []
    for counted in (False, True):
        model = randomise(Residual())
        if counted:
            with fxprune.training_cost(model):
                loop(model)
        else:
            loop(model)
        runs.append(model)
    for one, other in zip(
        runs[0].state_dict().values(), runs[1].state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert not runs[1]._forward_pre_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_energy_is_an_estimate_that_says_so():
    pytest.importorskip("codecarbon")
    model = nn.Linear(4, 4)
    with fxprune.training_cost(model, country="DEU") as cost:
        model(torch.zeros(2, 4))
    assert cost.energy_kwh > 0
    assert "estimated" in str(cost)
    assert "codecarbon" in str(cost)


def test_missing_codecarbon_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "codecarbon", None)
    with (
        pytest.raises(fxprune.InputError, match=r"fxprune\[energy\]"),
        fxprune.training_cost(nn.Linear(2, 2), country="DEU"),
    ):
        pass


def test_report_says_how_large_files_are(tmp_path):
    gated = fxprune.prepare(randomise(Residual()), images(1), target=0.4)
    fxprune.reach_target(gated, fxprune.importance(gated))
    folded = fxprune.fold(gated)
    found = fxprune.report(gated, latency=False).file_bytes
    assert found["after"] == fxprune.report(folded, latency=False).file_bytes["after"]
    written = fxprune.save(folded, tmp_path)
    size = (written / "model.safetensors").stat().st_size
    assert found["after"] < size < found["after"] + 20_000, "the header aside"
    assert found["after"] < found["before"]
