"""Which channels must be kept or removed together, what they are called, and why others may not.

A group is a free space of the inferred types. Its name is where it first appears among the
parameters: `layer1.0.conv1`, with `[8:24]` for a part of a concatenation and `/1` for a factor of
a product.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fxprune.ir import Graph
from fxprune.passes.axes import Axis, Space, interpret
from fxprune.passes.facts import ANY_NUMBER, Numbers, Types
from fxprune.passes.roles import Kind

_Place = tuple[str, int, str]
"""Parameter, dimension, and the path to a space within the type of that axis."""


@dataclass(frozen=True, slots=True)
class Group:
    """Positions that are kept or removed together.

    `members` are the parameter axes made of it, as `name:dim`. `pin` is empty for a free group.
    `place` is the module that it belongs to, `label` says place and kind, for people. `path` is its
    name under the module that makes it: files may call weights by a number alone. `numbers` says
    how many positions may stay.
    """

    name: str
    size: int
    members: tuple[str, ...]
    space: Space
    pin: str = ""
    kind: Kind = Kind.CHANNEL
    place: str = ""
    label: str = ""
    path: str = ""
    numbers: Numbers = ANY_NUMBER

    def __str__(self) -> str:
        state = f"pinned: {self.pin}" if self.pin else "free"
        return f"{self.name} {self.size} {state} [{', '.join(self.members)}]"


def find_groups(graph: Graph, types: Types) -> tuple[Group, ...]:
    """The groups of a model, free and pinned, in the order of its parameters.

    Requires: `types` inferred from `graph`.
    Ensures: names are unique; every free space of two or more positions in a parameter that some
    reader sees is a free group.
    """
    read = {space for reader in types.readers for space, _ in _leaves(reader.axis)}
    places: dict[Space, list[_Place]] = {}
    for parameter in graph.parameters:
        for dim, axis in enumerate(types.axes.get(parameter.name, ())):
            leaves = _leaves(axis)
            positions = all(space in types.positional for space, _ in leaves)
            channels = dim < 2 and positions and parameter.name.endswith("weight")
            for space, path in leaves:
                if space.size > 1 and (channels or space not in types.positional):
                    places.setdefault(space, []).append((parameter.name, dim, path))
    names = _names(places)
    return tuple(
        Group(
            names[space],
            space.size,
            tuple(dict.fromkeys(f"{parameter}:{dim}" for parameter, dim, _ in found)),
            space,
            types.pins.get(space, ""),
            numbers=types.numbers.get(space, ANY_NUMBER),
        )
        for space, found in places.items()
        if space in read or space in types.pins
    )


def _names(places: Mapping[Space, list[_Place]]) -> dict[Space, str]:
    """Each space is named after the first module that produces it.

    Where two spaces would get one name, the later one is named after its parameter and axis.
    """
    names: dict[Space, str] = {}
    taken: set[str] = set()
    for space, found in places.items():
        parameter, dim, path = min(found, key=lambda place: not _is_produced(*place[:2]))
        name = _base(parameter, dim) + path
        names[space] = name if name not in taken else f"{parameter}:{dim}{path}"
        taken.add(names[space])
    return names


def _is_produced(parameter: str, dim: int) -> bool:
    return dim == 0 and parameter.endswith("weight")


def _base(parameter: str, dim: int) -> str:
    """A first axis is named after its module, any other after the parameter and axis."""
    module, _, leaf = parameter.rpartition(".")
    if dim:
        return f"{parameter}:{dim}"
    return module if module and leaf in ("weight", "bias") else parameter


_Leaves = tuple[int, list[tuple[Space, str]]]
"""The size of an axis, and its spaces with the path that leads to each."""


def _leaves(axis: Axis) -> list[tuple[Space, str]]:
    """The spaces of an axis with the path that leads to each."""
    return interpret(axis, lambda space: (space.size, [(space, "")]), _factors, _parts)[1]


def _factors(factors: list[_Leaves]) -> _Leaves:
    paths = [
        (space, f"/{index}{path}")
        for index, (_, found) in enumerate(factors)
        for space, path in found
    ]
    return math.prod(size for size, _ in factors), paths


def _parts(parts: list[_Leaves]) -> _Leaves:
    start = 0
    paths: list[tuple[Space, str]] = []
    for size, found in parts:
        paths.extend((space, f"[{start}:{start + size}]{path}") for space, path in found)
        start += size
    return start, paths
