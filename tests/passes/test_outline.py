"""What feeds what, in outline, and how it is drawn."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.pages.wiring import _lanes, wiring
from fxprune.passes.outline import INPUT, OUTPUT
from fxprune.torch.record import record_of
from tests.torch.models import Residual, images, randomise


def test_a_residual_network_is_a_chain_with_a_wire_around_its_branch():
    gated = fxprune.prepare(randomise(Residual()), images(1))
    found = fxprune.report(gated, latency=False)
    stops = found.outline
    assert [stop.op for stop in (stops[0], stops[-1])] == [INPUT, OUTPUT]
    assert [stop.layer for stop in stops if stop.layer is not None] == list(
        range(len(found.layers))
    )
    (add,) = (stop for stop in stops if stop.op == "add")
    skip, branch = add.fed_by
    assert branch - skip > 1 and stops[branch].name.startswith("body")
    assert not any(stop.removed for stop in stops)


def test_what_a_closed_branch_holds_is_removed():
    gated = fxprune.prepare(randomise(Residual()), images(1))
    fxprune.set_keep_set(gated, {"body+": [0]})
    stops = fxprune.report(gated, latency=False).outline
    removed = {stop.name for stop in stops if stop.removed}
    branches = record_of(gated).analysis.branches
    assert removed and removed <= {name for branch in branches for name in branch.nodes}


def test_what_is_called_twice_stops_twice_and_what_only_hands_on_not_at_all():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)).reshape(-1, 4)) * 2

    gated = fxprune.prepare(
        nn.Sequential(Twice(), nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(3, 4)
    )
    stops = fxprune.report(gated, latency=False).outline
    assert [stop.op for stop in stops] == [INPUT, *["linear"] * 4, OUTPUT]
    assert [stop.fed_by for stop in stops[1:]] == [(number,) for number in range(5)]


@given(st.lists(st.sets(st.integers(1, 12), max_size=3), min_size=2, max_size=30))
def test_wires_of_one_lane_do_not_cross(steps):
    """But for the last lane, which takes all that is left."""
    feeds = [
        sorted({min(number + step, len(steps) - 1) for step in reach} - {number})
        for number, reach in enumerate(steps)
    ]
    lanes = _lanes(feeds)
    spans = {}
    for number, lane in lanes.items():
        if lane < 12:
            for other in spans.setdefault(lane, []):
                assert max(feeds[other]) <= number
            spans[lane].append(number)


def test_reports_without_an_outline_have_no_drawing():
    gated = fxprune.prepare(randomise(Residual()), images(1))
    found = fxprune.report(gated, latency=False)
    drawn = wiring(found)
    assert drawn.height == 40 * len(found.outline) and drawn.lanes >= 1
    assert all(drawn.path(wire).startswith("M") for wire in drawn.wires)
