"""What is known of an ONNX graph's values before it runs."""

import numpy as np
from onnx import parser

from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.observe import observe

HALVED = """
<ir_version: 8, opset_import: ["": 17]>
halved (float[2, 6] x) => (float[n] y) {
    found = NonZero (x)
    shape = Shape <start = 1> (found)
    two = Constant <value_ints = [2]> ()
    half = Div (shape, two)
    zero = Constant <value_ints = [0]> ()
    flat = Reshape (x, shape)
    y = Slice (flat, zero, half)
}
"""


def test_shapes_found_by_running_are_numbers_too():
    facts = observe(load_onnx(parser.parse_model(HALVED)))
    assert facts.shapes["found"] == (2, 12)
    assert np.array_equal(facts.numbers["shape"], [12])
    assert np.array_equal(facts.numbers["half"], [6])
