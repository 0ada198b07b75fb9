"""Pruning ONNX models: targets, criteria, corrected weights, and graphs as exporters write them."""

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, parser

import fxprune
from fxprune.errors import InputError, KeepSetError, NothingToPruneError, TargetError
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.frontend.session import session_of
from fxprune.onnx.prune import masked_model
from fxprune.onnx.refit import refitted
from fxprune.testing import Drawing
from tests.onnx.frontend.samples import drawing, read_whole


def residual(seed: int = 0, width: int = 8) -> onnx.ModelProto:
    """Two residual blocks of convolutions, with and without a batch norm, and a head."""
    g = drawing()
    h = g("Relu", g("Conv", "x", g.weight(width, 3, 3, 3), g.weight(width), pads=[1] * 4))
    for _ in range(2):
        y = g("Relu", g("Conv", h, g.weight(12, width, 3, 3), g.weight(12), pads=[1] * 4))
        h = g("Add", h, g("Conv", y, g.weight(width, 12, 3, 3), g.weight(width), pads=[1] * 4))
    return read_whole(g, g("ReduceMean", h, g.numbers(2, 3)), seed)


def outputs(model: object, x: np.ndarray) -> np.ndarray:
    loaded = load_onnx(model)
    with session_of(loaded) as session:
        return session.run({"x": x}, [loaded.graph.outputs[0].name])[0]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 6, 6)).astype(np.float32)


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


def test_everything_open_changes_nothing():
    model = residual()
    analysis = fxprune.inspect_onnx(model)
    keep = {group.name: [True] * group.size for group in analysis.free_groups}
    x = images(2)
    assert np.array_equal(outputs(fxprune.fold_onnx(model, keep).model, x), outputs(model, x))


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


@pytest.mark.parametrize("method", ["magnitude", "group_norm", "activation", "wanda", "saliency"])
def test_channels_that_do_nothing_go_first(method):
    model = residual()
    idle = [1, 4, 7]
    for tensor in model.graph.initializer:
        if tensor.dims == [12, 8, 3, 3]:  # makes the inner channels of a block
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        if tensor.dims == [12]:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        if tensor.dims == [8, 12, 3, 3] and method == "group_norm":  # reads them as well
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, idle] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = fxprune.prune_onnx(model, target=0.85, method=method, data=[images(8)])
    inner = [flags for name, flags in result.keep_set.items() if len(flags) == 12]
    assert len(inner) == 2
    for flags in inner:
        closed = {i for i, flag in enumerate(flags) if not flag}
        assert closed <= set(idle) or closed >= set(idle)
    assert any(not flags[1] for flags in inner)


def test_corrected_weights_come_closer():
    model, data, x = residual(width=16), [images(64, seed) for seed in (1, 2)], images(32, 9)
    wanted = outputs(model, x)
    errors = [
        np.abs(outputs(fxprune.prune_onnx(model, correct=correct, data=data).model, x) - wanted)
        for correct in (False, True)
    ]
    assert errors[1].mean() < 0.7 * errors[0].mean()


def dependent(g: Drawing) -> str:
    """Nine channels, of which the last three are sums of others."""
    first = np.random.default_rng(0).normal(size=(6, 3, 1, 1)).astype(np.float32)
    return g("Conv", "x", g.stored(np.concatenate([first, first[:3] + first[3:]])))


def corrected(model: onnx.ModelProto, keep: dict[str, tuple[bool, ...]]) -> fxprune.OnnxResult:
    """Folded after its weights have been fitted with next to no damping."""
    analysis, program = fxprune.inspect_onnx(model), read_onnx(model)
    kept = {analysis.free_groups[0].space: keep[analysis.free_groups[0].name]}
    masked, data = masked_model(program, analysis, keep), [{"x": images(64, 6)}]
    mended, fitted = refitted(program, analysis, masked, kept, data, ridge=1e-9)
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


def test_latency_is_measured():
    model = residual(width=32)
    result = fxprune.prune_onnx(model, target={"latency": 0.999, "macs": 0.7})
    assert result.costs_after["macs"] <= 0.7 * result.costs_before["macs"]
    with pytest.raises(TargetError, match="latency is not reached"):
        fxprune.prune_onnx(model, target={"latency_ms": 1e-6})


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"method": "taylor"}, InputError, "known for ONNX models are"),
        ({"method": "wanda"}, InputError, "needs data"),
        ({"method": "saliency"}, InputError, "needs data"),
        ({"correct": True}, InputError, "correct=True needs data"),
        ({"ignore": ["nothing"]}, InputError, "no initialiser is called 'nothing'"),
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


def test_unknown_groups_are_refused():
    with pytest.raises(KeepSetError, match="no group"):
        fxprune.fold_onnx(residual(), {"nobody": [True]})


def test_ignored_weights_keep_their_channels():
    model = residual()
    name = model.graph.initializer[0].name
    result = fxprune.prune_onnx(model, ignore=[name])
    kept = {t.name: list(t.dims) for t in onnx_ir.to_proto(result.model).graph.initializer}
    assert kept[name] == list(model.graph.initializer[0].dims)


# Graphs as exporters write them


def half_closed(model: onnx.ModelProto) -> fxprune.OnnxResult:
    """Every second position of every group closed; masked and folded models have been compared."""
    analysis = fxprune.inspect_onnx(model)
    assert analysis.free_groups
    keep = {g.name: [i % 2 == 0 for i in range(g.size)] for g in analysis.free_groups}
    return fxprune.fold_onnx(model, keep)


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
    fxprune.fold_onnx(model, {first: [True, False] * 4, second: [False, True] * 4})


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
    fxprune.fold_onnx(model, {group.name: [True] + [False] * 7})


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
