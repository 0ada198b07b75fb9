"""Groups that keep equal shares: what pins them together, and which keep-sets break a tie."""

import pytest

from fxprune.errors import KeepSetError
from fxprune.passes.axes import Space
from fxprune.passes.carry import carried_ties
from fxprune.passes.groups import Group
from fxprune.passes.ties import Tie, check_ties, joined, pinned_together, steps_of
from tests.passes.example import example

HEADS = Tie(("stream", "heads"), "of a test")


def groups(pin: str = "", heads: int = 4) -> tuple[Group, ...]:
    return (
        Group("stream", 12, ("a:0",), Space(1, 12)),
        Group("heads", heads, ("b:0",), Space(2, heads), pin),
        Group("other", 5, ("c:0",), Space(3, 5)),
    )


def keep(stream: int, heads: int) -> dict[str, list[bool]]:
    return {"stream": [i < stream for i in range(12)], "heads": [i < heads for i in range(4)]}


def test_free_groups_stay_tied():
    assert pinned_together(groups(), [HEADS]) == (groups(), (HEADS,))


def test_a_pinned_group_pins_what_is_tied_to_it():
    found, ties = pinned_together(groups("network output"), [HEADS])
    assert [group.pin for group in found] == [
        "it is tied to heads: of a test",
        "network output",
        "",
    ]
    assert ties == ()


def test_sizes_without_a_common_part_can_only_stay():
    found, ties = pinned_together(groups(heads=5), [HEADS])
    assert [bool(group.pin) for group in found] == [True, True, False]
    assert ties == ()


def test_steps_make_equal_shares():
    assert steps_of((12, 4)) == 4
    assert steps_of((12, 12)) == 12
    assert steps_of((9, 4)) == 1


@pytest.mark.parametrize("share", range(1, 5))
def test_equal_shares_keep_a_tie(share):
    check_ties(keep(3 * share, share), [HEADS])


@pytest.mark.parametrize(("stream", "heads"), [(12, 3), (5, 2), (3, 4)])
def test_unequal_shares_break_it(stream, heads):
    message = f"stream keeps {stream} of 12 and heads {heads} of 4.*of a test.*in_kind=False"
    with pytest.raises(KeepSetError, match=message):
        check_ties(keep(stream, heads), [HEADS])


def test_fewer_steps_make_coarser_shares():
    assert steps_of((12, 4), 2) == 2
    tie = Tie(("stream", "heads"), "of a test", 2)
    check_ties(keep(6, 2), [tie])
    with pytest.raises(KeepSetError, match="stream keeps 3 of 12, but only multiples of 6 do"):
        check_ties(keep(3, 1), [tie])


def test_one_group_may_have_steps():
    tie = Tie(("stream",), "of a test", 3)
    check_ties(keep(8, 1), [tie])
    with pytest.raises(KeepSetError, match="stream keeps 6 of 12, but only multiples of 4 do"):
        check_ties(keep(6, 1), [tie])


def test_ties_that_share_a_group_have_the_steps_that_both_have():
    (one,) = joined(
        [Tie(("a", "b"), "first", 12), Tie(("b", "c"), "second", 8), Tie(("a",), "", 0)]
    )
    assert (one.groups, one.steps) == (("a", "b", "c"), 4)


def test_a_group_of_one_step_can_only_stay():
    found, ties = pinned_together(groups(), [Tie(("stream",), "of a test", 1)])
    assert [bool(group.pin) for group in found] == [True, False, False]
    assert ties == ()


def test_an_analysis_pins_and_ties_in_any_order():
    analysis = example()
    first, second = (group for group in analysis.free_groups[:2])
    tie = Tie((first.name, second.name), "of a test")
    reasons = {first.space: "for a test"}
    one = analysis.tying([tie]).pinning(reasons)
    other = analysis.pinning(reasons).tying([tie])
    assert [group.name for group in one.free_groups] == [g.name for g in other.free_groups]
    assert first.name not in one.costs.full
    assert second.name not in one.costs.full
    assert one.ties == other.ties == ()


def test_ties_go_on_under_the_names_of_what_is_left():
    analysis = example()
    names = tuple(group.name for group in analysis.free_groups[:2])
    size = analysis.free_groups[0].size
    tied = analysis.tying([Tie(names, "of a test", size)])
    origins = {f"new {name}": (name, (0, 2)) for name in names}
    (carried,) = carried_ties(tied, origins)
    assert carried.groups == tuple(f"new {name}" for name in names)
    assert carried.steps == 2
    assert carried_ties(tied, dict(list(origins.items())[:1])) == ()
