"""Which channels must be kept or removed together, what they are called, and why others may not.

A group is a free space of the inferred types. Its name is where it first appears among the
parameters: `layer1.0.conv1`, with `[8:24]` for a part of a concatenation and `/1` for a factor of
a product.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fxprune.ir import Graph
from fxprune.passes.axes import Axis, Prod, Space
from fxprune.passes.infer import Types


@dataclass(frozen=True, slots=True)
class Group:
    """Positions that are kept or removed together.

    `members` are the parameter axes made of it, as `name:dim`. `pin` is empty for a free group.
    """

    name: str
    size: int
    members: tuple[str, ...]
    space: Space
    pin: str = ""

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
    names: dict[Space, str] = {}
    members: dict[Space, dict[str, None]] = {}
    for parameter in graph.parameters:
        for dim, axis in enumerate(types.axes.get(parameter.name, ())):
            for space, path in _leaves(axis):
                if space.size > 1 and space not in types.positional:
                    if space not in names:
                        names[space] = _name(parameter.name, dim, path, names.values())
                    members.setdefault(space, {})[f"{parameter.name}:{dim}"] = None
    return tuple(
        Group(name, space.size, tuple(members[space]), space, types.pins.get(space, ""))
        for space, name in names.items()
        if space in read or space in types.pins
    )


def _name(parameter: str, dim: int, path: str, taken: Collection[str]) -> str:
    """Named after the module or, where two spaces of it would get that name, the parameter."""
    name = _base(parameter, dim) + path
    return name if name not in taken else f"{parameter}:{dim}{path}"


def _base(parameter: str, dim: int) -> str:
    """A first axis is named after its module, any other after the parameter and axis."""
    module, _, leaf = parameter.rpartition(".")
    if dim:
        return f"{parameter}:{dim}"
    return module if module and leaf in ("weight", "bias") else parameter


def _leaves(axis: Axis) -> Iterator[tuple[Space, str]]:
    """The spaces of an axis with the path that leads to each."""
    if isinstance(axis, Space):
        yield axis, ""
    elif isinstance(axis, Prod):
        for index, factor in enumerate(axis.factors):
            for space, path in _leaves(factor):
                yield space, f"/{index}{path}"
    else:
        start = 0
        for part in axis.parts:
            for space, path in _leaves(part):
                yield space, f"[{start}:{start + part.size}]{path}"
            start += part.size
