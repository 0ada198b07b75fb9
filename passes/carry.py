"""After a fold: which position of the old model is each position of the new one?

Groups are found again in the folded model. Parameters keep their names and the structure of their
axes, so the groups of one are matched with those of the other where they appear in parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Space, spaces
from fxprune.passes.branches import parameters_of
from fxprune.passes.ties import Tie

Origin = tuple[str, tuple[int, ...]]
"""A name in the old model, and the kept positions there."""


def carried(old: Analysis, new: Analysis, keep: Mapping[str, Sequence[bool]]) -> dict[str, Origin]:
    """For the free groups and branches of `new`, what they were in `old`.

    Requires: `new` analyses what folding the model of `old` under `keep` gave.
    Ensures: each origin has as many positions as its group, 1 for a branch; what was pinned in
    `old`, or is not found there, has none, and what was tied to such a group has none either.
    """
    names = {group.space: group.name for group in old.groups}
    kept = {n: tuple(i for i, flag in enumerate(flags) if flag) for n, flags in keep.items()}
    origins: dict[Space, Origin] = {}
    for parameter in new.graph.parameters:
        mine = new.types.axes.get(parameter.name, ())
        were = old.types.axes.get(parameter.name, ())
        for axis, former in zip(mine, were, strict=False):
            # What one position is left of, a product no longer shows.
            left = [(names.get(space, ""), space.size) for space in spaces(former)]
            sizes = [(name, len(kept.get(name, range(size)))) for name, size in left]
            places = [name for name, size in sizes if size > 1]
            found = [space for space in spaces(axis) if space.size > 1]
            for space, name in zip(found, places, strict=False):
                if len(found) == len(places) and len(kept.get(name, ())) == space.size:
                    origins.setdefault(space, (name, kept[name]))
    groups = {g.name: origins[g.space] for g in new.free_groups if g.space in origins}
    found_again = {name for name, _ in groups.values()}
    lost = {
        name for tie in old.ties if not found_again.issuperset(tie.groups) for name in tie.groups
    }
    groups = {name: origin for name, origin in groups.items() if origin[0] not in lost}
    return groups | _branches(old, new, keep)


def carried_ties(old: Analysis, origins: Mapping[str, Origin]) -> tuple[Tie, ...]:
    """The ties between what is left, where `carried` found the `origins`."""
    now = {was: name for name, (was, _) in origins.items()}
    size = {group.name: group.size for group in old.groups}
    left = {was: len(indices) for was, indices in origins.values()}
    return tuple(
        replace(
            tie,
            groups=tuple(now[name] for name in tie.groups),
            steps=tie.steps * left[tie.groups[0]] // size[tie.groups[0]],
        )
        for tie in old.ties
        if now.keys() >= set(tie.groups)
    )


def _branches(
    old: Analysis, new: Analysis, keep: Mapping[str, Sequence[bool]]
) -> dict[str, Origin]:
    """Branches are known by their parameters (by their name if they have none), in order."""
    closed = [b for b in old.branches if not any(keep.get(b.name, (True,)))]
    gone = [set(branch.nodes) for branch in closed]
    left = {value.name for value in new.graph.parameters}
    former: dict[frozenset[str], list[str]] = {}
    for branch in old.branches:
        if branch not in closed and not any(nodes > set(branch.nodes) for nodes in gone):
            key = parameters_of(old.graph, branch.nodes) & left or frozenset([branch.name])
            former.setdefault(key, []).append(branch.name)
    present: dict[frozenset[str], list[str]] = {}
    for branch in new.branches:
        key = parameters_of(new.graph, branch.nodes) or frozenset([branch.name])
        present.setdefault(key, []).append(branch.name)
    return {
        name: (was, (0,))
        for key, names in present.items()
        if len(names) == len(former.get(key, ()))
        for name, was in zip(names, former[key], strict=True)
    }
