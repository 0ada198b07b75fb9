"""How does a torch module compute? A torch.fx graph of it, with a value on every node.

The model's own forward runs once on tensors without data while a `Recorder` writes down every call.
Nothing is computed, no statistics move, no random numbers are drawn, and the model is as it was
afterwards. `self.training` stays live: where it is passed on it becomes a node of the graph, and
where the model branches on it both modes are traced and merged.
"""

import os
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import errors
from fxprune.errors import InputError, TraceError
from fxprune.torch.frontend.calls import CallError
from fxprune.torch.frontend.follow import record_and_follow
from fxprune.torch.frontend.forward import Subject, Use
from fxprune.torch.frontend.in_place import follow_in_place
from fxprune.torch.frontend.modes import is_training_flag, remove_dead
from fxprune.torch.frontend.namespaces import OwnCode
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.owners import OwnedGraph
from fxprune.torch.frontend.recorder import Recorder
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.frontend.values import UndecidedError
from fxprune.torch.frontend.walk import modules_in, tensors_in
from fxprune.torch.frontend.watch import told_of_trace
from fxprune.torch.frontend.ways import Way

_LIBRARIES = tuple(os.path.dirname(str(library.__file__)) + os.sep for library in (torch, errors))
"""Whose lines are not the model's."""
_BATCHES = (5, 7, 11, 13, 17, 19, 23, 29, 31)
"""What stands in for the batch size of the example: the first that occurs nowhere in the model."""


Arguments = tuple[Any, ...]
"""An example: one input for every argument of forward."""


def trace(
    model: nn.Module,
    examples: Sequence[Arguments],
    leaves: frozenset[str] = frozenset(),
    extras: Sequence[Mapping[str, Any]] | None = None,
    batch: int | None = None,
    *,
    use: Use = Use.ANALYSIS,
    both: bool = True,
    told: bool = False,
    known: Mapping[str, Any] | None = None,
) -> list[tuple[Way, OwnedGraph]]:
    """The torch.fx graphs of a model on example inputs, one per argument of its forward.

    Every node has `meta["value"]`: a meta tensor, a container of them, or a Python value. A model
    that branches on `self.training`, or has several examples, gets a graph for every way; `merge`
    makes one of them (`frontend/ways.py`). Modules at the paths `leaves` are not entered. A
    part of a model has `extras`, arguments for its `**kwargs`, one mapping for each example; inputs
    that are one object are one. `batch` stands in for the batch size of the inputs: 0 for none,
    None for one that occurs nowhere in the model. `use` says what the graph is for: what follows
    types and batches that Python has read costs further runs of forward. Without `both` it is that
    of the mode the model is in. Libraries are told of the trace at once with `told`, else where
    need be. `known` has what some of `leaves` return, so that they need not run.

    Raises:
        InputError: the model does not accept the inputs.
        TraceError: the model's Python cannot be traced.
    """
    alike = extras is not None
    own: Sequence[Mapping[str, Any]] = extras or [{}] * len(examples)
    code = OwnCode(model)
    modes: Any = {"use": use, "told": told, "known": known or {}}
    subjects = [
        Subject(model, code, inputs, model.training, leaves, more, alike, **modes)
        for inputs, more in zip(examples, own, strict=True)
    ]
    with _ONE_AT_A_TIME:
        if stand_in := _stand_in(subjects) if batch is None else batch:
            try:
                resized = (subject.with_batch(stand_in) for subject in subjects)
                found = _trace([replace(each, batch_is_alone=True) for each in resized], both)
                for _, graph in found:
                    graph.batch = stand_in
                return found
            except (InputError, TraceError):
                if use is Use.COMPARE:  # that with which it is compared ran with this batch
                    raise
                # a model for so many samples
        return _trace(subjects, both)


_ONE_AT_A_TIME = threading.RLock()
"""What a trace replaces in torch is there for one thread; another waits until it is put back."""


def _stand_in(subjects: Sequence[Subject]) -> int:
    """A batch size that no other axis has, so that no axis passes for the batch; 0 for none."""
    if not all(subject.batch for subject in subjects):
        return 0
    arrays = (x for subject in subjects for x in subject.inputs if isinstance(x, Tensor))
    taken = {size for array in arrays for size in array.shape[1:]}
    model = subjects[0].model
    for tensor in tensors_in(model):
        taken.update(tensor.shape)
    for module in modules_in(model):
        for name, value in vars(module).items():
            if type(value) is int:
                taken.add(value)
            elif type(value) not in _NO_SIZES and not name.startswith("_"):
                taken.update(each for each in leaves_of(value) if type(each) is int)
    return next((size for size in _BATCHES if size not in taken), 0)


_NO_SIZES = frozenset((bool, float, str, type(None)))


def _trace(subjects: Sequence[Subject], both: bool) -> list[tuple[Way, OwnedGraph]]:
    """All ways of all examples, in `both` modes; training comes before evaluation."""
    runs: list[tuple[Way, OwnedGraph]] = []
    for number, subject in enumerate(subjects):
        graph, branched = _trace_mode(subject)
        if not (branched and both):
            runs.append((Way(number), graph))
            continue
        other, _ = _trace_mode(replace(subject, mode=not subject.mode))
        by_mode = {subject.mode: graph, not subject.mode: other}
        runs += [(Way(number, mode), by_mode[mode]) for mode in (True, False)]
    return runs


def _trace_mode(subject: Subject) -> tuple[OwnedGraph, bool]:
    name, shapes = type(subject.model).__name__, _shapes(subject.inputs)
    try:
        recorder = _attempt(subject)
    except CallError as error:
        raise InputError(
            f"{name} fails at {error.place} on example inputs of shape {shapes}: {error}\n"
            f"  {_line_of(error)}\nPass example_inputs that the model accepts."
        ) from error
    except InputError:
        raise
    except Exception as error:
        raise TraceError(
            f"{name} cannot be traced: {error}\n  {_line_of(error)}\n"
            f"on example inputs of shape {shapes}. Pass example_inputs that the model takes, keep "
            "the part whose control flow depends on values whole (leaf=), prepare another part of "
            "the model (scope=), or move that control flow out of forward."
        ) from error
    graph = recorder.graph
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta["training_flag"] = is_training_flag(node)
    _name_no_first_operand(graph)
    follow_in_place(subject.model, graph)
    remove_dead(graph, subject.leaves)  # nobody knows what these do
    return graph, recorder.branched_on_mode


def _attempt(subject: Subject) -> Recorder:
    """Run forward as it is; where that needs to know values, as libraries run it under a trace."""
    if subject.told:
        return _told(subject)
    if subject.use is Use.COMPARE:  # what it is compared with needed to know no more
        return record_and_follow(subject)
    try:
        return record_and_follow(subject)
    except (CallError, UndecidedError):
        return _told(subject)


def _told(subject: Subject) -> Recorder:
    with told_of_trace():
        recorder = record_and_follow(subject)
    recorder.graph.told = True
    return recorder


def _shapes(inputs: tuple[Any, ...]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))


def _line_of(error: BaseException) -> str:
    """The line of the model where an error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_LIBRARIES)]
    return f"at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "in its forward"


def _name_no_first_operand(graph: OwnedGraph) -> None:
    """Put first operands given by name (`torch.relu(input=x)`) where everybody looks for them."""
    for node in graph.nodes:
        spelling = NAMES.get(bare_name(node)) if node.op == "call_function" else None
        first = spelling.signature.split()[0] if spelling else ""
        if not node.args and first in node.kwargs:
            rest = {name: value for name, value in node.kwargs.items() if name != first}
            node.args, node.kwargs = (node.kwargs[first],), rest
