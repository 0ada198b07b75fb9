"""Targets of latency."""

import pytest

import fxprune
from fxprune.errors import TargetError
from tests.onnx.models import residual


def test_latency_is_measured():
    model = residual(width=32)
    result = fxprune.prune_onnx(model, target={"latency": 0.999, "macs": 0.7})
    assert result.costs_after["macs"] <= 0.7 * result.costs_before["macs"]
    with pytest.raises(TargetError, match="latency is not reached"):
        fxprune.prune_onnx(model, target={"latency_ms": 1e-6})
