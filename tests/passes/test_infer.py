"""What computing operators do to axes, and what a whole graph adds up to."""

import pytest

from fxprune.errors import InternalError
from fxprune.ir import Node, Value, ValueKind
from fxprune.passes.axes import spaces
from fxprune.passes.facts import Inference
from fxprune.passes.infer import infer
from fxprune.passes.operators import OPERATORS
from tests.passes.written import facts, graph_of, lettered, lines

TABLE = tuple(OPERATORS)  # as it is before any test registers more

CASES = {
    "conv": (
        "y[2, 6, 5, 5] = conv(a.x[2, 4, 7, 7], b.w[6, 2, 3, 3], b.b[6])"
        " {'sizes': {'g': 2, '*x': 2}, 'slots': {'groups': 'g', 'out_channels': 'g o'}}",
        """
        a.x: a:2 (b:2 x c:2) 7! 7!
        b.w: (b:2 x d:3) c:2 3! 3!
        b.b: (b:2 x d:3)
        y: a:2 (b:2 x d:3) 5! 5!
        y reads 1:1 c:2 (contract)
        y.groups[0] is b:2
        y.out_channels[0] is (b:2 x d:3)
        """,
        (2, 2, 2, 3, 3, 3, 5, 5),
    ),
    "conv_add": (
        "y[2, 6, 5, 5] = conv_add(a.x[2, 4, 7, 7], b.w[6, 2, 3, 3], b.b[6], c.z[2, 6, 5, 5])"
        " {'sizes': {'g': 2, '*x': 2}, 'slots': {'group': 'g'}}",
        """
        a.x: a:2 (b:2 x c:2) 7! 7!
        b.w: (b:2 x d:3) c:2 3! 3!
        b.b: (b:2 x d:3)
        c.z: a:2 (b:2 x d:3) 5! 5!
        y: a:2 (b:2 x d:3) 5! 5!
        y reads 1:1 c:2 (contract)
        y.group[0] is b:2
        """,
        (2, 2, 2, 3, 3, 3, 5, 5),
    ),
    "conv_transpose": (
        "y[2, 6, 9, 9] = conv_transpose(a.x[2, 4, 7, 7], b.w[4, 3, 3, 3], b.b[6])"
        " {'sizes': {'g': 2}, 'slots': {'groups': 'g'}}",
        """
        a.x: a:2 (b:2 x c:2) 7! 7!
        b.w: (b:2 x c:2) d:3 3! 3!
        b.b: (b:2 x d:3)
        y: a:2 (b:2 x d:3) 9! 9!
        y reads 1:0 (b:2 x c:2) (contract)
        y.groups[0] is b:2
        """,
        (2, 2, 2, 3, 3, 3, 7, 7),
    ),
    "linear": (
        "y[2, 5, 6] = linear(a.x[2, 5, 4], b.w[6, 4], b.b[6])",
        """
        a.x: a:2 b:5 c:4
        b.w: d:6 c:4
        b.b: d:6
        y: a:2 b:5 d:6
        y reads 1:1 c:4 (contract)
        """,
        (2, 5, 4, 6),
    ),
    "addmm": (
        "y[5, 6] = addmm(a.b[6], b.x[5, 4], c.w[4, 6])",
        """
        a.b: a:6
        b.x: b:5 c:4
        c.w: c:4 a:6
        y: b:5 a:6
        y reads 2:0 c:4 (contract)
        """,
        (5, 4, 6),
    ),
    "bilinear": (
        "y[2, 6] = bilinear(a.x[2, 4], b.x[2, 3], c.w[6, 4, 3], c.b[6])",
        """
        a.x: a:2 b:4
        b.x: a:2 c:3
        c.w: d:6 b:4 c:3
        c.b: d:6
        y: a:2 d:6
        y reads 2:1 b:4 (contract)
        y reads 2:2 c:3 (contract)
        """,
        (2, 4, 3, 6),
    ),
    "embedding": (
        "y[2, 7, 6] = embedding(i[2, 7], b.w[9, 6])",
        """
        i: 2! 7!
        b.w: 9! a:6
        y: 2! 7! a:6
        """,
        None,
    ),
    "batch_norm": (
        "y[2, 4, 5] = batch_norm(a.x[2, 4, 5], b.running[4], c.running[4], b.w[4], b.b[4])",
        """
        a.x: 2! a:4 5!
        b.running: a:4
        c.running: a:4
        b.w: a:4
        b.b: a:4
        y: 2! a:4 5!
        """,
        None,
    ),
    "standardise": (
        "y[1, 4, 6] = standardise(a.w[1, 4, 6], -, -, b.gain[4])",
        """
        a.w: 1! a:4 b:6
        b.gain: a:4
        y: 1! a:4 b:6
        y reads 0:2 b:6 (normalise)
        """,
        None,
    ),
    "instance_norm": (
        "y[2, 4, 5] = instance_norm(a.x[2, 4, 5], -, -, b.w[4], b.b[4])",
        """
        a.x: a:2 b:4 5!
        b.w: b:4
        b.b: b:4
        y: a:2 b:4 5!
        """,
        None,
    ),
    "instance_standardise": (
        "y[2, 4, 5] = instance_standardise(a.x[2, 4, 5], b.w[4], b.b[4])",
        """
        a.x: a:2 b:4 c:5
        b.w: b:4
        b.b: b:4
        y: a:2 b:4 c:5
        y reads 0:2 c:5 (normalise)
        """,
        None,
    ),
    "depth_to_space": (
        "y[2, 3, 10, 10] = depth_to_space(a.x[2, 12, 5, 5]) {'sizes': {'r': 2, 's': 2}}",
        """
        a.x: a:2 (b:2 x c:2 x d:3) e:5 f:5
        y: a:2 d:3 (e:5 x b:2) (f:5 x c:2)
        """,
        None,
    ),
    "space_to_depth": (
        "y[2, 12, 5, 5] = space_to_depth(a.x[2, 3, 10, 10]) {'sizes': {'r': 2, 's': 2}}",
        """
        a.x: a:2 b:3 (c:5 x d:2) (e:5 x f:2)
        y: a:2 (d:2 x f:2 x b:3) c:5 e:5
        """,
        None,
    ),
    "layer_norm": (
        "y[2, 4, 5] = layer_norm(a.x[2, 4, 5], b.w[4, 5], b.b[4, 5])"
        " {'sizes': {'*c': 2}, 'slots': {'normalized_shape': '*c'}}",
        """
        a.x: a:2 b:4 c:5
        b.w: b:4 c:5
        b.b: b:4 c:5
        y: a:2 b:4 c:5
        y reads 0:1 b:4 (normalise)
        y reads 0:2 c:5 (normalise)
        y.normalized_shape[0] is b:4
        y.normalized_shape[1] is c:5
        """,
        None,
    ),
    "rms_norm": (
        "y[2, 4, 5] = rms_norm(a.x[2, 4, 5], b.w[5])"
        " {'sizes': {'*c': 1}, 'slots': {'normalized_shape': '*c'}}",
        """
        a.x: a:2 b:4 c:5
        b.w: c:5
        y: a:2 b:4 c:5
        y reads 0:2 c:5 (normalise)
        y.normalized_shape[0] is c:5
        """,
        None,
    ),
    "add_layer_norm": (
        "y[2, 4, 5], s[2, 4, 5] = add_layer_norm(a.x[2, 4, 5], b.x[2, 4, 5], c.w[5], c.b[5])",
        """
        a.x: a:2 b:4 c:5
        b.x: a:2 b:4 c:5
        c.w: c:5
        c.b: c:5
        y: a:2 b:4 c:5
        s: a:2 b:4 c:5
        y reads 0:2 c:5 (normalise)
        """,
        None,
    ),
    "add_rms_norm": (
        "y[2, 4, 5] = add_rms_norm(a.x[2, 4, 5], b.x[2, 4, 5], c.w[5])",
        """
        a.x: a:2 b:4 c:5
        b.x: a:2 b:4 c:5
        c.w: c:5
        y: a:2 b:4 c:5
        y reads 0:2 c:5 (normalise)
        """,
        None,
    ),
    "group_norm": (
        "y[2, 6, 5] = group_norm(a.x[2, 6, 5], b.w[6], b.b[6])"
        " {'sizes': {'g': 2}, 'slots': {'num_groups': 'g', 'num_channels': 'g c'}}",
        """
        a.x: a:2 (b:2 x c:3) 5!
        b.w: (b:2 x c:3)
        b.b: (b:2 x c:3)
        y: a:2 (b:2 x c:3) 5!
        y reads 0:1 (b:2 x c:3) (normalise)
        y.num_groups[0] is b:2
        y.num_channels[0] is (b:2 x c:3)
        """,
        None,
    ),
    "channelwise": (
        "y[2, 4, 3, 3] = channelwise(a.x[2, 4, 6, 6])",
        """
        a.x: a:2 b:4 6! 6!
        y: a:2 b:4 3! 3!
        """,
        None,
    ),
    "average_pool": (
        "y[2, 4, 3, 3] = average_pool(a.x[2, 4, 6, 6])",
        """
        a.x: a:2 b:4 6! 6!
        y: a:2 b:4 3! 3!
        """,
        None,
    ),
    "adaptive_average_pool": (
        "y[2, 4, 3, 3] = adaptive_average_pool(a.x[2, 4, 6, 6])",
        """
        a.x: a:2 b:4 6! 6!
        y: a:2 b:4 3! 3!
        """,
        None,
    ),
    "unfold": (
        "y[2, 36, 25] = unfold(a.x[2, 4, 7, 7]) {'sizes': {'k': 9}}",
        """
        a.x: a:2 b:4 7! 7!
        y: a:2 (b:4 x c:9) 25!
        """,
        None,
    ),
    "fold": (
        "y[2, 4, 7, 7] = fold(a.x[2, 36, 25]) {'sizes': {'k': 9}}",
        """
        a.x: a:2 (b:4 x c:9) 25!
        y: a:2 b:4 7! 7!
        y reads 0:1 (b:4 x c:9) (contract)
        """,
        None,
    ),
    "grid_sample": (
        "y[2, 4, 5, 5] = grid_sample(a.x[2, 4, 7, 7], b.g[2, 5, 5, 2])",
        """
        a.x: a:2 b:4 7! 7!
        b.g: a:2 c:5 d:5 2!
        y: a:2 b:4 c:5 d:5
        y reads 1:3 e:2 (contract)
        """,
        None,
    ),
    "channel_shuffle": (
        "y[2, 6, 5] = channel_shuffle(a.x[2, 6, 5]) {'sizes': {'g': 2}, 'slots': {'groups': 'g'}}",
        """
        a.x: a:2 (b:2 x c:3) d:5
        y: a:2 (c:3 x b:2) d:5
        y.groups[0] is b:2
        """,
        None,
    ),
    "pixel_shuffle": (
        "y[2, 3, 10, 10] = pixel_shuffle(a.x[2, 12, 5, 5]) {'sizes': {'r': 2, 's': 2}}",
        """
        a.x: a:2 (b:3 x c:2 x d:2) e:5 f:5
        y: a:2 b:3 (e:5 x c:2) (f:5 x d:2)
        """,
        None,
    ),
    "pixel_unshuffle": (
        "y[2, 12, 5, 5] = pixel_unshuffle(a.x[2, 3, 10, 10]) {'sizes': {'r': 2, 's': 2}}",
        """
        a.x: a:2 b:3 (c:5 x d:2) (e:5 x f:2)
        y: a:2 (b:3 x d:2 x f:2) c:5 e:5
        """,
        None,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_operator(name):
    line, expected, macs = CASES[name]
    types = infer(graph_of(f"o[1] = constant()\n{line}", outputs=("o",)))
    found = [text for text in facts(types).splitlines() if not text.startswith("o:")]
    assert found == lines(expected).splitlines()
    sizes = [tuple(axis.size for axis in c.axes) for c in types.contractions]
    assert sizes == ([macs] if macs else [])


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
def test_sizes_that_no_attribute_can_take_are_pinned(name):
    types = infer(graph_of(f"o[1] = constant()\n{CASES[name][0]}", outputs=("o",)))
    assert sorted(s.size for s, r in types.pins.items() if "a constant of y" in r) == [2, 2]


# Graphs


def test_inputs_and_outputs_are_pinned():
    types = infer(graph_of("y[2, 4] = linear(x[2, 3], a.w[4, 3])"))
    assert str(types) == lines(
        """
        x: 2! 3!
        a.w: 4! 3!
        y: 2! 4!
        """
    )
    assert set(types.pins.values()) == {"network input", "network output"}


RESIDUAL = """
    a[2, 8] = linear(x[2, 3], a.w[8, 3])
    b[2, 6] = linear(a, b.w[6, 8])
    c[2, 8] = linear(b, c.w[8, 6])
    d[2, 8] = add(a, c)
    e[2, 4] = linear(d, e.w[4, 8])
"""


def test_addition_makes_a_stream_of_one_space():
    assert facts(infer(graph_of(RESIDUAL))) == lines(
        """
        x: 2! 3!
        a.w: a:8 3!
        a: 2! a:8
        b.w: b:6 a:8
        b: 2! b:6
        c.w: a:8 b:6
        c: 2! a:8
        d: 2! a:8
        e.w: 4! a:8
        e: 2! 4!
        a reads 1:1 c:3 (contract)
        b reads 1:1 a:8 (contract)
        c reads 1:1 b:6 (contract)
        e reads 1:1 a:8 (contract)
        """
    )


def test_unknown_operator_pins_everything_it_touches_and_says_so():
    types = infer(
        graph_of(
            """
            a[2, 8] = linear(x[2, 3], a.w[8, 3])
            b[2, 8] = mystery(a)
            c[2, 4] = linear(b, c.w[4, 8])
            """
        )
    )
    assert str(types) == lines(
        """
        x: 2! 3!
        a.w: 8! 3!
        a: 2! 8!
        b: 2! 8!
        c.w: 4! 8!
        c: 2! 4!
        """
    )
    reason = "unknown operator mystery at b (mystery)"
    assert [r for s, r in types.pins.items() if s.size == 8] == [reason, reason]


@pytest.mark.parametrize(
    "line",
    [
        "y[2, 4, 6] = conv(x[2, 3, 6], a.w[4, 3, 3, 3]) {'sizes': {'g': 1, '*x': 2}}",
        "y[2, 4] = addmm(a.b[1], x[2, 3], a.w[3, 4])",
        "y[2, 6] = group_norm(x[2, 6]) {'sizes': {'g': 4}}",
        "y[2, 3], i[2, 3] = channelwise(x[2, 3])",
    ],
)
def test_operands_that_do_not_fit_the_pattern_are_pinned(line):
    types = infer(graph_of(line))
    axes = [axis for name, axes in types.axes.items() if "." in name for axis in axes]
    assert all(space in types.pins for axis in axes for space in spaces(axis))


def test_a_form_without_a_rule_is_named_in_the_reason():
    types = infer(
        graph_of("y[2, 3] = Resize(x[2, 3], a.w[3]) {'form': 'another number of samples'}")
    )
    (reason,) = {types.pins[space] for axis in types.axes["a.w"] for space in spaces(axis)}
    assert reason == "Resize with another number of samples at y (Resize)"


def test_ignored_parameters_keep_what_they_produce():
    types = infer(graph_of(RESIDUAL), ignored=["b.w"])
    assert [reason for s, reason in types.pins.items() if s.size == 6] == ["ignored by the caller"]


def test_tied_parameter_has_one_type():
    types = infer(
        graph_of(
            """
            a[2, 8] = linear(x[2, 3], a.w[8, 3])
            b[2, 8] = linear(a, b.w[8, 8])
            c[2, 8] = linear(b, b.w)
            d[2, 4] = linear(c, d.w[4, 8])
            """
        )
    )
    assert lettered(types) == lines(
        """
        x: 2! 3!
        a.w: a:8 3!
        a: 2! a:8
        b.w: a:8 a:8
        b: 2! a:8
        c: 2! a:8
        d.w: 4! a:8
        d: 2! 4!
        """
    )


def test_types_are_checked_against_shapes():
    state = Inference()
    value = Value("x", (2, 3), ValueKind.INPUT)
    node = Node("y", "identity", (value,), (Value("y", (2, 4)),))
    state.type_of(value)
    graph = graph_of("y[2, 3] = identity(x[2, 3])")
    wrong = type(graph)(graph.inputs, (node,), graph.outputs, graph.results, (), 2)
    with pytest.raises(InternalError, match=r"gave y axes of sizes \(2, 3\), its shape is"):
        infer(wrong)


def test_inference_is_deterministic_and_leaves_the_graph_alone():
    graph = graph_of(RESIDUAL)
    text = str(graph)
    assert facts(infer(graph)) == facts(infer(graph))
    assert str(graph) == text


def test_new_spaces_have_numbers_that_the_whole_has_not():
    graph = graph_of("y[2, 6] = linear(x[2, 4], a.w[6, 4])")
    given = {"x": infer(graph).axes["x"]}
    found = infer(graph, given=given, taken=50)
    known = {space for axis in given["x"] for space in spaces(axis)}
    new = {space for axes in found.axes.values() for axis in axes for space in spaces(axis)} - known
    assert new
    assert all(space.id > 50 for space in new)
