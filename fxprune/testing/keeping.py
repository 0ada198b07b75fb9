"""Random keep-sets, as a Hypothesis strategy."""

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import fxprune
from fxprune.passes.analyse import Analysis
from fxprune.passes.branches import Branch
from fxprune.passes.roles import WHOLE, Kind
from fxprune.passes.ties import steps_of

if TYPE_CHECKING:
    from torch import nn


@st.composite
def keep_sets(draw: DrawFn, gated: "nn.Module | Analysis") -> dict[str, list[bool]]:
    """Random keep-sets: no group is empty, tied ones keep equal shares, everything may be open.

    A layer of every list stays.

    They shrink towards everything open.

    Args:
        gated: what `prepare` returned, or what `inspect_onnx` says of an ONNX model.
    """
    if isinstance(gated, Analysis):
        sizes = {group.name: group.size for group in gated.free_groups}
        numbers = {g.name: (g.numbers.least, g.numbers.multiple) for g in gated.free_groups}
        branches = {branch.name: _list_of(branch) for branch in gated.branches}
        ties = [(tie.groups, tie.steps) for tie in gated.ties]
    else:
        free = [group for group in fxprune.groups(gated) if not group.pin]
        branches = {group.name: _list_of(group) for group in free if group.kind in WHOLE}
        sizes = {group.name: group.size for group in free if group.name not in branches}
        numbers = {group.name: (group.least, group.multiple) for group in free}
        ties = [
            (tuple(sorted((g.name, *g.tied))), g.size // g.unit)
            for g in free
            if g.tied or g.unit > 1
        ]
    some = [((name,), size) for name, size in sizes.items() if numbers[name] != (1, 1)]
    keep: dict[str, list[bool]] = {}
    for tie, most in dict.fromkeys((*ties, *some)):
        if tie[0] in keep:
            continue
        steps = steps_of((sizes[name] for name in tie), most)
        width = {name: sizes[name] // steps for name in tie}
        allowed = [
            kept
            for kept in range(steps, 0, -1)
            if kept == steps or all(_allows(numbers[name], kept * width[name]) for name in tie)
        ]
        kept = draw(st.sampled_from(allowed))
        for name in tie:
            order = draw(st.permutations(range(sizes[name])))
            keep[name] = [place < width[name] * kept for place in order]
    for name, size in (*sizes.items(), *dict.fromkeys(branches, 1).items()):
        if name not in keep:
            closed = draw(st.integers(0, 1 if name in branches else 2**size - 2))
            keep[name] = [not closed >> position & 1 for position in range(size)]
    for path in dict.fromkeys(filter(None, branches.values())):
        layers = [name for name, own in branches.items() if own == path]
        if not any(keep[name][0] for name in layers):
            keep[layers[0]] = [True]
    return keep


def _list_of(item: "Branch | fxprune.GroupInfo") -> str:
    """The list that a layer is in, "" for what is none."""
    return item.place.rpartition(".")[0] if item.kind == Kind.LAYER else ""


def _allows(numbers: tuple[int, int], kept: int) -> bool:
    least, multiple = numbers
    return kept >= least and kept % multiple == 0
