"""Models that several files of tests begin with."""

from pathlib import Path
from typing import Any

import pytest

import fxprune
from fxprune.testing import assert_unchanged
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
