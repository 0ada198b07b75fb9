"""Equal numbers at equal places in repeated blocks: whose, as users say it, and what follows."""

from collections.abc import Iterable
from typing import Any

from fxprune.arguments import names, near
from fxprune.errors import InputError
from fxprune.passes.analyse import Analysis
from fxprune.passes.ties import is_at, place_in_block, uniform_ties

Uniform = bool | str | Iterable[str]
"""Whether all groups in repeated blocks do, or patterns of the names of those that do."""

_WANTED = 'True, or patterns of names such as "*.mlp"'


def patterns_of(uniform: Any) -> tuple[str, ...]:
    """The patterns that are meant; none for False.

    >>> patterns_of(True), patterns_of(False), patterns_of("*.mlp")
    (('*',), (), ('*.mlp',))

    Raises:
        InputError: it is something else.
    """
    if isinstance(uniform, bool):
        return ("*",) if uniform else ()
    return names("uniform", uniform, _WANTED)


def made_uniform(analysis: Analysis, patterns: Iterable[str]) -> Analysis:
    """The same where groups of one size at one place in repeated blocks are tied to each other.

    Branches of such blocks stay.

    Raises:
        InputError: a pattern matches nothing that is there in several blocks.
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if pattern != "*" and not uniform_ties(analysis.groups, [pattern]):
            places = sorted({place_in_block(name) for name in analysis.costs.full})
            repeated = [place for place in places if "*" in place]
            raise InputError(
                f"uniform: nothing at {pattern!r} is there in several blocks; known places are "
                f"{', '.join(repeated) or 'none'}{near(pattern, repeated)}"
            )
    kept = [
        branch.name
        for branch in analysis.branches
        if not _is_in_blocks(branch.name.rstrip("+"), patterns)
    ]
    tied = analysis.tying(uniform_ties(analysis.groups, patterns))
    return tied.only([*(group.name for group in analysis.groups), *kept], "")


def _is_in_blocks(path: str, patterns: Iterable[str]) -> bool:
    """Whether a module is a part of one of several blocks, at a place that is meant."""
    return place_in_block(f"{path}.") != f"{path}." and any(is_at(path, p) for p in patterns)
