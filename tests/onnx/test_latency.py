"""Targets of latency, on a clock that counts work, and once on the real one."""

import pytest

import fxprune
from fxprune.errors import TargetError
from fxprune.onnx import latency
from tests.onnx.models import residual


@pytest.fixture
def counted_time(monkeypatch):
    """A model takes a microsecond for each of its multiply-accumulates."""

    def latencies_ms(models, graph):
        costs = {name: fxprune.inspect_onnx(model).costs for name, model in models.items()}
        return {name: found.at(found.full)["macs"] / 1e3 for name, found in costs.items()}

    monkeypatch.setattr(latency, "latencies_ms", latencies_ms)


@pytest.mark.parametrize("target", [{"latency": 0.6}, {"latency_ms": 60.0}])
@pytest.mark.usefixtures("counted_time")
def test_target_of_latency_is_met_and_next_to_nothing_more_is_closed(target):
    result = fxprune.prune_onnx(residual(), target=target)
    before, after = result.costs_before["macs"], result.costs_after["macs"]
    limit = 0.6 * before if "latency" in target else 60_000
    assert limit - 0.05 * before < after <= limit


@pytest.mark.usefixtures("counted_time")
def test_other_targets_hold_beside_that_of_latency():
    result = fxprune.prune_onnx(residual(), target={"latency": 0.9, "macs": 0.5})
    assert result.costs_after["macs"] <= 0.5 * result.costs_before["macs"]


def test_latency_is_measured(monkeypatch):
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    fast_enough = fxprune.prune_onnx(residual(), target={"latency_ms": 1e6, "macs": 0.7})
    assert fast_enough.costs_after["macs"] <= 0.7 * fast_enough.costs_before["macs"]
    with pytest.raises(TargetError, match=r"not reached: the fastest model tried takes \d"):
        fxprune.prune_onnx(residual(), target={"latency_ms": 1e-6})
