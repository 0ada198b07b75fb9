"""Where ONNX nodes keep the sizes that folding rewrites: one short function per operator type.

A size is an entry of an input, of a list attribute, or an attribute. Entries of an initialiser are
replaced; entries that the model computes are overridden or scaled by nodes put in between.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir

from fxprune.onnx.frontend.initializers import constant
from fxprune.onnx.frontend.names import fresh_name, name_of, replace_value
from fxprune.onnx.frontend.observe import Facts
from fxprune.passes.fold import SetLiteral

Changes = Mapping[tuple[str, int], SetLiteral]
"""New values of the literals of one node, by slot."""


def write_literals(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """Write new sizes into a node of our own copy of a model."""
    if node.op_type in WRITERS:
        WRITERS[node.op_type](node, changes, facts)


def _entries(
    changes: Changes, slot: str, place: Callable[[int], int | None]
) -> dict[int, SetLiteral]:
    """Changes of one slot by their place in a list."""
    found = {place(dim): change for (name, dim), change in changes.items() if name == slot}
    return {index: change for index, change in found.items() if index is not None}


def _rewrite(
    node: onnx_ir.Node, index: int, changes: Mapping[int, SetLiteral], facts: Facts
) -> None:
    """Change entries of input number `index`."""
    value = node.inputs[index]
    if value is None or not changes:
        return
    if value.is_initializer():
        assert value.const_value is not None
        numbers = value.const_value.numpy().copy()
        for place, change in changes.items():
            numbers[place] = change.value
        node.replace_input_with(index, constant(node, numbers))
        return
    numbers = facts.numbers[str(value.name)]
    scaled = {place: change for place, change in changes.items() if change.old}
    if scaled:
        value = _scaled(node, value, numbers, scaled)
    fixed = {place: change.value for place, change in changes.items() if not change.old}
    if fixed:
        chosen = np.array([place in fixed for place in range(len(numbers))])
        new = np.array([fixed.get(i, 0) for i in range(len(numbers))], numbers.dtype)
        value = _insert(node, "Where", constant(node, chosen), constant(node, new), value)
    node.replace_input_with(index, value)


def _scaled(
    node: onnx_ir.Node, value: onnx_ir.Value, numbers: np.ndarray, changes: Mapping[int, SetLiteral]
) -> onnx_ir.Value:
    """`value` times the new size, divided by the old one; `numbers` are those of the example."""
    factors, divisors = _ratios(len(numbers), changes, numbers.dtype)
    grown = _insert(node, "Mul", value, constant(node, factors))
    return _insert(node, "Div", grown, constant(node, divisors))


def _ratios(
    length: int, changes: Mapping[int, SetLiteral], dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """By what to multiply the entries of a list of sizes, and by what to divide them."""
    factors, divisors = np.ones((2, length), dtype)
    for place, change in changes.items():
        factors[place], divisors[place] = change.value, change.old
    return factors, divisors


def derived(
    graph: onnx_ir.Graph,
    value: onnx_ir.Value,
    compute: Callable[[], np.ndarray],
    sizes: Sequence[int],
) -> onnx_ir.Value:
    """A new initialiser of the type of another; its array is computed when it is written."""
    assert value.const_value is not None
    name, dtype = fresh_name(graph, f"{value.name}.new"), value.const_value.dtype
    shape = onnx_ir.Shape(sizes)
    tensor = onnx_ir.LazyTensor(
        lambda: onnx_ir.Tensor(compute(), dtype=dtype, name=name), dtype, shape, name=name
    )
    new = onnx_ir.Value(name=name, const_value=tensor, type=value.type, shape=shape)
    graph.register_initializer(new)
    return new


def _insert(node: onnx_ir.Node, op_type: str, *inputs: onnx_ir.Value) -> onnx_ir.Value:
    """A new node in front of another; its output."""
    new = onnx_ir.node(op_type, inputs)
    assert isinstance(node.graph, onnx_ir.Graph)
    node.graph.insert_before(node, new)
    return new.outputs[0]


def _write_shape(index: int) -> Callable[[onnx_ir.Node, Changes, Facts], None]:
    """A shape that is aligned from the right, with -1 and 0 for what follows by itself."""

    def write(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
        shape = node.inputs[index]
        assert shape is not None
        rank = len(facts.shapes[str(node.outputs[0].name)])
        length = facts.shapes[str(shape.name)][0]
        known = facts.numbers.get(str(shape.name))
        following = _FOLLOWING.get(node.op_type, ())

        def place(dim: int) -> int | None:
            entry = dim - rank + length
            follows = known is not None and entry >= 0 and int(known[entry]) in following
            return None if entry < 0 or follows else entry

        _rewrite(node, index, _entries(changes, "shape", place), facts)

    return write


_FOLLOWING = {"Reshape": (-1, 0), "Expand": (1,)}
"""Sizes that stand for those of the input."""


def _set_attribute(name: str) -> Callable[[onnx_ir.Node, Changes, Facts], None]:
    def write(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
        node.attributes[name] = onnx_ir.AttrInt64(name, changes[name, 0].value)

    return write


def _write_list(
    node: onnx_ir.Node, name: str, index: int, changes: Mapping[int, SetLiteral], facts: Facts
) -> None:
    """A list that older versions have as an attribute, newer ones as an input."""
    if name not in node.attributes:
        _rewrite(node, index, changes, facts)
        return
    numbers = list(node.attributes[name].as_ints())
    for place, change in changes.items():
        numbers[place] = change.value
    node.attributes[name] = onnx_ir.AttrInt64s(name, numbers)


def _write_slice(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """Bounds of axes that change; those counted from the end are counted from the front then."""
    source = node.inputs[0]
    assert source is not None
    shape = facts.shapes[str(source.name)]
    axes = _listed(node, "axes", 3, facts)
    for slot, name, index in (("start", "starts", 1), ("stop", "ends", 2)):
        numbers = _listed(node, name, index, facts)
        assert numbers is not None
        dims = [axis % len(shape) for axis in axes or range(len(numbers))]
        places = {dim: place for place, dim in enumerate(dims)}
        from_end = {
            place: SetLiteral(name_of(node), (slot, dim), max(numbers[place] + shape[dim], 0))
            for dim, place in places.items()
            if ("size", dim) in changes and numbers[place] < 0
        }
        _write_list(node, name, index, {**from_end, **_entries(changes, slot, places.get)}, facts)


def _listed(node: onnx_ir.Node, name: str, index: int, facts: Facts) -> list[int] | None:
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else [int(n) for n in facts.numbers[str(value.name)].reshape(-1)]


def _write_split(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """The sizes are written out, also where the pieces were equal."""
    source = node.inputs[0]
    assert source is not None
    dim = int(node.attributes["axis"].as_int()) if "axis" in node.attributes else 0
    sizes = [facts.shapes[str(value.name)][dim] for value in node.outputs]
    for (_, piece), change in changes.items():
        sizes[piece] = change.value
    node.attributes.pop("num_outputs", None)
    assert isinstance(node.graph, onnx_ir.Graph)
    if node.graph.opset_imports[""] < _SPLIT_BY_INPUT:
        node.attributes["split"] = onnx_ir.AttrInt64s("split", sizes)
    else:
        node.resize_inputs(2)
        node.replace_input_with(1, constant(node, np.array(sizes)))


_SPLIT_BY_INPUT = 13
"""The version of the operator set from which the sizes of a split are an input."""


def _write_pad(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    source = node.inputs[0]
    assert source is not None
    rank = len(facts.shapes[str(source.name)])
    axes = [axis % rank for axis in _listed(node, "", 3, facts) or range(rank)]
    before = _entries(changes, "before", axes.index)
    after = _entries(changes, "after", lambda dim: axes.index(dim) + len(axes))
    _write_list(node, "pads", 1, {**before, **after}, facts)


def _write_resize(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    axes = list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else None
    source = node.inputs[0]
    assert source is not None
    rank = len(facts.shapes[str(source.name)])
    place = 1 if axes is None else [axis % rank for axis in axes].index(1)
    _rewrite(node, 3, {place: changes["channels", 0]}, facts)


def _write_scale(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """The scale stays that of the original width."""
    if "scale" not in node.attributes:
        width = changes["scale", 0].value
        node.attributes["scale"] = onnx_ir.AttrFloat32("scale", 1 / math.sqrt(width))


def _write_heads(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """The number of heads, and the scale of the original width."""
    if ("num_heads", 0) in changes:
        _set_attribute("num_heads")(node, changes, facts)
    if ("scale", 0) in changes:
        _write_scale(node, changes, facts)


def _write_squeeze(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """An axis that has shrunk to one position stays; without a list, those of one position go.

    Which these are may differ from run to run, so it is asked of the array.
    """
    shrunk = {dim for (_, dim), change in changes.items() if change.value == 1}
    source = node.inputs[0]
    if not shrunk or _says_axes(node) or source is None:
        return
    shape = facts.shapes[str(source.name)]
    left = [dim for dim, size in enumerate(shape) if size != 1]
    stays = np.array([dim in left and left.index(dim) in shrunk for dim in range(len(shape))])
    sizes = _insert(node, "Shape", source)
    single = _insert(node, "Equal", sizes, constant(node, np.array(1)))
    kept = _insert(node, "Or", _insert(node, "Not", single), constant(node, stays))
    node.op_type = "Reshape"
    node.resize_inputs(2)
    node.replace_input_with(1, _insert(node, "Compress", sizes, kept))


def _says_axes(node: onnx_ir.Node) -> bool:
    return "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)


def _write_size(node: onnx_ir.Node, changes: Changes, facts: Facts) -> None:
    """What asks for a size is told the original one."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    rank, length = len(facts.shapes[str(source.name)]), facts.shapes[str(output.name)][0]
    start = int(node.attributes["start"].as_int()) if "start" in node.attributes else 0
    first = max(start + rank if start < 0 else start, 0)
    found = _entries(
        changes, "value", lambda dim: dim - first if 0 <= dim - first < length else None
    )
    if not found:
        return
    graph = node.graph
    assert isinstance(graph, onnx_ir.Graph)
    factors, divisors = _ratios(length, found, np.int64)
    grown = onnx_ir.node("Mul", (output, constant(node, factors)))
    told = onnx_ir.node("Div", (grown.outputs[0], constant(node, divisors)))
    graph.insert_after(node, (grown, told))
    replace_value(graph, output, told.outputs[0])
    grown.replace_input_with(0, output)


Writer = Callable[[onnx_ir.Node, Changes, Facts], None]

WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "Attention": _write_scale,
        "ConstantOfShape": _write_shape(0),
        "Conv": _set_attribute("group"),
        "ConvTranspose": _set_attribute("group"),
        "Expand": _write_shape(1),
        "FusedConv": _set_attribute("group"),
        "GRU": _set_attribute("hidden_size"),
        "GroupNormalization": _set_attribute("num_groups"),
        "MultiHeadAttention": _write_heads,
        "LSTM": _set_attribute("hidden_size"),
        "Pad": _write_pad,
        "RNN": _set_attribute("hidden_size"),
        "Reshape": _write_shape(1),
        "Resize": _write_resize,
        "Shape": _write_size,
        "Slice": _write_slice,
        "Split": _write_split,
        "Squeeze": _write_squeeze,
    }
)
"""Operator types with sizes that are literals; those of any other type follow their inputs."""
