"""Results as notebooks and terminals show them; names of models stay text."""

import onnx_ir
import pytest

import fxprune
from tests.pages.reports import HOSTILE, VERDICT, report
from tests.torch.models import Residual, images, randomise

SHOWN = {"report": lambda: report(20, HOSTILE), "verdict": lambda: VERDICT}


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_get_tables_of_escaped_text(name):
    text = SHOWN[name]()._repr_html_()
    assert text.count("<table>") == text.count("</table>") >= 1
    assert "<script" not in text and "&lt;script&gt;" in text


def test_an_analysis_is_readable(tmp_path):
    path = fxprune.export_onnx(randomise(Residual()).eval(), tmp_path / "a.onnx", images(1))
    model = onnx_ir.load(path)
    model.graph.initializers["stem.0.weight"].name = f"{HOSTILE}.weight"
    analysis = fxprune.inspect_onnx(model)
    *groups, costs = str(analysis).splitlines()
    assert len(groups) == len(analysis.items)
    states = ["pinned" in line for line in groups]
    assert states == sorted(states) and any(states) and not all(states)
    assert all(len(line) < 120 for line in groups)
    assert f"{analysis.costs.at(analysis.costs.full)['macs']:,} macs" in costs
    shown = analysis._repr_html_()
    assert "<script" not in shown and shown.count("<table>") == 2


def test_a_module_is_measured_where_it_is_asked_for():
    folded = fxprune.prune(randomise(Residual()), images(1))
    assert fxprune.report(folded, device="cpu").latency_ms.keys() == {"after"}
    gated = fxprune.prepare(randomise(Residual()), images(1))
    assert fxprune.report(gated, device="cpu").latency_ms.keys() == {"before", "after"}


def test_a_file_runs_on_the_providers_that_are_asked_for(tmp_path):
    path = fxprune.export_onnx(randomise(Residual()).eval(), tmp_path / "a.onnx", images(1))
    cpu = ["CPUExecutionProvider"]
    result = fxprune.prune_onnx(path, providers=cpu)
    assert fxprune.report(result, providers=cpu).latency_ms
    assert fxprune.verify_onnx(path, path, providers=[("CPUExecutionProvider", {})])
    for wrong in ({"providers": ["CUDA"]}, {"device": "cpu"}):
        with pytest.raises(fxprune.InputError, match="provider"):
            fxprune.report(result, **wrong)
    with pytest.raises(fxprune.InputError, match="device="):
        fxprune.report(fxprune.prepare(Residual(), images(1)), providers=cpu)
