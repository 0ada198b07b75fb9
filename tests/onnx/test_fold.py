"""Folding ONNX models, and graphs as exporters write them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, parser

import fxprune
from fxprune.errors import KeepSetError
from tests.onnx.frontend.samples import drawing, read_whole
from tests.onnx.models import images, outputs, residual


def test_everything_open_changes_nothing():
    model = residual()
    analysis = fxprune.inspect_onnx(model)
    keep = {group.name: [True] * group.size for group in analysis.free_groups}
    x = images(2)
    assert np.array_equal(outputs(fxprune.fold_onnx(model, keep).model, x), outputs(model, x))


def test_unknown_groups_are_refused():
    with pytest.raises(KeepSetError, match="no group"):
        fxprune.fold_onnx(residual(), {"nobody": [True]})


def test_whole_branches_go():
    model = residual()
    analysis = fxprune.inspect_onnx(model)
    assert len(analysis.branches) == 2
    result = fxprune.fold_onnx(model, {branch.name: [False] for branch in analysis.branches})
    assert [node.op_type for node in result.model.graph].count("Conv") == 1


def test_a_comparison_with_a_wrong_fold_fails():
    right, wrong = (fxprune.prune_onnx(residual()).model for _ in range(2))
    value = next(v for v in wrong.graph.initializers.values() if len(v.const_value.shape) == 4)
    array = value.const_value.numpy() + np.float32(0.5)
    value.const_value = onnx_ir.tensor(array, name=value.name)
    with pytest.raises(fxprune.VerificationError, match="relative error"):
        fxprune.verify_onnx(right, wrong)


# Graphs as exporters write them ----------------------------------------------------------------


def half_closed(model: onnx.ModelProto) -> fxprune.OnnxResult:
    """Every second position of every group closed."""
    analysis = fxprune.inspect_onnx(model)
    assert analysis.free_groups
    keep = {g.name: [i % 2 == 0 for i in range(g.size)] for g in analysis.free_groups}
    return smaller(model, keep)


def smaller(model: onnx.ModelProto, keep: Mapping[str, Sequence[bool]]) -> fxprune.OnnxResult:
    """Smaller, and compared with the masked model by ONNX Runtime, which raises if they differ."""
    result = fxprune.fold_onnx(model, keep)
    assert result.costs_after["params"] < result.costs_before["params"]
    assert result.verdict.comparisons
    return result


def test_shapes_that_are_computed_follow():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    shape = g("Shape", h)
    batch = g("Gather", shape, g.stored(np.array([0])), axis=0)
    channels = g("Gather", shape, g.stored(np.array([1])), axis=0)
    half = g("Div", channels, g.numbers(2))
    y = g("Reshape", h, g("Concat", batch, g.numbers(2), half, g.numbers(16), axis=0))
    result = half_closed(read_whole(g, g("Transpose", y, perm=[0, 2, 1, 3])))
    assert result.costs_after["macs"] < result.costs_before["macs"]


def test_shapes_that_are_computed_follow_in_old_files():
    g = drawing(opset=11)  # axes are attributes of Unsqueeze
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    batch = g("Unsqueeze", g("Gather", g("Shape", h), g.index(0), axis=0), axes=[0])
    y = g("Reshape", h, g("Concat", batch, g.numbers(8, 16), axis=0))
    result = half_closed(read_whole(g, g("Transpose", y, perm=[0, 2, 1])))
    assert result.costs_after["macs"] == result.costs_before["macs"] / 2


def test_shapes_that_are_computed_from_values_are_pinned():
    g = drawing()
    h = g("Relu", g("Conv", "x", g.weight(8, 3, 3, 3)))
    h = g("Conv", h, g.weight(4, 8, 1, 1))
    zero = g("Cast", g("Mul", g("ReduceMax", h, keepdims=0), g.stored(np.float32(0))), to=7)
    sizes = g(
        "Concat", g.numbers(2, 4), g("Unsqueeze", g("Add", zero, g.index(16)), g.numbers(0)), axis=0
    )
    y = g("Reshape", h, sizes, like=g("Reshape", h, g.numbers(2, 4, 16)))
    analysis = fxprune.inspect_onnx(read_whole(g, y))
    assert any(
        "Reshape with numbers that depend on the data" in group.pin for group in analysis.groups
    )
    assert [group.size for group in analysis.free_groups] == [8]


@pytest.mark.parametrize(("start", "end"), [(-5, 7), (1, -1), (-6, -2)])
def test_slices_counted_from_the_end_follow(start, end):
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    half_closed(read_whole(g, g("Slice", h, g.numbers(start), g.numbers(end), g.numbers(1))))


def test_arrays_without_elements_do_no_harm():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    nothing = g("Flatten", g("Slice", h, g.numbers(3), g.numbers(3), g.numbers(1)))
    model = read_whole(g, g("Concat", g("Flatten", h), nothing, axis=1))
    assert half_closed(model).costs_after["macs"] < half_closed(model).costs_before["macs"]


def test_last_element_of_a_weight_is_a_parameter():
    g = drawing()
    h = g("Conv", "x", g.weight(2, 3, 1, 1))
    h = g("Relu", g("Conv", h, g("Transpose", g.weight(1, 1, 2, 2), perm=[3, 2, 0, 1])))
    folded = half_closed(read_whole(g, h))
    costs = fxprune.inspect_onnx(folded.model).costs
    assert costs.at(costs.full)["params"] == folded.costs_after["params"]


def recurrent(op_type: str, gates: int) -> onnx.ModelProto:
    """A layer between two matrices; nobody reads the last state."""
    g = drawing()
    x = g("Reshape", "x", g.numbers(0, 9, 12))
    h = g("Transpose", g("MatMul", x, g.weight(12, 8)), perm=[1, 0, 2])
    weights = g.weight(1, gates * 4, 8), g.weight(1, gates * 4, 4)
    y, _ = g(op_type, h, *weights, hidden_size=4, outputs=2)
    return read_whole(g, g("Transpose", y, perm=[2, 0, 1, 3]))


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_what_runs_in_float32_only_is_compared_in_float32(op_type, gates):
    verdict = half_closed(recurrent(op_type, gates)).verdict
    assert {item.dtype for item in verdict.comparisons} == {"float32"}


def test_outputs_that_nobody_reads_take_no_memory():
    folded = half_closed(recurrent("LSTM", 4))
    costs = fxprune.inspect_onnx(folded.model).costs
    assert costs.at(costs.full) == folded.costs_after


def test_slices_counted_by_computed_sizes_follow():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    channels = g("Gather", g("Shape", h), g.stored(np.array([1])), axis=0)
    half = g("Div", channels, g.numbers(2))
    left = g("Slice", h, g.numbers(0), half, g.numbers(1))
    right = g("Slice", h, half, channels, g.numbers(1))
    half_closed(read_whole(g, g("Mul", left, g("Sigmoid", right))))


def test_a_sum_is_still_divided_by_the_size_that_it_had():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    channels = g("Gather", g("Shape", h), g.stored(np.array([1])), axis=0)
    total = g("ReduceSum", h, g.numbers(1))
    half_closed(read_whole(g, g("Div", total, g("Cast", channels, to=TensorProto.FLOAT))))


def test_heads_stacked_on_the_batch_follow():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    batch = g("Gather", g("Shape", h), g.stored(np.array([0])), axis=0)
    many = g("Mul", batch, g.numbers(2))
    flat = g("Reshape", h, g("Concat", many, g.numbers(4, 16), axis=0))
    scores = g("Softmax", g("MatMul", g("Transpose", flat, perm=[0, 2, 1]), flat), axis=-1)
    y = g("MatMul", flat, scores)
    half_closed(read_whole(g, g("Reshape", y, g("Concat", batch, g.numbers(8, 16), axis=0))))


def test_biases_that_an_exporter_has_merged_do_not_tie_layers():
    g = drawing()
    bias = g.weight(8)
    h = g("Relu", g("Conv", "x", g.weight(8, 3, 3, 3), bias))
    h = g("Relu", g("Conv", h, g.weight(8, 8, 3, 3), bias))
    model = read_whole(g, h)
    first, second = (group.name for group in fxprune.inspect_onnx(model).free_groups)
    smaller(model, {first: [True, False] * 4, second: [False, True] * 4})


@pytest.mark.parametrize("transposed", [0, 1])
def test_weights_of_a_gemm_follow(transposed):
    g = drawing()
    h = g("Gemm", g("Flatten", "x"), g.weight(108, 8), g.weight(8))
    weight = g.weight(6, 8) if transposed else g.weight(8, 6)
    model = read_whole(g, g("Gemm", g("Relu", h), weight, g.weight(6), transB=transposed))
    assert half_closed(model).costs_after["macs"] == (108 * 4 + 4 * 3 + 3 * 5)


def test_a_channel_left_alone_is_not_squeezed_away():
    g = drawing(batch=2)
    h = g("ReduceMean", g("Conv", "x", g.weight(8, 3, 3, 3)), g.numbers(2))
    model = read_whole(g, g("Transpose", g("Squeeze", h), perm=[0, 2, 1]))
    (group,) = fxprune.inspect_onnx(model).free_groups
    smaller(model, {group.name: [True] + [False] * 7})


def test_values_that_a_subgraph_reads_are_pinned():
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3))
    branches = {
        name: helper.make_graph(
            [helper.make_node(op_type, [h], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )
        for name, op_type in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
    }
    y = g("If", g.stored(np.array(True)), like=h, **branches)
    analysis = fxprune.inspect_onnx(read_whole(g, y))
    assert any("unknown operator If" in group.pin for group in analysis.groups)
    assert not analysis.free_groups


def test_functions_are_inlined():
    model = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17, "local": 1]>
        whole (float[n, 4] x) => (float[n, 2] y)
        <float[4, 6] w = {WEIGHTS}, float[6, 2] v = {READS}>
        { h = local.layer (x, w)  y = MatMul (h, v) }
        <opset_import: ["": 17], domain: "local">
        layer (x, w) => (y) { a = MatMul (x, w)  y = Relu (a) }
        """.replace("WEIGHTS", ", ".join(f"{i % 7 - 3.0}" for i in range(24))).replace(
            "READS", ", ".join(f"{i % 5 - 2.0}" for i in range(12))
        )
    )
    assert half_closed(model).costs_after["macs"] == half_closed(model).costs_before["macs"] / 2
