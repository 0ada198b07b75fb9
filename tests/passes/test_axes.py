"""What equal axes are made of. `a:4` is a space of four positions; letters tell spaces apart."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.passes.axes import (
    EMPTY,
    Space,
    Unifier,
    concat,
    evaluate,
    kept_flags,
    product,
    spaces,
)
from tests.passes.written import written

A, B, C = Space(1, 4), Space(2, 3), Space(3, 2)
UNIT = Space(4, 1)


# Normal forms


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (product(), "s-1:1"),
        (product(A), "s1:4"),
        (product(A, product(B, C)), "(s1:4 x s2:3 x s3:2)"),
        (product(A, UNIT, B), "(s1:4 x s2:3)"),
        (product(UNIT), "s4:1"),
        (product(A, concat(B, C)), "(s1:4 x (s2:3 + s3:2))"),
        (concat(), "()"),
        (concat(A), "s1:4"),
        (concat(A, concat(B, C)), "(s1:4 + s2:3 + s3:2)"),
        (concat(A, EMPTY, B), "(s1:4 + s2:3)"),
        (concat(product(A, B), C), "((s1:4 x s2:3) + s3:2)"),
    ],
)
def test_normal_form(axis, expected):
    assert str(axis) == expected


def test_size_of_an_axis_is_its_number_of_positions():
    axis = concat(product(A, B), C)
    assert axis.size == 14
    assert evaluate(axis, lambda space: space.size) == 14
    assert evaluate(axis, {A: 2, B: 1, C: 2}.__getitem__) == 4


def test_flags_of_a_product_are_row_major():
    kept = {A: [True, False, False, True], B: [True, False, True]}
    assert kept_flags(product(A, B), kept) == [
        *(True, False, True), *(False, False, False), *(False, False, False), *(True, False, True)
    ]  # fmt: skip


def test_flags_of_a_concatenation_stand_side_by_side():
    assert kept_flags(concat(C, B), {B: [False, True, False]}) == [True, True, False, True, False]


# Unification


def solved(left, right, *, pin_right=False):
    """Unify axes of these factors or parts and say what became of them."""
    unifier = Unifier()
    left, right = build(unifier, left), build(unifier, right)
    if pin_right:
        unifier.pin(right, "given")
    unifier.unify(left, right, "here")
    text = written(unifier, left, right)
    pins = [reason for s in spaces(unifier.resolve(left)) if (reason := unifier.reason(s))]
    return text, pins


def build(unifier, description):
    """An int is a space, a tuple a product, a list a concatenation."""
    if isinstance(description, int):
        return unifier.space(description)
    make = product if isinstance(description, tuple) else concat
    return make(*(build(unifier, item) for item in description))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (6, 6, "a:6\na:6"),
        (1, 1, "a:1\nb:1"),
        (6, (2, 3), "(a:2 x b:3)\n(a:2 x b:3)"),
        ((2, 3), 6, "(a:2 x b:3)\n(a:2 x b:3)"),
        (6, [2, 4], "(a:2 + b:4)\n(a:2 + b:4)"),
        ((2, 3), (2, 3), "(a:2 x b:3)\n(a:2 x b:3)"),
        ((4, 6), (12, 2), "(a:4 x b:3 x c:2)\n(a:4 x b:3 x c:2)"),
        ((12, 64), (24, 32), "(a:12 x b:2 x c:32)\n(a:12 x b:2 x c:32)"),
        ([2, 4], [3, 3], "(a:2 + b:1 + c:3)\n(a:2 + b:1 + c:3)"),
        ([2, 4], [2, 4], "(a:2 + b:4)\n(a:2 + b:4)"),
        ([4, 2], (3, 2), "((a:2 x b:2) + b:2)\n((a:2 + c:1) x b:2)"),
        (([2, 3], 2), ([4, 1], 2), "((a:2 + b:2 + c:1) x d:2)\n((a:2 + b:2 + c:1) x d:2)"),
    ],
)
def test_unification_gives_both_sides_what_they_share(left, right, expected):
    assert solved(left, right) == (expected, [])


@pytest.mark.parametrize(
    ("left", "right", "reason"),
    [
        ((2, 3), (3, 2), "here: ({a}:2 x {b}:3) and ({c}:3 x {d}:2) do not align"),
        (4, 5, "here: sizes 4 and 5 differ"),
    ],
)
def test_what_cannot_be_expressed_is_pinned_on_both_sides(left, right, reason):
    unifier = Unifier()
    first, second = build(unifier, left), build(unifier, right)
    unifier.unify(first, second, "here")
    letters = dict(zip("abcd", [f"s{n}" for n in range(1, 5)], strict=True))
    for space in (*spaces(first), *spaces(second)):
        assert unifier.reason(space) in (
            reason.format(**letters),
            "here: (s3:3 x s4:2) and (s1:2 x s2:3) do not align",
        )


def test_space_inside_itself_is_pinned():
    unifier = Unifier()
    axis = unifier.space(4)
    half, _ = unifier.split(axis, 2)
    unifier.unify(half, half, "here")
    assert unifier.reason(unifier.resolve(half)) == ""
    whole = unifier.space(4)
    pair = product(unifier.space(1), whole)
    unifier.unify(whole, pair, "here")
    assert unifier.reason(whole) == ""


def test_pin_travels_to_everything_a_space_is_made_of():
    text, pins = solved((2, 3), 6, pin_right=True)
    assert text == "(a:2 x b:3)\n(a:2 x b:3)"
    assert pins == ["given", "given"]


def test_first_reason_of_a_pin_stays():
    unifier = Unifier()
    axis = unifier.space(4)
    unifier.pin(axis, "first")
    unifier.pin(axis, "second")
    assert unifier.reason(axis) == "first"


def test_unification_reaches_axes_unified_before():
    unifier = Unifier()
    a, b, c = (unifier.space(6) for _ in range(3))
    unifier.unify(a, b, "one")
    unifier.unify(b, c, "two")
    unifier.split(c, 2)
    assert written(unifier, a, b, c) == "\n".join(["(a:2 + b:4)"] * 3)


def test_long_chains_of_spaces_do_not_exhaust_the_stack():
    unifier = Unifier()
    axes = [unifier.space(4) for _ in range(5000)]
    for left, right in pairwise(axes):
        unifier.unify(left, right, "link")
    assert len({unifier.resolve(axis) for axis in axes}) == 1


# Splitting


@pytest.mark.parametrize(
    ("axis", "at", "expected"),
    [
        (6, 0, "()\na:6"),
        (6, 6, "a:6\n()"),
        (6, 2, "a:2\nb:4"),
        ([2, 4], 2, "a:2\nb:4"),
        ([2, 4], 3, "(a:2 + b:1)\nc:3"),
        ((4, 3), 6, "(a:2 x b:3)\n(c:2 x b:3)"),
        ((4, 3), 3, "a:3\n(b:3 x a:3)"),
        ((2, 3), 4, "(a:1 + b:2 + a:1)\nb:2"),
    ],
)
def test_split(axis, at, expected):
    unifier = Unifier()
    left, right = unifier.split(build(unifier, axis), at)
    assert written(unifier, left, right) == expected


def test_split_of_a_pinned_space_gives_pinned_spaces():
    unifier = Unifier()
    left, right = unifier.split(unifier.space(4, pin="given"), 1)
    assert [unifier.reason(left), unifier.reason(right)] == ["given", "given"]


# Laws


@st.composite
def axes_of(draw, unifier, size, depth=2):
    """An axis of a given size over new spaces, some of which may be pinned."""
    forms = ["space", "sum", "product"] if depth and size > 1 else ["space"]
    form = draw(st.sampled_from(forms))
    if form == "sum":
        at = draw(st.integers(1, size - 1))
        return concat(
            draw(axes_of(unifier, at, depth - 1)), draw(axes_of(unifier, size - at, depth - 1))
        )
    divisors = [n for n in range(2, size) if size % n == 0]
    if form == "product" and divisors:
        n = draw(st.sampled_from(divisors))
        return product(
            draw(axes_of(unifier, n, depth - 1)), draw(axes_of(unifier, size // n, depth - 1))
        )
    return unifier.space(size, pin=draw(st.sampled_from(("", "", "", "given"))))


def keep_sets_of(draw, unifier, axes):
    """Kept positions of every free leaf, at least one of each."""
    leaves = dict.fromkeys(s for axis in axes for s in spaces(unifier.resolve(axis)))
    return {
        leaf: [bool(kept >> i & 1) for i in range(leaf.size)]
        for leaf in leaves
        if not unifier.reason(leaf)
        for kept in [draw(st.integers(1, 2**leaf.size - 1))]
    }


@settings(max_examples=50)
@given(st.data(), st.sampled_from((6, 12, 5, 1, 8)), st.integers(2, 4))
def test_unified_axes_keep_the_same_positions(data, size, count):
    unifier = Unifier()
    axes = [data.draw(axes_of(unifier, size)) for _ in range(count)]
    pairs = st.tuples(st.sampled_from(axes), st.sampled_from(axes))
    done = data.draw(st.lists(pairs, max_size=4))
    for left, right in done:
        unifier.unify(left, right, "here")
    kept = keep_sets_of(data.draw, unifier, axes)
    for left, right in done:
        assert_same_positions(unifier, left, right, kept)
    for axis in axes:
        assert unifier.resolve(axis).size == size


def assert_same_positions(unifier, left, right, kept):
    flags = [kept_flags(unifier.resolve(axis), kept) for axis in (left, right)]
    assert flags[0] == flags[1], f"{flags[0]} of {left} and {flags[1]} of {right}"


@settings(max_examples=60)
@given(st.data(), st.sampled_from((6, 12, 5, 8)))
def test_halves_of_a_split_axis_keep_what_the_axis_keeps(data, size):
    unifier = Unifier()
    axis = data.draw(axes_of(unifier, size))
    at = data.draw(st.integers(0, size))
    left, right = unifier.split(axis, at)
    kept = keep_sets_of(data.draw, unifier, [axis, left, right])
    whole = kept_flags(unifier.resolve(axis), kept)
    assert kept_flags(unifier.resolve(left), kept) == whole[:at]
    assert kept_flags(unifier.resolve(right), kept) == whole[at:]


@given(st.data())
def test_pinned_spaces_stay_whole(data):
    unifier = Unifier()
    pinned = unifier.space(6, pin="given")
    other = data.draw(axes_of(unifier, 6))
    unifier.unify(pinned, other, "here")
    assert all(unifier.reason(space) for space in spaces(unifier.resolve(other)))


def test_law_of_unified_axes_can_fail():
    unifier = Unifier()
    left, right = unifier.space(2), unifier.space(2)
    kept = {left: [True, False]}
    with pytest.raises(AssertionError):
        assert_same_positions(unifier, left, right, kept)


@settings(max_examples=50)
@given(st.data(), st.sampled_from((6, 12, 5, 8)), st.lists(st.integers(0, 12), max_size=4))
def test_pieces_keep_what_the_axis_keeps_between_the_points(data, size, points):
    unifier = Unifier()
    axis = concat(data.draw(axes_of(unifier, size)), unifier.space(2))
    edges = (0, *sorted(min(point, axis.size) for point in points), axis.size)
    pieces = unifier.cut(axis, [end - start for start, end in pairwise(edges)])
    assert [piece.size for piece in pieces] == [end - start for start, end in pairwise(edges)]
    kept = keep_sets_of(data.draw, unifier, [axis, *pieces])
    assert_same_positions(unifier, axis, concat(*pieces), kept)


# Axes of thousands of parts


def test_pieces_of_a_product_are_its_rows_and_parts_of_a_row():
    """Rows of one position keep no name, so the pieces together are another term of one meaning."""
    unifier = Unifier()
    axis = concat(unifier.space(3), product(unifier.space(2), unifier.space(3)), unifier.space(4))
    pieces = unifier.cut(axis, (2, 0, 5, 6))
    assert [piece.size for piece in pieces] == [2, 0, 5, 6]
    kept = {s: [i != 1 for i in range(s.size)] for s in spaces(unifier.resolve(axis))}
    assert_same_positions(unifier, axis, concat(*pieces), kept)


def test_thousands_of_parts_are_cut_and_joined_again():
    unifier = Unifier()
    axis = unifier.space(10_000)
    parts = unifier.cut(axis, [2] * 5_000)
    other = unifier.space(10_000, pin="known")
    unifier.unify(concat(*reversed(parts)), other, "joined")
    leaves = spaces(unifier.resolve(axis))
    assert [leaf.size for leaf in leaves] == [2] * 5_000
    assert {unifier.reason(leaf) for leaf in leaves} == {"known"}


def test_parts_that_are_cut_off_one_by_one_are_resolved():
    unifier = Unifier()
    axis = rest = unifier.space(1_200)
    for _ in range(1_199):
        _, rest = unifier.split(rest, 1)
    assert len(spaces(unifier.resolve(axis))) == 1_200


def test_long_chains_of_equal_spaces_are_resolved():
    unifier = Unifier()
    chain = [unifier.space(4) for _ in range(3_000)]
    for left, right in pairwise(reversed(chain)):
        unifier.unify(right, left, "equal")
    assert len({unifier.resolve(space) for space in chain}) == 1
