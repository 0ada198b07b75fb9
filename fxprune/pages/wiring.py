"""The outline of a model as a drawing: a stop to a line, and wires in lanes beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from fxprune.passes.layers import LayerSizes
from fxprune.passes.outline import Stop
from fxprune.reports import Report

ROW, LANE, MARGIN = 40, 9, 14
"""Pixels: the height of a line, the distance of lanes, and what is beside them."""

_MOST_LANES = 12
"""Beyond these, wires share the last lane, so that names keep their place on a phone."""


@dataclass(frozen=True, slots=True)
class Line:
    """A stop with its layer, if it is one, and the stops that it feeds."""

    stop: Stop
    layer: LayerSizes | None
    feeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """From one line to another, in a lane; lane 0 goes straight down."""

    start: int
    end: int
    lane: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Wiring:
    """All lines and wires; `lanes` is how many there are beside the straight one."""

    lines: tuple[Line, ...]
    wires: tuple[Wire, ...]
    lanes: int

    @property
    def width(self) -> int:
        """Pixels left of the names."""
        return 2 * MARGIN + LANE * self.lanes

    @property
    def height(self) -> int:
        """Pixels of all lines."""
        return ROW * len(self.lines)

    def path(self, wire: Wire) -> str:
        """The way of a wire, as SVG has it."""
        x = MARGIN + LANE * self.lanes
        y, last = (ROW * line + ROW // 2 for line in (wire.start, wire.end))
        if not wire.lane:
            return f"M{x} {y}V{last}"
        side = x - LANE * wire.lane
        bend = min(LANE * wire.lane, ROW // 2)
        return f"M{x} {y}Q{side} {y} {side} {y + bend}V{last - bend}Q{side} {last} {x} {last}"

    def __str__(self) -> str:
        removed = sum(line.stop.removed for line in self.lines)
        return f"{len(self.lines)} stops, {removed} of them removed, and {len(self.wires)} wires"


def wiring(report: Report) -> Wiring | None:
    """The drawing of a model's outline, None where a report has none."""
    stops = report.outline
    if not stops:
        return None
    feeds: list[list[int]] = [[] for _ in stops]
    for number, stop in enumerate(stops):
        for source in stop.fed_by:
            feeds[source].append(number)
    lines = tuple(
        Line(stop, None if stop.layer is None else report.layers[stop.layer], tuple(targets))
        for stop, targets in zip(stops, feeds, strict=True)
    )
    lanes = _lanes(feeds)
    wires = tuple(
        Wire(
            source,
            number,
            0 if number == source + 1 else lanes[source],
            stop.removed or stops[source].removed,
        )
        for number, stop in enumerate(stops)
        for source in stop.fed_by
    )
    return Wiring(lines, wires, max((wire.lane for wire in wires), default=0))


def _lanes(feeds: Sequence[Sequence[int]]) -> dict[int, int]:
    """A lane for what every stop feeds further down; lanes are free again where wires end."""
    lanes: dict[int, int] = {}
    taken: dict[int, int] = {}  # by lane, until where
    far = {number: max(targets) for number, targets in enumerate(feeds) if targets}
    for number in sorted(far, key=lambda each: (each, far[each])):
        if far[number] > number + 1:
            free = (lane for lane in range(1, _MOST_LANES) if taken.get(lane, -1) <= number)
            lanes[number] = next(free, _MOST_LANES)
            taken[lanes[number]] = far[number]
    return lanes
