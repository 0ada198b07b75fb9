"""What verdicts about ONNX models rest on: outputs that move, no noise, every open axis."""

import itertools
import re
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

import fxprune
from fxprune.onnx import verify as verification
from fxprune.onnx.frontend.session import Session

WEIGHTS = np.random.default_rng(0)
LARGE = 1e9


def model(text, inputs="float[n, 6] x", outputs="float[n, 4] y", **stored):
    """Nodes as text, after a hidden layer `h` of eight features and four of `z`."""
    made = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g ({inputs}) => ({outputs}) <float[6, 8] w, float[8, 4] v> {{
            m = MatMul (x, w)
            h = Relu (m)
            z = MatMul (h, v)
            {text}
        }}"""
    )
    del made.graph.initializer[:]
    arrays = {"w": normal(6, 8), "v": normal(8, 4), **stored}
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    return made


def normal(*shape):
    return WEIGHTS.standard_normal(shape).astype(np.float32)


def with_another(made, name="v"):
    """The same with other weights."""
    other = onnx.ModelProto()
    other.CopyFrom(made)
    stored = next(tensor for tensor in other.graph.initializer if tensor.name == name)
    stored.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(stored), name))
    return other


FAR = {"far": np.float32(LARGE)}
SILENT = {
    "a sigmoid that is saturated": model("q = Add (z, far) y = Sigmoid (q)", **FAR),
    "a clip": model(
        "q = Add (z, far) y = Clip (q, low, high)",
        low=np.float32(0),
        high=np.float32(1),
        **FAR,
    ),
    "a comparison": model("q = Greater (z, far) y = Cast <to = 1> (q)", **FAR),
    "a label": model(
        "q = Add (z, first) y = ArgMax <axis = 1> (q)",
        outputs="int64[n, 1] y",
        first=np.array([LARGE, 0, 0, 0], np.float32),
    ),
    "logarithms of negative numbers": model("p = Abs (z) q = Neg (p) y = Log (q)"),
    "an infinite mask": model("y = Add (z, mask)", mask=np.full(4, -np.inf, np.float32)),
    "signs of infinity": model("s = Sign (z) y = Mul (s, inf)", inf=np.float32(np.inf)),
    "a shape": model("y = Shape (z)", outputs="int64[2] y"),
    "nothing": model("y = Slice (z, o, o, o)", outputs="float[n, k] y", o=np.array([1])),
    "an input beside a constant": model(
        "q = Greater (z, far) y = Cast <to = 1> (q) same = Identity (x)",
        outputs="float[n, 4] y, float[n, 6] same",
        **FAR,
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_models_whose_outputs_never_move_are_not_called_the_same(name):
    made = SILENT[name]
    for other in (made, with_another(made)):
        with pytest.raises(fxprune.VerificationError, match=r"nothing was shown|error inf"):
            fxprune.verify_onnx(made, other)


def test_inputs_that_move_the_outputs_are_a_way_out():
    made = model("q = Greater (z, far) y = Cast <to = 1> (q)", **FAR)
    inputs = [{"x": LARGE * normal(2, 6)} for _ in range(2)]
    assert fxprune.verify_onnx(made, made, inputs=inputs).shows_nothing == ()
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(made, with_another(made), inputs=inputs)


def test_labels_are_moved_by_larger_inputs():
    made = model(
        "q = Add (z, first) y = ArgMax <axis = 1, keepdims = 0> (q)",
        outputs="int64[n] y",
        first=np.array([50, 0, 0, 0], np.float32),
    )
    assert fxprune.verify_onnx(made, made).shows_nothing == ()
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(made, with_another(made))


def test_outputs_that_stay_are_named_beside_those_that_move():
    made = model(
        "y = Relu (z) q = Greater (z, far) anchors = Cast <to = 1> (q)",
        outputs="float[n, 4] y, float[n, 4] anchors",
        **FAR,
    )
    verdict = fxprune.verify_onnx(made, made)
    assert verdict.shows_nothing == ("anchors",)
    assert "nothing is shown of anchors" in str(verdict)
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(made, with_another(made))


def test_an_input_as_the_only_output_is_the_same():
    made = model("y = Identity (x)", outputs="float[n, 6] y")
    assert fxprune.verify_onnx(made, made).comparisons


def test_a_model_without_inputs_is_compared_once_and_for_all():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g () => (float[2] y) <float[2] a = {{1, {}}}> {{ y = Neg (a) }}"""
    made, other = (parser.parse_model(text.format(number)) for number in (2, 3))
    assert fxprune.verify_onnx(made, made).comparisons
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(made, other)


def test_pruning_a_model_whose_outputs_never_move_rests_on_values_between_layers():
    made = model("q = Greater (z, far) y = Cast <to = 1> (q)", **FAR)
    result = fxprune.prune_onnx(made)
    assert result.verdict.shows_nothing == ("y",)


def test_values_that_pruning_does_not_touch_show_nothing_of_it():
    """What is saturated at once leaves no value between it and what is pruned."""
    text = "q = Add (z, far) y = Sigmoid (q) early = MatMul (x, u) e = Exp (early) side = Sum (e)"
    made = model(
        text.replace("z = ", "z0 = "),
        outputs="float[n, 4] y, float[n, 5] side",
        u=normal(6, 5),
        **FAR,
    )
    keep = {
        group.name: [number != 1 for number in range(group.size)]
        for group in fxprune.inspect_onnx(made).free_groups
    }
    assert fxprune.fold_onnx(made, keep).verdict.shows_nothing == ("y",)


@pytest.mark.parametrize(
    "text",
    [
        "e = RandomNormalLike (z) y = Add (z, e)",
        "e = RandomUniformLike (z) y = Add (z, e)",
        "p = Sigmoid (z) e = Bernoulli (p) y = Add (z, e)",
        "y = Dropout (z, half, yes)",
        "s = Shape (z) b = ReduceSum (z) c = Greater (b, zero) y = If (c) <"
        "then_branch = t () => (float[n, 4] t1) { e = RandomNormalLike (z) t1 = Add (z, e) },"
        "else_branch = f () => (float[n, 4] f1) { f1 = Neg (z) }>",
    ],
)
def test_noise_is_drawn_alike_in_both_models_and_explains_no_error(text):
    stored = {"half": np.float32(0.5), "yes": np.array(True), "zero": np.float32(0)}
    made = model(text, **{name: each for name, each in stored.items() if re.search(name, text)})
    verdict = fxprune.verify_onnx(made, made)
    assert all(item.error == 0 for item in verdict.comparisons)
    slightly = onnx.ModelProto()
    slightly.CopyFrom(made)
    tensor = next(tensor for tensor in slightly.graph.initializer if tensor.name == "v")
    tensor.CopyFrom(numpy_helper.from_array(1.02 * numpy_helper.to_array(tensor), "v"))
    with pytest.raises(fxprune.VerificationError, match="relative error"):
        fxprune.verify_onnx(made, slightly)


def test_what_only_noise_moves_shows_nothing():
    made = model("q = Mul (z, zero) e = RandomNormalLike (z) y = Add (q, e)", zero=np.float32(0))
    with pytest.raises(fxprune.VerificationError, match="nothing was shown"):
        fxprune.verify_onnx(made, made)


def test_a_model_that_is_not_repeatable_cannot_be_compared(monkeypatch):
    steady, numbers = verification._running, itertools.count()

    @contextmanager
    def drifting(*args, **options):
        with steady(*args, **options) as run:
            yield lambda feeds: [value + np.float32(next(numbers)) for value in run(feeds)]

    monkeypatch.setattr(verification, "_running", drifting)
    made = model("y = Relu (z)")
    with pytest.raises(fxprune.VerificationError, match="y differs from run to run"):
        fxprune.verify_onnx(made, made)


# Sequences ------------------------------------------------------------------------------------


def sequences(number):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Slice", ["r", "zero", "two"], ["s"]),
        helper.make_node("SequenceConstruct", ["r", "s", "z"][:number], ["y"]),
    ]
    ends = (
        [helper.make_tensor_value_info("x", 1, [3, 6])],
        [helper.make_tensor_sequence_value_info("y", 1, None)],
    )
    stored = {"w": np.eye(6, 5, dtype=np.float32), "zero": np.array([0]), "two": np.array([2])}
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sequences_are_compared_array_by_array():
    assert fxprune.verify_onnx(sequences(2), sequences(2)).comparisons
    for other in (sequences(3), with_another(sequences(2), "w")):
        with pytest.raises(fxprune.VerificationError):
            fxprune.verify_onnx(sequences(2), other)


# Open axes ------------------------------------------------------------------------------------


def shapes_run(monkeypatch):
    """The shapes of `x` that ONNX Runtime sees."""
    seen, run = [], Session.run

    def look(self, feeds, wanted):
        seen.append(feeds["x"].shape)
        return run(self, feeds, wanted)

    monkeypatch.setattr(Session, "run", look)
    return seen


def test_every_open_axis_has_several_sizes(monkeypatch):
    seen = shapes_run(monkeypatch)
    made = model("y = Relu (z)", "float[n, s, t, 6] x", "float[n, s, t, 4] y")
    assert fxprune.verify_onnx(made, made).left_out == ()
    for axis, least in ((0, 3), (1, 2), (2, 2)):
        assert len({shape[axis] for shape in seen}) >= least
    assert {1, 2} < {shape[0] for shape in seen}
    assert all(len(set(shape)) == 4 for shape in seen), "two axes look the same"


def test_sizes_at_which_the_model_does_not_run_are_left_out_and_said():
    made = model(
        "q = Reshape (z, s) y = Relu (q)", "float[n, 6] x", "float[2, 4] y", s=np.array([2, 4])
    )
    verdict = fxprune.verify_onnx(made, made)
    assert {item.batch for item in verdict.comparisons} == {2}
    assert "x [1, 6]" in verdict.left_out
    assert "not compared, as the first model fails: x [1, 6]" in str(verdict)


def test_a_model_that_runs_at_no_size_is_an_error_of_the_inputs():
    made = model("q = Reshape (z, s) y = Relu (q)", "float[n, 6] x", "float[77, 4] y", s=[77, 4])
    with pytest.raises(fxprune.InputError, match="give shapes"):
        fxprune.verify_onnx(made, made)


def test_square_images_are_tried_where_others_fail():
    made = model("t = Transpose <perm = [0, 2, 1, 3]> (z) y = Add (t, z)", "float[n, a, b, 6] x")
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    verdict = fxprune.verify_onnx(made, made)
    assert verdict.comparisons
    assert verdict.left_out


def test_given_shapes_bind_axes_of_the_same_name():
    text = "q = Add (z, k) y = Relu (q)"
    made = model(text, "float[n, s, 6] x, float[n, s, 4] k", "float[n, s, 4] y")
    assert fxprune.verify_onnx(made, made, shapes={"x": (2, 9, 6)}).left_out == ()


WIDE = {"s": np.array([0, 0, 2, 8]), "t": np.array([0, -1, 16])}


@pytest.mark.parametrize("shapes", [None, {"x": (2, 2, 6)}, {"x": (16, 8, 6)}])
def test_an_open_axis_of_the_size_of_heads_is_not_taken_for_them(shapes):
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[n, length, 6] x) => (float[n, m, 5] y) {
        q = MatMul (x, w)
        heads = Reshape (q, s)
        moved = Transpose <perm = [0, 2, 1, 3]> (heads)
        a = Relu (moved)
        back = Transpose <perm = [0, 2, 1, 3]> (a)
        flat = Reshape (back, t)
        y = MatMul (flat, v)
    }""")
    arrays = {"w": normal(6, 16), "v": normal(16, 5), **WIDE}
    made.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    result = fxprune.prune_onnx(made, shapes=shapes)
    for size in (2, 8, 16, 31):
        verdict = fxprune.verify_onnx(made, made, shapes={"x": (2, size, 6)})
        assert verdict.comparisons
    assert result.costs_after["params"] < result.costs_before["params"]


def test_what_is_folded_for_one_size_only_is_found_at_another():
    made = model("q = Reshape (z, s) y = Relu (q)", "float[1, l, 6] x", s=np.array([0, -1, 2]))
    other = onnx.ModelProto()
    other.CopyFrom(made)
    fixed = numpy_helper.from_array(np.array([1, 2 * 13, 2]), "s")  # fits one length
    next(t for t in other.graph.initializer if t.name == "s").CopyFrom(fixed)
    for each in (made, other):
        each.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, None))
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(made, other, shapes={"x": (1, 13, 6)})


def test_data_is_cut_along_open_axes_as_well(monkeypatch):
    seen = shapes_run(monkeypatch)
    made = model("y = Relu (z)", "float[n, s, 6] x", "float[n, s, 4] y")
    fxprune.prune_onnx(made, data=[normal(8, 16, 6)])
    assert {shape[1] for shape in seen} >= {16, 12}
    assert {shape[0] for shape in seen} >= {1, 2}
