"""A fold plan carried out on a copy of a module."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, fx, nn

from fxprune.passes.fold import FoldPlan, ScatterOperand, SetLiteral, Slice
from fxprune.torch.backend.copying import clone_tensor
from fxprune.torch.backend.literals import Changes, Resized, write_literals
from fxprune.torch.backend.module import copy_graph
from fxprune.torch.backend.operands import argument, operands_of
from fxprune.torch.backend.questions import ask_what_stays
from fxprune.torch.frontend.in_place import memory_origins, overwritten, set_item
from fxprune.torch.frontend.meta import real_device_of
from fxprune.torch.frontend.modes import remove_dead
from fxprune.torch.frontend.program import Program, index_items
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.frontend.walk import named_modules

Take = Callable[[Tensor, Sequence[Slice]], Tensor]
"""What a folded model has for a tensor of which some positions, or all, are kept."""


def own(tensor: Tensor, slices: Sequence[Slice]) -> Tensor:
    """The kept positions of a tensor, in memory of their own."""
    return sliced(tensor, slices) if slices else clone_tensor(tensor)


def fold_model(model: nn.Module, program: Program, plan: FoldPlan, take: Take = own) -> fx.Graph:
    """Carry out a fold plan on `model`, our own module tree that still shares its tensors.

    Returns the graph that it runs then. Ensures: the tree has what `take` gives for every tensor;
    no module remains that only removed nodes called.
    """
    graph = edited_graph(model, program, plan)
    take_parameters(model, program, plan.slices, take)
    return graph


def edited_graph(model: nn.Module, program: Program, plan: FoldPlan) -> fx.Graph:
    """The graph of a program with all edits of a plan, and layers of `model` that know their sizes.

    Ensures: no module remains that only removed nodes called.
    """
    graph, copies = copy_graph(program.graph)
    nodes = {node.name: copies[node] for node in copies}
    for name, changes in _changes_by_node(plan.literals).items():
        _write_literals(model, nodes[name], changes)
    written = _overwritten_memory(model, graph)
    for drop in plan.drops:
        _drop_operand(nodes[drop.node], drop.operand, nodes[drop.node] in written)
    for scatter in plan.scatters:
        _scatter_operand(model, nodes[scatter.node], scatter)
    before = _used(graph)
    ask_what_stays(model, graph)
    remove_dead(graph)
    used = _used(graph)
    for path in before - used:
        if not any(_within(other, path) or _within(path, other) for other in used):
            _delete(model, path)
    return graph


def _changes_by_node(literals: Iterable[SetLiteral]) -> dict[str, dict[tuple[str, int], Resized]]:
    grouped: dict[str, dict[tuple[str, int], Resized]] = {}
    for literal in literals:
        grouped.setdefault(literal.node, {})[literal.slot] = Resized(literal.value, literal.old)
    return grouped


def _write_literals(model: nn.Module, node: fx.Node, changes: Changes) -> None:
    if node.op == "call_module":
        _write_attributes(model.get_submodule(str(node.target)), changes)
    elif bare_name(node) in ("size", "shape"):
        _freeze_sizes(node, {dim: value for (_, dim), value in changes.items()})
    elif bare_name(node) == "getitem" or node.target is set_item:
        _write_ranges(node, changes)
    else:
        write_literals(node, changes)


def _write_attributes(module: nn.Module, changes: Changes) -> None:
    for (name, index), value in changes.items():
        old = getattr(module, name, None)
        if isinstance(old, tuple):
            setattr(module, name, (*old[:index], int(value), *old[index + 1 :]))
        elif old is not None:
            setattr(module, name, int(value))


def _freeze_sizes(node: fx.Node, sizes: Mapping[int, Resized]) -> None:
    """Answer a question for a size with the original number."""
    value = node.meta["value"]
    if isinstance(value, int):
        asked = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
        rank = node.args[0].meta["value"].dim()  # type: ignore[union-attr]
        if isinstance(asked, int) and asked % rank in sizes:
            _replace_by_original(node, sizes[asked % rank])
        return
    users = list(node.users)
    with node.graph.inserting_after(node):
        items: list[Any] = [
            node.graph.call_function(operator.getitem, (node, dim)) for dim in range(len(value))
        ]
    for dim, (item, number) in enumerate(zip(items, value, strict=True)):
        item.meta["value"] = number
        items[dim] = _original(item, sizes[dim]) if dim in sizes else item
    last = max(items, key=list(node.graph.nodes).index)
    with node.graph.inserting_after(last):
        frozen = node.graph.call_function(tuple, (items,))
    frozen.meta["value"] = value
    for user in users:
        index = user.args[1] if bare_name(user) == "getitem" else None
        if isinstance(index, int) and index % len(value) in sizes:
            _replace_by_original(user, sizes[index % len(value)])
        elif not isinstance(index, int):
            user.replace_input_with(node, frozen)


def _original(node: fx.Node, size: Resized) -> fx.Node:
    """What a size was before; it may count others too, such as samples, so it is scaled."""
    with node.graph.inserting_after(node):
        grown = node.graph.call_function(operator.mul, (node, int(size)))
    with node.graph.inserting_after(grown):
        original = node.graph.call_function(operator.floordiv, (grown, size.old))
    grown.meta["value"], original.meta["value"] = node.meta["value"] * int(size), int(size)
    return original


def _replace_by_original(node: fx.Node, size: Resized) -> None:
    users = list(node.users)
    original = _original(node, size)
    for user in users:
        user.replace_input_with(node, original)


def _write_ranges(node: fx.Node, changes: Changes) -> None:
    """Write the bounds of every axis that changes, counted from the front."""
    shape = node.args[0].meta["value"].shape  # type: ignore[union-attr]
    items = index_items(node.args[1], len(shape))
    dims = [place for place, item in enumerate(items) if item is not None]
    for dim in sorted({dim for slot, dim in changes if slot == "size"}):
        item = fx.map_arg(items[dims[dim]], lambda bound: bound.meta["value"])
        start, stop, _ = item.indices(shape[dim])
        if item == slice(None):
            continue
        items[dims[dim]] = slice(
            int(changes.get(("start", dim), start)),
            int(changes.get(("stop", dim), stop)),
            item.step,
        )
    node.args = (node.args[0], tuple(items), *node.args[2:])


def _overwritten_memory(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose result some later operator may write into."""
    modules = dict(named_modules(model, again=True))
    origins = memory_origins(modules, graph)
    written = {origins[operand] for n in graph.nodes if (operand := overwritten(modules, n))}
    return {node for node in graph.nodes if origins[node] in written}


def _drop_operand(node: fx.Node, operand: int, written: bool) -> None:
    """An addition goes on as its other operand, or as a copy if the sum is written into."""
    others = [index for index in range(len(operands_of(node))) if index != operand]
    other = argument(node, others[0])
    if written:
        with node.graph.inserting_before(node):
            copied = node.graph.call_function(torch.clone, (other,))
        copied.meta["value"] = other.meta["value"]
        other = copied
    node.replace_all_uses_with(other)


def _scatter_operand(model: nn.Module, node: fx.Node, scatter: ScatterOperand) -> None:
    """An addition becomes an `index_add`; the index is a buffer of the model."""
    part, whole = argument(node, scatter.operand), argument(node, 1 - scatter.operand)
    name = f"{node.name}_index"
    while hasattr(model, name):
        name += "_"
    model.register_buffer(name, torch.tensor(scatter.kept, device=real_device_of(model)))
    with node.graph.inserting_before(node):
        index = node.graph.get_attr(name)
        arguments = (whole, scatter.dim, index, part)
        added = node.graph.call_function(add_scattered, arguments)
    added.meta["value"] = node.meta["value"]
    node.replace_all_uses_with(added)


def add_scattered(whole: Tensor, dim: int, index: Tensor, part: Tensor) -> Tensor:
    """`part` added to some positions of `dim`; of two data types the wider one, as in a sum."""
    if whole.dtype != part.dtype:
        wider = torch.promote_types(whole.dtype, part.dtype)
        whole, part = whole.to(wider), part.to(wider)
    return torch.index_add(whole, dim, index, part)


def _used(graph: fx.Graph) -> set[str]:
    """The modules that a graph calls and the tensors that it reads."""
    return {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}


def _within(path: str, other: str) -> bool:
    """Whether a module or tensor is a part of another module."""
    return path.startswith(f"{other}.")


def _delete(model: nn.Module, path: str) -> None:
    """Delete a layer, parameter or buffer; the modules around it stay, since code calls them."""
    parent, _, name = path.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError:
        return  # went with a module that holds it
    for container in (owner._modules, owner._parameters, owner._buffers):
        container.pop(name, None)
    try:
        owner.extra_repr()
    except AttributeError:  # it tells of what is gone
        owner.__dict__["extra_repr"] = str


def take_parameters(
    model: nn.Module, program: Program, slices: Iterable[Slice], take: Take
) -> None:
    """Give a model what `take` makes of its tensors and their slices.

    A tensor that goes by several names is replaced under all of them, and in lists of its module,
    as recurrent layers have.
    """
    by_name = by_parameter(slices)
    replaced: dict[int, Tensor] = {}
    modules = dict(named_modules(model, again=True))
    for name, aliases in program.aliases.items():
        new: Tensor | None = None
        for alias in aliases:
            container, leaf = _place(modules, alias)
            if container is None:
                continue  # removed with its branch
            if new is None:
                new = take(container[leaf], by_name.get(name, []))
                replaced[id(container[leaf])] = new
            container[leaf] = new
    for module in modules.values():
        for value in module.__dict__.values():
            if isinstance(value, list):
                value[:] = [replaced.get(id(item), item) for item in value]


def _place(modules: Mapping[str, nn.Module], name: str) -> tuple[dict[str, Any] | None, str]:
    """The container that holds a parameter or buffer (None if it is gone) and its key there."""
    parent, _, leaf = name.rpartition(".")
    owner = modules.get(parent)
    for container in () if owner is None else (owner._parameters, owner._buffers):
        if leaf in container:
            return container, leaf
    return None, leaf


def by_parameter(slices: Iterable[Slice]) -> dict[str, list[Slice]]:
    """The slices of each parameter that has some."""
    by_name: dict[str, list[Slice]] = {}
    for item in slices:
        by_name.setdefault(item.parameter, []).append(item)
    return by_name


def sliced(tensor: Tensor, slices: Iterable[Slice]) -> Tensor:
    """The kept positions of a parameter or buffer, as one of its kind."""
    result = tensor.detach()
    for item in slices:
        index = torch.from_numpy(numpy.fromiter(item.kept, numpy.int64, len(item.kept)))
        result = result.index_select(item.dim, index.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(result, requires_grad=tensor.requires_grad)
    return result
