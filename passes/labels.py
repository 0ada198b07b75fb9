"""Where is a group, what is it for, and what do people call it?

    model.layers.3.self_attn: kv heads      place: kind
    hidden                                  of the whole model

The place is the smallest module that has all weights made of it, or where another group of that
kind has the same, all that make it, or the one that it is named after. A channel is where it is
made.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fxprune.ir import Graph
from fxprune.passes.axes import Space, spaces
from fxprune.passes.branches import Branch
from fxprune.passes.cost import homes_of_parameters
from fxprune.passes.facts import Types
from fxprune.passes.groups import Group
from fxprune.passes.products import Product, find_products
from fxprune.passes.roles import Kind, kinds_of


def labelled(
    graph: Graph, types: Types, groups: Iterable[Group], branches: Iterable[Branch]
) -> tuple[tuple[Group, ...], tuple[Branch, ...]]:
    """The same groups with their kinds, and all with places and labels.

    Ensures: no two groups or branches have one label.
    """
    products, homes = find_products(graph, types), homes_of_parameters(graph)
    kinds = kinds_of(graph, types, products)
    groups = tuple(
        replace(g, kind=kinds.get(g.space, Kind.CHANNEL), path=_path(g.name, homes)) for g in groups
    )
    branches = tuple(branches)
    places = [
        *_places_of_groups(groups, products, homes),
        *_places_of_branches(branches, products, homes),
    ]
    chosen = _told_apart(places, [g.kind for g in groups] + [b.kind for b in branches])
    shared = {space for space, kind in kinds.items() if kind is Kind.KV_HEADS}
    nouns = [_noun(group, types, shared) for group in groups]
    return (
        tuple(
            replace(group, place=place, label=_label(place, noun))
            for group, place, noun in zip(groups, chosen, nouns, strict=False)
        ),
        tuple(
            replace(branch, place=place, label=_label(place, branch.kind))
            for branch, place in zip(branches, chosen[len(groups) :], strict=True)
        ),
    )


def _label(place: str, kind: str) -> str:
    return f"{place}: {kind}" if place else str(kind)


def _noun(group: Group, types: Types, shared: Collection[Space]) -> str:
    """The kind, and that heads are those of every head of keys and values, where that has some."""
    if group.kind is not Kind.HEADS or not shared:
        return group.kind
    members = (member.rpartition(":") for member in group.members)
    around = {s for name, _, dim in members for s in spaces(types.axes[name][int(dim)])}
    return group.kind if around.isdisjoint(shared) else f"{group.kind} per kv head"


def made_in(name: str) -> str:
    """The module or parameter that a group is named after.

    >>> made_in("layers.0.qkv[0:8]/1"), made_in("layers.0.qkv.weight:1")
    ('layers.0.qkv', 'layers.0.qkv.weight')
    """
    return name.partition("[")[0].partition(":")[0].partition("/")[0]


def _path(name: str, homes: Mapping[str, str]) -> str:
    """The name of a group under the module of what it is named after."""
    first = made_in(name)
    return name if "." in first else (homes.get(first) or first) + name.removeprefix(first)


def _places_of_groups(
    groups: Iterable[Group], products: Iterable[Product], homes: Mapping[str, str]
) -> list[list[str]]:
    """For every group the places it may be told to be at, the best first."""
    weights: dict[Space, list[str]] = {}
    makers: dict[Space, list[str]] = {}
    for product in products:
        for found, among in ((weights, product.weights), (makers, product.made)):
            for space in among:
                found.setdefault(space, []).extend(product.parameters)
    places = []
    for group in groups:
        own = [made_in(group.path), group.name]
        if group.kind is not Kind.CHANNEL:
            members = [member.rpartition(":")[0] for member in group.members]
            read = (found.get(group.space, members) for found in (weights, makers))
            own = [_around(homes[name] for name in names) for names in read] + own
        places.append(own)
    return places


def _places_of_branches(
    branches: Iterable[Branch], products: Iterable[Product], homes: Mapping[str, str]
) -> list[list[str]]:
    """For every branch the module of what it multiplies with, or all that it is named after."""
    weights = {product.node.name: product.parameters for product in products}
    places = []
    for branch in branches:
        names = [name for node in branch.nodes for name in weights.get(node, ())]
        places.append(
            [_around(map(homes.__getitem__, names)), branch.name.rstrip("+"), branch.name]
        )
    return places


def _around(modules: Iterable[str]) -> str:
    """The smallest module that some lie in, or its place in several blocks.

    >>> _around(["layers.0.attn.q", "layers.1.attn.k"])
    'layers.*.attn'
    """
    paths = [path.split(".") for path in modules]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1 and not all(map(str.isdigit, parts)):
            break
        shared.append(parts[0] if len(set(parts)) == 1 else "*")
    while shared and shared[-1] == "*":
        shared.pop()
    return ".".join(shared)


def _told_apart(places: Sequence[Sequence[str]], kinds: Sequence[Kind]) -> list[str]:
    """The first place of each at which there is no other of its kind; the last are unique.

    Only what is alone of its kind may be at the place of the whole model, "".
    """
    level = [0] * len(places)
    alone = {kind for kind, count in Counter(kinds).items() if count == 1}
    while True:
        chosen = [own[at] for own, at in zip(places, level, strict=True)]
        counts = Counter(zip(kinds, chosen, strict=True))
        again = [
            i
            for i, (kind, place) in enumerate(zip(kinds, chosen, strict=True))
            if counts[kind, place] > 1 or not (place or kind in alone)
            if level[i] + 1 < len(places[i])
        ]
        if not again:
            return chosen
        for i in again:
            level[i] += 1
