"""Targets of latency, on a clock that counts work, and once on the real one."""

from contextlib import contextmanager

import pytest

import fxprune
from fxprune import time_search
from fxprune.errors import InputError, TargetError
from fxprune.onnx import choose, latency
from fxprune.timing import Share
from tests.onnx.models import residual


@pytest.fixture
def counted_time(monkeypatch):
    """A model takes a microsecond for each of its multiply-accumulates."""

    @contextmanager
    def timed_run(model, feeds, threads=None):
        costs = fxprune.inspect_onnx(model).costs
        yield costs.at(costs.full)["macs"] / 1e3

    monkeypatch.setattr(choose, "timed_run", timed_run)
    monkeypatch.setattr(time_search, "share_of_time", lambda run, whole: Share(run / whole, whole))


@pytest.mark.parametrize("target", [{"latency": 0.6}, {"latency_ms": 60.0}])
@pytest.mark.usefixtures("counted_time")
def test_target_of_latency_is_met(target):
    result = fxprune.prune_onnx(residual(), target=target)
    before, after = result.costs_before["macs"], result.costs_after["macs"]
    limit = 0.6 * before if "latency" in target else 60_000
    assert abs(after / limit - 1) <= time_search.WITHIN
    assert result.timed.share == pytest.approx(after / before)
    assert result.timed.wanted == pytest.approx(limit / before)


@pytest.mark.usefixtures("counted_time")
def test_other_targets_hold_beside_that_of_latency():
    result = fxprune.prune_onnx(residual(), target={"latency": 0.9, "macs": 0.5})
    assert result.costs_after["macs"] <= 0.5 * result.costs_before["macs"]


@pytest.mark.usefixtures("counted_time")
def test_result_says_what_was_measured():
    clock = fxprune.Clock(threads=2, batch=3)
    result = fxprune.prune_onnx(residual(), target={"latency": 0.7}, clock=clock)
    timed = result.timed
    assert (timed.runtime, timed.provider) == ("onnxruntime", "CPUExecutionProvider")
    assert (timed.threads, timed.batch) == (2, 3)
    report = fxprune.report(result, latency=False)
    assert "measured by ONNX Runtime (CPUExecutionProvider, 2 threads, batch 3)" in str(report)
    assert str(timed) in str(result)
    assert report.as_dict()["time_share"] == timed.share


def test_latency_is_measured():
    fast_enough = fxprune.prune_onnx(residual(), target={"latency_ms": 1e6, "macs": 0.7})
    assert fast_enough.costs_after["macs"] <= 0.7 * fast_enough.costs_before["macs"]
    assert fast_enough.timed.share > 0
    with pytest.raises(TargetError, match=r"not reached: .* the fastest model tried takes \d"):
        fxprune.prune_onnx(residual(), target={"latency_ms": 1e-6})


def test_clocks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="clock: files are measured by 'onnxruntime', not by 'tor"):
        fxprune.prune_onnx(residual(), target={"latency": 0.5}, clock=fxprune.Clock("torch"))
    with pytest.raises(InputError, match="clock= measures targets on time, and there is none"):
        fxprune.prune_onnx(residual(), target=0.5, clock=fxprune.Clock())
    with pytest.raises(InputError, match="unknown name in providers 'nothing'"):
        clock = fxprune.Clock(providers=["nothing"])
        fxprune.prune_onnx(residual(), target={"latency": 0.5}, clock=clock)


def test_runs_that_are_timed_are_not_watched(monkeypatch):
    """A thread that watches every run takes longer than small models do."""
    result = fxprune.prune_onnx(residual(), target=0.5)
    feeds = latency.feeds_of(result.model, result.analysis.graph, 1)
    with latency.timed_run(result.model, feeds) as run:
        monkeypatch.setattr("threading.Timer", None)
        run()
