"""Random ONNX models are valid from the start, cover what they claim, print and shrink."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import fxprune
from fxprune.onnx.frontend.spellings import SPELLINGS
from fxprune.testing import ONNX_OPS, GraphBuilder, onnx_models

SEARCH = settings(max_examples=50, derandomize=True, database=None)
FIRST = settings(SEARCH, max_examples=1, phases=[Phase.generate])


def drawn(**settings):
    """Models of every sort."""
    return st.sampled_from(list(ONNX_OPS)).flatmap(lambda dims: onnx_models(dims=dims, **settings))


def first(strategy):
    """What Hypothesis draws before everything else: the simplest choice, every time."""
    return find(strategy, lambda model: True, settings=FIRST)


def run(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    text = model.proto.SerializeToString()
    session = onnxruntime.InferenceSession(text, options, ["CPUExecutionProvider"])
    return session.run(None, dict(model.inputs))


def test_no_model_is_smaller_than_the_first():
    found = find(onnx_models(), lambda model: True, settings=settings(SEARCH, max_examples=10))
    assert found.source() == first(onnx_models()).source()


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (1, "Conv Relu Conv Conv"),
        (2, "Conv Relu Conv Conv"),
        (3, "Conv Relu Conv Conv"),
        ("sequence", "MatMul Add MatMul Add Relu MatMul Add ReduceMean Gemm"),
    ],
)
def test_smallest_model_is_plain(dims, expected):
    model = first(onnx_models(dims=dims))
    assert " ".join(node.op_type for node in model.proto.graph.node) == expected
    assert model.proto.opset_import[0].version == 17
    assert fxprune.inspect_onnx(model.proto).free_groups


def test_smallest_model_prints_in_the_notation_of_onnx():
    model = first(onnx_models())
    lines = repr(model).splitlines()
    assert "network (float[n,3,6,6] x) => (float[n,3,6,6] v3) {" in lines
    assert "   v0 = Conv <pads: ints = [1, 1, 1, 1]> (x, w0, w1)" in lines
    assert '    "w0": normal(4, 3, 3, 3),' in lines


@settings(max_examples=60)
@given(drawn())
def test_model_is_valid_without_being_filtered(model):
    onnx.checker.check_model(model.proto, full_check=True)
    for value, array in zip(model.proto.graph.output, run(model), strict=True):
        assert np.isfinite(array).all()
        if isinstance(array, list):
            continue
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert sizes[1:] == list(array.shape[1:])


@pytest.mark.parametrize("inputs", [1, 3])
def test_model_is_given_as_many_inputs_as_asked_for(inputs):
    model = first(onnx_models(inputs=inputs))
    assert list(model.inputs) == ["x", "x1", "x2"][:inputs]
    assert [value.name for value in model.proto.graph.input] == list(model.inputs)


@settings(max_examples=20)
@given(drawn(inputs=2))
def test_source_is_the_model_bit_for_bit(model):
    copied = {}
    exec(model.source(), copied)
    assert copied["model"].SerializeToString() == model.proto.SerializeToString()
    assert all(np.array_equal(copied["inputs"][n], array) for n, array in model.inputs.items())


def test_source_runs_without_hypothesis_and_without_us(tmp_path):
    model = first(onnx_models(dims="sequence"))
    blocked = "import sys; sys.modules.update(dict.fromkeys(['hypothesis', 'fxprune', 'torch']))\n"
    (tmp_path / "failure.py").write_text(blocked + model.source() + "print(model.graph.name)\n")
    done = subprocess.run(
        [sys.executable, "failure.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.stdout == "network\n", done.stderr


@pytest.mark.parametrize("dims", list(ONNX_OPS))
def test_model_is_made_of_the_kinds_asked_for(dims):
    lengths = []

    @settings(max_examples=10, derandomize=True, database=None, phases=[Phase.generate])
    @given(onnx_models(("normalisation",), dims=dims, max_nodes=2))
    def collect(model):
        types = {node.op_type for node in model.proto.graph.node}
        assert not types & {"ConvTranspose", "Split", "Tile", "LSTM"}
        lengths.append(len(model.proto.graph.node))

    collect()
    assert max(lengths) > min(lengths)


def test_models_cover_most_operators_that_carry_channels():
    seen, versions = set(), set()

    @settings(max_examples=150, derandomize=True, database=None, phases=[Phase.generate])
    @given(drawn(max_nodes=8))
    def collect(model):
        seen.update(node.op_type for node in model.proto.graph.node)
        versions.add(model.proto.opset_import[0].version)

    collect()
    assert versions == {9, 11, 13, 17, 18, 21, 23}
    assert len(seen & set(SPELLINGS)) >= 45, sorted(set(SPELLINGS) - seen)


def test_drawing_says_what_it_cannot_infer():
    g = GraphBuilder(opset=9)
    x = g.input("x", 3, 4)
    with pytest.raises(AssertionError, match="ONNX infers no shape of Concat"):
        g("Concat", x, x, axis=-1)
