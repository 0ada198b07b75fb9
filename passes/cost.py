"""What does a model cost under a keep-set, exactly?

Costs are polynomials in the numbers of kept positions of groups and in branches (0 or 1):

    macs    multiply-accumulates of all contractions in evaluation, per sample
    params  elements of all trained parameters
    bytes   what these take, each at the precision that it has
    memory  elements of all arrays computed in evaluation, copies aside, per sample
    flops   macs, one per output element of a convolution with a bias, and what norms and average
            pools take: the convention of thop and AutoBot (arXiv 2111.09635), per sample
    peak    elements of all arrays that are alive at one time, at most, per sample: see `peak.py`

Per sample means: of a run with one sample (`samples.py`). They are exact for every keep-set, and
differentiable where the sizes are.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fxprune.ir import Graph, ValueKind
from fxprune.passes.axes import Axis
from fxprune.passes.branches import Branch
from fxprune.passes.facts import Types
from fxprune.passes.groups import Group
from fxprune.passes.kinds import COPIES, FLOPS
from fxprune.passes.peak import enclosing_branches, peak_points
from fxprune.passes.polynomials import Maximum, Monomials, Sizes, add_to, polynomial, times
from fxprune.passes.samples import one_sample

COSTS = ("macs", "params", "bytes", "memory", "flops", "peak")
"""The names of the costs, as in a target."""


class Cost(Protocol):
    """A number that sizes by variable name determine."""

    def __call__(self, sizes: Mapping[str, Any]) -> Any:
        """The value for the given sizes."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a model by name, and the sizes that its variables have when all is open."""

    polynomials: Mapping[str, Cost]
    full: Mapping[str, int]

    def at(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Every cost for the given sizes."""
        return {name: cost(sizes) for name, cost in self.polynomials.items()}


def cost_polynomials(
    graph: Graph,
    types: Types,
    groups: Iterable[Group],
    branches: Iterable[Branch],
    inside: str = "",
) -> Costs:
    """The costs of a model, or of what lies inside the module called `inside`.

    Requires: `types`, `groups` and `branches` found on `graph`.
    Ensures: with every size full, macs is the sum over contractions of the product of their sizes
    with one sample.
    """
    groups, branches = tuple(groups), tuple(branches)
    names = {g.space: g.name for g in groups if not g.pin}
    single = one_sample(graph, types)
    sizes, whole = Sizes(names, single.sizes), Sizes(names)
    guards = enclosing_branches(branches)
    evaluated = graph.evaluated()
    if inside:
        homes = homes_of(graph)
        evaluated = {name for name in evaluated if lies_in(homes[name], inside)}
    totals: dict[str, Monomials] = {name: {} for name in COSTS}
    unit = math.gcd(8, *(parameter.bits for parameter in graph.parameters))
    divisors = {"params": 1, "bytes": 8 // unit}  # what is stored does not depend on samples

    def add(
        axes: tuple[Axis, ...], guard: tuple[str, ...], factors: Mapping[str, int], count: Sizes
    ) -> None:
        product = times({tuple(sorted(guard)): 1}, count.of(*axes))
        for cost, factor in factors.items():
            add_to(totals[cost], product, factor)

    for contraction in types.contractions:
        if contraction.node in evaluated:
            guard = guards.get(contraction.node, ())
            add(contraction.axes, guard, {"macs": 1, "flops": 1}, sizes)
    for node in graph.nodes:
        for value in node.outputs if node.name in evaluated and node.op not in COPIES else ():
            more = {"flops": FLOPS[node.op](node)} if node.op in FLOPS else {}
            add(types.axes[value.name], guards.get(node.name, ()), {"memory": 1} | more, sizes)
    users, owners = graph.users(), homes_of_parameters(graph)
    for parameter in graph.parameters:
        if parameter.trained and lies_in(owners[parameter.name], inside):
            axes = types.axes.get(parameter.name)
            readers = [guards.get(user.name, ()) for user in users.get(parameter.name, ())]
            for sign, shared in _alive(readers):
                plain = 1 if axes is not None else math.prod(parameter.shape)
                plain *= sign
                factors = {"params": plain, "bytes": plain * parameter.bits // unit}
                add(axes or (), shared, factors, whole)
    full = {g.name: g.size for g in groups if not g.pin} | {b.name: 1 for b in branches}
    found: dict[str, Cost] = {
        name: polynomial(total, divisors.get(name, single.divisor))
        for name, total in totals.items()
    }
    points = peak_points(graph, types, sizes, branches, evaluated)
    found["peak"] = Maximum(tuple(polynomial(point, single.divisor) for point in points))
    return Costs(found, full)


def macs_by_node(graph: Graph, types: Types) -> dict[str, float]:
    """By node the multiply-accumulates of its contractions with everything open, per sample."""
    single = one_sample(graph, types)
    sizes = Sizes({}, single.sizes)
    found: dict[str, float] = {}
    for contraction in types.contractions:
        macs = sizes.of(*contraction.axes).get((), 0) / single.divisor
        found[contraction.node] = found.get(contraction.node, 0.0) + macs
    return found


def homes_of(graph: Graph) -> dict[str, str]:
    """The path of the module that each node lies in.

    It is the module that is called or that owns the node's parameters; what has neither lies
    where its first operand was computed.
    """
    homes: dict[str, str] = {}
    producers = graph.producers()
    for node in graph.nodes:
        values = [value for value in node.inputs if value is not None]
        owners = [v.name.rpartition(".")[0] for v in values if v.kind is ValueKind.PARAMETER]
        earlier = [homes[producers[v.name].name] for v in values if v.name in producers]
        homes[node.name] = node.source or next(iter((*owners, *earlier)), "")
    return homes


def homes_of_parameters(graph: Graph) -> dict[str, str]:
    """The path of the module that each parameter belongs to.

    Its name says so, or else the module of the first node that it is a weight of: exporters give
    weights that they have transposed names of their own.
    """
    users = graph.users()
    homes: dict[str, str] = {}
    for parameter in graph.parameters:
        own, *_ = parameter.name.partition("@")
        readers = (n for n in users.get(parameter.name, ()) if parameter not in n.inputs[:1])
        homes[parameter.name] = own.rpartition(".")[0] or next((n.source for n in readers), "")
    return homes


def modules_of(graph: Graph) -> tuple[str, ...]:
    """The paths of all modules that nodes and parameters come from, as far as a graph knows."""
    paths: dict[str, None] = {}
    for home in (*homes_of_parameters(graph).values(), *(node.source for node in graph.nodes)):
        parts = home.split(".") if home else []
        paths.update(dict.fromkeys(".".join(parts[: end + 1]) for end in range(len(parts))))
    return tuple(paths)


def lies_in(path: str, module: str) -> bool:
    """Whether a module path is `module` or below it."""
    return not module or path == module or path.startswith(f"{module}.")


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
