"""The user's own model made smaller: its own class and code on smaller layers.

The fold plan has sliced parameters and told torch's layers their sizes. Here the attributes follow
from which the model's code takes sizes. Then the model is recorded again and compared with the
graph that the plan made, line by line. The module whose code makes the first difference gets
generated code for its part of the plan, and so on, until nothing differs. It ends, because that
module grows at most to the model itself, which then has to run the whole graph.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import fx, nn

from fxprune.errors import FxpruneError
from fxprune.passes.cost import lies_in
from fxprune.passes.fold import FoldPlan, KeepSet
from fxprune.torch.backend.attributes import (
    owners_without,
    solved,
    write,
    write_attention_sizes,
)
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.fold import edited_graph
from fxprune.torch.backend.generated import generate, warn_of_single_samples
from fxprune.torch.backend.outline import Alone, alone, outline, plan_in
from fxprune.torch.backend.parts import Whole, part_at
from fxprune.torch.backend.places import count_on, is_left
from fxprune.torch.backend.proof import Line, first_difference, normal_form
from fxprune.torch.backend.shapes import with_values
from fxprune.torch.frontend.owners import OWNER
from fxprune.torch.frontend.ways import Way, select, ways_of

_log = logging.getLogger("fxprune")


@dataclass(frozen=True, slots=True)
class Fold:
    """What is folded, which positions stay, and the graph that the plan made of it."""

    whole: Whole
    keep: KeepSet
    plan: FoldPlan
    graph: fx.Graph

    def graph_to_run(self) -> fx.Graph:
        """The graph, which also runs on inputs of other types and sizes."""
        if not self.whole.program.forgets:
            return self.graph
        program = self.whole.recording.to_run().program
        return edited_graph(copy_module(self.whole.model, share_tensors=True), program, self.plan)


def rewrite(fold: Fold, small: nn.Module) -> None:
    """Let `small`, whose parameters and layers are folded, compute what the graph does.

    By its own code where that is proved, by generated code elsewhere.
    """
    if fold.plan.scatters:
        reason = "a branch writes only some channels of its stream (scatter=True)"
        _run_whole(fold, small, fold.graph, reason)
        return
    nodes = {node.name: node for node in fold.whole.program.graph.nodes}
    literals = fold.whole.analysis.types.literals
    values = solved(fold.whole.model, nodes, fold.plan.literals, literals)
    write(small, values)
    write_attention_sizes(small)
    count_on(fold.whole.model, small)
    owners = owners_without(fold.whole.model, nodes, fold.plan.literals, values)
    for drop in fold.plan.drops:
        owners.setdefault(str(nodes[drop.node].meta[OWNER]), "a branch is gone")
    mending = _Mending(fold, small, nodes)
    mended = all(mending.mend(owner, reason) for owner, reason in sorted(owners.items()))
    wanted = _Wanted(small, fold.graph)
    while mended and (difference := _difference(fold, small, wanted)) is not None:
        mending.mend_twins(*difference)
        mended = mending.mend(*difference)
    if not mended:
        _run_whole(fold, small, fold.graph_to_run(), mending.reason)


def _run_whole(fold: Fold, small: nn.Module, graph: fx.Graph, reason: str) -> None:
    """Let the model itself run its whole graph."""
    generate(small, graph, reason)
    if fold.whole.program.knows_single:
        warn_of_single_samples(fold.whole.model)


class _Mending:
    """The modules that get generated code, one after the other.

    Modules inside of such a module are called as they are, but for those that have failed: whose
    calls do not tell what they are called with, or whose generated code did not help.
    """

    def __init__(self, fold: Fold, small: nn.Module, nodes: Mapping[str, fx.Node]) -> None:
        self._fold = fold
        self._small = small
        self._nodes = nodes
        self._failed: set[str] = set()
        self._done: dict[str, frozenset[str]] = {}
        self._alone: Alone = {}
        self.reason = ""

    def mend(self, path: str, reason: str) -> bool:
        """Give the smallest module around `path` that can have it, and has not, generated code."""
        self.reason = reason
        while True:
            inside = frozenset(f for f in self._failed if f != path and lies_in(f, path))
            if self._done.get(path) != inside and self._generate(path, inside):
                self._done[path] = inside
                return True
            if not path:
                return False
            self._failed.add(path)
            path = path.rpartition(".")[0]

    def mend_twins(self, path: str, reason: str) -> None:
        """The same for the modules of one class whose code the plan concerns as well.

        What one cannot do the others cannot either, and each would cost a recording of the model.
        """
        self.reason = reason
        model = self._fold.whole.model
        kind = type(model.get_submodule(path))
        if not path or path in self._done or kind.__module__ == nn.Sequential.__module__:
            return
        concerned = {str(self._nodes[lit.node].meta[OWNER]) for lit in self._fold.plan.literals}
        for other, module in model.named_modules():
            untouched = other != path and other in concerned - self._done.keys()
            if type(module) is kind and untouched and self._generate(other, frozenset()):
                self._done[other] = frozenset()

    def _generate(self, path: str, inside: Collection[str]) -> bool:
        """Give a module code for its part of the plan, if its calls tell it."""
        whole, plan = self._fold.whole, self._fold.plan
        recording = whole.recording
        if path and not inside and (graph := self._graph_alone(path)) is not None:
            return self._generated(path, graph)
        if path:
            part = part_at(whole, path)
            if part is None:
                return False
            recording, plan = part.recording, part.fold_plan(whole.analysis, self._fold.keep)
            if self._drops_less(path, plan):
                return False
            inside = {name.removeprefix(f"{path}.") for name in inside}
        outlined = outline(recording, {edit.node for edit in plan.edits}, inside)
        if not path and outlined.program is recording.program:
            return False  # the whole graph is there already
        plan = plan_in(plan, outlined.names)
        shell = copy_module(recording.module, share_tensors=True)
        graph = edited_graph(shell, outlined.program, plan)
        return self._generated(path, graph)

    def _generated(self, path: str, graph: fx.Graph) -> bool:
        """Let a module run a graph, if all that it calls and reads is there still."""
        module = self._small.get_submodule(path)
        if not _return_nothing_of(graph, {n for n in graph.nodes if self._is_gone(path, n)}):
            return False  # it is a branch that is gone
        generate(module, graph, self.reason)
        return True

    def _is_gone(self, path: str, node: fx.Node) -> bool:
        """Whether a node calls or reads what went with a branch."""
        if node.op == "get_attr":
            return not _has(self._small.get_submodule(path), str(node.target))
        target = f"{path}.{node.target}" if path else str(node.target)
        if node.op != "call_module" or target in self._done:
            return False
        return not is_left(self._fold.whole.model, self._small, target)

    def _graph_alone(self, path: str) -> fx.Graph | None:
        """What a module has to run that calls those inside as they are, if that is possible."""
        plan = self._fold.plan
        own = [edit for edit in plan.edits if self._nodes[edit.node].meta[OWNER] == path]
        recorded = alone(self._fold.whole.recording, path, own, self._alone)
        if recorded is None:
            return None
        module, outlined = recorded
        shell = copy_module(module, share_tensors=True)
        return edited_graph(shell, outlined.program, plan_in(plan, outlined.names))

    def _drops_less(self, path: str, plan: FoldPlan) -> bool:
        """Whether a branch goes in the whole that is none in a module alone, where it ends."""
        owners = [str(self._nodes[drop.node].meta[OWNER]) for drop in self._fold.plan.drops]
        return any(lies_in(owner, path) for owner in owners) and not plan.drops


def _return_nothing_of(graph: fx.Graph, gone: set[fx.Node]) -> bool:
    """Let a graph return None where it returned something beside that is gone, as weights of
    attention, and hand None to modules; whether it returns anything else."""

    def left(value: Any) -> Any:
        return fx.map_arg(value, lambda node: None if node in gone else node)

    for node in graph.nodes:
        if gone.isdisjoint(node.all_input_nodes):
            continue
        if node.op in ("call_module", "output"):
            node.args, node.kwargs = left(node.args), left(node.kwargs)
        else:
            gone.add(node)
    output = graph.output_node()
    for node in reversed(graph.nodes):
        if node in gone:
            graph.erase_node(node)
    return bool(output.all_input_nodes) or not gone


def _has(module: nn.Module, name: str) -> bool:
    try:
        attrgetter(name)(module)
    except AttributeError:
        return False
    return True


class _Wanted:
    """The lines of the graph that a plan made, by way, for inputs of some shape."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model, self._graph = model, graph
        self._sized: dict[Any, fx.Graph] = {}
        self._lines: dict[Any, list[Line]] = {}

    def ways(self) -> set[Way]:
        """The examples, and training and evaluation apart where they differ."""
        return set(ways_of(self._graph))

    def lines(self, way: Way, like: fx.Graph) -> list[Line]:
        """Those for the inputs that another graph was recorded with."""
        inputs = tuple(node.meta["value"] for node in like.nodes if node.op == "placeholder")
        key = (way, str([getattr(x, "shape", x) for x in inputs]))
        if key not in self._lines:
            sized = self._with_values(key, inputs)
            self._lines[key] = normal_form(self._model, sized, way=way)
        return self._lines[key]

    def _with_values(self, key: tuple[Way, str], inputs: tuple[Any, ...]) -> fx.Graph:
        """The graph with the values of a run: of all ways at once where they have one example."""
        way, shapes = key
        places = [node for node in self._graph.nodes if node.op == "placeholder"]
        if len({each.example for each in self.ways()}) > 1 or len(places) != len(inputs):
            return with_values(self._model, select(self._graph, way), inputs)
        if shapes not in self._sized:
            self._sized[shapes] = with_values(self._model, self._graph, inputs)
        return self._sized[shapes]


def _difference(fold: Fold, small: nn.Module, wanted: _Wanted) -> tuple[str, str] | None:
    """The module whose code makes the first difference, and which; None if there is none."""
    try:
        again = fold.whole.recording.of_another(small)
    except FxpruneError as error:
        return _owner_of(error), "its code fails on smaller layers"
    if set(again) != wanted.ways():
        return "", "its modes are other ones"
    for way, graph in again.items():
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
