"""A keep-set as users write it, read: flags by name; and what it says of a model's positions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fxprune.arguments import shown
from fxprune.errors import KeepSetError
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Kept
from fxprune.passes.branches import Branch
from fxprune.passes.fold import KeepSet
from fxprune.passes.whole_layers import whole_layers


def flags_of(keep: Any) -> dict[str, tuple[bool, ...]]:
    """A flag for every position, by the name of the group or branch.

    >>> flags_of({"stem": [1, 0], "body+": np.array([True])})
    {'stem': (True, False), 'body+': (True,)}

    Raises:
        KeepSetError: it is no mapping, or something in it is neither True nor False, 1 nor 0.
    """
    if not isinstance(keep, Mapping):
        raise KeepSetError(
            f"a keep-set maps names to bools, got {type(keep).__name__} {shown(keep)}: give "
            'for instance {"conv1": [True, False]}'
        )
    return {name: _flags(name, value) for name, value in keep.items()}


def kept_of(analysis: Analysis, keep: KeepSet) -> Kept:
    """A flag for every position of the groups that a keep-set names."""
    return {group.space: tuple(keep[group.name]) for group in analysis.groups if group.name in keep}


def closed_branches(analysis: Analysis, keep: KeepSet) -> list[Branch]:
    """The branches that a keep-set closes."""
    return [b for b in analysis.branches if b.name in keep and not keep[b.name][0]]


def by_name(
    keep: Mapping[str, tuple[bool, ...]], analysis: Analysis
) -> dict[str, tuple[bool, ...]]:
    """The same by the names of groups and branches, where labels may stand for these.

    A layer, of a keep-set that was chosen with `uniform`, stands for its branches, if these are
    branches by themselves.

    Raises:
        KeepSetError: one is given twice, by name and by label.
    """
    names: dict[str, tuple[str, ...]] = {item.label: (item.name,) for item in analysis.items}
    names |= {item.name: (item.name,) for item in analysis.items}
    if not keep.keys() <= names.keys():
        layers = whole_layers(analysis)
        of_layers = {called: x.joins for x in layers for called in (x.name, x.label)}
        names = of_layers | names
    found: dict[str, tuple[bool, ...]] = {}
    for called, flags in keep.items():
        for name in names.get(called, (called,)):
            if name in found:
                raise KeepSetError(
                    f"a keep-set gives {called} twice, by its name {name} and its label"
                )
            found[name] = flags
    return found


def _flags(name: Any, value: Any) -> tuple[bool, ...]:
    if isinstance(value, str | bytes | Mapping):
        raise _refusal(name, value)
    try:
        array = np.asarray(value.tolist() if hasattr(value, "tolist") else value).reshape(-1)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _refusal(name, value) from error
    if array.size and (array.dtype.kind not in "buif" or not np.isin(array, (0, 1)).all()):
        raise _refusal(name, value)
    return tuple(map(bool, array.tolist()))


def _refusal(name: Any, value: Any) -> KeepSetError:
    return KeepSetError(
        f"the keep-set of {name} must be bools, got {shown(value)}: give one for every position"
    )
