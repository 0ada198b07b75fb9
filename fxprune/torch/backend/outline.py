"""A module recorded again with the modules inside of it called as they are.

Generated code is about the edits of a plan in a module's own code. What it calls stays its own
affair: other code by size or mode, hooks, layers that somebody fuses or replaces.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, fx, nn

from fxprune.errors import FxpruneError
from fxprune.passes.cost import lies_in
from fxprune.passes.fold import FoldPlan
from fxprune.passes.gate import GatePlan
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.frontend.trace import Arguments

_log = logging.getLogger("fxprune")


@dataclass(frozen=True, slots=True)
class Recording:
    """How a module was recorded."""

    module: nn.Module
    program: Program
    examples: Sequence[Arguments]
    leaves: frozenset[str]
    extras: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Outline:
    """A program that calls modules as they are, and what the other nodes are called in it."""

    program: Program
    names: Mapping[str, str]


def outline(
    recording: Recording, edited: Collection[str], inside: Collection[str] | None = None
) -> Outline:
    """Call modules whole in whose code no `edited` node stands.

    With `inside` nodes in the code of other modules than the one recorded and these are the affair
    of those other ones. The program stays as it is where nothing can be called whole, or where the
    module does something else then.
    """
    program = recording.program
    nodes = {node.name: node for node in program.graph.nodes}
    same = Outline(program, {name: name for name in nodes})
    owners = {name: str(nodes[name].meta[OWNER]) for name in edited}
    kept = {*owners.values()} if inside is None else {*inside}
    children = {
        path for path in program.calls if path and not any(lies_in(owner, path) for owner in kept)
    }
    if not children:
        return same
    leaves = recording.leaves | children
    try:
        again = read_model(
            recording.module,
            recording.examples,
            leaves,
            recording.extras,
            program.batch,
            told=program.told,
        )
    except FxpruneError as error:
        _log.debug("modules cannot be called whole: %s", error)
        return same
    names = _names(program, again, children)
    useless = (
        node
        for node in again.graph.nodes
        if node.op == "call_module" and node.target in children and not node.users
    )
    own = {name for name in edited if not any(lies_in(owners[name], path) for path in children)}
    if next(useless, None) is not None or not names.keys() >= own:
        return same  # a call that nobody reads writes into what it is given
    return Outline(again, names)


def _names(program: Program, again: Program, children: Collection[str]) -> dict[str, str]:
    """What nodes outside of some modules are called in another recording; none if it differs."""
    names: dict[str, str] = {}
    for arrays in (True, False):
        before = list(_calls(program.graph, arrays, children))
        after = list(_calls(again.graph, arrays, children))
        if list(map(_called, before)) == list(map(_called, after)):
            names |= {old.name: new.name for old, new in zip(before, after, strict=True)}
        elif arrays:
            return {}
    return names


def _calls(graph: fx.Graph, arrays: bool, children: Collection[str]) -> Iterator[fx.Node]:
    """The calls that return arrays, or those that do not, but for those of some modules."""
    for node in graph.nodes:
        if not node.op.startswith("call"):
            continue
        if node.op == "call_module" and node.target in children:
            continue
        if any(lies_in(str(node.meta[OWNER]), path) for path in children):
            continue
        if arrays == any(isinstance(item, Tensor) for item in leaves_of(node.meta.get("value"))):
            yield node


def _called(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else bare_name(node)


Edit = TypeVar("Edit", bound=Any)


def renamed(edits: Sequence[Edit], names: Mapping[str, str]) -> tuple[Edit, ...]:
    """Edits of the nodes that are there still, under their new names."""
    return tuple(replace(e, node=names[e.node]) for e in edits if e.node in names)


def gate_plan_in(plan: GatePlan, names: Mapping[str, str]) -> GatePlan:
    """A plan for the nodes of an outline."""
    return replace(
        plan,
        masks=renamed(plan.masks, names),
        forms=renamed(plan.forms, names),
        branches=renamed(plan.branches, names),
    )


def fold_plan_in(plan: FoldPlan, names: Mapping[str, str]) -> FoldPlan:
    """A plan for the nodes of an outline."""
    return replace(
        plan,
        literals=renamed(plan.literals, names),
        drops=renamed(plan.drops, names),
        scatters=renamed(plan.scatters, names),
    )
