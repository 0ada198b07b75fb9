"""A short campaign, that it can be resumed, and that it fails when something is wrong."""

import json

import pytest
import torch

import fxprune
from fxprune.testing import assert_costs
from fxprune.torch.record import record_of
from tests import campaign
from tests.campaign import KEEP_SETS, Summary, main


@pytest.fixture(autouse=True)
def without_onnx(monkeypatch):
    """Exporting takes seconds."""
    monkeypatch.setattr(campaign, "ONNX_EVERY", 10**9)
    monkeypatch.setattr(campaign, "check_onnx", lambda *args: None)


def test_campaign_counts_what_it_ran_and_goes_on(tmp_path, capsys):
    file = tmp_path / "summary.json"
    options = ["--seed", "3", "--json", str(file)]
    assert main([*options, "--examples", str(2 * KEEP_SETS)]) == 0
    first = json.loads(file.read_text())
    assert (first["networks"], first["pairs"], first["failures"]) == (2, 2 * KEEP_SETS, [])
    assert {"conv", "linear"} & first["operators"].keys()
    assert main([*options, "--examples", str(3 * KEEP_SETS), "--resume"]) == 0
    second = Summary.read(file)
    assert (second.networks, second.chunks) == (3, 2)
    assert "60 network x keep-set pairs" in capsys.readouterr().out


def test_campaign_draws_onnx_models_too(monkeypatch, capsys):
    assert main(["--seed", "4", "--examples", str(2 * KEEP_SETS), "--only", "onnx"]) == 0
    assert "0 networks" in (text := capsys.readouterr().out)
    assert f"{2 * KEEP_SETS} pairs of 2 ONNX models" in text
    monkeypatch.setattr(campaign, "check_model", lambda *args: None)
    summary = Summary(0, chunks=campaign.ONNX_CHUNKS - 1)
    campaign.run_chunk(summary, 1)
    assert summary.networks == 0


def test_wrong_cost_of_an_onnx_model_is_listed(monkeypatch):
    monkeypatch.setattr(campaign, "count_onnx_macs", lambda *args: 1)
    summary = Summary(0)
    campaign.run_chunk(summary, 1, "onnx")
    (failure,) = summary.failures
    assert "1 MACs counted" in failure["error"]
    names = {}
    exec(failure["source"], names)
    assert len(names["model"].graph.node) == 4


@pytest.mark.slow
def test_campaign_of_a_few_hundred_pairs_finds_nothing():
    assert main(["--examples", "300", "--seed", "11"]) == 0


def test_failure_is_listed_with_the_smallest_source(monkeypatch):
    def spoiled(gated):
        folded = fold(gated)
        with torch.no_grad():
            next(folded.parameters()).mul_(1.01)
        return folded

    fold = fxprune.fold
    monkeypatch.setattr(fxprune, "fold", spoiled)
    summary = Summary(0)
    campaign.run_chunk(summary, 2)
    (failure,) = summary.failures
    assert "output differs by" in failure["error"]
    assert "# keep-set 0: {" in failure["source"]
    names = {}
    exec(failure["source"], names)
    assert names["network"](*names["inputs"]).isfinite().all()
    assert len(failure["source"].splitlines()) < 60


class SizedByBranch(torch.nn.Module):
    """What the campaign found: an array of a branch takes its size from a layer of the branch."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTM(4, 4, batch_first=True)
        self.inner, self.last = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)

    def forward(self, x):
        y, _ = self.cell(x)
        z = y.new_zeros(y.shape[0], y.shape[1], 6)
        z[:, :, 2:] = y
        return self.last(x + self.inner(z))


def test_branch_takes_along_what_its_arrays_have_their_size_from():
    x = torch.randn(2, 5, 4)
    gated = fxprune.prepare(torch.nn.Sequential(torch.nn.Linear(4, 4), SizedByBranch()), x)
    (branch,) = (group.name for group in fxprune.groups(gated) if group.kind == "branch")
    fxprune.set_keep_set(gated, {branch: [False]})
    folded = fxprune.fold(gated)
    costs = record_of(gated).analysis.costs
    assert_costs(folded, [x], costs.at({**costs.full, branch: 0}))
