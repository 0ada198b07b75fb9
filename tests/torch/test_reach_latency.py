"""Targets on the time of modules, on a clock that counts work, and once on the real ones."""

from contextlib import contextmanager

import pytest
import torch

import fxprune
from examples.cifar_resnet import CifarResNet
from fxprune import time_search
from fxprune.errors import InputError, TargetError
from fxprune.testing import assert_unchanged
from fxprune.timing import Share
from fxprune.torch import reach_latency
from fxprune.torch.record import record_of
from tests.torch.models import Residual, images, randomise

X = torch.zeros(1, 3, 32, 32)


@pytest.fixture
def counted_runs(counted_time, monkeypatch):
    """A module takes half as long as it has multiply-accumulates, and a quarter of the whole."""
    monkeypatch.setattr(time_search, "MULTIPLES", (1, 4))

    @contextmanager
    def run(model, example, clock):
        record = record_of(fxprune.prepare(model, X, target=1.0))
        yield record.analysis.costs.at(record.analysis.costs.full)["macs"]

    def share_of_time(run, whole):
        return Share(0.5 * run / whole + 0.25 + 0.25 * (run == whole), whole / 1e6)

    monkeypatch.setattr(reach_latency, "module_run", run)
    monkeypatch.setattr(time_search, "share_of_time", share_of_time)


def test_module_is_within_three_percent_of_the_share_that_was_wanted(counted_runs):
    model = randomise(CifarResNet(8)).eval()
    with assert_unchanged(model):
        small = fxprune.prune(model, X, target={"latency": 0.5})
    report = fxprune.report(small, latency=False)
    share = 0.25 + 0.5 * report.after["macs"] / report.before["macs"]
    assert share == pytest.approx(0.5, rel=time_search.WITHIN)
    assert report.timed.share == pytest.approx(share)
    assert (report.timed.runtime, report.timed.provider) == ("torch", "cpu")
    assert str(report.timed) in str(report)
    assert "target of latency" not in str(report)


def test_gates_that_have_learned_reach_the_time_with_other_limits(counted_runs):
    gated = fxprune.prepare(CifarResNet(8).eval(), X, target={"latency": 0.6, "params": 0.9})
    torch.nn.functional.cross_entropy(gated.train()(X), torch.tensor([1])).backward()
    fxprune.reach_latency(gated)
    report = fxprune.report(gated.eval(), latency=False)
    assert report.after["params"] <= 0.9 * report.before["params"]
    assert report.timed.wanted == 0.6
    with assert_unchanged(gated):
        folded = fxprune.fold(gated)
    assert fxprune.report(folded, latency=False).timed == report.timed


def test_gates_that_have_learned_nothing_go_by_weights(counted_runs):
    model = randomise(CifarResNet(8)).eval()
    gated = fxprune.prepare(model, X, target={"latency": 0.6})
    norms = fxprune.importance(gated)
    fxprune.reach_latency(gated)
    for name, kept in fxprune.keep_set(gated).items():
        if kept.any() and not kept.all():
            assert norms[name][kept].min() >= norms[name][~kept].max(), name


def test_time_is_saved_with_a_model_and_loaded(counted_runs, tmp_path):
    small = fxprune.prune(CifarResNet(8).eval(), X, target={"latency": 0.6})
    loaded = fxprune.load(fxprune.save(small, tmp_path / "saved"), CifarResNet(8))
    assert record_of(loaded).timed == record_of(small).timed


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_both_runtimes_measure(runtime, monkeypatch):
    monkeypatch.setattr(time_search, "MULTIPLES", (1,))
    model = randomise(Residual()).eval()
    threads = torch.get_num_threads()
    clock = fxprune.Clock(runtime, threads=2)
    small = fxprune.prune(model, images(1), target={"latency_ms": 1e6, "macs": 0.6}, clock=clock)
    timed = record_of(small).timed
    assert (timed.runtime, timed.threads, timed.wanted) == (runtime, 2, 1.0)
    assert timed.share > 0
    assert torch.get_num_threads() == threads


def test_times_that_no_module_reaches_are_told():
    model = randomise(Residual()).eval()
    with pytest.raises(TargetError, match="target of latency is not reached"):
        fxprune.prune(model, images(1), target={"latency_ms": 1e-6})


def test_share_of_a_model_that_is_no_more_is_not_measured(counted_time):
    for name, left in (("latency", {}), ("latency_ms", {"latency_ms": 12.0})):
        gated = fxprune.prepare(CifarResNet(8).eval(), X, target={name: left.get(name, 0.5)})
        fxprune.reach_target(gated)
        fxprune.shrink(gated, torch.optim.SGD(gated.parameters(), lr=0.1))
        assert record_of(gated).times == left


def test_what_cannot_be_measured_is_refused():
    model, x = randomise(Residual()).eval(), images(1)
    clock = fxprune.Clock()
    with pytest.raises(InputError, match="clock= measures targets on time, and there is none"):
        fxprune.prune(model, x, target=0.5, clock=clock)
    with pytest.raises(InputError, match="clock= does not go with factorise="):
        fxprune.prune(model, x, target={"latency": 0.5}, factorise="low_rank", clock=clock)
    with pytest.raises(InputError, match="gated has no target on its time"):
        fxprune.reach_latency(fxprune.prepare(model, x, target=0.5))
    with pytest.raises(InputError, match=r"providers is .*: give them with runtime="):
        fxprune.Clock("torch", providers=["CPUExecutionProvider"])
