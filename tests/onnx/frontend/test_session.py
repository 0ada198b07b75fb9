"""ONNX Runtime runs models in memory."""

import numpy as np
import onnx_ir
import pytest
from onnx import parser

from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import session_of

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N, 3] x) => (float[N, 3] y)
    <float[3] one = {1.0, 2.0, 3.0}> { y = Add (x, one) }
"""
BETWEEN = """
<ir_version: 8, opset_import: ["": 17]>
two (float[N, 3] x) => (float[N, 3] y) { a = Neg (x) y = Relu (a) }
"""


@pytest.mark.parametrize("external", [False, True])
def test_weights_may_lie_in_other_files(external, tmp_path):
    model = onnx_ir.from_proto(parser.parse_model(TEXT))
    data = "weights.data" if external else None
    onnx_ir.save(model, tmp_path / "m.onnx", external_data=data, size_threshold_bytes=0)
    assert (tmp_path / "weights.data").exists() == external
    with session_of(load_onnx(tmp_path / "m.onnx")) as session:
        (found,) = session.run({"x": np.ones((2, 3), np.float32)}, ["y"])
    np.testing.assert_array_equal(found, [[2, 3, 4]] * 2)


def test_values_between_are_shown_for_a_while():
    model = load_onnx(parser.parse_model(BETWEEN))
    x = np.ones((2, 3), np.float32)
    with session_of(model, ["a"]) as session:
        np.testing.assert_array_equal(session.run({"x": x}, ["a"]), [-x])
    assert [value.name for value in model.graph.outputs] == ["y"]
    assert not model.graph[0].outputs[0].is_graph_output()
