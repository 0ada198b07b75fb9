"""What does a model cost under a keep-set, exactly?

Costs are polynomials in the numbers of kept positions of groups and in branches (0 or 1):

    macs    multiply-accumulates of all contractions in evaluation, per sample
    params  elements of all trained parameters
    memory  elements of all arrays computed in evaluation, copies aside, per sample

They are exact for every keep-set, and differentiable where the sizes are.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fxprune.ir import Graph
from fxprune.passes.axes import Axis, Prod, Space
from fxprune.passes.branches import Branch
from fxprune.passes.groups import Group
from fxprune.passes.infer import Types

COSTS = ("macs", "params", "memory")
"""The names of the costs, as in a target."""

Monomials = dict[tuple[str, ...], int]
_UNIT: Monomials = {(): 1}


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A sum of `coefficient * variable * variable ...`, divided by `divisor`."""

    terms: tuple[tuple[int, tuple[str, ...]], ...]
    divisor: int = 1

    def __call__(self, sizes: Mapping[str, Any]) -> Any:
        """The value for the given sizes by variable name."""
        total = sum(c * math.prod(sizes[name] for name in names) for c, names in self.terms)
        return total // self.divisor if isinstance(total, int) else total / self.divisor

    def __str__(self) -> str:
        return " + ".join("*".join((str(c), *names)) for c, names in self.terms) or "0"


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost polynomials of a model, and the sizes that its variables have when all is open."""

    polynomials: Mapping[str, Polynomial]
    full: Mapping[str, int]

    def at(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Every cost for the given sizes."""
        return {name: polynomial(sizes) for name, polynomial in self.polynomials.items()}


def cost_polynomials(
    graph: Graph, types: Types, groups: Iterable[Group], branches: Iterable[Branch]
) -> Costs:
    """The costs of a model.

    Requires: `types`, `groups` and `branches` found on `graph`.
    Ensures: with every size full, macs is the sum over contractions of the product of their sizes.
    """
    groups, branches = tuple(groups), tuple(branches)
    builder = _Builder({g.space: g.name for g in groups if not g.pin}, branches)
    served = graph.served()
    for contraction in types.contractions:
        if contraction.node in served:
            builder.add("macs", contraction.axes, builder.enclosing(contraction.node))
    for node in graph.nodes:
        for value in node.outputs if node.name in served and node.op != "identity" else ():
            builder.add("memory", types.axes[value.name], builder.enclosing(node.name))
    users = graph.users()
    for parameter in graph.parameters:
        if parameter.trained:
            axes = types.axes.get(parameter.name)
            guards = [builder.enclosing(user.name) for user in users.get(parameter.name, ())]
            for sign, shared in _alive(guards):
                builder.add("params", axes, shared, math.prod(parameter.shape), sign)
    full = {g.name: g.size for g in groups if not g.pin} | {b.name: 1 for b in branches}
    return Costs(builder.polynomials(graph.batch), full)


class _Builder:
    """Expands products of axis sizes into monomials."""

    def __init__(self, names: Mapping[Space, str], branches: tuple[Branch, ...]) -> None:
        self._names = names
        self._enclosing: dict[str, list[str]] = {}
        for branch in branches:
            for node in (*branch.nodes, *(addition for addition, _ in branch.places)):
                self._enclosing.setdefault(node, []).append(branch.name)
        self._totals: dict[str, Monomials] = {name: {} for name in COSTS}
        self._sizes: dict[Axis, Monomials] = {}

    def enclosing(self, node: str) -> tuple[str, ...]:
        """The branches that take `node` with them; an addition goes with its branch."""
        return tuple(self._enclosing.get(node, ()))

    def add(
        self,
        cost: str,
        axes: tuple[Axis, ...] | None,
        guards: tuple[str, ...],
        plain: int = 1,
        sign: int = 1,
    ) -> None:
        """Add the product of the sizes of `axes` (`plain` if unknown) times all guards."""
        monomials: Monomials = {tuple(sorted(guards)): sign * (1 if axes is not None else plain)}
        for axis in axes or ():
            monomials = _times(monomials, self._size(axis))
        total = self._totals[cost]
        for names, coefficient in monomials.items():
            total[names] = total.get(names, 0) + coefficient

    def _size(self, axis: Axis) -> Monomials:
        if axis not in self._sizes:
            self._sizes[axis] = self._expand(axis)
        return self._sizes[axis]

    def _expand(self, axis: Axis) -> Monomials:
        if isinstance(axis, Space):
            return {(self._names[axis],): 1} if axis in self._names else {(): axis.size}
        if isinstance(axis, Prod):
            result = _UNIT
            for factor in axis.factors:
                result = _times(result, self._size(factor))
            return result
        result = {}
        for part in axis.parts:
            for names, coefficient in self._size(part).items():
                result[names] = result.get(names, 0) + coefficient
        return result

    def polynomials(self, batch: int) -> dict[str, Polynomial]:
        """The collected costs; those of arrays are per sample."""
        return {
            name: Polynomial(
                tuple((c, names) for names, c in monomials.items()),
                1 if name == "params" else batch,
            )
            for name, monomials in self._totals.items()
        }


def _times(left: Monomials, right: Monomials) -> Monomials:
    result: Monomials = {}
    for names, coefficient in left.items():
        for others, factor in right.items():
            key = tuple(sorted((*names, *others))) if names and others else names or others
            result[key] = result.get(key, 0) + coefficient * factor
    return result


_MOST_USERS = 5


def _alive(guards: list[tuple[str, ...]]) -> list[tuple[int, tuple[str, ...]]]:
    """When some user is left, as signed products of branches: a + b - ab for two of them.

    A parameter of more users than that makes sense for counts as long as all of them could be.
    """
    distinct = list(dict.fromkeys(tuple(sorted(g)) for g in guards))
    if not distinct or () in distinct:
        return [(1, ())]
    if len(distinct) > _MOST_USERS:
        common = set(distinct[0]).intersection(*distinct[1:])
        return [(1, tuple(sorted(common)))]
    return [
        ((-1) ** (size + 1), tuple(sorted(set().union(*chosen))))
        for size in range(1, len(distinct) + 1)
        for chosen in itertools.combinations(distinct, size)
    ]
