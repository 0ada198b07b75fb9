"""How many array elements are alive at one time in evaluation, at most?

Nodes run in graph order. An array lives from the node that computes it (an input: from the start)
to its last reader, a result to the end. Views of a whole array, even where torch copies, are that
array; parts of it (slices, splits) are arrays of their own, and so is what is written in place.

The elements that are alive while a node runs are one polynomial, a point. Branches make an array's
life conditional. Without a branch its addition is the skip: the sum is then no array of its own
where the skip lives on, and otherwise takes the place of the skip:

    alive(sum) = read later and not (branch closed and skip alive)

Both have the same size, so that a chain of additions needs no product over all its branches.
"""

import itertools
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from fxprune.ir import Graph, Node, Value
from fxprune.passes.branches import Branch
from fxprune.passes.facts import Types
from fxprune.passes.kinds import VIEWS
from fxprune.passes.polynomials import ONE, Monomials, Sizes, add_to, times

Guard = frozenset[str]
"""The branches that must be open for something to happen."""

_MOST_READERS = 5
_MOST_TERMS = 16
_WINDOW = 8
"""How many of the points before it each point is compared with."""


@dataclass(slots=True)
class _Array:
    """When an array is used, and under which branches; for a conditional sum, its skip.

    After `reach`, neither it nor what it may stand for is used.
    """

    size: Monomials
    start: int
    times: list[int] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    branch: str = ""
    skip: "_Array | None" = None
    reach: int = 0
    needs: list[Monomials] = field(default_factory=list)

    def use(self, time: int, guard: Guard) -> None:
        """Note that a node of these branches needs it."""
        self.times.append(time)
        self.guards.append(guard)

    def used(self, time: int) -> Monomials:
        """1 if something needs it at `time` or later, as signed products of branches."""
        if not self.needs:
            self.needs = _any_from(self.guards)
        return self.needs[bisect_left(self.times, time)]

    def held(self, time: int) -> Monomials:
        """1 if its memory is needed at `time` or later, be it as the skip that it stands for."""
        own = self.used(time)
        if self.skip is None or own == ONE or self.skip.reach < time:
            return own
        above = self.skip.held(time)
        if not above or len(above) > _MOST_TERMS:
            return own  # with too many ways to live, it is counted beside its skip
        total = dict(own)
        add_to(total, _both(_both(_without(own), {(): 1, (self.branch,): -1}), above))
        return _normal(total)

    def elements(self, time: int) -> Monomials:
        """How many elements it adds to those alive at `time`."""
        alive = self.used(time)
        if self.skip is not None and alive:
            above = self.skip.held(time)
            if above:
                shared = _both({(): 1, (self.branch,): -1}, above)
                alive = _both(alive, _without(shared))
        return times(alive, self.size)


def enclosing_branches(branches: Iterable[Branch]) -> dict[str, tuple[str, ...]]:
    """The branches that take each node with them; an addition goes with its branch."""
    found: dict[str, list[str]] = {}
    for branch in branches:
        for node in (*branch.nodes, *(addition for addition, _ in branch.places)):
            found.setdefault(node, []).append(branch.name)
    return {node: tuple(names) for node, names in found.items()}


def peak_points(
    graph: Graph,
    types: Types,
    sizes: Sizes,
    branches: Iterable[Branch],
    inside: Collection[str],
) -> tuple[Monomials, ...]:
    """The numbers of elements that are alive while the nodes `inside` run, one point per node.

    Requires: `types` and `branches` found on `graph`.
    Ensures: points that another point near by exceeds for every keep-set are left out.
    """
    arrays = _lives(graph, types, sizes, tuple(branches))
    evaluated = graph.evaluated()
    running = [node for node in graph.nodes if node.name in evaluated]
    changing = _changes(arrays)
    points: list[Monomials] = []
    point: Monomials = {}
    counted: dict[int, Monomials] = {}
    for time, node in enumerate(running):
        for array in changing.get(time, ()):
            add_to(point, counted.pop(id(array), {}), -1)
            if array.times[-1] >= time:
                counted[id(array)] = array.elements(time)
                add_to(point, counted[id(array)])
        point = _normal(point)
        if node.name in inside:
            _add_point(points, dict(point))
    return tuple(points) or ({},)


def _changes(arrays: Iterable[_Array]) -> dict[int, list[_Array]]:
    """When arrays may add another number of elements; beside a skip that is at any time."""
    found: dict[int, list[_Array]] = {}
    for array in arrays:
        end = array.times[-1] + 1
        used = (time + 1 for time in array.times)
        times = range(array.start, end + 1) if array.skip else (array.start, *used)
        for time in dict.fromkeys(times):
            found.setdefault(time, []).append(array)
    return found


def _lives(graph: Graph, types: Types, sizes: Sizes, branches: tuple[Branch, ...]) -> list[_Array]:
    """Every array of an evaluation."""
    evaluated = graph.evaluated()
    enclosing = enclosing_branches(branches)
    places = {node: (b.name, operand) for b in branches for node, operand in b.places}
    arrays: dict[str, _Array] = {
        value.name: _Array(sizes.of(*types.axes[value.name]), 0) for value in graph.inputs
    }
    found = list(arrays.values())
    running = [node for node in graph.nodes if node.name in evaluated]
    for time, node in enumerate(running):
        guard = frozenset(enclosing.get(node.name, ()))
        branch, removed = places.get(node.name, ("", -1))
        for operand, value in enumerate(node.inputs):
            if value is not None and value.name in arrays:
                is_skip = branch and operand != removed
                arrays[value.name].use(time, guard - {branch} if is_skip else guard)
        for value in node.outputs:
            shown = node.inputs[0] if node.inputs else None
            if shown is not None and _is_view(node, shown):
                if shown.name in arrays:  # else the model owns it
                    arrays[value.name] = arrays[shown.name]
                continue
            array = _Array(sizes.of(*types.axes[value.name]), time, [time], [guard])
            if branch:
                skip = next(v for i, v in enumerate(node.inputs) if v is not None and i != removed)
                array.branch, array.skip = branch, arrays.get(skip.name)
            arrays[value.name] = array
            found.append(array)
    for value in graph.results:
        if value.name in arrays:
            arrays[value.name].use(len(running), frozenset())
    found = [array for array in found if array.times]  # an input that nothing reads is none of ours
    for array in found:
        array.reach = max(array.times[-1], array.skip.reach if array.skip else 0)
    return found


def _is_view(node: Node, shown: Value) -> bool:
    whole = node.op == "slice" and node.outputs[0].shape == shown.shape
    return node.op in VIEWS or whole


def _any_from(guards: list[Guard]) -> list[Monomials]:
    """For every place in a list, and its end: 1 if all branches of some guard from there are open.

    Of too many different ones, what they have in common decides, which counts rather too much.
    """
    least: list[Guard] = []
    needs = [_any(least)]
    for guard in reversed(guards):
        if not any(other <= guard for other in least):
            least = [guard, *(other for other in least if not guard < other)]
            common = [frozenset.intersection(*least)] if len(least) > _MOST_READERS else least
            needs.append(_any(common))
        else:
            needs.append(needs[-1])
    return needs[::-1]


def _any(distinct: list[Guard]) -> Monomials:
    """1 if all branches of some guard are open: a + b - ab for two of them."""
    total: Monomials = {}
    for count in range(1, len(distinct) + 1):
        for chosen in itertools.combinations(distinct, count):
            names = tuple(sorted(frozenset().union(*chosen)))
            total[names] = total.get(names, 0) + (-1) ** (count + 1)
    return _normal(total)


def _both(left: Monomials, right: Monomials) -> Monomials:
    """The product of two sums of branches, which are 0 or 1."""
    result: Monomials = {}
    for names, coefficient in left.items():
        for others, factor in right.items():
            key = tuple(sorted({*names, *others}))
            result[key] = result.get(key, 0) + coefficient * factor
    return _normal(result)


def _without(condition: Monomials) -> Monomials:
    result = dict(ONE)
    add_to(result, condition, -1)
    return _normal(result)


def _normal(total: Monomials) -> Monomials:
    return {names: coefficient for names, coefficient in total.items() if coefficient}


def _add_point(points: list[Monomials], point: Monomials) -> None:
    """Add a point unless one of the last few is never below it; it replaces those it exceeds."""
    recent = points[-_WINDOW:]
    if any(_is_within(point, other) for other in recent):
        return
    points[-_WINDOW:] = [*(other for other in recent if not _is_within(other, point)), point]


def _is_within(small: Monomials, large: Monomials) -> bool:
    """Whether `small` is never above `large`, seen from the coefficients."""
    for names, coefficient in small.items():  # quicker than any(): most ends soon
        if coefficient > large.get(names, 0):
            return False
    return all(coefficient >= 0 for names, coefficient in large.items() if names not in small)
