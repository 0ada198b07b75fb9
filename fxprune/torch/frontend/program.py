"""A torch model as the graph that passes read.

`read_model` traces the module and translates every call into an operator of the table. A call
that has no spelling becomes an unknown operator under its own name, which inference pins.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.ir import Graph, Node, Value, ValueKind
from fxprune.passes.infer import RULES
from fxprune.passes.operators import OPERATORS
from fxprune.torch.frontend.forward import Use
from fxprune.torch.frontend.in_place import set_item
from fxprune.torch.frontend.leaves import qualified_name, torch_base
from fxprune.torch.frontend.module_calls import CallOf, calls_of
from fxprune.torch.frontend.module_spellings import module_spelling
from fxprune.torch.frontend.owners import Kept
from fxprune.torch.frontend.packing import Row, pack_graph, unpack_graph
from fxprune.torch.frontend.regions import EFFECTS
from fxprune.torch.frontend.spellings import NAMES, Call, Spelling, bare_name, spatial_rank
from fxprune.torch.frontend.trace import Arguments, trace
from fxprune.torch.frontend.values import CONSTANT
from fxprune.torch.frontend.walk import named_modules, named_parameters
from fxprune.torch.frontend.ways import EXAMPLE, WAYS, Way, merge, ways_of

_log = logging.getLogger("fxprune")

_UNCHANGING = """
    dim ndim ndimension device get_device dtype layout names requires_grad grad is_leaf is_cuda
    is_meta is_sparse is_quantized is_contiguous is_complex is_floating_point element_size
    itemsize type
"""
"""What a model may ask of an array and be told the same when the array is smaller."""


@dataclass(frozen=True, slots=True)
class Program:
    """A traced model: torch's graph of it, and ours.

    `graph` belongs to no module; its nodes carry `meta["value"]`. `aliases` gives for every
    parameter of `ir` the state_dict names under which the model knows it. `calls` are those of the
    modules that were entered, by path. `told` says whether libraries knew that they were traced,
    `replaced` whether code was recorded as other code that does the same, `batch` which size stood
    in for that of the inputs, `kept` in which attributes forward keeps arrays. What `forgets` types
    and sizes must be recorded once more before it runs; what `knows_single` runs the code for
    several samples.
    """

    graph: fx.Graph
    ir: Graph
    aliases: Mapping[str, tuple[str, ...]]
    calls: Mapping[str, tuple[CallOf, ...]]
    told: bool
    replaced: bool
    batch: int
    kept: Kept
    forgets: bool
    knows_single: bool

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.ir, self.aliases, self.calls)
        facts = (self.told, self.replaced, self.batch, self.kept)
        knows = (self.forgets, self.knows_single)
        return _unpacked, (pack_graph(self.graph), *rest, *facts, *knows)


def _unpacked(rows: list[Row], *rest: Any) -> Program:
    return Program(unpack_graph(rows), *rest)


def read_model(
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
) -> Program:
    """Trace a model and translate it; the model is as it was afterwards.

    Modules at the paths `leaves` stay whole; what goes in and out of them is pinned. `extras`,
    `batch`, `use`, `both`, `told` and `known` are as in `trace`.

    Raises:
        TraceError: the model's Python cannot be traced.
        InputError: the model does not accept the example inputs.
    """
    options: Any = {"use": use, "both": both, "told": told, "known": known}
    graph = merge(trace(model, examples, leaves, extras, batch, **options))
    translation = _Translation(model, graph)
    ir = translation.graph()
    calls = translation.calls()
    facts = (graph.told, graph.replaced, graph.batch, graph.kept)
    knows = (graph.forgets, graph.knows_single)
    return Program(graph, ir, translation.aliases, calls, *facts, *knows)


class _Translation:
    """Translates node by node; `values` maps fx nodes to our values, or containers of them."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._fx = graph
        self._modules = dict(named_modules(model, again=True))
        self._values: dict[fx.Node, Any] = {}
        self._nodes: list[Node] = []
        self._inputs: list[Value] = []
        self._parameters: dict[int, Value] = {}
        self._outputs: tuple[Any, ...] = ()
        self.aliases: dict[str, tuple[str, ...]] = {}
        self._collect_parameters(model)

    def _collect_parameters(self, model: nn.Module) -> None:
        trained = {id(p) for _, p in named_parameters(model)}
        names: dict[int, list[str]] = {}
        tensors: dict[int, Tensor] = {}
        for path, module in self._modules.items():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    names.setdefault(id(tensor), []).append(f"{path}.{name}" if path else name)
                    tensors[id(tensor)] = tensor
        for key, aliases in names.items():
            shape, bits = tuple(tensors[key].shape), 8 * tensors[key].element_size()
            kind = ValueKind.PARAMETER
            self._parameters[key] = Value(aliases[0], shape, kind, key in trained, bits)
            self.aliases[aliases[0]] = tuple(dict.fromkeys(aliases))

    def graph(self) -> Graph:
        """The translated graph."""
        for node in self._fx.nodes:
            self._values[node] = self._translate(node)
        ways = dict(zip(ways_of(self._fx), self._outputs, strict=True))
        results = next(ways[way] for way in (Way(), Way(0, False)) if way in ways)
        return Graph(
            inputs=tuple(self._inputs),
            nodes=tuple(self._nodes),
            outputs=tuple(dict.fromkeys(_flat(self._outputs))),
            results=tuple(dict.fromkeys(_flat(results))),
            parameters=tuple(self._parameters.values()),
            batch=self._batch(),
            others=tuple(tuple(_flat(ways[way])) for way in ways if ways[way] is not results),
        )

    def _batch(self) -> int:
        """The batch size of the first example."""
        places = (n for n in self._fx.nodes if n.op == "placeholder" and not n.meta.get(EXAMPLE))
        inputs = (value for node in places for value in _flat(self._values[node]))
        batch = {value.shape[0] for value in inputs if value.shape}
        return batch.pop() if len(batch) == 1 else 1

    def calls(self) -> dict[str, tuple[CallOf, ...]]:
        """How every module that was entered is called."""
        return calls_of(getattr(self._fx, "calls", {}), self._values)

    def _translate(self, node: fx.Node) -> Any:
        result = node.meta.get("value")
        if node.op == "placeholder":
            values = self._named(node.name, result, ValueKind.INPUT)
            self._inputs.extend(_flat(values))
            return values
        if node.op == "get_attr":
            return self._attribute(node, result)
        if node.op == "output":
            returned: Any = fx.map_arg(node.args[0], self._values.__getitem__)
            self._outputs = returned if WAYS in node.meta else (returned,)
            return None
        if node.op == "call_module":
            return self._module(node, result)
        if isinstance(node.target, type) and issubclass(node.target, tuple | Mapping):
            mapped = issubclass(node.target, Mapping) and node.args
            made: Any = node.args[0] if mapped else node.args or dict(node.kwargs)
            return fx.map_arg(made, self._values.__getitem__)
        if bare_name(node) == "getitem":
            return self._getitem(node, result)
        if node.target is set_item:
            return self._set_item(node, result)
        return self._function(node, result)

    def _named(self, name: str, result: Any, kind: ValueKind = ValueKind.COMPUTED) -> Any:
        """A value for a tensor, containers of values for containers, None for the rest."""
        if isinstance(result, Tensor):
            return Value(name, tuple(result.shape), kind)
        if isinstance(result, Mapping):
            return {key: self._named(f"{name}.{key}", item, kind) for key, item in result.items()}
        if isinstance(result, list | tuple):
            return tuple(self._named(f"{name}.{i}", item, kind) for i, item in enumerate(result))
        return None

    def _attribute(self, node: fx.Node, result: Any) -> Any:
        if not isinstance(result, Tensor):
            return None
        if CONSTANT in node.meta:
            return self._emit(node, "constant", (), result)
        path, _, name = str(node.target).rpartition(".")
        tensor = getattr(self._modules[path], name)
        if id(tensor) in self._parameters and _is_sliced(tensor):
            return self._parameters[id(tensor)]
        return self._emit(node, "constant", (), result)

    def _emit(
        self, node: fx.Node, op: str, inputs: tuple[Any, ...], result: Any, **attributes: Any
    ) -> Any:
        """Add one node of ours for `node`."""
        again = bool(self._nodes) and self._nodes[-1].name == node.name
        outputs = self._named(f"{node.name}.{len(self._nodes)}" if again else node.name, result)
        source = str(node.target) if node.op == "call_module" else ""
        self._nodes.append(Node(node.name, op, inputs, tuple(_flat(outputs)), attributes, source))
        return outputs

    def _module(self, node: fx.Node, result: Any) -> Any:
        module = self._modules[str(node.target)]
        operands = _flat(fx.map_arg((node.args, node.kwargs), self._values.__getitem__))
        spelling = module_spelling(torch_base(type(module)))
        qualified = qualified_name(type(module))
        renormalises = getattr(module, "max_norm", None) is not None  # rows of an embedding
        if not all(map(_is_sliced, module.parameters())):
            return self._emit(
                node, f"complex or sparse {type(module).__name__}", tuple(operands), result
            )
        if qualified in OPERATORS or spelling is None or renormalises or len(operands) != 1:
            own = [p for p in module.parameters() if _is_sliced(p)]
            op = qualified if qualified in OPERATORS else type(module).__name__
            if spelling is not None and qualified not in OPERATORS:
                op += " with max_norm" if renormalises else f" of {len(operands)} operands"
            return self._emit(node, op, (*operands, *map(self._parameter, own)), result)
        tensors = [getattr(module, name, None) for name in spelling.parameters.split()]
        if any(tensor is not None and id(tensor) not in self._parameters for tensor in tensors):
            # Computed by a parametrization or a hook, so there is nothing to slice.
            known = [self._parameters[id(p)] for p in module.parameters() if _is_sliced(p)]
            return self._emit(
                node, f"parametrised {type(module).__name__}", (*operands, *known), result
            )
        sizes = {name: read(module) for name, read in spelling.sizes.items()}
        sizes.update(spatial_rank(type(module).__name__))
        inputs = (*operands, *map(self._parameter, tensors))
        return self._emit(node, spelling.op, inputs, result, sizes=sizes, slots=spelling.slots)

    def _parameter(self, tensor: Tensor | None) -> Value | None:
        return None if tensor is None else self._parameters[id(tensor)]

    def _function(self, node: fx.Node, result: Any) -> Any:
        name = bare_name(node)
        operands = tuple(_flat(self._operands(node)))
        if name in OPERATORS and "." in name:
            return self._emit(node, name, operands, result)
        spelling = NAMES.get(name)
        if node.target in EFFECTS:
            return None
        if not _flat(self._named("", result)) and not (spelling and spelling.op == "size"):
            if operands and name not in _UNCHANGING.split():
                self._emit(node, name, operands, result)
            return None  # else arithmetic on sizes
        if spelling is not None and spelling.op == "fill":
            return self._emit(node, "fill", (), result)
        if not operands:
            return self._emit(node, "constant", (), result)
        if spelling is None:
            unknown = f"{name}()" if name in RULES or name in OPERATORS else name
            return self._emit(node, unknown, operands, result)
        return self._spelled(node, spelling, result)

    def _operands(self, node: fx.Node) -> Any:
        """All arguments of a call, as values."""
        return fx.map_arg((node.args, node.kwargs), self._values.__getitem__)

    def _spelled(self, node: fx.Node, spelling: Spelling, result: Any) -> Any:
        arguments = spelling.bind(node.args, node.kwargs)
        values = {key: fx.map_arg(arg, self._values.__getitem__) for key, arg in arguments.items()}
        concrete = {
            key: fx.map_arg(arg, lambda item: item.meta["value"]) for key, arg in arguments.items()
        }
        inputs: list[Value | None] = []
        for name in spelling.arrays.split():
            found = _flat(values.get(name))
            inputs.extend(found if found or len(spelling.arrays.split()) == 1 else [None])
        while inputs and inputs[-1] is None:
            inputs.pop()
        op = _variant(spelling, concrete)
        unnamed = [v for v in _flat(self._operands(node)) if v not in inputs]
        if unnamed and op == "elementwise":
            inputs.extend(unnamed)  # such as bounds of clamp
        elif unnamed and op != "identity":
            form = f"{bare_name(node)} with an array for an argument"
            return self._emit(node, form, (*inputs, *unnamed), result)
        if len(_flat(self._named("", result))) > 1 and op in OPERATORS:
            return self._emit(
                node, f"{bare_name(node)} with several results", tuple(inputs), result
            )
        if op in ("add", "elementwise"):
            inputs = [value for value in inputs if value is not None]
        attributes = spelling.attributes(Call(node, concrete, result)) if op == spelling.op else {}
        if rank := spatial_rank(bare_name(node)):
            attributes["sizes"] = {**attributes.get("sizes", {}), **rank}
        return self._emit(node, op, tuple(inputs), result, **attributes)

    def _getitem(self, node: fx.Node, result: Any) -> Any:
        source, index = node.args
        assert isinstance(source, fx.Node)
        value = self._values[source]
        if isinstance(value, tuple | Mapping):
            return value[index]  # type: ignore[index]
        if value is None:
            return None
        return self._index(node, value, index, result)

    def _set_item(self, node: fx.Node, result: Any) -> Any:
        """`x[...] = value` for slices; anything else in the index pins everything."""
        source: Any = self._values[node.args[0]]  # type: ignore[index]
        index, value = fx.map_arg(node.args[1:], self._values.get)
        items = index_items(node.args[1], len(source.shape))
        concrete = fx.map_arg(items, lambda item: item.meta["value"])
        operands = (source, value) if isinstance(value, Value) else (source,)
        plain = all(type(item) is int or isinstance(item, slice) for item in concrete)
        if not plain or any(map(_holds_array, concrete)):
            form = "set_item by arrays or lists"
            return self._emit(node, form, (*operands, *_flat(index)), result)
        sizes = zip(concrete, source.shape, strict=True)
        ranges = tuple(
            (item % n, item % n + 1, 1) if isinstance(item, int) else item.indices(n)
            for item, n in sizes
        )
        positions = tuple(dim for dim, item in enumerate(concrete) if isinstance(item, int))
        return self._emit(node, "overwrite", operands, result, ranges=ranges, positions=positions)

    def _index(self, node: fx.Node, value: Value, index: Any, result: Tensor) -> Any:
        """`x[...]` as a slice, then selections, then new axes; arrays as indices pin one axis."""
        items = index_items(index, len(value.shape))
        concrete = fx.map_arg(items, lambda item: item.meta["value"])
        if any(isinstance(item, bool | list) or _holds_array(item) for item in concrete):
            return self._emit(node, "getitem by lists or bounds in arrays", (value,), result)
        arrays = [item for item in concrete if isinstance(item, Tensor)]
        if arrays:
            return self._index_by_array(node, value, items, concrete, result)
        dims = [item for item in concrete if item is not None]
        ranges = tuple(
            item.indices(n) if isinstance(item, slice) else (0, n, 1)
            for item, n in zip(dims, value.shape, strict=True)
        )
        current = torch.empty(value.shape, device="meta")[
            tuple(item if isinstance(item, slice) else slice(None) for item in dims)
        ]
        out = self._emit(node, "slice", (value,), current, ranges=ranges)
        for dim in reversed([i for i, item in enumerate(dims) if isinstance(item, int)]):
            current = current.select(dim, 0)
            out = self._emit(node, "select", (out,), current, dim=dim)
        if any(item is None for item in concrete):
            out = self._emit(node, "reshape", (out,), result)
        return out

    def _index_by_array(
        self, node: fx.Node, value: Value, items: Any, concrete: Any, result: Tensor
    ) -> Any:
        dims = [i for i, item in enumerate(concrete) if isinstance(item, Tensor)]
        arrays = _flat([self._values[items[i]] for i in dims])
        plain = all(isinstance(i, Tensor) or i == slice(None) for i in concrete)
        together = dims == list(range(dims[0], dims[0] + len(dims)))
        if not (plain and together) or any(concrete[i].dtype == torch.bool for i in dims):
            return self._emit(node, "getitem by masks or arrays apart", (value, *arrays), result)
        return self._emit(node, "gather", (value, *arrays), result, dims=tuple(dims))


def _is_sliced(tensor: Tensor) -> bool:
    """Whether positions of a tensor are cut out of it; complex and sparse ones stay as they are."""
    return tensor.layout is torch.strided and not (tensor.is_complex() or tensor.is_quantized)


def _holds_array(item: Any) -> bool:
    """Whether a slice has a bound that only an array knows."""
    bounds = (item.start, item.stop, item.step) if isinstance(item, slice) else ()
    return any(isinstance(bound, Tensor) for bound in bounds)


def _variant(spelling: Spelling, arguments: Mapping[str, Any]) -> str:
    """The operator where one name spells several, depending on the ranks of its operands."""
    if arguments.get("max_norm") is not None:
        return f"renormalising {spelling.op}"  # it scales rows by their lengths
    if spelling.op == "batch_norm" and arguments["running_mean"] is None:
        return "standardise"  # as weight standardisation is written
    if spelling.op == "addmm" and (arguments["alpha"], arguments["beta"]) != (1, 1):
        return f"scaled {spelling.op}"
    if spelling.op == "reduce" and isinstance(arguments.get("dim"), Tensor):
        return "elementwise"
    if spelling.op == "index_add" and arguments["alpha"] != 1:
        return "scaled index_add"
    if spelling.op == "add" and arguments["alpha"] != 1:
        return "elementwise"  # without one operand the other would lose its factor
    return spelling.op


def index_items(index: Any, rank: int) -> list[Any]:
    """The items of an index expression, one per axis, `...` and trailing axes spelled out."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(item is not None and item is not Ellipsis for item in items)
    fill = [slice(None)] * (rank - used)
    if any(item is Ellipsis for item in items):
        place = next(i for i, item in enumerate(items) if item is Ellipsis)
        return [*items[:place], *fill, *items[place + 1 :]]
    return [*items, *fill]


def _flat(values: Any) -> list[Value]:
    """Every value in a nested structure, in order."""
    if isinstance(values, Value):
        return [values]
    if isinstance(values, Mapping):
        return [value for item in values.values() for value in _flat(item)]
    if isinstance(values, list | tuple):
        return [value for item in values for value in _flat(item)]
    if isinstance(values, slice):
        return _flat((values.start, values.stop, values.step))
    return []
