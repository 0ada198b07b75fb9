"""The part of a fold that lies in one module, as generated code for that module.

The module is recorded alone, on what it is called with in the whole model; the axes of its inputs
and parameters are those of the whole, so types and literals follow as they did there.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fxprune.errors import FxpruneError
from fxprune.ir import Kind
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Space, spaces
from fxprune.passes.branches import Branch, find_branches
from fxprune.passes.fold import FoldPlan, KeepSet, plan_fold
from fxprune.passes.infer import infer
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.fold import edited_graph
from fxprune.torch.backend.generated import generate, is_generated
from fxprune.torch.frontend.nests import leaves_of, mapped
from fxprune.torch.frontend.program import CallOf, Given, Program, read_model

_log = logging.getLogger("fxprune")
_Axes = dict[str, tuple[Axis, ...]]


@dataclass(frozen=True, slots=True)
class Fold:
    """What is folded: the full-size model, what is known of it, and which positions stay."""

    model: nn.Module
    examples: tuple[Any, ...]
    leaves: frozenset[str]
    program: Program
    analysis: Analysis
    keep: KeepSet
    plan: FoldPlan


def generate_part(fold: Fold, small: nn.Module, path: str, reason: str) -> bool:
    """Give the module at `path` of the folded model code for its part of the plan.

    Returns:
        Whether that can be told from its calls, which must be alike.
    """
    calls = fold.program.calls.get(path, ())
    part, target = fold.model.get_submodule(path), small.get_submodule(path)
    if not calls or is_generated(target) or any(_form(c) != _form(calls[0]) for c in calls):
        return False
    leaves = frozenset(
        leaf.removeprefix(f"{path}.") for leaf in fold.leaves if leaf.startswith(f"{path}.")
    )
    try:
        inputs, extras, given = _inputs(part, calls[0])
        program = read_model(part, inputs, leaves, extras, batch=0)
    except (FxpruneError, TypeError) as error:
        _log.debug("%s cannot be recorded alone: %s", path, error)
        return False
    axes = _axes(fold, path, program, given)
    if axes is None:
        return False
    plan = _plan(fold, path, program, axes)
    generate(target, edited_graph(copy_module(part, share_tensors=True), program, plan), reason)
    return True


def _form(call: CallOf) -> Any:
    """The shapes of the arrays of a call, and everything else that it is called with."""

    def shape_of(item: Any) -> Any:
        if isinstance(item, Given):
            return tuple(item.example.shape), item.example.dtype
        return mapped(item, shape_of)

    return shape_of((call.args, dict(call.kwargs)))


def _inputs(part: nn.Module, call: CallOf) -> tuple[tuple[Any, ...], dict[str, Any], list[Given]]:
    """What a module is called with: in the order of its forward, in its `**kwargs`, the arrays."""
    signature = inspect.signature(part.forward)
    bound = signature.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    kinds = {p.kind: name for name, p in signature.parameters.items()}
    extras = dict(bound.arguments.pop(kinds.get(inspect.Parameter.VAR_KEYWORD, ""), {}))
    rest = bound.arguments.pop(kinds.get(inspect.Parameter.VAR_POSITIONAL, ""), ())
    named = [*bound.arguments.values(), *rest]
    given = [item for item in leaves_of([named, extras]) if isinstance(item, Given)]
    return tuple(map(_example, named)), _example(extras), given


def _example(value: Any) -> Any:
    return value.example if isinstance(value, Given) else mapped(value, _example)


def _axes(fold: Fold, path: str, program: Program, given: list[Given]) -> _Axes | None:
    """The axes of the inputs and parameters of a part, as they are in the whole."""
    known, first = fold.analysis.types.axes, _first_names(fold.program)
    if len(program.ir.inputs) != len(given):
        return None
    axes: _Axes = {}
    for value, outside in zip(program.ir.inputs, given, strict=True):
        if outside.value is not None and outside.value.name in known:
            axes[value.name] = known[outside.value.name]
    for value in program.ir.parameters:
        name = first.get(f"{path}.{value.name}", "")
        if name in known:
            axes[value.name] = known[name]
    shapes = {v.name: v.shape for v in (*program.ir.inputs, *program.ir.parameters)}
    fits = all(tuple(a.size for a in own) == shapes[name] for name, own in axes.items())
    return axes if fits else None


def _plan(fold: Fold, path: str, program: Program, given: _Axes) -> FoldPlan:
    """What the plan of the whole does inside of a part, in terms of the part's own graph."""
    types = infer(program.ir, given=given)
    first = _first_names(fold.program)
    closed = {
        _parameters_of(fold.program, branch)
        for branch in fold.analysis.branches
        if not fold.keep.get(branch.name, (True,))[0]
    }
    branches = find_branches(program.ir)
    keep: dict[str, Any] = {}
    for branch in branches:
        own = (first.get(f"{path}.{name}", name) for name in _parameters_of(program, branch))
        keep[branch.name] = [frozenset(own) not in closed]
    same = dict(_pairs(given, types.axes))
    groups = [replace(g, space=same.get(g.space, g.space)) for g in fold.analysis.free_groups]
    keep |= {group.name: fold.keep[group.name] for group in groups if group.name in fold.keep}
    return plan_fold(program.ir, types, groups, branches, keep)


def _pairs(given: _Axes, found: Mapping[str, tuple[Axis, ...]]) -> Iterator[tuple[Space, Space]]:
    """The spaces of the whole with what inference in a part calls them."""
    for name, axes in given.items():
        for outside, inside in zip(axes, found[name], strict=True):
            yield from zip(spaces(outside), spaces(inside), strict=False)


def _first_names(program: Program) -> dict[str, str]:
    """For every name of a parameter the one that the graph knows it by."""
    return {alias: name for name, names in program.aliases.items() for alias in names}


def _parameters_of(program: Program, branch: Branch) -> frozenset[str]:
    inside = set(branch.nodes)
    return frozenset(
        value.name
        for node in program.ir.nodes
        if node.name in inside
        for value in node.inputs
        if value is not None and value.kind is Kind.PARAMETER
    )
