"""Models that several files of tests begin with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.torch.budget.latency_tables import _Clock
from tests.torch.gated import folded_at_half
from tests.torch.models import Residual, images, randomise


@pytest.fixture
def gated() -> Any:
    return fxprune.prepare(randomise(Residual()).eval(), images(1), target=0.5)


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> tuple[Any, Any, Path]:
    gated, folded = folded_at_half(randomise(Residual()))
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    with assert_unchanged(folded):
        assert fxprune.export_onnx(folded, path) == path
    return gated, folded, path


@pytest.fixture
def counted_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers take as long as they have work, on every machine, busy or not."""

    def milliseconds(clock: _Clock, call: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        return 1e-3 + 1e-6 * counter.get_total_flops()

    monkeypatch.setattr(_Clock, "milliseconds", milliseconds)
