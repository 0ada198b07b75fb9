"""How a line of the operator table is read."""

import pytest

from fxprune.errors import InputError
from fxprune.passes import operators
from fxprune.passes.infer import infer
from fxprune.passes.operators import OPERATORS, parse, register_operator
from tests.passes.written import facts, graph_of


@pytest.fixture
def table():
    """A table that forgets what a test registers."""
    before = dict(OPERATORS)
    yield OPERATORS
    operators._operators.clear()
    operators._operators.update(before)


def test_terms_are_names_products_and_runs():
    conv = parse("conv", "b (g i) *x, (g o) i *k, (g o)? -> b (g o) *y")
    assert [" ".join(map(str, operand.terms)) for operand in conv.operands] == [
        "b (g i) *x",
        "(g o) i *k",
        "(g o)",
    ]
    assert [operand.optional for operand in conv.operands] == [False, False, True]
    assert [" ".join(map(str, output.terms)) for output in conv.outputs] == ["b (g o) *y"]


@pytest.mark.parametrize(
    ("text", "contracted"),
    [
        ("*n i, o i -> *n o", ("i",)),
        ("b (g i) *x, (g o) i *k -> b (g o) *y", ("i",)),
        ("b c *x, c -> b c *x", ()),
        ("b m k, b k n -> b m n", ("k",)),
        ("a b -> a", ("b",)),
    ],
)
def test_names_that_are_missing_on_the_right_are_contracted(text, contracted):
    assert parse("op", text).contracted == contracted


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("*n [*c], *c? -> *n *c", {"c"}),
        ("b (g [c]) *x -> b (g c) *x", {"c"}),
        ("b [c d] -> b c d", {"c", "d"}),
        ("b c -> b c", set()),
    ],
)
def test_names_in_brackets_are_normalised_over(text, normalised):
    assert parse("op", text).normalised == normalised


def test_exclamation_mark_pins():
    assert parse("op", "b! c -> b c").pinned == {"b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", "operator op: expected one '->' in 'a b'"),
        ("a -> b -> c", "operator op: expected one '->'"),
        ("a (b -> a b", r"operator op: unclosed parenthesis or bracket in 'a \(b'"),
        ("a b) -> a b", r"operator op: unexpected '\)' in 'a b\)'"),
        ("[a b -> a b", "operator op: unclosed parenthesis or bracket"),
        ("a] -> a", r"operator op: unexpected '\]'"),
        ("a () -> a", r"operator op: unexpected '\)'"),
        ("(a *b) -> a", r"operator op: unexpected '\*b'"),
        ("((a b) c) -> a", r"operator op: unexpected '\('"),
        ("A -> a", "operator op: unexpected 'A' in 'A'"),
        ("a + b -> a", r"operator op: unexpected '\+'"),
        ("a 2 -> a", "operator op: unexpected '2'"),
    ],
)
def test_malformed_line_is_refused_with_the_place(text, message):
    with pytest.raises(InputError, match=message):
        parse("op", text)


def test_cost_of_unknown_axes_is_refused():
    with pytest.raises(InputError, match=r"operator op: macs names \['z'\], which 'a b -> a' does"):
        parse("op", "a b -> a", macs="a z")


def test_every_line_of_the_table_says_what_it_was_parsed_from():
    for name, operator in OPERATORS.items():
        assert operator == parse(
            name,
            operator.text,
            macs=" ".join(operator.macs),
            linear=" ".join(map(str, operator.linear)),
        )


def test_registered_operator_is_inferred_like_any_other(table):
    register_operator("lib.scale", "b (g c) *x, (g c) -> b (g c) *x", macs="b g c x")
    types = infer(
        graph_of(
            """
            a[2, 6, 5] = conv(x[2, 3, 5], a.w[6, 3, 1]) {'sizes': {'g': 1}}
            b[2, 6, 5] = lib.scale(a, b.s[6]) {'sizes': {'g': 2}, 'slots': {'groups': 'g'}}
            c[2, 4, 5] = conv(b, c.w[4, 6, 1]) {'sizes': {'g': 1}}
            """
        )
    )
    assert "b.s: (a:2 x b:3)" in facts(types).splitlines()
    assert "b.groups[0] is a:2" in facts(types).splitlines()


def test_axis_of_an_operand_that_is_absent_is_not_read(table):
    register_operator("lib.mixed", "b c, m c? -> b c")
    line = "y[2, 4] = lib.mixed(a.x[2, 4]{})"
    given, absent = (facts(infer(graph_of(line.format(w)))) for w in (", b.w[3, 4]", ""))
    assert "y reads 1:0 a:3 (contract)" in given
    assert "reads" not in absent


def test_name_that_is_taken_is_refused(table):
    with pytest.raises(InputError, match=r"operator conv is already registered as 'b \(g i\)"):
        register_operator("conv", "a -> a")
    assert OPERATORS["conv"].text.startswith("b (g i)")


def test_malformed_registration_changes_nothing(table):
    with pytest.raises(InputError):
        register_operator("lib.new", "a")
    assert "lib.new" not in OPERATORS


def test_table_cannot_be_written_to():
    with pytest.raises(TypeError):
        OPERATORS["mine"] = OPERATORS["conv"]  # type: ignore[index]
