"""What files leave out: names, shapes, sizes; results that are outputs; types of whole numbers."""

import numpy as np
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import fxprune
from fxprune.onnx.frontend.observe import Facts
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.frontend.spellings import Call, spelled
from fxprune.onnx.prune import masked_model
from fxprune.testing import GraphBuilder
from tests.campaign import check_costs
from tests.onnx.frontend.samples import drawing, read_whole


def half_closed(model, **settings):
    """Folded with every second position of every group closed."""
    groups = fxprune.inspect_onnx(model, **settings).free_groups
    keep = {g.name: [position % 2 == 0 for position in range(g.size)] for g in groups}
    return fxprune.fold_onnx(model, keep, **settings)


def sequence(batch="n"):
    g = GraphBuilder(18, batch)
    x = g.input("x", 5, 3)
    return g, g("MatMul", x, g.weight(3, 8))


def written(nodes, inputs, outputs, opset=18, **arrays):
    """A model whose nodes, inputs and outputs are protobuf messages."""
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def info(name, *shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Outputs that are left out --------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [".h.", ".hc", "y.c", "..c", "yh"])
def test_states_of_a_recurrent_layer_may_be_left_out(outputs):
    g, h = sequence()
    steps = g("Transpose", h, perm=[1, 0, 2])
    weights = g.weight(1, 16, 8), g.weight(1, 16, 4), g.weight(1, 32)
    made = g("LSTM", steps, *weights, outputs=outputs.rstrip("."), hidden_size=4)
    orders = {3: [1, 0, 2], 4: [2, 0, 1, 3]}
    samples_first = [g("Transpose", y, perm=orders[len(g.shape(y))]) for y in made if y]
    flat = [g("Reshape", y, g.numbers(0, -1)) for y in samples_first]
    y = g("Concat", *flat, axis=1)
    model = g.model(g("MatMul", y, g.weight(g.shape(y)[1], 2)))
    result = half_closed(model.proto)
    assert {group.size for group in result.analysis.free_groups} == {8, 4}


def behind_a_sum(op_type, outputs):
    """A recurrent layer without its first output, behind an operator that ONNX knows no shapes of.

    The file says nothing of shapes inside, so that they are found by running it.
    """
    g, h = sequence()
    h = g("com.microsoft.SkipLayerNormalization", h, g("Relu", h), g.weight(8), g.weight(8))
    steps = g("Transpose", h, perm=[1, 0, 2])
    rows = 4 * {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    weights = g.weight(1, rows, 8), g.weight(1, rows, 4), g.weight(1, 2 * rows)
    states = [y for y in g(op_type, steps, *weights, outputs=outputs, hidden_size=4) if y]
    flat = [g("Squeeze", y, g.numbers(0)) for y in states]
    y = g("Concat", *flat, axis=1)
    model = g.model(g("MatMul", y, g.weight(4 * len(flat), 2)))
    del model.proto.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("op_type", "outputs"),
    [("LSTM", ".h"), ("LSTM", ".hc"), ("LSTM", "..c"), ("GRU", ".h"), ("RNN", ".h")],
)
def test_a_first_output_may_be_left_out_where_shapes_come_from_running(op_type, outputs):
    model = behind_a_sum(op_type, outputs)
    result = half_closed(model.proto)
    assert sorted(group.size for group in result.analysis.free_groups) == [4, 8]
    check_costs(model, result)


def test_a_mask_of_dropout_pins_with_its_reason():
    g = drawing()
    h, mask = g("Dropout", g("Conv", "x", g.weight(8, 3, 1, 1)), outputs=2)
    analysis = fxprune.inspect_onnx(read_whole(g, mask))
    reason = f"Dropout with more outputs at {h} (Dropout)"
    assert reason in [group.pin for group in analysis.groups if group.size == 8]


def test_the_sum_may_be_asked_for_without_what_stands_before_it():
    g, h = sequence()
    parts = g("Relu", h), g.weight(8), g.weight(8)
    y, _, _, total = g("com.microsoft.SkipLayerNormalization", h, *parts, outputs="y..s")
    result = half_closed(g.model(g("MatMul", g("Mul", y, total), g.weight(8, 2))).proto)
    assert [group.size for group in result.analysis.free_groups] == [8]


# Results that are outputs ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(
    "op_type", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare"]
)
def test_reductions_of_channels_may_be_outputs(op_type, keep):
    g = drawing()
    h = g("Conv", "x", g.weight(8, 3, 3, 3), g.weight(8))
    y = g(op_type, h, g.numbers(1, 3), keepdims=keep)
    result = half_closed(g.model(y, g("Relu", y)).proto)
    assert result.costs_after["macs"] * 2 == result.costs_before["macs"]


def test_what_carries_and_what_counts_may_be_outputs():
    g = drawing()
    h = g("Relu", g("Conv", "x", g.weight(8, 3, 3, 3)))
    y = g("Conv", h, g.weight(4, 8, 1, 1))
    shape, flat = g("Shape", h), g("Flatten", y)
    model = g.model(flat, y, shape)
    result = half_closed(model.proto)
    assert [group.size for group in result.analysis.free_groups] == [8]


def test_an_output_that_is_stored_stays_while_another_use_of_it_is_cut():
    g = drawing()
    b = g.weight(8)
    h = g("Conv", "x", g.weight(8, 3, 3, 3), b)
    h = g("Conv", g("Relu", g("Conv", h, g.weight(8, 8, 1, 1), b)), g.weight(4, 8, 1, 1))
    model = g.model(h, b).proto
    result = half_closed(model)
    kept = result.model.graph.initializers[b].const_value.numpy()
    (stored,) = [w for w in model.graph.initializer if w.name == b]
    assert np.array_equal(kept, numpy_helper.to_array(stored))
    assert [group.size for group in result.analysis.free_groups] == [8]


def test_an_input_may_be_an_output():
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", "hb", ["y"])]
    ends = [info("x", "n", 3)], [info("y", "n", 2), info("x", "n", 3)]
    assert half_closed(written(nodes, *ends, a=normal(3, 8), b=normal(8, 2))).verdict.comparisons


# Whole numbers and other types ----------------------------------------------------------------

_TYPES = {
    "ReduceMax": "INT8 UINT8 INT32 INT64 DOUBLE",
    "ReduceMin": "INT8 UINT8 INT32 INT64 DOUBLE",
    "ReduceSum": "INT32 INT64 DOUBLE",
    "ReduceMean": "INT32 DOUBLE",
}
"""By operator, those types that ONNX Runtime has it in."""


@pytest.mark.parametrize(
    ("op_type", "dtype"), [(op_type, t) for op_type in _TYPES for t in _TYPES[op_type].split()]
)
def test_open_positions_are_reduced_in_every_type_that_has_the_operator(op_type, dtype):
    g = drawing()
    h = g("Abs", g("Conv", "x", g.weight(8, 3, 3, 3), g.weight(8)))
    h = g("Cast", g("Mul", h, g.stored(np.float32(9))), to=getattr(TensorProto, dtype))
    result = half_closed(read_whole(g, g(op_type, h, g.numbers(1, 2), keepdims=0)))
    assert result.costs_after["macs"] < result.costs_before["macs"]


# Positions are counted where they are -----------------------------------------------------------

_FORMS = {
    "group_norm": [("GroupNormalization", ["h", "f", "f"], {"num_groups": 2})],
    "instance_norm": [
        ("Reshape", ["h", "apart"], {}),
        ("InstanceNormalization", ["z0", "two", "two"], {}),
        ("Shape", ["h"], {}),
        ("Reshape", ["z1", "z2"], {}),
    ],
    "mean_of_channels": [("ReduceMean", ["h", "channels"], {})],
    "mean_of_samples": [("ReduceMean", ["h", "outer"], {})],
    "mean_of_pixels": [("ReduceMean", ["h", "inner"], {})],
    "mean_of_all": [("ReduceMean", ["h"], {})],
}


def open_sizes(form):
    """Channels that are counted with samples and pixels, of which there may be any number."""
    nodes = [helper.make_node("Conv", ["x", "a"], ["h"], pads=[1] * 4)]
    for number, (op_type, inputs, settings) in enumerate(_FORMS[form]):
        nodes.append(helper.make_node(op_type, inputs, [f"z{number}"], **settings))
    nodes.append(helper.make_node("Add", ["h", nodes[-1].output[0]], ["s"]))
    nodes.append(helper.make_node("Conv", ["s", "b"], ["y"]))
    numbers = {"apart": (0, 2, -1), "channels": (1,), "outer": (0, 1), "inner": (1, 2, 3)}
    arrays = {name: np.array(values) for name, values in numbers.items()}
    weights = {"a": (8, 3, 3, 3), "b": (4, 8, 1, 1), "f": (8,), "two": (2,)}
    arrays |= {name: normal(*shape) for name, shape in weights.items()}
    ends = [info("x", "n", 3, "h", "w")], [info("y", "n", 4, "h", "w")]
    return written(nodes, *ends, opset=21, **arrays)


@pytest.mark.parametrize("form", _FORMS)
def test_masked_files_count_positions_at_other_sizes_than_the_example(form):
    model, shapes = open_sizes(form), {"x": (2, 3, 6, 6)}
    result = half_closed(model, shapes=shapes)
    masked = masked_model(read_onnx(model, shapes), result.analysis, result.keep_set)
    for shape in ((3, 3, 9, 7), (1, 3, 4, 5)):
        fxprune.verify_onnx(masked, result.model, inputs=[{"x": normal(*shape)}], batch_sizes=())


@pytest.mark.parametrize("form", ["group_norm", "mean_of_pixels"])
def test_weights_are_solved_anew_on_data_of_another_size_than_the_example(form):
    data = [{"x": normal(2, 3, 9, 7)}, {"x": normal(3, 3, 9, 7)}]
    result = fxprune.prune_onnx(
        open_sizes(form), data=data, correct=True, shapes={"x": (2, 3, 6, 6)}, target=0.6
    )
    assert result.verdict.comparisons


# Squeezes, sizes and sequences ------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("kept", [1, 3])
def test_a_squeeze_without_axes_takes_the_same_axes_away_at_every_batch_size(opset, kept):
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Squeeze", ["p"], ["q"]),
        helper.make_node("MatMul", ["q", "b"], ["y"]),
    ]
    untyped = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    ends = [info("x", "n", 3, 8, 8)], [untyped]
    model = written(nodes, *ends, opset=opset, a=normal(8, 3, 3, 3), b=normal(8, 5))
    (group,) = fxprune.inspect_onnx(model).free_groups
    keep = {group.name: [position < kept for position in range(8)]}
    assert len(fxprune.fold_onnx(model, keep).verdict.comparisons) >= 2


def _sequence(g, h):
    parts = g("SplitToSequence", h, g.numbers(3, 5), axis=1)
    return g("ConcatFromSequence", parts, axis=1, like=h)


def _optional(g, h):
    return g("OptionalGetElement", g("Optional", h), like=h)


def _chosen(g, h):
    pair = g("SequenceConstruct", h, g("Relu", h))
    return g("SequenceAt", pair, g.index(1), like=h)


@pytest.mark.parametrize("through", [_sequence, _optional, _chosen])
def test_what_goes_through_sequences_is_pinned_and_the_rest_is_pruned(through):
    g = drawing()
    h = g("Relu", g("Conv", "x", g.weight(6, 3, 3, 3), pads=[1] * 4))
    h = g("Conv", h, g.weight(8, 6, 3, 3), pads=[1] * 4)
    result = half_closed(read_whole(g, through(g, h)))
    assert [group.size for group in result.analysis.free_groups] == [6]


def test_sizes_may_be_an_input():
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Conv", ["h", "b"], ["k"]),
        helper.make_node("Reshape", ["k", "s"], ["y"]),
    ]
    ends = [info("x", "n", 3, 6, 6), info("s", 2, dtype=TensorProto.INT64)], [info("y", "n", "m")]
    model = written(nodes, *ends, a=normal(8, 3, 3, 3), b=normal(4, 8, 1, 1))
    x, sizes = normal(2, 3, 6, 6), np.array([2, -1])
    data = [{"x": x, "s": sizes}, {"x": -x, "s": sizes}]
    result = fxprune.prune_onnx(model, data=data, target=0.6)
    assert [group.size for group in result.analysis.free_groups] == [8]


@pytest.mark.parametrize(
    ("op_type", "reason"),
    [
        ("EmbedLayerNormalization", "tables that are added and normalised at once"),
        ("GroupQueryAttention", "a cache"),
        ("Unheard", None),
    ],
)
def test_a_known_operator_that_is_not_followed_says_why(op_type, reason):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node(op_type, ["h"], ["y"], domain="com.microsoft"),
    ]
    model = written(nodes, [info("x", "n", 3)], [info("y", "n", 8)], a=normal(3, 8))
    call = Call(onnx_ir.from_proto(model).graph[1], Facts(shapes={"h": (2, 8), "y": (2, 8)}), 1)
    assert spelled(call) == reason
