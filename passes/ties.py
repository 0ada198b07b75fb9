"""Groups that keep equal shares of their positions, because one number in code sizes them all.

    reshape(B, N, heads, C // heads)    a channel more for every head: C = 48 heads

A tie asks for equal numbers, not for the same positions. What is pinned has its number, so it pins
all that is tied to it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fxprune.errors import KeepSetError
from fxprune.passes.groups import Group


@dataclass(frozen=True, slots=True)
class Tie:
    """The names of groups that keep equal shares, and why.

    A share is a number of equal steps, of which there are as many as the sizes allow, and no more
    than divide `steps`, if that is not 0. One group alone may have such steps, too.
    """

    groups: tuple[str, ...]
    reason: str
    steps: int = 0

    def __str__(self) -> str:
        return f"{', '.join(self.groups)}: {self.reason}"


def steps_of(sizes: Iterable[int], steps: int = 0) -> int:
    """How many equal steps there are from none to all positions of tied groups of such sizes."""
    return math.gcd(*sizes, steps)


def joined(ties: Iterable[Tie]) -> tuple[Tie, ...]:
    """The same ties, where those that share a group are one; it is named by its first reason."""
    found: list[Tie] = []
    for tie in ties:
        names = dict.fromkeys(tie.groups)
        met = [other for other in found if not names.keys().isdisjoint(other.groups)]
        found = [other for other in found if other not in met]
        everything = (name for each in (*met, tie) for name in each.groups)
        steps = math.gcd(*(each.steps for each in (*met, tie)))
        found.append(Tie(tuple(dict.fromkeys(everything)), (*met, tie)[0].reason, steps))
    return tuple(found)


_BLOCK_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")


def place_in_block(name: str) -> str:
    """A name in a repeated block without the number of the block.

    >>> place_in_block("model.layers.3.mlp.gate_proj")
    'model.layers.*.mlp.gate_proj'
    """
    return _BLOCK_NUMBER.sub("*", name)


def is_at(name: str, pattern: str) -> bool:
    """Whether something by this name, or a module that it lies in, is meant by a name or pattern.

    >>> is_at("model.layers.3.mlp.gate_proj", "*.mlp")
    True
    """
    patterns = (pattern, f"{pattern}[./:[]*")
    return name == pattern or any(fnmatchcase(name, each) for each in patterns)


def uniform_ties(groups: Iterable[Group]) -> tuple[Tie, ...]:
    """Ties of free groups of one size at one place in repeated blocks."""
    places: dict[tuple[str, int], list[str]] = {}
    for group in groups:
        place = place_in_block(group.path or group.name)
        if not group.pin and "*" in place:
            places.setdefault((place, group.size), []).append(group.name)
    return tuple(
        Tie(tuple(names), f"uniform at {place}")
        for (place, _), names in places.items()
        if len(names) > 1
    )


def pinned_together(
    groups: Iterable[Group], ties: Iterable[Tie]
) -> tuple[tuple[Group, ...], tuple[Tie, ...]]:
    """The same groups, those pinned that are tied to a pinned one, and the ties that are left.

    Groups whose sizes have no common divisor keep equal shares only if they keep everything.
    """
    by_name = {group.name: group for group in groups}
    left = []
    for tie in ties:
        tied = [by_name[name] for name in tie.groups if name in by_name]
        pinned = next((group for group in tied if group.pin), None)
        if pinned is None and steps_of((group.size for group in tied), tie.steps) > 1:
            left.append(tie)
            continue
        told = (
            f"it is tied to {pinned.name}" if pinned else "it is tied to sizes like no part of it"
        )
        for group in tied:
            if not group.pin:
                by_name[group.name] = replace(group, pin=f"{told}: {tie.reason}")
    return tuple(by_name.values()), tuple(left)


def check_ties(keep: Mapping[str, Sequence[bool]], ties: Iterable[Tie]) -> None:
    """Raise KeepSetError unless tied groups keep equal shares; `keep` has all of them."""
    for tie in ties:
        kept = {name: (sum(keep[name]), len(keep[name])) for name in tie.groups}
        (first, (some, of)), *others = kept.items()
        steps = steps_of((size for _, size in kept.values()), tie.steps)
        if tie.steps and some * steps % of:
            raise KeepSetError(
                f"{first} keeps {some} of {of}, but only multiples of {of // steps} do "
                f"({tie.reason})"
            )
        for name, (number, size) in others:
            if some * size != number * of:
                raise KeepSetError(
                    f"{first} keeps {some} of {of} and {name} {number} of {size}, but they are "
                    f"tied ({tie.reason}): keep equal shares of both, or prepare with "
                    "in_kind=False"
                )
