"""Gathers that take everything in order are reshapes; all others stay gathers."""

import numpy as np
import onnx
import pytest
from onnx import parser

import fxprune
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import session_of

STRIDED = """
<ir_version: 8, opset_import: ["": 17]>
strided (float[n, 3] x) => (float[n, 2] y)
<int64[1] flat = {-1}, int64[1, 4] places = {PLACES}, int64 zero = {0}, int64 one = {1},
 int64 four = {4}, int64[1] last = {1}, float[SIZES] taken>
{
    h = MatMul (x, a)
    all = Reshape (h, flat)
    shape = Shape (x)
    count = Gather (shape, zero)
    row = Range (zero, count, one)
    start = Mul (row, four)
    starts = Unsqueeze (start, last)
    indices = Add (starts, places)
    taken = Gather (all, indices)
    y = MatMul (taken, b)
}
"""


def strided(places: str = "0, 1, 2, 3", sizes: str = "n, 4") -> onnx.ModelProto:
    """Two matrices, and between them what torch's exporter makes of as_strided."""
    model = parser.parse_model(STRIDED.replace("PLACES", places).replace("SIZES", sizes))
    draw = np.random.default_rng(0).normal
    for name, shape in (("a", (3, 4)), ("b", (4, 2))):
        stored = onnx.numpy_helper.from_array(draw(size=shape).astype(np.float32), name)
        model.graph.initializer.append(stored)
    return model


def run(model: object, x: np.ndarray) -> np.ndarray:
    with session_of(load_onnx(model)) as session:
        return session.run({"x": x}, ["y"])[0]


def test_channels_are_followed_through_a_contiguous_stride():
    model = strided()
    (group,) = fxprune.inspect_onnx(model).free_groups
    keep = [True, False, True, True]
    folded = fxprune.fold_onnx(model, {group.name: keep}).model
    closed = strided()
    for stored, mask in zip(
        closed.graph.initializer[-2:], ([keep], [[k] for k in keep]), strict=True
    ):
        masked = onnx.numpy_helper.to_array(stored) * np.float32(mask)
        stored.CopyFrom(onnx.numpy_helper.from_array(masked, stored.name))
    for rows in (1, 2, 5):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
        assert np.allclose(run(folded, x), run(closed, x), atol=1e-6)


@pytest.mark.parametrize(
    ("places", "sizes"),
    [
        ("0, 1, 3, 2", "n, 4"),  # another order
        ("0, 1, 2, 2", "n, 4"),  # not everything
        ("0, 1, 2, 3", "2, 4"),  # some of a number that is open
        ("0, 1, 2, 3", "n, m"),  # an axis that may be longer than in the example
    ],
)
def test_other_gathers_are_pinned(places, sizes):
    assert not fxprune.inspect_onnx(strided(places, sizes)).free_groups
