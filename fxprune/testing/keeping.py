"""Random keep-sets, as a Hypothesis strategy."""

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import fxprune
from fxprune.passes.analyse import Analysis

if TYPE_CHECKING:
    from torch import nn


@st.composite
def keep_sets(draw: DrawFn, gated: "nn.Module | Analysis") -> dict[str, list[bool]]:
    """Random keep-sets: no group is empty, everything may be open.

    They shrink towards everything open.

    Args:
        gated: what `prepare` returned, or what `inspect_onnx` says of an ONNX model.
    """
    if isinstance(gated, Analysis):
        sizes = [(group.name, group.size, False) for group in gated.free_groups]
        sizes += [(branch.name, 1, True) for branch in gated.branches]
    else:
        free = [group for group in fxprune.groups(gated) if not group.pin]
        sizes = [(group.name, group.size, group.kind == "branch") for group in free]
    keep: dict[str, list[bool]] = {}
    for name, size, is_branch in sizes:
        closed = draw(st.integers(0, 1 if is_branch else 2**size - 2))
        keep[name] = [not closed >> position & 1 for position in range(size)]
    return keep
