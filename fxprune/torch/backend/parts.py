"""One module of a model, recorded alone, so that it can have generated code of its own.

It is recorded on what it is called with in the whole model; the axes of its inputs and parameters
are those of the whole, so types and literals follow as they did there. Spaces get other numbers on
the way: `Part` knows which is which.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from fxprune.errors import FxpruneError
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Axis, Space, concat, interpret, product, spaces
from fxprune.passes.branches import Branch, find_branches, parameters_of
from fxprune.passes.facts import Types
from fxprune.passes.fold import FoldPlan, KeepSet, plan_fold
from fxprune.passes.gate import GatePlan, plan_gates
from fxprune.passes.groups import Group
from fxprune.passes.infer import infer
from fxprune.passes.whole_layers import joined_branch
from fxprune.torch.backend.outline import Recording
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.module_calls import Given, forms_of, hands_more, inputs_of
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.frontend.trace import Arguments

_log = logging.getLogger("fxprune")
_Axes = dict[str, tuple[Axis, ...]]


@dataclass(frozen=True, slots=True)
class Whole:
    """A model at its full size, without gates, and what is known of it."""

    model: nn.Module
    examples: tuple[Arguments, ...]
    leaves: frozenset[str]
    program: Program
    analysis: Analysis

    @property
    def recording(self) -> Recording:
        """How the model was recorded."""
        return Recording(self.model, self.program, self.examples, self.leaves)


@dataclass(frozen=True, slots=True)
class Part:
    """A module recorded alone.

    `branches` are those of its own code that the whole knows, by the names that the whole has for
    them; `inside` has for spaces of the whole what they are called here.
    """

    path: str
    recording: Recording
    types: Types
    branches: tuple[Branch, ...]
    inside: Mapping[Space, Space]

    def groups(self, analysis: Analysis) -> list[Group]:
        """The free groups of the whole, with the spaces that they have here."""
        return [replace(g, space=self.inside.get(g.space, g.space)) for g in analysis.free_groups]

    def fold_plan(self, analysis: Analysis, keep: KeepSet) -> FoldPlan:
        """What a keep-set of the whole asks for here."""
        groups = self.groups(analysis)
        names = {group.name for group in groups} | {branch.name for branch in self.branches}
        own = {name: flags for name, flags in keep.items() if name in names}
        return plan_fold(self.recording.program.ir, self.types, groups, self.branches, own)

    def gate_plan(self, analysis: Analysis) -> GatePlan:
        """The gates that act here, with axes as the whole has them."""
        plan = plan_gates(
            self.recording.program.ir, self.types, self.groups(analysis), self.branches
        )
        outside = {inner: outer for outer, inner in self.inside.items()}
        return replace(
            plan,
            masks=tuple(replace(m, axis=_renamed(m.axis, outside)) for m in plan.masks),
            forms=tuple(replace(f, axis=_renamed(f.axis, outside)) for f in plan.forms),
        )


def _renamed(axis: Axis, names: Mapping[Space, Space]) -> Axis:
    return interpret(
        axis,
        lambda space: names.get(space, space),
        lambda factors: product(*factors),
        lambda parts: concat(*parts),
    )


def part_at(whole: Whole, path: str) -> Part | None:
    """The module at `path`, None where its calls do not tell what it is called with.

    Calls of different forms are several examples of it.
    """
    module = whole.model.get_submodule(path)
    calls = forms_of(whole.program.calls.get(path, ()))
    if not calls or any(map(hands_more, calls)):
        return None  # a cache, say, that it writes into
    leaves = frozenset(
        leaf.removeprefix(f"{path}.") for leaf in whole.leaves if leaf.startswith(f"{path}.")
    )
    try:
        inputs, extras, arrays = zip(*(inputs_of(module, call) for call in calls), strict=True)
        program = read_model(
            module, inputs, leaves, extras, batch=0, use=Use.RUN, told=whole.program.told
        )
    except (FxpruneError, TypeError) as error:
        _log.debug("%s cannot be recorded alone: %s", path, error)
        return None
    axes = _axes(whole, path, program, [array for own in arrays for array in own])
    if axes is None:
        return None
    taken = max(
        s.id for known in whole.analysis.types.axes.values() for a in known for s in spaces(a)
    )
    types = infer(program.ir, given=axes, taken=taken)
    branches = tuple(_known_branches(whole, path, program))
    recording = Recording(module, program, inputs, leaves, extras)
    return Part(path, recording, types, branches, dict(_pairs(axes, types.axes)))


def _axes(whole: Whole, path: str, program: Program, given: list[Given]) -> _Axes | None:
    """The axes of the inputs and parameters of a part, as they are in the whole."""
    known, first = whole.analysis.types.axes, _first_names(whole.program)
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


def _known_branches(whole: Whole, path: str, program: Program) -> Iterator[Branch]:
    """The branches of a part that have the parameters of one of the whole, by its name."""
    first, found = _first_names(whole.program), find_branches(program.ir)
    read = {
        branch.name: frozenset(
            first.get(f"{path}.{name}", name) for name in parameters_of(program.ir, branch.nodes)
        )
        for branch in found
    }
    names: dict[frozenset[str], str] = {}
    for known in whole.analysis.branches:
        own = parameters_of(whole.program.ir, known.nodes)
        inside = [branch for branch in found if read[branch.name] and read[branch.name] <= own]
        if not known.joins:
            names[own] = known.name
        elif own == frozenset().union(*(read[branch.name] for branch in inside)):
            yield joined_branch(known, inside)
    for branch in found:
        if read[branch.name] and read[branch.name] in names:
            yield replace(branch, name=names[read[branch.name]])


def _pairs(given: _Axes, found: Mapping[str, tuple[Axis, ...]]) -> Iterator[tuple[Space, Space]]:
    """The spaces of the whole with what inference in a part calls them."""
    for name, axes in given.items():
        for outside, inside in zip(axes, found[name], strict=True):
            yield from zip(spaces(outside), spaces(inside), strict=False)


def _first_names(program: Program) -> dict[str, str]:
    """For every name of a parameter the one that the graph knows it by."""
    return {alias: name for name, names in program.aliases.items() for alias in names}
