"""Equal numbers at equal places in repeated blocks: whose, as users say it, and what follows."""

from collections.abc import Iterable, Sequence
from typing import Any

from fxprune.arguments import names, near
from fxprune.errors import InputError
from fxprune.layout import closing_with
from fxprune.passes.analyse import Analysis
from fxprune.passes.branches import Branch
from fxprune.passes.roles import Kind
from fxprune.passes.ties import Tie, place_in_block, uniform_ties
from fxprune.passes.whole_layers import whole_layers, with_layers
from fxprune.selectors import Selector, selector_of

Uniform = bool | str | Iterable[str]
"""Whether all groups in repeated blocks do, or patterns of the names of those that do."""

_WANTED = 'True, or patterns of names such as "*.mlp" or "*: heads"'


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

    Layers of such blocks close as a whole, all their branches together. What else there is of
    branches of such blocks stays, and so does what would close with a tied group.

    Raises:
        InputError: a pattern matches nothing that is there in several blocks.
    """
    wanted = tuple(map(selector_of, patterns))
    for selector in wanted:
        if selector.pattern != "*" or selector.kind:
            _check_repeated(analysis, selector)
    analysis = with_layers(analysis, _layers_of(analysis, wanted))
    ties = _ties_of(analysis, wanted)
    tied = {name for tie in ties for name in tie.groups}
    inside = closing_with(analysis)
    kept = [
        branch.name
        for branch in analysis.branches
        if branch.kind is Kind.LAYER
        or (
            tied.isdisjoint(inside[branch.name])
            and not (_is_in_block(branch) and any(selector.fits(branch) for selector in wanted))
        )
    ]
    names_left = [*(group.name for group in analysis.groups), *kept]
    return analysis.tying(ties).only(names_left, "")


def _ties_of(analysis: Analysis, wanted: Sequence[Selector]) -> tuple[Tie, ...]:
    return uniform_ties(g for g in analysis.groups if any(s.fits(g) for s in wanted))


def _layers_of(analysis: Analysis, wanted: Sequence[Selector]) -> tuple[Branch, ...]:
    return tuple(x for x in whole_layers(analysis) if any(s.fits(x) for s in wanted))


def _check_repeated(analysis: Analysis, selector: Selector) -> None:
    if _ties_of(analysis, [selector]) or _layers_of(analysis, [selector]):
        return
    places = {place_in_block(g.path): f"*: {g.kind}" for g in analysis.free_groups}
    places |= {place_in_block(f"{x.place}."): f"*: {x.kind}" for x in whole_layers(analysis)}
    inside = {place: kind for place, kind in places.items() if "*" in place}
    repeated = [*sorted(inside), *sorted(set(inside.values()))]
    raise InputError(
        f"uniform: nothing at {selector.text!r} is there in several blocks; known places are "
        f"{', '.join(repeated) or 'none'}{near(selector.text, repeated)}"
    )


def _is_in_block(branch: Branch) -> bool:
    """Whether a branch is a part of one of several blocks."""
    paths = (f"{path}." for path in (branch.name.rstrip("+"), branch.place))
    return any(place_in_block(path) != path for path in paths)
