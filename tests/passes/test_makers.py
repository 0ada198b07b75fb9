"""Which axes of weights make channels, operator by operator."""

import pytest

from fxprune.passes.axes import spaces
from fxprune.passes.infer import infer
from fxprune.passes.makers import find_makers
from tests.passes.written import graph_of

SIZES = "{'sizes': {'g': 1}}"
IN_GROUPS = "{'sizes': {'g': 2}}"


def made(text):
    """By parameter the axes along which it makes something, all or a part of each."""
    graph = graph_of(text)
    makers = find_makers(graph, infer(graph))
    found = {}
    for name, axes in makers.axes.items():
        parts = [[space in makers.made for space in spaces(axis)] for axis in axes]
        found[name.removesuffix(".x")] = " ".join(
            "all" if all(p) else "part" if any(p) else "-" for p in parts
        )
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"y[2, 8, 5] = conv(x[2, 3, 5], w.x[8, 3, 1], b.x[8]) {SIZES}",
            {"w": "all - -", "b": "-"},
        ),
        (f"y[2, 8, 5] = conv(x[2, 1, 5], w.x[8, 1, 1]) {SIZES}", {"w": "all - -"}),
        (f"y[2, 8, 5] = conv_transpose(x[2, 3, 5], w.x[3, 8, 1]) {SIZES}", {"w": "- all -"}),
        (f"y[2, 8, 5] = conv_transpose(x[2, 6, 5], w.x[6, 4, 1]) {IN_GROUPS}", {"w": "part all -"}),
        ("y[2, 8] = linear(x[2, 3], w.x[8, 3], b.x[8])", {"w": "all -", "b": "-"}),
        ("y[2, 8] = addmm(b.x[8], x[2, 3], w.x[3, 8])", {"b": "-", "w": "- all"}),
        ("y[2, 8] = matmul(x[2, 3], w.x[3, 8])", {"w": "- all"}),
        ("y[8, 2] = matmul(w.x[8, 3], x[3, 2])", {"w": "all -"}),
        ("y[2, 8] = matmul(x[2, 1], w.x[1, 8])", {"w": "- all"}),
        (
            "y[2, 8] = gemm(x[2, 3], w.x[8, 3], b.x[1, 8]) {'transA': 0, 'transB': 1}",
            {"w": "all -", "b": "- -"},
        ),
        (
            "y[5, 2, 2, 8] = recurrent_layer(x[5, 2, 3], w.x[2, 24, 3], v.x[2, 24, 8], b.x[2, 48])"
            "{'gates': 3}",
            {"w": "all part -", "v": "all part -", "b": "- -"},
        ),
        ("y[2, 5, 8] = embedding(x[2, 5], w.x[9, 8])", {"w": "- all"}),
        ("y[2, 5, 8] = add(x[2, 5, 8], w.x[1, 5, 8])", {"w": "- all all"}),
        ("y[2, 8, 5] = elementwise(x[2, 8, 5], w.x[8, 1])", {"w": "- -"}),
    ],
)
def test_makers_are_what_is_carried_and_not_contracted(text, expected):
    assert made(text) == expected


def test_a_residual_stream_keeps_both_axes_of_a_square_weight_apart():
    assert made(
        "h[2, 8] = linear(x[2, 8], v.x[8, 8])\ny[2, 8] = linear(h, w.x[8, 8])\nz[2, 8] = add(h, y)"
    ) == {
        "v": "all -",
        "w": "all -",
    }


def test_a_weight_that_is_turned_first_makes_along_its_other_axis():
    turned = "t[8, 3] = permute(w.x[3, 8]) {'order': (1, 0)}\n"
    assert made(turned + "y[8, 2] = matmul(t, x[3, 2])") == {"w": "- all"}
    assert made(turned + "y[2, 3] = matmul(x[2, 8], t)") == {"w": "all -"}


def test_a_weight_that_two_layers_share_makes_what_either_makes():
    text = "h[2, 5, 8] = embedding(x[2, 5], w.x[9, 8])\ny[2, 5, 9] = linear(h, w.x)"
    assert made(text) == {"w": "all all"}
