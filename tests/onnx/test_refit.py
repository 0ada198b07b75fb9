"""Corrected weights."""

import numpy as np
import onnx
import pytest

import fxprune
from fxprune import shelf
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.prune import masked_model
from fxprune.onnx.refit import refitted
from fxprune.testing import GraphBuilder
from tests.onnx.frontend.samples import drawing, read_whole
from tests.onnx.models import images, outputs, residual


def test_corrected_weights_come_closer():
    model, data, x = residual(width=16), [images(64, seed) for seed in (1, 2)], images(32, 9)
    wanted = outputs(model, x)
    errors = [
        np.abs(outputs(fxprune.prune_onnx(model, correct=correct, data=data).model, x) - wanted)
        for correct in (False, True)
    ]
    assert errors[1].mean() < 0.7 * errors[0].mean()


def dependent(g: GraphBuilder) -> str:
    """Nine channels, of which the last three are sums of others."""
    first = np.random.default_rng(0).normal(size=(6, 3, 1, 1)).astype(np.float32)
    return g("Conv", "x", g.stored(np.concatenate([first, first[:3] + first[3:]])))


def corrected(model: onnx.ModelProto, keep: dict[str, tuple[bool, ...]]) -> fxprune.OnnxResult:
    """Folded after its weights have been fitted with next to no damping."""
    analysis, program = fxprune.inspect_onnx(model), read_onnx(model)
    masked, data = masked_model(program, analysis, keep), [{"x": images(64, 6)}]
    mended, fitted = refitted(program, analysis, masked, keep, data, ridge=1e-9)
    assert fitted >= 1
    return fxprune.fold_onnx(mended.model, keep)


@pytest.mark.parametrize("skip", [False, True])
def test_corrected_weights_repair_channels_that_are_sums_of_others(skip):
    g = drawing()
    h = dependent(g)
    if skip:  # whose error the branch has to mend
        total = g("ReduceSum", h, g.numbers(1))
        model = read_whole(g, g("Add", total, g("Conv", h, g.weight(1, 9, 1, 1))))
    else:
        read = g("Conv", h, g.weight(5, 9, 3, 3), g.weight(5), pads=[1] * 4, strides=[2, 2])
        model = read_whole(g, read)
    keep = {fxprune.inspect_onnx(model).free_groups[0].name: (True,) * 6 + (False,) * 3}
    x = images(4, 5)
    wanted = outputs(model, x)
    errors = [
        np.abs(outputs(result.model, x) - wanted).max() / np.abs(wanted).max()
        for result in (fxprune.fold_onnx(model, keep), corrected(model, keep))
    ]
    assert errors[0] > 0.1
    assert errors[1] < 1e-2


def all_weights(program):
    graph = program.model.graph
    return {name: value.const_value.numpy() for name, value in graph.initializers.items()}


def half_closed(batches, closed=()):
    """A residual network with half of its channels, refitted on batches."""
    model = residual(width=16)
    program = read_onnx(model)
    analysis = fxprune.inspect_onnx(model)
    keep = {g.name: tuple(i % 2 == 0 for i in range(g.size)) for g in analysis.free_groups}
    keep |= {analysis.branches[i].name: (False,) for i in closed}
    data = [{"x": x} for x in batches]
    return refitted(program, analysis, masked_model(program, analysis, keep), keep, data), analysis


def test_weights_do_not_depend_on_how_data_is_cut():
    x = images(32)
    (one, _), _ = half_closed(np.split(x, 32))
    (whole, fitted), _ = half_closed([x])
    assert fitted > 1
    for name, array in all_weights(whole).items():
        assert all_weights(one)[name] == pytest.approx(array, rel=1e-2, abs=1e-3), name


def test_weights_do_not_depend_on_where_batches_wait(monkeypatch):
    x = np.split(images(32), 4)
    in_memory, _ = half_closed(x)
    monkeypatch.setattr(shelf, "IN_MEMORY", 0)
    in_files, _ = half_closed(x)
    left, right = (all_weights(program) for program, _ in (in_memory, in_files))
    assert all(np.array_equal(array, right[name]) for name, array in left.items())


def test_a_closed_branch_stays_as_it_is():
    """What it computes is gone, so nothing may be fitted as if it were there."""
    x = images(32)
    (mended, _), analysis = half_closed([x], closed=[0])
    before = all_weights(read_onnx(residual(width=16)))
    nodes = {node.name: node for node in analysis.graph.nodes}
    closed = {
        nodes[name].inputs[1].name
        for name in analysis.branches[0].nodes
        if nodes[name].op == "conv"
    }
    assert len(closed) == 2
    changed = {
        n for n, array in all_weights(mended).items() if not np.array_equal(array, before[n])
    }
    assert changed
    assert closed.isdisjoint(changed)


def test_biases_are_solved_as_well():
    """Channels that are constant are missed by nobody, in a layer itself and in an addition."""
    for separate in (False, True):
        g = drawing()
        h = g("Flatten", g("AveragePool", "x", kernel_shape=[6, 6]))
        h = g("MatMul", h, g.stored(np.eye(3, 6, dtype=np.float32)))
        h = g("Add", h, g.stored(np.arange(6, dtype=np.float32)))  # the last three are constant
        if separate:
            h = g("Add", g("MatMul", h, g.weight(6, 4)), g.weight(4))
        else:
            h = g("Gemm", h, g.weight(4, 6), g.weight(4), transB=1)
        model = read_whole(g, h)
        keep = {fxprune.inspect_onnx(model).free_groups[0].name: (True,) * 3 + (False,) * 3}
        x = images(4, 5)
        wanted = outputs(model, x)
        folded = outputs(corrected(model, keep).model, x)
        assert np.abs(outputs(fxprune.fold_onnx(model, keep).model, x) - wanted).max() > 0.1
        assert np.abs(folded - wanted).max() < 1e-3 * np.abs(wanted).max()
