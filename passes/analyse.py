"""Everything that is known about a graph before anything is changed: the facts behind all plans."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from fxprune import markup
from fxprune.ir import Graph
from fxprune.passes.axes import Space
from fxprune.passes.branches import Branch, find_branches
from fxprune.passes.cost import Costs, cost_polynomials
from fxprune.passes.facts import Types
from fxprune.passes.groups import Group, find_groups
from fxprune.passes.infer import infer
from fxprune.passes.labels import labelled
from fxprune.passes.ties import Tie, joined, pinned_together


@dataclass(frozen=True, slots=True)
class Analysis:
    """A graph with its types, groups, branches and costs; ties hold between free groups."""

    graph: Graph
    types: Types
    groups: tuple[Group, ...]
    branches: tuple[Branch, ...]
    costs: Costs
    ties: tuple[Tie, ...] = ()

    def __str__(self) -> str:
        """A line to every group and branch, what is pinned last, and the costs."""
        named = [(_title(item), item) for item in self.items]
        width = max((len(title) for title, _ in named), default=0)
        lines = [
            f"{title:{width}}  {_state(item)}"
            for title, item in sorted(named, key=lambda pair: bool(_pin(pair[1])))
        ]
        costs = ", ".join(
            f"{cost:,} {name}" for name, cost in self.costs.at(self.costs.full).items()
        )
        return "\n".join((*lines, costs))

    def _repr_html_(self) -> str:
        """Notebooks show it so."""
        rows = [(_title(item), _size(item), _pin(item) or "free") for item in self.items]
        costs = list(self.costs.at(self.costs.full).items())
        return markup.table(["group", "size", "state"], rows) + markup.table(["cost", ""], costs)

    @property
    def free_groups(self) -> tuple[Group, ...]:
        """The groups that may lose positions."""
        return tuple(group for group in self.groups if not group.pin)

    @property
    def items(self) -> tuple[Group | Branch, ...]:
        """All groups, then all branches."""
        return (*self.groups, *self.branches)

    def costs_inside(self, module: str) -> Costs:
        """The costs of what lies in a module."""
        return cost_polynomials(self.graph, self.types, self.groups, self.branches, module)

    def only(self, names: Collection[str], reason: str) -> "Analysis":
        """The same with every group and branch pinned whose name is not among `names`."""
        groups = tuple(
            group if group.pin or group.name in names else replace(group, pin=reason)
            for group in self.groups
        )
        branches = tuple(branch for branch in self.branches if branch.name in names)
        return self._with(groups, branches, self.ties)

    def pinning(self, reasons: Mapping[Space, str]) -> "Analysis":
        """The same with the groups of some spaces pinned."""
        groups = tuple(
            group if group.pin else replace(group, pin=reasons.get(group.space, ""))
            for group in self.groups
        )
        return self._with(groups, self.branches, self.ties)

    def branching(self, branches: Iterable[Branch]) -> "Analysis":
        """The same with other branches."""
        return self._with(self.groups, tuple(branches), self.ties)

    def tying(self, ties: Iterable[Tie]) -> "Analysis":
        """The same with more ties; those that share a group are one."""
        return self._with(self.groups, self.branches, (*self.ties, *ties))

    def _with(
        self, groups: Iterable[Group], branches: tuple[Branch, ...], ties: Iterable[Tie]
    ) -> "Analysis":
        groups, ties = pinned_together(groups, joined(ties))
        same = (groups, branches) == (self.groups, self.branches)
        costs = self.costs if same else self._costs_of(groups, branches)
        return replace(self, groups=groups, branches=branches, costs=costs, ties=ties)

    def _costs_of(self, groups: tuple[Group, ...], branches: tuple[Branch, ...]) -> Costs:
        return cost_polynomials(self.graph, self.types, groups, branches)


def _title(item: Group | Branch) -> str:
    return item.label or item.name


def _pin(item: Group | Branch) -> str:
    return item.pin if isinstance(item, Group) else ""


def _size(item: Group | Branch) -> int:
    return item.size if isinstance(item, Group) else 1


def _state(item: Group | Branch) -> str:
    """What can become of it, in words."""
    if isinstance(item, Branch):
        return f"free to go, with {len(item.nodes)} nodes"
    return f"{item.size}, " + (f"pinned: {item.pin}" if item.pin else "free")


def analyse(graph: Graph, ignored: Collection[str] = (), scatter: bool = False) -> Analysis:
    """Analyse a graph; what the parameters called `ignored` produce is left alone.

    With `scatter`, branches may have fewer channels than what they are added to.
    """
    found = find_branches(graph)
    types = infer(graph, ignored, {place for b in found for place in b.places} if scatter else ())
    owners = {n.name for n in graph.nodes for v in n.inputs if v is not None and v.name in ignored}
    groups, branches = labelled(graph, types, find_groups(graph, types), found)
    branches = tuple(branch for branch in branches if owners.isdisjoint(branch.nodes))
    return Analysis(
        graph, types, groups, branches, cost_polynomials(graph, types, groups, branches)
    )
