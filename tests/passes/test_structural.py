"""What operators that move, combine or reduce positions do to axes: a line in, the facts out.

`a:4` is a space of four positions, `4!` a pinned one. Operands are parameters here, since those
start free.
"""

import re

import pytest

from fxprune.passes import indexing, structural
from fxprune.passes.axes import spaces
from fxprune.passes.infer import infer
from tests.passes.written import facts, graph_of, lines

CASES = {
    # rule: [(what it shows, line, facts, reasons of pins), ...]
    "elementwise": [
        (
            "axes that are stretched have nothing to do with those they are stretched to",
            "y[2, 4, 3] = elementwise(a.x[2, 4, 3], b.s[4, 1])",
            """
            a.x: a:2 b:4 c:3
            b.s: b:4 d:1
            y: a:2 b:4 c:3
            """,
            [],
        ),
    ],
    "add": [
        (
            "both operands are one",
            "y[2, 4] = add(a.x[2, 4], b.y[2, 4])",
            """
            a.x: a:2 b:4
            b.y: a:2 b:4
            y: a:2 b:4
            """,
            [],
        ),
    ],
    "index_add": [
        (
            "what is added has channels of its own, counted by the index",
            "y[2, 4] = index_add(a.x[2, 4], b.running[3], c.y[2, 3]) {'dim': 1}",
            """
            a.x: a:2 4!
            c.y: a:2 b:3
            b.running: b:3
            y: a:2 4!
            y reads 2:1 b:3 (scatter)
            """,
            ["written in part by y (index_add)"],
        ),
        (
            "where the index is computed, nothing can be left out",
            "y[2, 4] = index_add(a.x[2, 4], i[3], c.y[2, 3]) {'dim': 1}",
            """
            i: 3!
            a.x: a:2 4!
            c.y: a:2 3!
            y: a:2 4!
            y reads 2:1 b:3 (scatter)
            """,
            ["network input", "written in part by y (index_add)"],
        ),
    ],
    "reshape": [
        (
            "merged axes are a product",
            "y[2, 12] = reshape(a.x[2, 4, 3])",
            """
            a.x: a:2 b:4 c:3
            y: a:2 (b:4 x c:3)
            y.shape[0] is a:2
            y.shape[1] is (b:4 x c:3)
            """,
            [],
        ),
        (
            "an axis that is split was a product",
            "y[2, 4, 3] = reshape(a.x[2, 12])",
            """
            a.x: a:2 (b:4 x c:3)
            y: a:2 b:4 c:3
            y.shape[0] is a:2
            y.shape[1] is b:4
            y.shape[2] is c:3
            """,
            [],
        ),
        (
            "axes of one position come and go",
            "y[1, 4, 1, 3] = reshape(a.x[4, 3, 1])",
            """
            a.x: a:4 b:3 c:1
            y: d:1 a:4 d:1 b:3
            y.shape[0] is d:1
            y.shape[1] is a:4
            y.shape[2] is d:1
            y.shape[3] is b:3
            """,
            [],
        ),
        (
            "runs of equal size are aligned from the right",
            "y[4, 3] = reshape(a.x[2, 6])",
            """
            a.x: a:2 (b:2 x c:3)
            y: (a:2 x b:2) c:3
            y.shape[0] is (a:2 x b:2)
            y.shape[1] is c:3
            """,
            [],
        ),
        (
            "what does not align is pinned",
            "y[3, 2] = reshape(a.x[2, 3])",
            """
            a.x: 2! 3!
            y: 3! 2!
            """,
            ["y (reshape): ... and ... do not align"],
        ),
        (
            "the operand that says the shape has it",
            "y[2, 12] = reshape(a.x[2, 4, 3], b.y[2, 12])",
            """
            a.x: a:2 b:4 c:3
            b.y: a:2 (b:4 x c:3)
            y: a:2 (b:4 x c:3)
            y.shape[0] is a:2
            y.shape[1] is (b:4 x c:3)
            """,
            [],
        ),
    ],
    "permute": [
        (
            "axes are reordered",
            "y[3, 4, 2] = permute(a.x[2, 4, 3]) {'order': (2, 1, 0)}",
            """
            a.x: a:2 b:4 c:3
            y: c:3 b:4 a:2
            """,
            [],
        ),
    ],
    "identity": [
        (
            "nothing happens",
            "y[2, 4] = identity(a.x[2, 4])",
            """
            a.x: a:2 b:4
            y: a:2 b:4
            """,
            [],
        ),
    ],
    "cat": [
        (
            "channels of each operand stay apart",
            "y[2, 8] = cat(a.x[2, 4], b.y[2, 4]) {'dim': 1}",
            """
            a.x: a:2 b:4
            b.y: a:2 c:4
            y: a:2 (b:4 + c:4)
            """,
            [],
        ),
        (
            "an operand without elements has no part in it",
            "y[2, 4] = cat(a.x[2, 4], b.y[0]) {'dim': 1}",
            """
            a.x: a:2 b:4
            y: a:2 b:4
            """,
            [],
        ),
    ],
    "broadcast_all": [
        (
            "all are stretched to one shape",
            "y[2, 4, 3], z[2, 4, 3] = broadcast_all(a.x[2, 4, 3], b.s[4, 1])",
            """
            a.x: a:2 b:4 c:3
            b.s: b:4 d:1
            y: a:2 b:4 c:3
            z: a:2 b:4 c:3
            """,
            [],
        ),
    ],
    "stack": [
        (
            "operands are equal, the new axis counts them",
            "y[2, 3, 4] = stack(a.x[2, 4], b.y[2, 4], c.z[2, 4]) {'dim': 1}",
            """
            a.x: a:2 b:4
            b.y: a:2 b:4
            c.z: a:2 b:4
            y: a:2 3! b:4
            """,
            ["counts operands of y (stack)"],
        ),
    ],
    "split": [
        (
            "an axis that is cut was a sum",
            "y[2, 3], z[2, 4] = split(a.x[2, 7]) {'dim': 1}",
            """
            a.x: a:2 (b:3 + c:4)
            y: a:2 b:3
            z: a:2 c:4
            y.sizes[0] is b:3
            y.sizes[1] is c:4
            """,
            [],
        ),
    ],
    "glu": [
        (
            "both halves are one axis",
            "y[2, 4] = glu(a.x[2, 8]) {'dim': 1}",
            """
            a.x: a:2 (b:4 + b:4)
            y: a:2 b:4
            """,
            [],
        ),
    ],
    "prelu": [
        (
            "a slope per channel",
            "y[2, 4, 3] = prelu(a.x[2, 4, 3], b.slope[4])",
            """
            a.x: a:2 b:4 c:3
            b.slope: b:4
            y: a:2 b:4 c:3
            y.num_parameters[0] is b:4
            """,
            [],
        ),
        (
            "one slope for all",
            "y[2, 4, 3] = prelu(a.x[2, 4, 3], b.slope[1])",
            """
            a.x: a:2 b:4 c:3
            b.slope: d:1
            y: a:2 b:4 c:3
            """,
            [],
        ),
    ],
    "quantise": [
        (
            "a scale and a zero point per channel",
            "y[2, 4, 3] = quantise(a.x[2, 4, 3], b.scale[4], b.zero[4]) {'dim': 1}",
            """
            a.x: a:2 b:4 c:3
            b.scale: b:4
            b.zero: b:4
            y: a:2 b:4 c:3
            """,
            [],
        ),
        (
            "one scale for all",
            "y[2, 4, 3] = quantise(a.x[2, 4, 3], b.scale[1]) {'dim': 1}",
            """
            a.x: a:2 b:4 c:3
            b.scale: d:1
            y: a:2 b:4 c:3
            """,
            [],
        ),
        (
            "scales of blocks",
            "y[2, 4] = quantise(a.x[2, 4], b.scale[2, 2]) {'dim': 1}",
            """
            a.x: 2! 4!
            b.scale: 2! 2!
            y: 2! 4!
            """,
            ["scaled in blocks by y (quantise)"],
        ),
    ],
    "unbind": [
        (
            "an axis taken apart is pinned",
            "y[2], z[2] = unbind(a.x[2, 2]) {'dim': 1}",
            """
            a.x: a:2 2!
            y: a:2
            z: a:2
            """,
            ["taken apart by position in y (unbind)"],
        ),
    ],
    "slice": [
        (
            "bounds are sizes of what lies before them; a strided axis is pinned",
            "y[4, 3] = slice(a.x[7, 7]) {'ranges': ((0, 7, 2), (1, 4, 1))}",
            """
            a.x: 7! (a:1 + b:3 + c:3)
            y: 4! b:3
            y.size[1] is (a:1 + b:3 + c:3)
            y.start[1] is a:1
            y.stop[1] is (a:1 + b:3)
            """,
            ["strided in y (slice)"],
        ),
        (
            "every other position of all is a factor of the axis",
            "y[2, 3] = slice(a.x[2, 6]) {'ranges': ((0, 2, 1), (1, 6, 2))}",
            """
            a.x: a:2 (b:3 x c:2)
            y: a:2 b:3
            y.size[0] is a:2
            y.stop[0] is a:2
            y.size[1] is (b:3 x c:2)
            y.stop[1] is (b:3 x c:2)
            """,
            ["strided in y (slice)"],
        ),
        (
            "an empty slice is empty wherever it starts",
            "y[0] = slice(a.x[7]) {'ranges': ((5, 2, 1),)}",
            """
            a.x: a:7
            y: 0!
            y.size[0] is a:7
            """,
            [],
        ),
    ],
    "select": [
        (
            "an axis indexed by position is pinned",
            "y[2] = select(a.x[2, 7]) {'dim': 1}",
            """
            a.x: a:2 7!
            y: a:2
            """,
            ["indexed by position in y (select)"],
        ),
    ],
    "windows": [
        (
            "an axis that is taken in windows is pinned, and so are they",
            "y[2, 5, 4, 3] = windows(a.x[2, 7, 4]) {'dim': 1}",
            """
            a.x: a:2 7! b:4
            y: a:2 5! b:4 3!
            """,
            ["taken in windows by y (windows)"],
        ),
    ],
    "pad": [
        (
            "constant padding adds positions",
            "y[2, 7] = pad(a.x[2, 4]) {'widths': ((0, 0), (1, 2)), 'constant': True}",
            """
            a.x: a:2 b:4
            y: a:2 (c:1 + b:4 + d:2)
            y.before[1] is c:1
            y.after[1] is d:2
            """,
            [],
        ),
        (
            "padding from the axis itself pins it",
            "y[2, 7] = pad(a.x[2, 4]) {'widths': ((0, 0), (1, 2))}",
            """
            a.x: a:2 4!
            y: a:2 7!
            """,
            ["padded from its own positions in y (pad)"],
        ),
        (
            "padding by less than nothing pins as well",
            "y[2, 3] = pad(a.x[2, 4]) {'widths': ((0, 0), (0, -1)), 'constant': True}",
            """
            a.x: a:2 4!
            y: a:2 3!
            """,
            ["padded from its own positions in y (pad)"],
        ),
    ],
    "expand": [
        (
            "what one position is stretched to is free",
            "y[5, 2, 4] = expand(a.x[2, 1])",
            """
            a.x: a:2 b:1
            y: c:5 a:2 d:4
            y.shape[0] is c:5
            y.shape[1] is a:2
            y.shape[2] is d:4
            """,
            [],
        ),
        (
            "the operand that says the shape has it",
            "y[2, 4] = expand(a.x[2, 1], b.y[2, 4])",
            """
            a.x: a:2 b:1
            b.y: a:2 c:4
            y: a:2 c:4
            y.shape[0] is a:2
            y.shape[1] is c:4
            """,
            [],
        ),
    ],
    "tile": [
        (
            "a repeated axis is a product with the number of repeats",
            "y[2, 8] = tile(a.x[2, 4]) {'repeats': (1, 2)}",
            """
            a.x: a:2 b:4
            y: a:2 (c:2 x b:4)
            """,
            ["repeats of y (tile)"],
        ),
    ],
    "repeat_interleave": [
        (
            "an axis whose positions are repeated is a product with the number of repeats",
            "y[2, 8] = repeat_interleave(a.x[2, 4]) {'dim': 1, 'repeats': 2}",
            """
            a.x: a:2 b:4
            y: a:2 (b:4 x c:2)
            """,
            ["repeats of y (repeat_interleave)"],
        ),
        (
            "repeats that differ pin",
            "y[9] = repeat_interleave(a.x[4])",
            """
            a.x: 4!
            y: 9!
            """,
            ["repeated by number in y (repeat_interleave)"],
        ),
    ],
    "reduce": [
        (
            "a sum reads what it reduces",
            "y[2] = reduce(a.x[2, 4]) {'dims': (1,), 'reading': 'contract'}",
            """
            a.x: a:2 b:4
            y: a:2
            y reads 0:1 b:4 (contract)
            """,
            [],
        ),
        (
            "a mean takes statistics",
            "y[2, 1] = reduce(a.x[2, 4]) {'dims': (1,), 'reading': 'normalise', 'keepdim': True}",
            """
            a.x: a:2 b:4
            y: a:2 c:1
            y reads 0:1 b:4 (normalise)
            """,
            [],
        ),
        (
            "what has no masked form pins",
            "y[2] = reduce(a.x[2, 4]) {'dims': (1,), 'reading': None}",
            """
            a.x: a:2 4!
            y: a:2
            """,
            ["reduced by y (reduce)"],
        ),
    ],
    "complex_pairs": [
        (
            "what is seen as complex numbers is pinned",
            "c[2, 3] = complex_pairs(a.x[2, 3, 2])",
            """
            a.x: 2! 3! 2!
            c: 2! 3!
            """,
            ["seen as complex numbers by c (complex_pairs)"],
        ),
    ],
    "along": [
        (
            "positions that are compared stay",
            "y[2, 4] = along(a.x[2, 4]) {'dims': (1,)}",
            """
            a.x: a:2 4!
            y: a:2 4!
            """,
            ["compared or mixed along in y (along)"],
        ),
    ],
    "size": [
        (
            "a size that the model asks for is a literal",
            "- = size(a.x[2, 4])",
            """
            a.x: a:2 b:4
            size_1.value[0] is a:2
            size_1.value[1] is b:4
            """,
            [],
        ),
    ],
    "overwrite": [
        (
            "the part that is overwritten is what is written, the rest stays",
            "y[2, 7] = overwrite(a.x[2, 7], b.v[2, 3]) {'ranges': ((0, 2, 1), (1, 4, 1))}",
            """
            a.x: a:2 (b:1 + c:3 + d:3)
            b.v: a:2 c:3
            y: a:2 (b:1 + c:3 + d:3)
            y.size[0] is a:2
            y.stop[0] is a:2
            y.size[1] is (b:1 + c:3 + d:3)
            y.start[1] is b:1
            y.stop[1] is (b:1 + c:3)
            """,
            [],
        ),
    ],
    "fill": [
        (
            "an array of one value has the sizes that its readers need",
            "y[2, 4] = fill()",
            """
            y: a:2 b:4
            y.shape[0] is a:2
            y.shape[1] is b:4
            """,
            [],
        ),
    ],
    "constant": [
        (
            "an array made from literals is pinned",
            "y[2, 4] = constant()",
            "y: 2! 4!",
            ["made by y (constant)"],
        ),
    ],
}


def apart(line):
    """The line in a graph that returns something else, so that its axes are not pinned by that."""
    return graph_of(f"o[1] = constant()\n{line}", outputs=("o",))


@pytest.mark.parametrize("operand", [0, 1])
def test_scattered_operand_of_an_addition_has_channels_of_its_own(operand):
    summands = ["s", "x"] if operand else ["x", "s"]
    text = f"""
        s[2, 4] = linear(i[2, 3], s.weight[4, 3])
        x[2, 4] = linear(s, x.weight[4, 4])
        y[2, 4] = add({", ".join(summands)})
        z[2, 3] = linear(y, z.weight[3, 4])
        """
    types = infer(graph_of(text), scattered=[("y", operand)])
    assert not any(space in types.pins for space in spaces(types.axes["x"][1]))
    assert types.axes["y"] == types.axes["s"]
    assert types.pins[types.axes["y"][1]] == "written in part by y (add)"
    assert f"y reads {operand}:1 {types.axes['x'][1]} (scatter)" in [
        f"{r.node} reads {r.operand}:{r.dim} {r.axis} ({r.reading.value})" for r in types.readers
    ]


def test_operand_with_two_axes_that_may_change_is_not_scattered():
    types = infer(apart("y[2, 4] = add(a.x[2, 4], b.y[2, 4])"), scattered=[("y", 1)])
    assert types.axes["a.x"] == types.axes["b.y"]
    assert not types.readers


@pytest.mark.parametrize("rule", [*structural.RULES, *indexing.RULES])
def test_every_rule_has_a_case(rule):
    assert rule in CASES


@pytest.mark.parametrize(
    ("line", "expected", "reasons"),
    [
        pytest.param(line, expected, reasons, id=f"{rule}: {claim}")
        for rule, cases in CASES.items()
        for claim, line, expected, reasons in cases
    ],
)
def test_rule(line, expected, reasons):
    types = infer(apart(line))
    assert found_facts(types) == lines(expected).splitlines()
    assert found_reasons(types) == reasons


def found_facts(types):
    return [text.strip() for text in facts(types).splitlines() if not text.startswith("o:")]


def found_reasons(types):
    pins = [reason for reason in types.pins.values() if reason != "made by o (constant)"]
    shown = [re.sub(r"\(s\d.*?\)|s\d+:\d+", "...", reason) for reason in pins]
    return list(dict.fromkeys(shown))


def test_pairs_in_rows_of_an_array_that_is_cut_leave_these_in_pairs():
    cut = "l[2, 4], r[2, 6] = split(a.x[2, 10]) {'dim': 1}\nm[2, 3, 2] = reshape(r)\n"
    types = infer(apart(f"{cut}c[2, 3] = complex_pairs(m)"))
    (left,) = types.axes["l"][1:]
    assert left not in types.pins
    assert types.numbers[left].multiple == 2
    assert infer(apart(cut)).numbers == {}
