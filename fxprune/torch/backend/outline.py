"""A module recorded again with the modules inside of it called as they are.

Generated code is about the edits of a plan in a module's own code. What it calls stays its own
affair: other code by size or mode, hooks, layers that somebody fuses or replaces.
"""

import logging
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from fxprune.errors import FxpruneError
from fxprune.passes.cost import lies_in
from fxprune.passes.fold import FoldPlan
from fxprune.passes.gate import GatePlan
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.module_calls import forms_of, hands_more, inputs_of, shapes_in
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.owners import OWNER, Handed, OwnedGraph
from fxprune.torch.frontend.program import Program, read_model
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.frontend.trace import Arguments, trace
from fxprune.torch.frontend.walk import named_modules
from fxprune.torch.frontend.ways import Way, run_of, ways_of

_log = logging.getLogger("fxprune")


@dataclass(frozen=True, slots=True)
class Recording:
    """How a module was recorded."""

    module: nn.Module
    program: Program
    examples: Sequence[Arguments]
    leaves: frozenset[str]
    extras: Sequence[Mapping[str, Any]] | None = None

    def of_another(self, model: nn.Module) -> dict[Way, OwnedGraph]:
        """A model that was made from this one recorded in the same way, to be compared with it."""
        batch, told = self.program.batch, self.program.told
        arguments = (model, self.examples, self.leaves)
        return dict(trace(*arguments, batch=batch, use=Use.COMPARE, told=told))

    def to_run(self) -> "Recording":
        """The same, with a program that also runs on inputs of other types and sizes.

        Its nodes have the names that they have here.
        """
        if not self.program.forgets:
            return self
        known = self.program
        again = read_model(
            self.module,
            self.examples,
            self.leaves,
            self.extras,
            known.batch,
            use=Use.RUN,
            told=known.told,
        )
        return replace(self, program=again)


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
            use=Use.RUN,
            told=program.told,
        )
    except FxpruneError as error:
        _log.debug("modules cannot be called whole: %s", error)
        return same
    names = matched(program.graph.nodes, "", again.graph.nodes, children)
    own = {name for name in edited if not any(lies_in(owners[name], path) for path in children)}
    if _calls_for_effect(again.graph, children) or not names.keys() >= own:
        return same
    return Outline(again, names)


def _calls_for_effect(graph: fx.Graph, children: Collection[str]) -> bool:
    """Whether nobody reads what a module returns: it may write into what it is given."""
    return any(
        node.op == "call_module" and node.target in children and not node.users
        for node in graph.nodes
    )


def _calls(nodes: Iterable[fx.Node], arrays: bool, children: Collection[str]) -> Iterator[fx.Node]:
    """The calls that return arrays, or those that do not, but for those of some modules."""
    for node in nodes:
        if not node.op.startswith("call") or _takes_apart(node):
            continue
        if node.op == "call_module" and node.target in children:
            continue
        if any(lies_in(str(node.meta[OWNER]), path) for path in children):
            continue
        if arrays == any(isinstance(item, Tensor) for item in leaves_of(node.meta.get("value"))):
            yield node


def _takes_apart(node: fx.Node) -> bool:
    """Whether a node takes an item of a tuple, which is there or not by who made the tuple."""
    of: Any = node.args[0] if node.target is operator.getitem else None
    return isinstance(of, fx.Node) and isinstance(of.meta.get("value"), Mapping | list | tuple)


def _called(node: fx.Node, path: str = "") -> str:
    """What a node calls; layers by their place in the module at `path`."""
    if node.op == "call_module":
        return str(node.target).removeprefix(f"{path}.") if path else str(node.target)
    return bare_name(node)


# A module alone -------------------------------------------------------------------------------


Places = frozenset[int | str]
"""Arguments of a module: of its own by number, others by name."""

Alone = dict[tuple[str, Places], tuple[str, Program | None]]
"""Modules recorded alone, by path and the places of the arguments that they may hand on: what they
are called with, and how, None where they cannot be."""


def alone(
    whole: Recording, path: str, edits: Iterable[Any], recorded: Alone
) -> tuple[nn.Module, Outline] | None:
    """A module that calls those inside as they are, by the names that its nodes have in the whole.

    Its own code is all that is recorded, so it may hand on what no graph can hold, such as a cache.
    None where its calls do not tell what it is called with, where that code does more with it, or
    does not have the nodes of all `edits`, alike in all calls. Of twins, such as the norms of all
    layers, one is recorded: those in `recorded`, which grows, serve others.
    """
    if not whole.program.calls.get(path):
        return None
    edits = list(edits)
    module = _Module(whole, path, recorded)

    def outlined(handed: Places) -> Outline | None:
        found = module.outline(handed)
        return found if found is not None and agree(found.names, edits) else None

    most = module.plain_arguments()
    best = outlined(most)
    if best is None:
        best, handed = outlined(frozenset()), frozenset[int | str]()
        for place in sorted(most, key=str):
            if (more := outlined(handed | {place})) is not None:
                best, handed = more, handed | {place}
    return None if best is None else (module.module, best)


class _Module:
    """A module that is recorded alone: what it is called with in the whole, and calls itself."""

    def __init__(self, whole: Recording, path: str, recorded: Alone) -> None:
        self.module = whole.module.get_submodule(path)
        self._whole, self._path, self._all = whole, path, recorded
        calls = forms_of(whole.program.calls[path])
        self._inputs, self._extras, _ = zip(
            *(inputs_of(self.module, call) for call in calls), strict=True
        )
        self._children = _called_directly(whole.program.calls, path)
        self._inner = list(_inside(path, self._children))
        # what they return in another mode may be something else, so they run if they can
        self._results = dict(_known_results(whole.program, path, self._children))
        all_calls = whole.program.calls
        self._known = {
            child: result
            for child, result in self._results.items()
            if any(map(hands_more, all_calls[f"{path}.{child}" if path else child]))
        }
        self._called = shapes_in([self._inputs, self._extras, self._results])

    def plain_arguments(self) -> Places:
        """The places of arguments that are true, false or None: code may only hand them on, so
        that they may be others later."""
        own = (item for given in self._inputs for item in enumerate(given))
        more = (item for given in self._extras for item in given.items())
        return frozenset(
            place for items in (own, more) for place, value in items if isinstance(value, _HANDED)
        )

    def outline(self, handed: Places) -> Outline | None:
        """What it does with other modules called as they are, and some arguments handed on."""
        program = self._recorded(handed)
        if program is None or _calls_for_effect(program.graph, self._inner):
            return None
        forms = len(self._inputs)
        whole, path = self._whole.program, self._path
        return Outline(program, _names_in_calls(whole, path, program, self._children, forms))

    def _is_twin(self, path: str) -> bool:
        return _are_twins(self._whole.module.get_submodule(path), self.module, self._inner)

    def _recorded(self, handed: Places) -> Program | None:
        called, whole = self._called, self._whole
        for (path, places), (like, program) in self._all.items():
            if (places, like) == (handed, called) and (path == self._path or self._is_twin(path)):
                return program
        given = [
            tuple(_handed(value) if i in handed else value for i, value in enumerate(each))
            for each in self._inputs
        ]
        more = [
            {name: _handed(value) if name in handed else value for name, value in each.items()}
            for each in self._extras
        ]
        leaves = frozenset({*_inside(self._path, whole.leaves), *self._inner})
        told = whole.program.told
        found = None
        one_mode = all(way.training is None for way in ways_of(whole.program.graph))
        for known in (self._known, self._results) if one_mode else (self._known,):
            try:
                found = read_model(
                    self.module, given, leaves, more, 0, use=Use.RUN, told=told, known=known
                )
                break
            except (FxpruneError, TypeError, AttributeError) as error:
                message = "%s cannot be recorded with the modules in it whole: %s"
                _log.debug(message, self._path, error)
        self._all[self._path, handed] = called, found
        return found


def _are_twins(one: nn.Module, other: nn.Module, whole: Collection[str]) -> bool:
    """Whether code does the same in both. What is called `whole` may differ in rates and the like,
    which change no shape."""
    ours, theirs = (dict(named_modules(each)) for each in (one, other))

    @cache
    def is_whole(path: str) -> bool:
        return any(lies_in(path, child) for child in whole)

    return ours.keys() == theirs.keys() and all(
        type(module) is type(theirs[path])
        and _held_by(module, is_whole(path)) == _held_by(theirs[path], is_whole(path))
        for path, module in ours.items()
    )


def _held_by(module: nn.Module, but_rates: bool) -> dict[str, Any]:
    """What a module has: shapes of tensors, plain values, and which objects."""
    tensors = {**module._parameters, **module._buffers}
    held: dict[str, Any] = {
        name: None if tensor is None else (tensor.shape, tensor.dtype, tensor.requires_grad)
        for name, tensor in tensors.items()
    }
    for name, value in module.__dict__.items():
        if name not in ("_parameters", "_buffers", "_modules"):
            if type(value) is float and but_rates:
                value = float
            held[f"own {name}"] = (type(value), value if _is_plain(value) else id(value))
    return held


def _is_plain(value: Any) -> bool:
    """Whether equal values are as good as one."""
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (isinstance(value, dict) and not value)


_PLAIN = (bool, int, float, str, type(None), torch.dtype)


_HANDED = (bool, type(None))


def _handed(value: Any) -> Any:
    return Handed(type(value).__name__) if isinstance(value, _HANDED) else value


def agree(names: Mapping[str, str], edits: Iterable[Any]) -> bool:
    """Whether nodes that have one name are there for all edits, and are edited alike."""
    wanted: dict[str, set[Any]] = {old: set() for old in names}
    for edit in edits:
        if edit.node not in names:
            return False
        wanted[edit.node].add(replace(edit, node=names[edit.node]))
    alike: dict[str, set[Any]] = {}
    return all(alike.setdefault(names[old], own) == own for old, own in wanted.items())


def _called_directly(calls: Mapping[str, Any], path: str) -> list[str]:
    """The modules inside of one that are entered from its own code."""
    inside = [other for other in calls if other != path and lies_in(other, path)]
    return [p for p in inside if not any(p != other and lies_in(p, other) for other in inside)]


def _inside(path: str, others: Iterable[str]) -> Iterator[str]:
    return (other.removeprefix(f"{path}.") for other in others if lies_in(other, path))


def _known_results(
    program: Program, path: str, children: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """What children return, where all of their calls return the like."""
    for child in children:
        calls = program.calls[child]
        if len({shapes_in(c.result) for c in calls}) == 1:
            yield child.removeprefix(f"{path}."), calls[0].result


def _names_in_calls(
    whole: Program, path: str, program: Program, children: Collection[str], forms: int
) -> dict[str, str]:
    """What nodes of all calls of a module are called in a recording of it; none if it differs.

    What branches on the mode inside of a child does not in its own code, so ways are matched one by
    one, unless calls of several forms are several examples.
    """
    if forms > 1:
        return matched(nodes_of(whole.graph, path), path, program.graph.nodes, children)
    names: dict[str, str] = {}
    for way in ways_of(whole.graph):
        like = [own for own in ways_of(program.graph) if own.training in (None, way.training)]
        if not like:
            return {}
        before, after = nodes_of(whole.graph, path, way), nodes_of(program.graph, "", like[0])
        found = matched(before, path, after, children)
        if any(names.get(old, new) != new for old, new in found.items()):
            return {}
        names |= found
    return names


def matched(
    own: Iterable[fx.Node], path: str, alone: Iterable[fx.Node], children: Collection[str]
) -> dict[str, str]:
    """The nodes in the code of a module with those of a graph of one call of it, in order."""
    names: dict[str, str] = {}
    own, alone, inner = list(own), list(alone), list(_inside(path, children))
    for arrays in (True, False):
        before = list(_calls(own, arrays, children))
        after = list(_calls(alone, arrays, inner))
        calls = len(before) // max(len(after), 1)
        called = [_called(node, path) for node in before]
        if called == [_called(node) for node in after] * calls:
            pairs = zip(before, after * calls, strict=True)
            names |= {old.name: new.name for old, new in pairs}
        elif arrays:
            return {}
    return names


def nodes_of(graph: fx.Graph, path: str, way: Way | None = None) -> list[fx.Node]:
    """The nodes in the code of a module and of those inside, that a way runs or all in order.

    The graph does not change: it is looked through once.
    """
    by_way = _NODES.setdefault(graph, {})
    if way not in by_way:
        by_way[way] = {}
        for node in graph.nodes if way is None else run_of(graph, way)[0]:
            for owner in _and_around(str(node.meta.get(OWNER, ""))):
                by_way[way].setdefault(owner, []).append(node)
    return by_way[way].get(path, [])


_NODES: WeakKeyDictionary[fx.Graph, dict[Way | None, dict[str, list[fx.Node]]]] = (
    WeakKeyDictionary()
)


def _and_around(path: str) -> Iterator[str]:
    """A module and those that it lies in, up to the model itself."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


# Plans ----------------------------------------------------------------------------------------


_OF_NODES = ("masks", "forms", "branches", "literals", "drops", "scatters")
"""The parts of plans that are edits of nodes."""

Plan = TypeVar("Plan", GatePlan, FoldPlan)


def plan_in(plan: Plan, names: Mapping[str, str]) -> Plan:
    """The edits of the nodes that an outline has still, under their new names."""
    parts = (field.name for field in fields(plan) if field.name in _OF_NODES)
    return replace(plan, **{part: _renamed(getattr(plan, part), names) for part in parts})


def _renamed(edits: Iterable[Any], names: Mapping[str, str]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(replace(e, node=names[e.node]) for e in edits if e.node in names))
