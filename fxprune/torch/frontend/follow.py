"""What one run of a forward cannot tell, a second run with another type or batch size does."""

import itertools
import logging
import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.torch.frontend.decisions import FEW, larger
from fxprune.torch.frontend.forward import Subject, Use, record
from fxprune.torch.frontend.nests import leaves_of
from fxprune.torch.frontend.recorder import Recorder

_log = logging.getLogger("fxprune")
_STAND_IN = torch.float64


def record_and_follow(subject: Subject) -> Recorder:
    """Record forward, then let types and sizes that Python forgot follow the inputs, as far as the
    use of the graph asks for it."""
    recorder = record(subject)
    if subject.use in (Use.LOOK, Use.COMPARE):
        return recorder
    nodes = list(recorder.graph.nodes)  # before any of them is added for what follows
    runs, decisions = subject.use is Use.RUN, recorder.decisions
    follows_types = recorder.reads_types and recorder.writes_types
    recorder.graph.forgets = bool(follows_types or decisions.lose_numbers) and not runs
    if follows_types and runs:
        _follow_types(recorder, nodes, subject)
    if decisions.lose_batch or (runs and decisions.lose_numbers):
        _follow_batch(recorder, nodes, subject)
    return recorder


def _follow_types(recorder: Recorder, nodes: list[fx.Node], subject: Subject) -> None:
    """Let `y.to(x.dtype)` follow the type of `x`.

    Types do not remember where they come from, so a second run with another type tells
    `x.dtype` (which changes) from `torch.float32` (which does not).
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(_STAND_IN)
    try:
        other = record(subject, _STAND_IN)
    except Exception as error:
        _log.debug("types stay as they are: %s", error)
        return
    finally:
        torch.set_default_dtype(before)
    pairs = list(zip(nodes, other.graph.nodes, strict=False))
    if any((a.op, a.name) != (b.op, b.name) for a, b in pairs):
        return
    for node, twin in pairs:
        for name, (value, changed) in _arguments(node, twin).items():
            if value == recorder.floats and changed == _STAND_IN and node in recorder.writes_types:
                asked = recorder.writes_types[node]
                with recorder.graph.inserting_before(node):
                    live = recorder.graph.call_function(getattr, (asked, "dtype"))
                live.meta["value"] = value
                if isinstance(name, int):
                    node.update_arg(name, live)
                else:
                    node.update_kwarg(name, live)


def _arguments(node: fx.Node, twin: fx.Node) -> dict[Any, tuple[Any, Any]]:
    """The arguments of two calls of the same function, side by side."""
    positional = enumerate(zip(node.args, twin.args, strict=False))
    named = {key: (value, twin.kwargs.get(key)) for key, value in node.kwargs.items()}
    return {**dict(positional), **named}


def _follow_batch(recorder: Recorder, nodes: list[fx.Node], subject: Subject) -> None:
    """Let numbers that are multiples of the batch size follow it.

    Python's `int` and `range` forget where a size comes from, so a second run with a larger batch
    tells which numbers depend on it.
    """
    batch = subject.batch
    if not batch:
        return
    _check_few_samples(nodes, subject)
    more = larger(batch)
    pairs = _run_alike(nodes, subject.with_batch(more))
    size: fx.Node | None = None

    def renewed(value: Any, changed: Any, node: fx.Node) -> Any:
        nonlocal size
        if isinstance(value, list | tuple) and isinstance(changed, list | tuple):
            if len(value) != len(changed):
                raise ValueError(f"{node.name} depends on the size of the batch by its operands")
            items = zip(value, changed, strict=True)
            return type(value)(renewed(*item, node) for item in items)
        if type(value) not in (int, float) or value == changed:
            return value
        if type(value) is not type(changed):
            raise ValueError(f"{node.name} depends on the size of the batch by a number")
        times = value // batch if isinstance(value, int) else value / batch
        if not math.isclose(times * more, changed) or times * batch != value:
            raise ValueError(f"{node.name} depends on the size of the batch by a number")
        if size is None:
            first = next(n for n in recorder.graph.nodes if _is_batched(n, batch))
            with recorder.graph.inserting_after(first):
                size = recorder.graph.call_method("size", (first, 0))
            size.meta["value"] = batch
        with recorder.graph.inserting_before(node):
            number = recorder.graph.call_function(operator.mul, (size, times))
        number.meta["value"] = value
        return number

    for node, twin in pairs:
        if node.op in ("call_function", "call_method"):
            node.args = tuple(
                renewed(*item, node) for item in zip(node.args, twin.args, strict=True)
            )
            node.kwargs = {
                name: renewed(value, twin.kwargs[name], node) for name, value in node.kwargs.items()
            }


def _check_few_samples(nodes: list[fx.Node], subject: Subject) -> None:
    """Raise ValueError if two samples are not computed as many are."""
    if subject.batch <= FEW:
        return
    for node, twin in _run_alike(nodes, subject.with_batch(FEW)):
        own, others = (leaves_of((n.args, n.kwargs)) for n in (node, twin))
        if len(own) != len(others):
            raise ValueError(f"{node.name} depends on the size of the batch by its operands")
        for value, changed in zip(own, others, strict=True):
            numbers = type(value) in (int, float) or type(changed) in (int, float)
            if not numbers or value == changed:
                continue
            follows = type(value) is type(changed) and math.isclose(
                value * FEW, changed * subject.batch
            )
            if not follows:
                raise ValueError(f"{node.name} depends on the size of the batch by a number")


def _run_alike(nodes: list[fx.Node], subject: Subject) -> list[tuple[fx.Node, fx.Node]]:
    """The nodes of one run beside those of a run with another batch size (none if it fails)."""
    try:
        others = record(subject).graph.nodes
    except Exception as error:
        _log.debug("batch %d: %s", subject.batch, error)
        return []
    pairs = list(itertools.zip_longest(nodes, others))
    if any(a is None or b is None or (a.op, a.name) != (b.op, b.name) for a, b in pairs):
        raise ValueError("what it does depends on the size of the batch")
    return pairs


def _is_batched(node: fx.Node, batch: int) -> bool:
    """Whether a node is an input with a batch axis."""
    value = node.meta.get("value")
    return node.op == "placeholder" and isinstance(value, Tensor) and value.shape[:1] == (batch,)
