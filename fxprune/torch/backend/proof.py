"""Do two recorded graphs compute the same function? Node for node, in a form without spellings.

Values are numbered in the order in which they are computed. Whole numbers stand for what they are in
the example; reshapes, splits and fills are told by the shapes that they make. Graphs whose forms are
equal are the same function of inputs that take the same path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.torch.frontend.program import index_items
from fxprune.torch.frontend.recorder import EFFECTS
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.frontend.values import CONSTANT


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the normal form, and the node that it stands for."""

    text: tuple[Any, ...]
    node: fx.Node


def normal_form(model: nn.Module, graph: fx.Graph) -> list[Line]:
    """The lines of a graph, in order."""
    return _Form(model, graph).steps()


def first_difference(one: list[Line], other: list[Line]) -> Line | None:
    """The first line of one that is another in the other, None if all are equal."""
    for left, right in zip(one, other, strict=False):
        if left.text != right.text:
            return left
    if len(one) != len(other):
        longer = max(one, other, key=len)
        return longer[min(len(one), len(other))]
    return None


class _Form:
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._graph = graph
        self._numbers: dict[fx.Node, Any] = {}
        self._names = _first_names(model)
        self._needed = _needed(graph)

    def steps(self) -> list[Line]:
        lines = []
        for node in self._graph.nodes:
            if node not in self._needed:
                continue
            text = self._line(node)
            if text is None:
                continue
            self._numbers[node] = ("v", len(lines))
            lines.append(Line((*text, _shape(node.meta.get("value"))), node))
        return lines

    def _line(self, node: fx.Node) -> tuple[Any, ...] | None:
        value = node.meta.get("value")
        if node.op == "placeholder":
            return ("input", node.target)
        if node.op == "output":
            return ("output", self._literal(node.args[0]))
        if node.op == "get_attr":
            if not isinstance(value, Tensor):
                self._numbers[node] = ("flag", str(node.target).rpartition(".")[2])
                return None
            self._numbers[node] = (*self._own(node), _shape(value))
            return None
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            return (
                "module",
                self._described(str(node.target), module),
                self._literal(node.args),
                self._literal(node.kwargs),
            )
        if node.target is torch.is_grad_enabled:
            self._numbers[node] = "mode of gradients"
            return None
        if node.target in EFFECTS:
            return ("effect", bare_name(node), self._literal(node.args))
        if not _holds_arrays(value):
            self._numbers[node] = _plain(value)
            return None
        return self._call(node, value)

    def _own(self, node: fx.Node) -> tuple[Any, ...]:
        """What a model owns, by its first name, or a constant by its numbers."""
        if CONSTANT in node.meta:
            return ("constant", tuple(node.meta[CONSTANT].flatten().tolist()))
        return ("own", self._names.get(str(node.target), str(node.target)))

    def _described(self, path: str, module: nn.Module) -> tuple[Any, ...]:
        names = tuple(
            self._names.get(f"{path}.{name}", f"{path}.{name}") for name in module._parameters
        )
        return type(module).__qualname__, module.extra_repr(), names

    def _call(self, node: fx.Node, value: Any) -> tuple[Any, ...]:
        name = bare_name(node)
        spelling = NAMES.get(name)
        op = spelling.op if spelling else name
        if name == "getitem" and _is_array(node.args[0]):
            return self._index(node)
        if op in ("reshape", "expand"):
            return (op, self._literal(node.args[0]))
        if op == "split":
            arguments = spelling.bind(node.args, node.kwargs)  # type: ignore[union-attr]
            return (op, self._literal(node.args[0]), arguments["dim"])
        if op == "fill":
            return (op, name.removeprefix("new_"), value.dtype, self._literal(dict(node.kwargs)))
        if op == "attention":
            return self._attention(node)
        if spelling is not None:
            bound = dict(spelling.bind(node.args, node.kwargs))
            rest = node.args[len(spelling.signature.split()) :]
            named = {k: v for k, v in node.kwargs.items() if k not in bound}
            return (name, self._literal(bound), self._literal(rest), self._literal(named))
        return (name, self._literal(node.args), self._literal(dict(node.kwargs)))

    def _index(self, node: fx.Node) -> tuple[Any, ...]:
        source: Any = node.args[0]
        shape = source.meta["value"].shape
        items = index_items(node.args[1], len(shape))
        dims = iter(shape)
        found = []
        for item in items:
            if item is None:
                found.append(None)
                continue
            size = next(dims, None)
            item = fx.map_arg(
                item, lambda bound: bound if _is_array(bound) else _plain(bound.meta["value"])
            )
            if isinstance(item, slice) and not any(
                isinstance(b, fx.Node) for b in (item.start, item.stop)
            ):
                found.append(("slice", *item.indices(size)))
            elif isinstance(item, int) and not isinstance(item, bool) and size is not None:
                found.append(item % size if size else item)
            else:
                found.append(self._literal(item))
        return ("index", self._literal(source), tuple(found))

    def _attention(self, node: fx.Node) -> tuple[Any, ...]:
        bound = dict(NAMES["scaled_dot_product_attention"].bind(node.args, node.kwargs))
        query = bound["query"].meta["value"]
        bound["scale"] = bound["scale"] if bound["scale"] is not None else query.shape[-1] ** -0.5
        return ("attention", self._literal(bound))

    def _literal(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self._numbers.get(value, ("?", value.name))
        if isinstance(value, Mapping):
            return tuple(sorted((str(k), self._literal(v)) for k, v in value.items()))
        if isinstance(value, slice):
            return ("slice", *map(self._literal, (value.start, value.stop, value.step)))
        if isinstance(value, list | tuple):
            return tuple(map(self._literal, value))
        return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Size | list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, bool | str | type(None)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, torch.device):
        return "device"
    return repr(value) if not isinstance(value, float) else float(value)


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, Mapping):
        return tuple(map(_shape, value.values()))
    if isinstance(value, list | tuple):
        return tuple(map(_shape, value))
    return None


def _is_array(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("value"), Tensor)


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_arrays, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_arrays, value))
    return isinstance(value, Tensor)


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that lead to the output, inputs and effects."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if (
            node.op in ("output", "placeholder")
            or node.target in EFFECTS
            or any(u in needed for u in node.users)
        ):
            needed.add(node)
    return needed


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every tensor of a model the first of its names."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                full = f"{path}.{name}" if path else name
                names[full] = first.setdefault(id(tensor), full)
    return names
