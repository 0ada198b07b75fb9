"""The figures of a report as data: what is drawn, before anybody draws it as SVG or PNG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fxprune.arguments import listed, shown
from fxprune.errors import InputError
from fxprune.passes.layers import LayerSizes
from fxprune.searching.found import Found

Points = Iterable[Sequence[Any]] | Found
"""What was reached: (target, accuracy), or (target, accuracy, label); or what a search has found,
by the MACs and the first score of its trials."""


_MOST_LISTED = 40


@dataclass(frozen=True, slots=True)
class Bar:
    """A layer in a profile: a number before and after; a removed layer has no number after."""

    name: str
    before: int
    after: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """One number of every layer, from the input to the output."""

    title: str
    unit: str
    bars: tuple[Bar, ...]

    @property
    def top(self) -> int:
        """The largest number, at least 1."""
        return max((bar.before for bar in self.bars), default=1) or 1

    def share(self, number: int) -> float:
        """A number as a share of the largest."""
        return number / self.top

    def __str__(self) -> str:
        removed = sum(bar.removed for bar in self.bars)
        before, after = (sum(getattr(bar, k) for bar in self.bars) for k in ("before", "after"))
        return (
            f"{self.title} of {len(self.bars)} layers: {before:,} {self.unit} before, {after:,} "
            f"after, {removed} layers removed"
        )


def widths(layers: Iterable[LayerSizes]) -> Profile:
    """How many channels every layer that multiplies makes."""
    bars = [
        Bar(layer.name, layer.width_before, layer.width_after, layer.removed)
        for layer in layers
        if layer.macs_before
    ]
    return Profile("Width", "channels", tuple(bars))


def costs(layers: Iterable[LayerSizes]) -> Profile:
    """How much every layer multiplies."""
    bars = [
        Bar(layer.name, layer.macs_before, layer.macs_after, layer.removed)
        for layer in layers
        if layer.macs_before
    ]
    return Profile("Cost", "MACs", tuple(bars))


@dataclass(frozen=True, slots=True)
class Point:
    """An accuracy that was reached at a target; `best` if no other point has more for less."""

    target: float
    accuracy: float
    label: str
    best: bool

    def __str__(self) -> str:
        return f"{self.label}: " * bool(self.label) + f"{self.target:g}, {self.accuracy:g}"


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points by target, in ranges with some air around; `titles` are those of both axes."""

    points: tuple[Point, ...]
    x: tuple[float, float]
    y: tuple[float, float]
    titles: tuple[str, str] = ("target", "accuracy")

    @property
    def listed(self) -> tuple[Point, ...]:
        """The points that are told in numbers: of many those on the front."""
        return self.points if len(self.points) <= _MOST_LISTED else self.front

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other point exceeds."""
        return tuple(point for point in self.points if point.best)

    def across(self, target: float) -> float:
        """How far to the right a target lies, from 0 to 1."""
        return (target - self.x[0]) / (self.x[1] - self.x[0])

    def up(self, accuracy: float) -> float:
        """How far up an accuracy lies, from 0 to 1."""
        return (accuracy - self.y[0]) / (self.y[1] - self.y[0])

    def __str__(self) -> str:
        best = "; ".join(map(str, self.front))
        x, y = self.titles
        return f"{y.capitalize()} over {x}, {len(self.points)} points; none exceeds {best}"


def scatter(points: Points) -> Scatter | None:
    """The points of a comparison, None if there are none.

    Raises:
        InputError: something is no pair of finite numbers, with or without a label.
    """
    titles = ("target", "accuracy")
    if isinstance(points, Found):
        first = points.objectives[0]
        titles = ("macs", "-" * (not first.maximise) + first.name)
        placed = {(x, first.sign() * y): label for x, y, label in reversed(points.points())}
        points = [(*place, label) for place, label in placed.items()]  # the first of equal ones
    wanted = "a list of (target, accuracy) or (target, accuracy, label)"
    read = sorted(map(_read, listed("points", points, wanted)))
    if not read:
        return None
    marked = tuple(
        Point(target, accuracy, label, _is_best(target, accuracy, read))
        for target, accuracy, label in read
    )
    x, y = (_range([getattr(p, axis) for p in marked]) for axis in ("target", "accuracy"))
    return Scatter(marked, x, y, titles)


def _read(point: Sequence[Any]) -> tuple[float, float, str]:
    try:
        target, accuracy, *rest = point
        numbers = float(target), float(accuracy)
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_point(point) from error
    if isinstance(point, str) or not all(map(math.isfinite, numbers)) or len(rest) > 1:
        raise _no_point(point)
    return *numbers, str(rest[0]) if rest else ""


def _no_point(point: Any) -> InputError:
    return InputError(f"points: a point is (target, accuracy) or with a label, got {shown(point)}")


def _is_best(target: float, accuracy: float, points: list[tuple[float, float, str]]) -> bool:
    return not any(
        t <= target and a >= accuracy and (t, a) != (target, accuracy) for t, a, _ in points
    )


def _range(values: list[float]) -> tuple[float, float]:
    """The range of some values with a tenth of air on both sides."""
    low, high = min(values), max(values)
    air = (high - low or abs(high) or 1.0) / 10
    return low - air, high + air


def ticks(bounds: tuple[float, float]) -> list[float]:
    """Round numbers within bounds, three to eight of them.

    >>> ticks((0.14, 0.86))
    [0.2, 0.4, 0.6, 0.8]
    """
    low, high = bounds
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= (high - low) / 3)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{step * index:.12g}") for index in range(first, last + 1)]
