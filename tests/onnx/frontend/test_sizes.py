"""Which sizes stand in for open axes: none that the model has; what is given comes before them."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

import fxprune
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.sizes import open_axes, shapes_at, stand_ins


def model(inputs, nodes="y = Relu (x)", **stored):
    made = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[q] y) {{ {nodes} }}"""
    )
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()
    )
    return load_onnx(made)


def test_open_axes_have_names_and_kinds_and_first_axes_come_first():
    made = model("float[n, length, 6] x, float[length, n] mask, float[n, 3, h, w] image")
    assert open_axes(made) == {"n": "batch", "length": "batch", "h": "image", "w": "image"}
    assert open_axes(model("float[3, t, 6] x")) == {"t": "sequence"}
    assert open_axes(model("float[3, 6] x")) == {}


def test_no_two_stand_ins_are_one_size():
    sizes = next(stand_ins(model("float[n, 3, h, w] x, float[m, s, t] z")))
    assert len(set(sizes.values())) == len(sizes) == 6


@pytest.mark.parametrize(
    ("nodes", "stored", "taken"),
    [
        ("y = MatMul (x, w)", np.zeros((13, 17), np.float32), {13, 17}),
        ("y = Reshape (x, w)", np.array([3, 13, 19]), {3, 13, 19}),
        ("z = Split <num_outputs = 3> (x) y = Expand (z, w)", np.array([5]), {3, 5}),
    ],
)
def test_stand_ins_occur_nowhere_in_the_model(nodes, stored, taken):
    made = model("float[n, s] x", nodes, w=stored)
    for sizes in list(stand_ins(made))[:-1]:
        assert not set(sizes.values()) & taken


def test_other_inputs_and_more_that_is_taken_are_avoided():
    made = model("float[n, s] x, float[5, 19] z")
    sizes = next(stand_ins(made, {13, 3}))
    assert not set(sizes.values()) & {3, 5, 13, 19}


def test_an_image_is_halved_to_no_size_of_the_model():
    made = model("float[1, 3, h, h] x", "y = MatMul (x, w)", w=np.zeros((112, 40), np.float32))
    size = next(stand_ins(made))["h"]
    assert not {size >> times for times in range(4)} & {112, 40}


def test_the_usual_sizes_come_last():
    assert list(stand_ins(model("float[n, 3, h, w] x")))[-1] == {"n": 2, "h": 224, "w": 224}
    assert list(stand_ins(model("float[3] x"))) == [{}]


def test_given_shapes_bind_axes_of_one_name():
    made = model("float[n, s] x, float[n, s, 4] z")
    shapes = shapes_at(made, {"n": 3, "s": 13}, {"x": (2, 9)})
    assert shapes == {"x": (2, 9), "z": (2, 9, 4)}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"z": (1, 2)}, "no input is called 'z'"),
        ({"x": (1, 2)}, r"input x has shape .*, not \(1, 2\)"),
        ({"x": (1, 2, 5)}, r"not \(1, 2, 5\)"),
        ({"x": (1, 0, 4)}, r"not \(1, 0, 4\)"),
    ],
)
def test_given_shapes_that_do_not_fit_are_refused(given, match):
    with pytest.raises(fxprune.InputError, match=match):
        shapes_at(model("float[n, s, 4] x"), {"n": 3, "s": 13}, given)


@pytest.mark.parametrize("width", [3, 5, 13, 16, 17])
def test_a_width_that_a_reshape_puts_before_an_open_axis_is_not_that_axis(width):
    made = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[n, length, 6] x) => (float[n, 5] y) {
        h = MatMul (x, a)
        q = Reshape (h, s)
        mean = ReduceMean <axes = [2], keepdims = 0> (q)
        y = MatMul (mean, b)
    }""")
    normal = np.random.default_rng(0).standard_normal
    stored = {"a": normal((6, width)), "b": normal((width, 5))}
    made.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array([0, width, -1]), "s"))
    with pytest.raises(fxprune.NothingToPruneError, match="do not align"):
        fxprune.prune_onnx(made)
