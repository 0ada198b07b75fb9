"""Reports of pruned ONNX models."""

import onnx_ir
import pytest
import torch
from torch import nn

import fxprune
from tests.torch.models import Residual, images, randomise


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "residual.onnx"
    fxprune.export_onnx(randomise(Residual()).eval(), path, images(1))
    return fxprune.prune_onnx(path, target={"params": 0.5})


def test_report_has_the_costs_and_groups_of_the_result(result):
    found = fxprune.report(result, latency=False)
    assert found.before == dict(result.costs_before)
    assert found.after == dict(result.costs_after)
    kept = {row.name: row.kept for row in found.rows if not row.pin}
    assert kept == {name: sum(flags) for name, flags in result.keep_set.items()}
    assert not found.latency_ms


def test_bytes_are_those_of_the_weights(result, tmp_path):
    found = fxprune.report(result, latency=False).file_bytes
    onnx_ir.save(result.model, tmp_path / "m.onnx")
    for when, path in (("before", result.source), ("after", tmp_path / "m.onnx")):
        assert 0 <= path.stat().st_size - found[when] < 10_000, "names and nodes"
    assert found["after"] < 0.6 * found["before"]


def test_latency_is_measured_for_both(result, tmp_path):
    found = fxprune.report(result)
    assert set(found.latency_ms) == {"before", "after"}
    assert all(value > 0 for value in found.latency_ms.values())
    page = fxprune.write_report(result, tmp_path / "report.html", verdict=result.verdict)
    assert "Verified" in page.read_text()


def test_models_of_a_fixed_batch_and_of_whole_numbers_are_measured(tmp_path):
    model = nn.Sequential(nn.Embedding(7, 12), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    torch.onnx.export(
        randomise(model).eval(),
        (torch.zeros(4, 5, dtype=torch.long),),
        tmp_path / "m.onnx",
        dynamo=True,
        verbose=False,
    )
    result = fxprune.prune_onnx(tmp_path / "m.onnx")
    assert fxprune.report(result).latency_ms["after"] > 0


def test_file_that_was_overwritten_since_is_not_measured(tmp_path):
    path = tmp_path / "m.onnx"
    fxprune.export_onnx(randomise(Residual()).eval(), path, images(1))
    result = fxprune.prune_onnx(path, tmp_path / "small.onnx")
    (tmp_path / "small.onnx").replace(path)
    found = fxprune.report(result)
    assert set(found.latency_ms) == {"after"}
    assert found.file_bytes["after"] < found.file_bytes["before"]
