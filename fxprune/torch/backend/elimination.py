"""Which combinations of numbers change some sizes and no others? In logarithms, linear algebra.

A number that doubles lets each size grow by some power of two, and a size is the product of spaces.
So the growth of spaces is the solution of linear equations, and what must not grow leaves the null
space of others. Exact, in fractions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Space

Name = tuple[str, ...]
"""A number of a configuration: its name, after those of the configurations that hold it."""
Factor = Space | str
Place = tuple[str, int | str, tuple[Factor, ...]]
"""A parameter and its axis, or a module and its attribute, and the spaces it is the product of.

A name stands for something that must stay what it is.
"""
Combination = tuple[tuple[str, ...], tuple[tuple[Name, Fraction], ...]]
"""Groups that grow alike, and the powers of numbers with which they do."""

_Row = list[Fraction]


class Elimination:
    """Finds the combinations of numbers that change free groups and nothing else."""

    def __init__(
        self,
        analysis: Analysis,
        places: Iterable[Place],
        effects: Mapping[Name, Mapping[Place, Fraction]],
    ) -> None:
        self._names = list(effects)
        self._growth, self._conflicts = _growth(places, list(effects.values()))
        space_of = {group.name: group.space for group in analysis.free_groups}
        tied = {name: tie.groups for tie in analysis.ties for name in tie.groups}
        classes = dict.fromkeys(tied.get(name, (name,)) for name in space_of)
        self._classes = {groups: [space_of[name] for name in groups] for groups in classes}

    def combinations(self) -> Iterator[Combination]:
        """One for every set of groups that can change alone, all by the same share."""
        known = {
            groups: own
            for groups, own in self._classes.items()
            if all(s in self._growth for s in own)
        }
        while known:
            rows = self._rows(known)
            columns = list(zip(*(row[: len(known)] for row in rows), strict=True))
            whole = [
                groups
                for groups, column in zip(known, columns or [()] * len(known), strict=True)
                if [power for power in column if power] != [1]
            ]
            if not whole:
                break
            known = {groups: own for groups, own in known.items() if groups not in whole}
        for row in self._rows(known) if known else []:
            groups = (name for own, power in zip(known, row, strict=False) if power for name in own)
            powers = zip(self._names, row[len(known) :], strict=True)
            yield tuple(groups), tuple((name, power) for name, power in powers if power)

    def _rows(self, known: Mapping[tuple[str, ...], list[Space]]) -> list[_Row]:
        """Reduced: how classes grow by combinations of numbers, and the powers of these."""
        moving: set[Factor] = {space for own in known.values() for space in own}
        still = [row for space, row in self._growth.items() if space not in moving]
        alike = [
            [
                left - right
                for left, right in zip(self._growth[own[0]], self._growth[s], strict=True)
            ]
            for own in known.values()
            for s in own[1:]
        ]
        rows = [
            [*(_dot(self._growth[own[0]], powers) for own in known.values()), *powers]
            for powers in _null_space([*still, *alike, *self._conflicts], len(self._names))
        ]
        return [row for row in _reduced(rows) if any(row[: len(known)])]


def _growth(
    places: Iterable[Place], effects: Sequence[Mapping[Place, Fraction]]
) -> tuple[dict[Factor, _Row], list[_Row]]:
    """By how many powers of two spaces grow if numbers double, for those that can be told.

    And what numbers must not do together, because axes of one space would get several sizes.
    """
    columns = {space: None for *_, own in places for space in own}
    index = {space: at for at, space in enumerate(columns)}
    rows = []
    for place in places:
        row = [Fraction(0)] * (len(index) + len(effects))
        for space in place[2]:
            row[index[space]] += 1
        row[len(index) :] = [Fraction(powers.get(place, 0)) for powers in effects]
        rows.append(row)
    found: dict[Factor, _Row] = {}
    conflicts: list[_Row] = []
    for row in _reduced(rows):
        inside = [at for at, power in enumerate(row[: len(index)]) if power]
        if not inside:
            conflicts.append(row[len(index) :])
        elif len(inside) == 1:
            found[list(index)[inside[0]]] = row[len(index) :]
    return found, conflicts


def _dot(left: _Row, right: _Row) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def _reduced(rows: Iterable[_Row]) -> list[_Row]:
    """The reduced row echelon form, without rows of zeros."""
    done: list[_Row] = []
    for row in rows:
        for other in done:
            row = _without(row, other)
        if any(row):
            first = next(power for power in row if power)
            row = [power / first for power in row]
            done = [*(_without(other, row) for other in done), row]
    return done


def _without(row: _Row, other: _Row) -> _Row:
    """A row less the multiple of another that takes its first place."""
    place = next(at for at, power in enumerate(other) if power)
    times = row[place]
    return [a - times * b for a, b in zip(row, other, strict=True)] if times else row


def _null_space(rows: Iterable[_Row], width: int) -> list[_Row]:
    """A basis of what every row is orthogonal to."""
    reduced = {next(at for at, p in enumerate(row) if p): row for row in _reduced(rows)}
    basis = []
    for free in (at for at in range(width) if at not in reduced):
        vector = [Fraction(0)] * width
        vector[free] = Fraction(1)
        for pivot, row in reduced.items():
            vector[pivot] = -row[free]
        basis.append(vector)
    return basis
