"""Do two recorded graphs compute the same function? Line for line, in a form without spellings.

Values are numbered in the order in which they are computed. Whole numbers stand for what they are
in the example; reshapes, splits and fills are told by the shapes that they make. Graphs of equal
lines are the same function of inputs that take the same path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.torch.frontend.in_place import set_item
from fxprune.torch.frontend.program import index_items
from fxprune.torch.frontend.regions import EFFECTS
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.frontend.walk import named_modules
from fxprune.torch.frontend.ways import Way, run_of

_ONLY = Way()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the normal form, and the node that it stands for."""

    text: tuple[Any, ...]
    node: fx.Node


def normal_form(
    model: nn.Module, graph: fx.Graph, names: Mapping[int, str] | None = None, way: Way = _ONLY
) -> list[Line]:
    """The lines of a way of a graph, in order; `names` are those of tensors, by identity."""
    return _Form(model, graph, names or {}, way).lines()


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
    """Writes the lines of one graph."""

    def __init__(
        self, model: nn.Module, graph: fx.Graph, names: Mapping[int, str], way: Way
    ) -> None:
        self._modules = dict(named_modules(model, again=True))
        self._output = graph.output_node()
        self._nodes, self._result = run_of(graph, way)
        self._lines: list[Line] = []
        self._written: dict[fx.Node, Any] = {}
        self._reshaped: dict[fx.Node, fx.Node] = {}  # not written before somebody reads it
        self._names = _first_names(model, names)

    def lines(self) -> list[Line]:
        """What leads to the output, in order."""
        needed = _needed(self._nodes, self._result)
        for node in self._nodes:
            text = self._line(node) if node in needed else None
            if text is not None:
                self._write(node, text)
        self._write(self._output, ("output", self._argument(self._result)))
        return self._lines

    def _write(self, node: fx.Node, text: tuple[Any, ...]) -> None:
        self._written[node] = ("value", len(self._lines))
        self._lines.append(Line((*text, _shape(node.meta.get("value"))), node))

    def _source_of(self, node: fx.Node) -> fx.Node | None:
        """What a node only gives another shape, as far back as that goes; else None."""
        name, source = bare_name(node), node.args[0] if node.args else None
        if not (_is_array(source) and _is_array(node)):
            return None
        assert isinstance(source, fx.Node)
        old, new = source.meta["value"], node.meta["value"]
        if name == "getitem":
            items = index_items(node.args[1], old.dim())
            same = all(item is None or item == slice(None) for item in items)
        else:
            op = NAMES[name].op if name in NAMES else ""
            same = op == "reshape" or (op == "expand" and old.shape == new.shape)
        if not same or old.dtype != new.dtype:
            return None
        return self._reshaped.get(source, source)

    def _line(self, node: fx.Node) -> tuple[Any, ...] | None:
        """What a node computes, None where it is written in the lines that use it."""
        value: Any = node.meta.get("value")
        if node.op.startswith("call_") and (source := self._source_of(node)) is not None:
            if value is not None and value.shape == source.meta["value"].shape:
                self._written[node] = self._argument(source)
            self._reshaped[node] = source
            return None
        if node.op == "placeholder":
            return ("input", node.target)
        if node.op == "call_module":
            own = self._described(str(node.target))
            return ("module", own, self._argument(node.args), self._argument(node.kwargs))
        if node.target in EFFECTS:
            return ("effect", bare_name(node), self._argument(node.args))
        if node.op == "get_attr":
            self._written[node] = self._owned(node)
        elif node.target is torch.is_grad_enabled:
            self._written[node] = "mode of gradients"
        elif not _holds_arrays(value):
            self._written[node] = _plain(value)
        else:
            return self._call(node, value)
        return None

    def _owned(self, node: fx.Node) -> tuple[Any, ...]:
        """What a model owns, by its first name; a constant by its numbers; a mode."""
        value, name = node.meta.get("value"), str(node.target)
        if not isinstance(value, Tensor):
            return ("flag", name.rpartition(".")[2])
        if CONSTANT in node.meta:
            return ("constant", tuple(node.meta[CONSTANT].flatten().tolist()), _shape(value))
        return ("own", self._names.get(name, name), _shape(value))

    def _described(self, path: str) -> tuple[Any, ...]:
        module = self._modules[path]
        names = (f"{path}.{name}" for name in module._parameters)
        owned = tuple(map(self._names.get, names))  # None for what a layer goes without
        return type(module).__qualname__, module.extra_repr(), owned

    def _call(self, node: fx.Node, value: Any) -> tuple[Any, ...]:
        name = bare_name(node)
        spelling = NAMES.get(name)
        op = spelling.op if spelling else name
        if name == "getitem" and _is_array(node.args[0]):
            return ("index", *self._index(node))
        if node.target is set_item:
            return (name, *self._index(node), self._argument(node.args[2]))
        if op == "expand":
            return (op, self._argument(node.args[0]))
        if op == "fill":
            made = name.removeprefix("new_")
            return (op, made, value.dtype, self._argument(dict(node.kwargs)))
        if spelling is None:
            return (name, self._argument(node.args), self._argument(dict(node.kwargs)))
        bound = dict(spelling.bind(node.args, node.kwargs))
        if op == "split":
            return (op, self._argument(bound["input"]), bound["dim"])
        if op == "attention" and bound["scale"] is None:
            bound["scale"] = bound["query"].meta["value"].shape[-1] ** -0.5
        more = {key: item for key, item in node.kwargs.items() if key not in bound}
        rest = node.args[len(spelling.signature.split()) :]
        return (name, self._argument(bound), self._argument(rest), self._argument(more))

    def _index(self, node: fx.Node) -> tuple[Any, ...]:
        """The array and the index of `x[...]`, with bounds counted from the front."""
        source: Any = node.args[0]
        shape = source.meta["value"].shape
        sizes = iter(shape)
        items = [
            None if item is None else self._indexed(item, next(sizes, 0))
            for item in index_items(node.args[1], len(shape))
        ]
        return self._argument(source), tuple(items)

    def _indexed(self, item: Any, size: int) -> Any:
        plain = fx.map_arg(item, lambda n: n if _is_array(n) else _plain(n.meta["value"]))
        if isinstance(plain, slice) and not _is_array(plain.start) and not _is_array(plain.stop):
            return ("slice", *plain.indices(size))
        if type(plain) is int and size:
            return plain % size
        return self._argument(plain)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value in self._reshaped and value not in self._written:
                self._write(value, ("reshape", self._argument(self._reshaped[value])))
            return self._written.get(value, ("unknown", value.name))
        if isinstance(value, Mapping):
            return tuple(sorted((str(key), self._argument(item)) for key, item in value.items()))
        if isinstance(value, slice):
            return ("slice", *map(self._argument, (value.start, value.stop, value.step)))
        if isinstance(value, list | tuple):
            return tuple(map(self._argument, value))
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
    if isinstance(value, Mapping):  # outputs of transformers leave out what is None
        return tuple(_shape(item) for item in value.values() if item is not None)
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


def _needed(nodes: Sequence[fx.Node], result: Any) -> set[fx.Node]:
    """The nodes that lead to the result, inputs and effects."""
    needed: set[fx.Node] = set()
    fx.map_arg(result, needed.add)
    for node in reversed(nodes):
        if node in needed or node.op == "placeholder" or node.target in EFFECTS:
            needed.add(node)
            needed.update(node.all_input_nodes)
    return needed


def _first_names(model: nn.Module, known: Mapping[int, str]) -> dict[str, str]:
    """For every tensor of a model the first of its names, if it is not known by another."""
    first = dict(known)
    names: dict[str, str] = {}
    for path, module in named_modules(model, again=True):
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                full = f"{path}.{name}" if path else name
                names[full] = first.setdefault(id(tensor), full)
    return names
