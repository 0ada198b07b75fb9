"""Comparing ONNX models: what counts as the same, and that it can fail."""

import numpy as np
import onnx
import pytest
from onnx import parser

import fxprune

WITH_LABELS = """
<ir_version: 8, opset_import: ["": 17]>
classifier (float[n, 8] x) => (int64[n] label, float[n, 4] scores)
<float[8, 4] w = {{{weights}}}, float[4] b = {{0, 0, 0, 0}}>
{{
    a = MatMul (x, w)
    scores = Add (a, b)
    label = ArgMax <axis = 1, keepdims = 0> (scores)
}}
"""
STEEP = """
<ir_version: 8, opset_import: ["": 17]>
steep (float[n, 64] x) => (float[n, 64] y)
<float[64, 64] w = {{{weights}}}, float[64] b = {{{bias}}}, float[1] steep = {{{factor}}}>
{{
    a = MatMul (x, w)
    c = Add (a, b)
    d = Mul (c, steep)
    y = Softmax <axis = 1> (d)
}}
"""


def numbers(count: int, scale: float = 1.0) -> str:
    return ", ".join(f"{value:.9f}" for value in np.random.default_rng(0).normal(0, scale, count))


def permuted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same sums in another order: rows of w, and the inputs, backwards."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    stored = next(tensor for tensor in other.graph.initializer if tensor.name == "w")
    weights = onnx.numpy_helper.to_array(stored)[::-1].copy()
    stored.CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    order = np.arange(len(weights))[::-1].copy()
    other.graph.initializer.append(onnx.numpy_helper.from_array(order, "order"))
    other.graph.node[0].input[0] = "turned"
    other.graph.node.insert(0, onnx.helper.make_node("Gather", ["x", "order"], ["turned"], axis=1))
    return other


def test_labels_do_not_hide_the_error_of_scores():
    model = parser.parse_model(WITH_LABELS.format(weights=numbers(32)))
    verdict = fxprune.verify_onnx(model, permuted(model))
    assert {item.dtype for item in verdict.comparisons} == {"float32", "float64"}
    assert max(item.error for item in verdict.comparisons) > 0


def steep(factor: float) -> onnx.ModelProto:
    return parser.parse_model(
        STEEP.format(weights=numbers(64 * 64), bias=numbers(64), factor=factor)
    )


ROWS = {"x": np.random.default_rng(1).normal(size=(2000, 64)).astype(np.float32)}


def test_what_rounding_explains_is_accepted():
    model = steep(300.0)
    verdict = fxprune.verify_onnx(model, permuted(model), inputs=[ROWS])
    single = [item for item in verdict.comparisons if item.dtype == "float32"]
    assert max(item.error for item in single) > 1e-4
    assert all(item.error <= item.tolerance for item in single)


@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_what_rounding_does_not_explain_is_refused(factor):
    model = steep(factor)
    other = permuted(model)
    stored = next(tensor for tensor in other.graph.initializer if tensor.name == "b")
    bias = onnx.numpy_helper.to_array(stored).copy()
    bias[3] += 0.05
    stored.CopyFrom(onnx.numpy_helper.from_array(bias, "b"))
    with pytest.raises(fxprune.VerificationError, match="y: before == after"):
        fxprune.verify_onnx(model, other, inputs=[ROWS])


def test_another_label_is_refused():
    model = parser.parse_model(WITH_LABELS.format(weights=numbers(32)))
    other = parser.parse_model(
        WITH_LABELS.format(weights=numbers(32, 2))
        .replace("MatMul (x", "MatMul (n")
        .replace("a = ", "n = Neg (x)\n    a = ")
    )
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(model, other)
