"""Which branches together are all that a layer of a list does?

    model.layers.3: layer       model.layers.3: attention and MLP

If they close together, nothing of the layer is left, and the list can be shorter. A layer is whole
if all its weights are in its branches, each of which adds to the sum of the one before, and if it
is so at the same place in other blocks. Of lists inside of one another the outermost counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fxprune.errors import KeepSetError
from fxprune.ir import Graph
from fxprune.passes.analyse import Analysis
from fxprune.passes.branches import Branch, ends_of, parameters_of, readers_through
from fxprune.passes.cost import homes_of_parameters, lies_in
from fxprune.passes.roles import Kind
from fxprune.passes.ties import place_in_block

T = TypeVar("T")


def whole_layers(analysis: Analysis) -> tuple[Branch, ...]:
    """A branch for every layer that can go whole.

    Ensures: no two of them share nodes; each joins branches of `analysis`.
    """
    weights = _weights_by_entry(analysis.graph)
    entries = _Entries(analysis)
    by_place: dict[str, list[Branch]] = {}
    for path, own in sorted(weights.items(), key=lambda item: item[0].count(".")):
        layer = entries.layer_of(path, own)
        if layer is not None:
            by_place.setdefault(place_in_block(f"{path}."), []).append(layer)
    found: list[Branch] = []
    for layers in by_place.values():
        if len(layers) > 1:
            around = [each.place for each in found]
            found += [x for x in layers if not any(lies_in(x.place, path) for path in around)]
    return tuple(found)


def with_layers(analysis: Analysis, layers: Iterable[Branch]) -> Analysis:
    """The same facts where each layer is one branch, instead of those that it joins."""
    layers = tuple(layers)
    joined = {name for layer in layers for name in layer.joins}
    others = (branch for branch in analysis.branches if branch.name not in joined)
    return analysis.branching((*others, *layers)) if layers else analysis


def layers_again(analysis: Analysis, former: Analysis) -> Analysis:
    """Facts about what is left of a model, where what were layers are layers again.

    Requires: parameters are called as they were.
    """
    read = {b.name: parameters_of(analysis.graph, b.nodes) for b in analysis.branches}
    found = []
    for layer in former.branches:
        if layer.kind is Kind.LAYER:
            own = parameters_of(former.graph, layer.nodes)
            inside = [b for b in analysis.branches if read[b.name] and read[b.name] <= own]
            if inside:
                found.append(joined_branch(layer, inside))
    return with_layers(analysis, found)


def joined_branch(called: Branch, branches: Sequence[Branch]) -> Branch:
    """Some branches as one that is called as another; additions inside of it go with it."""
    nodes = dict.fromkeys(node for branch in branches for node in branch.nodes)
    places = dict.fromkeys(place for branch in branches for place in branch.places)
    return replace(
        called,
        places=tuple(place for place in places if place[0] not in nodes),
        nodes=tuple(nodes),
        joins=tuple(branch.name for branch in branches),
    )


def taken_apart(found: Mapping[str, T], branches: Iterable[Branch]) -> dict[str, T]:
    """What is said of groups and branches by name, where layers are the branches that they join."""
    joins = {branch.name: branch.joins for branch in branches if branch.joins}
    return {own: said for name, said in found.items() for own in joins.get(name, (name,))}


def put_together(found: Mapping[str, T], branches: Iterable[Branch]) -> dict[str, T]:
    """The same with layers again."""
    layer = {own: branch.name for branch in branches for own in branch.joins}
    return {layer.get(name, name): said for name, said in found.items()}


@dataclass(frozen=True, slots=True)
class LayersOfList:
    """The names of the layers of a list, and how many have to stay: one, if it has nothing else."""

    names: tuple[str, ...]
    least: int


def lists_of_layers(analysis: Analysis) -> dict[str, LayersOfList]:
    """The layers of every list, by its path."""
    found: dict[str, list[str]] = {}
    for branch in analysis.branches:
        if branch.kind is Kind.LAYER:
            found.setdefault(_list_of(branch.place), []).append(branch.name)
    entries = [_list_of(path) for path in _weights_by_entry(analysis.graph)] if found else []
    return {
        path: LayersOfList(tuple(own), int(entries.count(path) == len(own)))
        for path, own in found.items()
    }


def check_layers(keep: Mapping[str, Sequence[bool]], analysis: Analysis) -> None:
    """Raise KeepSetError unless every list keeps a layer; `keep` has all of them."""
    for path, layers in lists_of_layers(analysis).items():
        if layers.least and not any(keep[name][0] for name in layers.names):
            count = len(layers.names)
            raise KeepSetError(f"{path} keeps none of {count} layers: keep at least one")


class _Entries:
    """Which branches and nodes read which parameters, computed once."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._nodes = {node.name: node for node in analysis.graph.nodes}
        self._users = analysis.graph.users()
        self._returned = {value.name for value in analysis.graph.outputs}
        trained = {value.name for value in analysis.graph.parameters if value.trained}
        branches, graph = analysis.branches, analysis.graph
        self._read = {b.name: parameters_of(graph, b.nodes) & trained for b in branches}
        self._taken = {item.name for item in analysis.items}

    def layer_of(self, path: str, own: frozenset[str]) -> Branch | None:
        """The branches in an entry of a list as one, if its `own` weights are all in them."""
        read = self._read
        inside = [b for b in self._analysis.branches if read[b.name] and read[b.name] <= own]
        nodes = self._with_what_only_serves({node for b in inside for node in b.nodes})
        readers = {user.name for name in own for user in self._users.get(name, ())}
        if not inside or not readers <= nodes:
            return None
        label = f"{path}: {Kind.LAYER}"
        name = path if path not in self._taken else label
        layer = joined_branch(Branch(name, (), (), path, label, Kind.LAYER), inside)
        in_order = tuple(n.name for n in self._analysis.graph.nodes if n.name in nodes)
        layer = replace(layer, nodes=in_order)
        ways = min(len(branch.places) for branch in inside)
        return layer if len(ends_of(layer, self._nodes)) == ways else None

    def _with_what_only_serves(self, nodes: set[str]) -> set[str]:
        """These nodes and all whose every user is one of them: a norm that two branches share."""
        found = set(nodes)
        for node in reversed(self._analysis.graph.nodes):
            names = {value.name for value in node.outputs}
            users = [user for name in names for user in self._users.get(name, ())]
            readers = {reader for user in users for reader in readers_through(user)}
            if readers and readers <= found and self._returned.isdisjoint(names):
                found.add(node.name)
        return found


def _weights_by_entry(graph: Graph) -> dict[str, frozenset[str]]:
    """The trained parameters in each entry of a list that has some."""
    homes = homes_of_parameters(graph)
    found: dict[str, set[str]] = {}
    for parameter in graph.parameters:
        parts = homes[parameter.name].split(".") if parameter.trained else []
        for end, part in enumerate(parts):
            if part.isdigit():
                found.setdefault(".".join(parts[: end + 1]), set()).add(parameter.name)
    return {path: frozenset(own) for path, own in found.items()}


def _list_of(path: str) -> str:
    return path.rpartition(".")[0]
