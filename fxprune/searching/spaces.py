"""What is searched: points of a few dimensions, each with a list of values.

A point is written as picks, one for each dimension: the place of a value in its list. What a
proposal costs too much is made smaller, so that every point that is looked at is within limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

Picks = tuple[int, ...]
"""For every dimension the place of the value that it has."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A name and its values; what numbers in ascending order are is more or less of something."""

    name: str
    values: tuple[Any, ...]

    @property
    def ordered(self) -> bool:
        """Whether the values are numbers that ascend.

        >>> Dimension("width", (8, 16)).ordered, Dimension("norm", ("batch", "layer")).ordered
        (True, False)
        """
        numbers = all(isinstance(v, Real) and not isinstance(v, bool) for v in self.values)
        return numbers and list(self.values) == sorted(set(self.values))

    @property
    def last(self) -> int:
        """The largest pick."""
        return len(self.values) - 1


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration, what it costs, and, where it is of a gated model, what stays open."""

    config: Mapping[str, Any]
    costs: Mapping[str, float]
    keep_set: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)


class Space(Protocol):
    """Dimensions, and what their points are."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What can be chosen."""

    @property
    def limits(self) -> Mapping[str, float]:
        """The most that a point may cost."""

    def repaired(self, picks: Picks) -> Picks:
        """A point near by that is within limits."""

    def point(self, picks: Picks) -> Point:
        """What a point is."""


def config_of(dimensions: Sequence[Dimension], picks: Picks) -> dict[str, Any]:
    """The values of a point by name."""
    return {each.name: each.values[pick] for each, pick in zip(dimensions, picks, strict=True)}


def size_of(dimensions: Sequence[Dimension]) -> int:
    """How many points there are."""
    number = 1
    for each in dimensions:
        number *= len(each.values)
    return number


def picks_at(dimensions: Sequence[Dimension], number: int) -> Picks:
    """The point of a number, the last dimension changing first.

    >>> [picks_at([Dimension("a", (1, 2)), Dimension("b", (3, 4))], n) for n in range(4)]
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    picks: list[int] = []
    for each in reversed(dimensions):
        number, pick = divmod(number, len(each.values))
        picks.append(pick)
    return tuple(reversed(picks))
