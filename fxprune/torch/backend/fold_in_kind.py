"""The user's own model made smaller: its own class and code on smaller layers.

The fold plan has sliced parameters and told torch's layers their sizes. Here the attributes follow
from which the model's code takes sizes. Then the model is recorded again and compared with the
graph that the plan made, line by line. The module whose code makes the first difference gets
generated code for its part of the plan, and so on, until nothing differs. It ends, because that
module grows at most to the model itself, which then has to run the whole graph.
"""

import logging
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.errors import FxpruneError
from fxprune.passes.cost import lies_in
from fxprune.passes.fold import FoldPlan, KeepSet
from fxprune.torch.backend.attributes import owners_without, solved, write
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.fold import edited_graph
from fxprune.torch.backend.generated import generate
from fxprune.torch.backend.parts import Whole, part_at
from fxprune.torch.backend.proof import Line, first_difference, normal_form
from fxprune.torch.backend.shapes import with_values
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.trace import trace
from fxprune.torch.frontend.ways import Way, select, ways_of

_log = logging.getLogger("fxprune")


@dataclass(frozen=True, slots=True)
class Fold:
    """What is folded, and which positions stay."""

    whole: Whole
    keep: KeepSet
    plan: FoldPlan


def rewrite(fold: Fold, small: nn.Module, graph: fx.Graph) -> None:
    """Let `small`, whose parameters and layers are folded, compute what `graph` does.

    By its own code where that is proved, by generated code elsewhere.
    """
    if fold.plan.scatters:
        generate(small, graph, "a branch writes only some channels of its stream (scatter=True)")
    elif reason := _unproved(fold, small, graph):
        generate(small, graph, reason)


def _unproved(fold: Fold, small: nn.Module, graph: fx.Graph) -> str:
    """Why the model itself needs generated code after all; nothing if it does not."""
    nodes = {node.name: node for node in fold.whole.program.graph.nodes}
    values = solved(nodes, fold.plan.literals, fold.whole.analysis.types.literals)
    write(small, values)
    owners = owners_without(fold.whole.model, nodes, fold.plan.literals, values)
    for drop in fold.plan.drops:
        owners.setdefault(str(nodes[drop.node].meta[OWNER]), "a branch is gone")
    done: set[str] = set()
    for owner, reason in sorted(owners.items()):
        if not _generate_around(fold, small, owner, reason, done):
            return reason
    wanted = _Wanted(small, graph)
    while (difference := _difference(fold, small, wanted)) is not None:
        owner, reason = difference
        for twin in _twins(fold, owner, done):
            _generate_part(fold, small, twin, reason)
            done.add(twin)
        if not _generate_around(fold, small, owner, reason, done):
            return reason
    return ""


def _twins(fold: Fold, path: str, done: set[str]) -> list[str]:
    """The modules of the class of another one whose code the plan concerns as well.

    What one cannot do the others cannot either, and each would cost a recording of the model.
    """
    kind = type(fold.whole.model.get_submodule(path))
    if not path or path in done or kind.__module__.startswith("torch.nn.modules.container"):
        return []
    nodes = {node.name: node for node in fold.whole.program.graph.nodes}
    concerned = {str(nodes[literal.node].meta[OWNER]) for literal in fold.plan.literals}
    return [
        other
        for other, module in fold.whole.model.named_modules()
        if type(module) is kind and other != path and other in concerned - done
    ]


def _generate_around(fold: Fold, small: nn.Module, path: str, reason: str, done: set[str]) -> bool:
    """Give the smallest module around `path` that can have it, and has not, generated code."""
    while path and (path in done or not _generate_part(fold, small, path, reason)):
        path = path.rpartition(".")[0]
    done.add(path)
    return bool(path)


def _generate_part(fold: Fold, small: nn.Module, path: str, reason: str) -> bool:
    """Give a module code for its part of the plan, if its calls tell it."""
    part = part_at(fold.whole, path)
    if part is None:
        return False
    plan = part.fold_plan(fold.whole.analysis, fold.keep)
    if _drops_less(fold, path, plan):
        return False
    graph = edited_graph(copy_module(part.module, share_tensors=True), part.program, plan)
    generate(small.get_submodule(path), graph, reason)
    return True


def _drops_less(fold: Fold, path: str, plan: FoldPlan) -> bool:
    """Whether a branch goes in the whole that is none in a module alone, where it ends."""
    nodes = {node.name: node for node in fold.whole.program.graph.nodes}
    owners = [str(nodes[drop.node].meta[OWNER]) for drop in fold.plan.drops]
    return any(lies_in(owner, path) for owner in owners) and not plan.drops


class _Wanted:
    """The lines of the graph that a plan made, by way, for inputs of some shape."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model = model
        self._graphs = {way: select(graph, way) for way in ways_of(graph)}
        self._lines: dict[Any, list[Line]] = {}

    def ways(self) -> set[Way]:
        """The examples, and training and evaluation apart where they differ."""
        return set(self._graphs)

    def lines(self, way: Way, like: fx.Graph) -> list[Line]:
        """Those for the inputs that another graph was recorded with."""
        inputs = [node.meta["value"] for node in like.nodes if node.op == "placeholder"]
        key = (way, str([getattr(x, "shape", x) for x in inputs]))
        if key not in self._lines:
            sized = with_values(self._model, self._graphs[way], tuple(inputs))
            self._lines[key] = normal_form(self._model, sized)
        return self._lines[key]


def _difference(fold: Fold, small: nn.Module, wanted: _Wanted) -> tuple[str, str] | None:
    """The module whose code makes the first difference, and which; None if there is none."""
    try:
        whole, program = fold.whole, fold.whole.program
        batch, told = program.batch, program.told
        again = trace(small, whole.examples, whole.leaves, batch=batch, runs=False, told=told)
    except FxpruneError as error:
        return _owner_of(error), "its code fails on smaller layers"
    ways = ways_of(again)
    if set(ways) != wanted.ways():
        return "", "its modes are other ones"
    for way in ways:
        graph = select(again, way)
        try:
            expected = wanted.lines(way, graph)
        except Exception as error:  # an operator that meta tensors do not have
            _log.debug("the folded graph has values that shapes do not tell: %s", error)
            return "", "its graph has values that shapes do not tell"
        line = first_difference(normal_form(small, graph), expected)
        if line is not None:
            owner = str(line.node.meta.get(OWNER, ""))
            return owner, f"its code computes {line.node.name} otherwise"
    return None


def _owner_of(error: BaseException | None) -> str:
    """Whose code failed, when it was first tried."""
    first = ""
    while error is not None:
        first = str(getattr(error, "owner", "")) or first
        error = error.__cause__ or error.__context__
    return first
