"""Which attributes of modules must change so that their own code makes what a fold plan says?

A literal in a call comes from attributes (`frontend/origins.py`), so a plan's literals are
equations between attributes and new sizes. Those that name one are solved first, products then.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import fx, nn

from fxprune.passes.axes import Axis, Space, spaces
from fxprune.passes.facts import Literal, Types
from fxprune.passes.fold import SetLiteral
from fxprune.torch.frontend.origins import (
    Attribute,
    CallSlot,
    Computed,
    Origin,
    Quotient,
    attributes_of,
)
from fxprune.torch.frontend.owners import ORIGINS, OWNER
from fxprune.torch.frontend.program import Program
from fxprune.torch.frontend.spellings import NAMES, bare_name
from fxprune.torch.frontend.walk import modules_in

Values = dict[Attribute, int]
"""New values of attributes."""


def solved(
    model: nn.Module,
    nodes: Mapping[str, fx.Node],
    literals: Iterable[SetLiteral],
    known: Iterable[Literal],
) -> Values:
    """New values of attributes, as far as literals tell them; contradictions keep the first.

    Where these do not tell them apart, attributes that are the size of an axis elsewhere keep it,
    and so do those that something is divided by. `model` is the model before, and `known` are its
    literals.
    """
    literals = list(literals)
    asked = {(each.node, each.slot[1]): each.old for each in literals if each.slot[0] == "value"}
    equations = [
        (_with_sizes(origin, asked), literal.value)
        for literal in literals
        if (origin := written(nodes[literal.node], literal)) is not None
    ]
    values: Values = {}
    _solve_all(equations, values)
    changed = {(literal.node, literal.slot) for literal in literals}
    for literal in known:
        if (literal.node, literal.slot) not in changed and literal.slot[0] in SHAPES:
            origin = origin_of(nodes[literal.node], literal)
            if isinstance(origin, Attribute):
                values.setdefault(origin, literal.axis.size)
    _solve_all(equations, values)
    for origin, _ in equations:
        if isinstance(origin, Computed) and origin.op == "floordiv":
            for attribute in attributes_of(origin.right):
                values.setdefault(attribute, _kept_in(model, attribute))
    _solve_all(equations, values)
    return values


SHAPES = ("shape", "size", "sizes", "bins")
"""What literals are called that are sizes of axes."""


def _solve_all(equations: list[tuple[Origin, int]], values: Values) -> None:
    for _ in range(len(equations) + 1):
        before = len(values)
        for origin, value in equations:
            _solve(origin, value, values)
        if len(values) == before:
            break


def owners_without(
    model: nn.Module, nodes: Mapping[str, fx.Node], literals: Iterable[SetLiteral], values: Values
) -> dict[str, str]:
    """The modules in whose code a literal stands that no attribute makes what a plan says; why."""
    cuts: dict[str, dict[int, int]] = {}
    for literal in literals:
        cuts.setdefault(literal.node, {})[literal.slot[1]] = literal.value
    return {
        str(nodes[literal.node].meta[OWNER]): f"no attribute says {literal}"
        for literal in literals
        if not _is_expressed(model, nodes[literal.node], literal, values)
        or not _cuts_evenly(nodes[literal.node], cuts[literal.node])
    }


def _cuts_evenly(node: fx.Node, new: Mapping[int, int]) -> bool:
    """Whether parts of these sizes are what a number of parts makes, where a call says one."""
    if bare_name(node) not in ("chunk", "tensor_split"):
        return True
    bound = NAMES[bare_name(node)].bind(node.args, node.kwargs)
    parts = next((value for value in bound.values() if type(value) is int), 0)
    old = [part.shape[int(bound["dim"])] for part in node.meta["value"]]
    sizes = [new.get(place, size) for place, size in enumerate(old)]
    if len(old) != parts:
        return True  # parts are told by where they begin: their code is compared later
    even, more = divmod(sum(sizes), parts)
    if bare_name(node) == "chunk":
        even, more = -(-sum(sizes) // parts), 0
        return all(size == even for size in sizes[:-1]) and sizes[-1] <= even
    return sizes == [even + (place < more) for place in range(parts)]


def _is_expressed(model: nn.Module, node: fx.Node, literal: SetLiteral, values: Values) -> bool:
    """Whether a literal follows its attributes; one that code computes from sizes may well."""
    if node.op == "call_module":
        return True
    if literal.slot[0] == "scale":
        return not _takes_scale(node)
    origin = origin_of(node, literal)
    if origin is not None:
        return _evaluated(model, origin, values) == literal.value
    if _is_size_of_its_own(model, node, literal):
        return True  # the code may well ask for it
    return not any(_is_number(node, place) for place in places_of(node, *literal.slot))


def _is_size_of_its_own(model: nn.Module, node: fx.Node, literal: SetLiteral) -> bool:
    """Whether a module has a tensor with an axis of the size that its code writes."""
    shape = getattr(node.meta["value"], "shape", ())
    place = literal.slot[1]
    if literal.slot[0] not in SHAPES or place >= len(shape):
        return False
    owner = model.get_submodule(str(node.meta[OWNER]))
    own = (*owner._parameters.values(), *owner._buffers.values())
    return any(shape[place] in tensor.shape for tensor in own if tensor is not None)


def _is_number(node: fx.Node, place: CallSlot) -> bool:
    """Whether a plain number stands at a place in a call."""
    item: Any = node.args if place[0] == "args" else node.kwargs
    for step in place[1:]:
        if isinstance(item, slice):
            item = getattr(item, str(step), None)
        elif isinstance(item, Mapping):
            item = item.get(step)
        elif isinstance(item, list | tuple) and isinstance(step, int) and step < len(item):
            item = item[step]
        else:
            return False
    return type(item) is int and item > 1


def _evaluated(model: nn.Module, origin: Origin, values: Values) -> int:
    if isinstance(origin, int):
        return origin
    if isinstance(origin, Attribute):
        return values[origin] if origin in values else _kept_in(model, origin)
    assert isinstance(origin, Computed)
    left = _evaluated(model, origin.left, values)
    return int(_COMPUTE[origin.op](left, _evaluated(model, origin.right, values)))


def _kept_in(model: nn.Module, attribute: Attribute) -> int:
    holder: Any = model.get_submodule(attribute.path)
    for name in attribute.names:
        holder = _item(holder, name)
    return int(holder)


def _solve(origin: Origin, value: int, values: Values) -> None:
    """Learn the value of the one attribute of an equation that is not known yet."""
    if isinstance(origin, Attribute):
        values.setdefault(origin, value)
        return
    if not isinstance(origin, Computed):
        return
    left, right = _known(origin.left, values), _known(origin.right, values)
    if (left is None) == (right is None):
        return
    other = origin.right if left is not None else origin.left
    known = left if left is not None else right
    assert known is not None
    if origin.op == "mul" and known and value % known == 0:
        _solve(other, value // known, values)
    elif origin.op == "add":
        _solve(other, value - known, values)
    elif origin.op == "sub":
        _solve(other, known - value if left is not None else value + known, values)
    elif origin.op == "floordiv" and right is not None:
        _solve(other, value * known, values)


def _known(origin: Origin, values: Values) -> int | None:
    if isinstance(origin, int):
        return origin
    if isinstance(origin, Attribute):
        return values.get(origin)
    assert isinstance(origin, Computed)
    left, right = _known(origin.left, values), _known(origin.right, values)
    if left is None or right is None:
        return None
    return _COMPUTE[origin.op](left, right)


_COMPUTE: Mapping[str, Callable[[int, int], int]] = {
    "mul": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "floordiv": lambda a, b: a // b if b else 0,
}


def write(model: nn.Module, values: Values) -> None:
    """Write new values where modules keep them."""
    for attribute, value in values.items():
        holder: Any = model.get_submodule(attribute.path)
        for name in attribute.names[:-1]:
            holder = _item(holder, name)
        last = attribute.names[-1]
        if isinstance(last, int):  # an item of a tuple or list
            owner: Any = model.get_submodule(attribute.path)
            for name in attribute.names[:-2]:
                owner = _item(owner, name)
            items = [*_item(owner, attribute.names[-2])]
            items[last] = value
            kind = type(_item(owner, attribute.names[-2]))
            owner.__dict__[attribute.names[-2]] = kind(items)
        else:
            holder.__dict__[last] = value


def write_attention_sizes(model: nn.Module) -> None:
    """Let torch's attention layers, which compare sizes with their own, have those of weights."""
    for layer in modules_in(model):
        if not isinstance(layer, nn.MultiheadAttention):
            continue
        own = layer._parameters
        packed = own.get("in_proj_weight")
        queries, keys, values = (
            packed if packed is not None else own.get(f"{name}_proj_weight") for name in "qkv"
        )
        if queries is None or keys is None or values is None:
            continue  # gone with its branch
        layer.embed_dim, layer.kdim, layer.vdim = (w.shape[1] for w in (queries, keys, values))
        layer.head_dim = layer.embed_dim // layer.num_heads
        out = layer.out_proj
        out.out_features, out.in_features = out.weight.shape


def _item(holder: Any, name: str | int) -> Any:
    return holder[name] if isinstance(name, int) else holder.__dict__[name]


def origin_of(node: fx.Node, literal: SetLiteral | Literal) -> Origin | None:
    """What a literal in a call was computed from, if modules keep it."""
    origins: Mapping[CallSlot, Origin | Quotient] = node.meta.get(ORIGINS, {})
    if not origins:
        return None
    found = next((origins[p] for p in places_of(node, *literal.slot) if p in origins), None)
    return None if isinstance(found, Quotient) else found


def places_of(node: fx.Node, slot: str, index: int) -> list[CallSlot]:
    """Where a literal may stand in a call, one by one or in a tuple."""
    name = bare_name(node)
    if name in ("chunk", "tensor_split"):
        return []  # they are told how many parts there are, or where parts begin
    if name == "split":
        places: list[CallSlot] = [("args", 1, index), ("args", 1)]
        options = ("split_size_or_sections", "split_size")
        return places + [("kwargs", key, *at) for key in options for at in ((index,), ())]
    if name == "getitem":
        return [] if slot == "size" else _places_in_index(node, slot, index)
    if name == "unflatten":
        dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
        index -= int(dim) % node.args[0].meta["value"].dim()  # type: ignore[union-attr]
        return [("args", 2, index), ("kwargs", "sizes", index)] if index >= 0 else []
    spelling = NAMES.get(name)
    signature = (
        [item.partition("=")[0].strip("*") for item in spelling.signature.split()]
        if spelling
        else []
    )
    wanted = {"shape": ("shape", "size", "sizes")}.get(slot, (slot,))
    places = []
    for argument in wanted:
        if argument in signature:
            at = signature.index(argument)
            places += [("args", at, index), ("args", at + index), ("kwargs", argument, index)]
            places += [("kwargs", argument)]
    return places


def attributes_of_axes(
    graph: fx.Graph, literals: Iterable[Literal]
) -> Iterator[tuple[Attribute, Axis]]:
    """The attributes that are written for a size as they are, and of which axis."""
    nodes = {node.name: node for node in graph.nodes}
    for literal in literals:
        node = nodes[literal.node]
        if node.op != "call_module" and literal.slot[0] in SHAPES:
            origin = origin_of(node, literal)
            if isinstance(origin, Attribute):
                yield origin, literal.axis


def written(node: fx.Node, literal: SetLiteral | Literal) -> Origin | None:
    """What a literal in a call was computed from, be it on the way or in the call itself."""
    origin = origin_of(node, literal)
    if origin is not None or literal.slot[0] not in SHAPES:
        return origin
    found = next((n for p in places_of(node, *literal.slot) if (n := _node_at(node, p))), None)
    return None if found is None else _computed(found)


def _computed(node: fx.Node) -> Origin | None:
    """A size that code asks for, or arithmetic on such."""
    name = bare_name(node)
    if name == "size":
        return node if len(node.args) == 2 else None
    if name not in _COMPUTE or len(node.args) != 2:
        return None
    left, right = (_operand(node, place) for place in (0, 1))
    return None if left is None or right is None else Computed(name, left, right)


def _operand(node: fx.Node, place: int) -> Origin | None:
    origin: Origin | Quotient | None = node.meta.get(ORIGINS, {}).get(("args", place))
    item = node.args[place]
    if origin is not None:
        return None if isinstance(origin, Quotient) else origin
    if isinstance(item, fx.Node):
        return _computed(item)
    return item if type(item) is int else None


def _node_at(node: fx.Node, place: CallSlot) -> fx.Node | None:
    """The node that stands at a place in a call."""
    item: Any = node.args if place[0] == "args" else node.kwargs
    for step in place[1:]:
        try:
            item = item[step]
        except (IndexError, KeyError, TypeError):
            return None
    return item if isinstance(item, fx.Node) else None


def _with_sizes(origin: Origin, asked: Mapping[tuple[str, int], int]) -> Origin:
    """With numbers for the sizes that code asks for, as they are after a fold."""
    if isinstance(origin, fx.Node):
        dim: Any = origin.args[1]
        return asked.get((origin.name, dim)) or int(origin.meta["value"])
    if isinstance(origin, Computed):
        left, right = (_with_sizes(part, asked) for part in (origin.left, origin.right))
        return Computed(origin.op, left, right)
    return origin


def _places_in_index(node: fx.Node, slot: str, dim: int) -> list[CallSlot]:
    """Where the bound of an axis stands in `x[...]`: `...` stands for several, None for none."""
    index: Any = node.args[1]
    if not isinstance(index, tuple):
        return [("args", 1, slot)] if dim == 0 else []
    rank = node.args[0].meta["value"].dim()  # type: ignore[union-attr]
    named = sum(item is not None and item is not Ellipsis for item in index)
    at = 0
    for place, item in enumerate(index):
        if item is Ellipsis:
            at += rank - named
        elif item is not None:
            if at == dim:
                return [("args", 1, place, slot)]
            at += 1
    return []


# What costs the class -------------------------------------------------------------------------


def scaling_spaces(graph: fx.Graph, literals: Iterable[Literal]) -> dict[Space, str]:
    """The spaces that a scale is computed from, by torch or in the model's code; the reason."""
    nodes = {node.name: node for node in graph.nodes}
    scaling = scaling_attributes(graph)
    found: dict[Space, str] = {}
    for literal in literals:
        node = nodes[literal.node]
        if node.op == "call_module":
            continue
        if literal.slot[0] == "scale" and _takes_scale(node):
            found |= dict.fromkeys(spaces(literal.axis), f"{node.name} takes its scale from it")
        origin = origin_of(node, literal)
        if literal.slot[0] in SHAPES and isinstance(origin, Attribute) and origin in scaling:
            found |= dict.fromkeys(spaces(literal.axis), f"a scale is computed from {origin}")
    return found


def scaling_attributes(graph: fx.Graph) -> set[Attribute]:
    """The attributes that fractions in calls were computed from."""
    return {
        attribute
        for node in graph.nodes
        for origin in node.meta.get(ORIGINS, {}).values()
        if isinstance(origin, Quotient)
        for attribute in attributes_of(origin)
    }


def _takes_scale(node: fx.Node) -> bool:
    return NAMES[bare_name(node)].bind(node.args, node.kwargs)["scale"] is None


def attributes_read(graph: fx.Graph) -> set[Attribute]:
    """The attributes from which numbers in calls were computed."""
    origins = (origin for node in graph.nodes for origin in node.meta.get(ORIGINS, {}).values())
    return {attribute for origin in origins for attribute in attributes_of(origin)}


def repeated_spaces(model: nn.Module, program: Program, types: Types) -> dict[Space, str]:
    """How many heads attention shares keys among, where a module keeps a number of that size that
    it does not read here; the reason.

    Torch tells that from its operands, but where there is a mask, other code may repeat the keys.
    """
    read = attributes_read(program.graph)
    owners = {node.name: str(node.meta[OWNER]) for node in program.graph.nodes}
    found: dict[Space, str] = {}
    for node in program.ir.nodes:
        if not node.attributes.get("gqa"):
            continue
        query, key = (types.axes[value.name][-3] for value in node.inputs[:2] if value)
        for space in set(spaces(query)) - set(spaces(key)):
            for name, value in vars(model.get_submodule(owners[node.name])).items():
                attribute = Attribute(owners[node.name], (name,))
                if type(value) is int and value == space.size and attribute not in read:
                    found[space] = f"{attribute} may say it where keys are repeated"
    return found
