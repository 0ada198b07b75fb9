"""Pruning ONNX models: targets, files and arguments."""

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import parser

import fxprune
from fxprune.errors import InputError, NothingToPruneError, TargetError
from tests.onnx.models import images, outputs, residual


@pytest.mark.parametrize("cost", ["macs", "params", "memory", "peak"])
def test_target_is_met_to_within_one_position(cost):
    result = fxprune.prune_onnx(residual(), target={cost: 0.6})
    limit = 0.6 * result.costs_before[cost]
    assert result.costs_after[cost] <= limit
    polynomial, full = result.analysis.costs.polynomials[cost], result.analysis.costs.full
    sizes = {name: sum(result.keep_set[name]) for name in full}
    for name, size in sizes.items():
        if size < full[name]:
            assert polynomial({**sizes, name: size + 1}) > limit, name


def test_costs_are_those_of_the_file():
    result = fxprune.prune_onnx(residual(), target=0.5)
    again = fxprune.inspect_onnx(result.model)
    assert again.costs.at(again.costs.full) == dict(result.costs_after)


def test_folding_twice_is_folding_once():
    once = fxprune.prune_onnx(residual(), target=0.5)
    twice = fxprune.prune_onnx(once.model, target=1.0)
    assert twice.costs_after == once.costs_after
    assert np.array_equal(outputs(twice.model, images(2)), outputs(once.model, images(2)))


def test_source_stays_as_it_is(tmp_path):
    model = residual()
    before = model.SerializeToString()
    fxprune.prune_onnx(model, tmp_path / "small.onnx")
    assert model.SerializeToString() == before
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_file_says_what_it_cost(tmp_path):
    result = fxprune.prune_onnx(residual(), tmp_path / "small.onnx")
    entries = {p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert entries["fxprune_macs"] == str(result.costs_after["macs"])
    assert entries["fxprune_macs_before"] == str(result.costs_before["macs"])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"method": "taylor"}, InputError, "known for ONNX models are"),
        ({"method": "wanda"}, InputError, "needs data"),
        ({"method": "saliency"}, InputError, "needs data"),
        ({"correct": True}, InputError, "correct=True needs data"),
        ({"ignore": ["nothing"]}, InputError, "ignore: the model has no module 'nothing'"),
        ({"target": 1e-9}, TargetError, "ask for at least"),
        ({"shapes": {"z": (1,)}}, InputError, "no input is called 'z'"),
        ({"shapes": {"x": (1, 4, 6, 6)}}, InputError, "has shape"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, error, match):
    with pytest.raises(error, match=match):
        fxprune.prune_onnx(residual(), **arguments)


def test_nothing_to_prune_says_why():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> one (float[n, 3] x) => (float[n, 3] y)'
        "{ y = Softmax (x) }"
    )
    with pytest.raises(NothingToPruneError):
        fxprune.prune_onnx(model)


def test_ignored_weights_keep_their_channels():
    model = residual()
    name = model.graph.initializer[0].name
    result = fxprune.prune_onnx(model, ignore=[name])
    kept = {t.name: list(t.dims) for t in onnx_ir.to_proto(result.model).graph.initializer}
    assert kept[name] == list(model.graph.initializer[0].dims)
