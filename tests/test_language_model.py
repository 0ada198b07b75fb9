"""The example that trains, prunes and recovers a language model, and the benchmark made of it."""

import math
import sys
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples import language_model
from examples.language_model import (
    Setting,
    bits_per_byte,
    corpus,
    llama,
    logits,
    per_second,
    pruned,
    samples,
    train,
)

QUICK = Setting().quick()


class Even(nn.Module):
    """Expects every byte alike."""

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 256)})


def test_bytes_that_are_all_expected_alike_cost_eight_bits():
    assert bits_per_byte(Even(), corpus()[1], QUICK) == pytest.approx(8)


def test_text_to_learn_from_and_text_to_test_on_are_different_files():
    text, unseen = corpus()
    assert text.dtype == unseen.dtype == torch.uint8
    assert 0.01 < len(unseen) / len(text) < 0.2
    files = [
        {part for part in bytes(each.tolist()).split(b"\0") if len(part) > 200}
        for each in (text, unseen)
    ]
    assert files[0] and files[1] and files[0].isdisjoint(files[1])


def test_the_same_samples_are_drawn_again_and_others_with_another_seed():
    text = corpus()[1]
    one, same, other = (list(islice(samples(text, QUICK, seed), 3)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (QUICK.batch, QUICK.length + 1)


def test_a_model_learns_and_what_is_left_of_it_learns_from_it():
    text, unseen = corpus()
    model = llama(QUICK)
    before = bits_per_byte(model, unseen, QUICK)
    train(model, text, QUICK, steps=30)
    assert bits_per_byte(model, unseen, QUICK) < before - 0.5
    small = pruned(model, text, QUICK, target={"params": 0.5}, method="random", uniform=True)
    by_data = pruned(model, text, QUICK, target={"params": 0.5}, method="wanda", uniform=True)
    *counts, most = [sum(p.numel() for p in m.parameters()) for m in (small, by_data, model)]
    assert max(counts) <= most / 2

    def distance() -> float:
        tokens = next(samples(unseen, QUICK, seed=5))
        with torch.no_grad():
            return (logits(small, tokens) - logits(model, tokens)).square().mean().item()

    at_once = distance()
    train(small, text, QUICK, steps=10, teacher=model)
    assert distance() < at_once


def test_speeds_are_medians_of_calls_in_turns():
    clock = iter([0.0, 9.0, 0.0, 9.0, 0.0, 1.0, 0.0, 2.0]).__next__  # the first round is left out
    found = per_second({"a": lambda: None, "b": lambda: None}, 8, 1, clock)
    assert found == {"a": 8.0, "b": 4.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_example_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["language_model", "--quick", "--target", "0.6"])
    language_model.main()
    said = capsys.readouterr().out
    assert "33,440" in said
    assert "target of params: at most 20,064" in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_are_kept_and_told(tmp_path, monkeypatch):
    pytest.importorskip("torch_pruning", reason="the peer is not installed")
    from tests.benchmarks import language_models
    from tests.benchmarks.results import read

    monkeypatch.setattr(language_models, "METHODS", ("magnitude", "bn_scale"))
    monkeypatch.setattr(language_models, "REMOVED", (0.5,))
    monkeypatch.setattr(language_models, "PEERS", dict([*language_models.PEERS.items()][:1]))
    experiment = language_models.Experiment(QUICK, tmp_path, runs=1, count=8)
    experiment.run()
    rows = read(tmp_path / "rows.json")["rows"]
    assert rows == experiment.rows
    assert [(row["tool"], "error" in row) for row in rows] == [
        ("dense", False),
        *[("fxprune", False)] * 2,
        *[("fxprune", True)] * 2,
        ("Torch-Pruning", False),
        ("narrow", False),
    ]
    dense = rows[0]["params"]
    assert all(row["params"] <= dense / 2 for row in rows[1:] if "error" not in row)
    assert all(math.isfinite(row["bits"]) for row in rows if "error" not in row)
    told = language_models.table(rows)
    assert told.count("\n| 50% |") == 6
    assert "finds nothing to rank by" in told
    again = language_models.Experiment(QUICK, tmp_path, runs=1, count=8)
    monkeypatch.setattr(again, "measured", lambda make: pytest.fail("it is known"))
    again.run()
    assert again.rows == rows
    assert torch.equal(again.dense.lm_head.weight, experiment.dense.lm_head.weight)
