"""What is known about the values of an ONNX graph before it runs: shapes, and small whole numbers.

One walk in execution order. ONNX's own shape inference answers node by node, with the numbers that
shapes are computed from; where it gives up, ONNX Runtime runs the model once.
"""

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir

from fxprune.errors import InputError
from fxprune.onnx.frontend.data import takes_any_number
from fxprune.onnx.frontend.names import output_name
from fxprune.onnx.frontend.session import Feeds, random_feeds, session_of
from fxprune.onnx.frontend.sizes import Shape, bound_sizes, open_axes, shapes_at, stand_ins

_log = logging.getLogger("fxprune")

_MOST_NUMBERS = 4096
"""Arrays of more elements are never taken for numbers that shapes are computed from."""
_RANDOM = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial")
_MOST_ELEMENTS = 2**36


@dataclass(slots=True)
class Facts:
    """Shapes by value name, in one example run, and the values that are numbers."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)


def observe(
    model: onnx_ir.Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    feeds: Feeds | None = None,
) -> Facts:
    """Shapes and numbers of all values of the main graph.

    Args:
        model: an inlined model in execution order.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        feeds: inputs to run the model on, instead of random ones of these shapes.

    Raises:
        InputError: `shapes` does not fit the inputs, or ONNX Runtime does not run the model.
    """
    feeds = _fewer(model, feeds) if feeds else None
    given: dict[str, Sequence[int]] = {name: feed.shape for name, feed in (feeds or {}).items()}
    given.update(shapes or {})
    free = set(open_axes(model)) - set(bound_sizes(model, given))
    *attempts, usual = (shapes_at(model, sizes, given) for sizes in stand_ins(model))
    for attempt in attempts:
        with contextlib.suppress(InputError):
            return _observe_at(model, attempt, feeds, runs=len(free) > 1)
    return _observe_at(model, usual, feeds, runs=False)


def _fewer(model: onnx_ir.Model, feeds: Feeds) -> Feeds:
    """As many samples as a number that occurs nowhere in the model, if it takes any number."""
    batches = [name for name, kind in open_axes(model).items() if kind == "batch"]
    if len(batches) != 1 or not takes_any_number(model.graph.inputs):
        return feeds
    count = next(stand_ins(model))[batches[0]]
    enough = all(len(feed) >= count for feed in feeds.values())
    return {name: feed[:count] for name, feed in feeds.items()} if enough else feeds


def _observe_at(
    model: onnx_ir.Model, shapes: Mapping[str, Shape], feeds: Feeds | None, *, runs: bool
) -> Facts:
    """Shapes and numbers where inputs have these shapes, at which the model `runs`, if asked to."""
    facts = Facts()
    for name, shape in shapes.items():
        facts.shapes[name], facts.types[name] = shape, _type_of_input(model, name)
    for value in model.graph.initializers.values():
        _note_initializer(facts, value)
    unknown = [node for node in model.graph if not _observe_node(facts, node, model)]
    _check_sizes(facts)
    if unknown or runs:
        _run(facts, model, feeds)
    if unknown:
        for node in model.graph:  # numbers that hang on shapes found by running
            _observe_node(facts, node, model)
    return facts


def _check_sizes(facts: Facts) -> None:
    """Nothing is so large that no machine could hold it, as files may say that want to do harm."""
    for name, shape in facts.shapes.items():
        if math.prod(shape) > _MOST_ELEMENTS:
            raise InputError(f"value {name} has {math.prod(shape)} elements: shape {list(shape)}")


def _type_of_input(model: onnx_ir.Model, name: str) -> int:
    value = next(value for value in model.graph.inputs if value.name == name)
    return int(value.dtype) if value.dtype is not None else onnx.TensorProto.FLOAT


def _note_initializer(facts: Facts, value: onnx_ir.Value) -> None:
    tensor = value.const_value
    assert tensor is not None and value.name is not None
    facts.shapes[value.name] = tuple(tensor.shape.numpy())
    facts.types[value.name] = int(tensor.dtype)
    if _may_be_number(int(tensor.dtype), facts.shapes[value.name]):
        facts.numbers[value.name] = tensor.numpy()


def _may_be_number(dtype: int, shape: Shape) -> bool:
    """Whole numbers and booleans, and single numbers of any kind.

    Arrays of more axes are weights, also where folding has left a single element of them.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in _WHOLE:
        return count <= _MOST_NUMBERS
    return count <= 1 and (not shape or (len(shape) == 1 and dtype in _FLOATS))


_WHOLE = (
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.BOOL,
)
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def _observe_node(facts: Facts, node: onnx_ir.Node, model: onnx_ir.Model) -> bool:
    """Note what is known of a node's outputs; False if a shape is unknown."""
    if node.op_type == "Shape" and node.domain == "" and _known(facts, node):
        _observe_shape(facts, node)
        return True
    if _is_arithmetic(facts, node):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _compute(facts, node, model)
    # Also what is left out has a shape, which running does not tell.
    if any(output_name(node, index) not in facts.shapes for index in range(len(node.outputs))):
        _infer(facts, node, model)
    return all(value.name in facts.shapes for value in node.outputs if value.name)


def _known(facts: Facts, node: onnx_ir.Node) -> bool:
    return all(value.name in facts.shapes for value in node.inputs if value is not None)


def _observe_shape(facts: Facts, node: onnx_ir.Node) -> None:
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.name and output.name
    bounds = [int_attribute(node, name, default) for name, default in (("start", 0), ("end", None))]
    numbers = np.array(facts.shapes[source.name][slice(*bounds)], dtype=np.int64)
    facts.numbers[output.name] = numbers
    facts.shapes[output.name], facts.types[output.name] = numbers.shape, onnx.TensorProto.INT64


def int_attribute(node: onnx_ir.Node, name: str, default: int | None = None) -> int | None:
    """A whole-number attribute of a node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def _is_arithmetic(facts: Facts, node: onnx_ir.Node) -> bool:
    """Whether a node computes numbers from numbers alone."""
    given = [value for value in node.inputs if value is not None]
    return (
        bool(given)
        and node.domain == ""
        and not node.op_type.startswith(_RANDOM)
        and not any(a.type in _GRAPHS for a in node.attributes.values())
        and all(value.name in facts.numbers for value in given)
        and any(value.name not in facts.numbers for value in node.outputs if value.name)
    )


_GRAPHS = (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)


def _compute(facts: Facts, node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    """Compute numbers; what is too long for one, or fractional, is left an array."""
    names = [str(value.name) for value in node.inputs if value is not None]
    feeds = {name: facts.numbers[name] for name in names}
    if sum(feed.size for feed in feeds.values()) > 2 * _MOST_NUMBERS or _is_long(node, feeds):
        return
    from onnx.reference import ReferenceEvaluator  # large, and few models need it

    try:
        untyped = onnx.helper.make_empty_tensor_value_info
        made = [str(value.name) for value in node.outputs if value.name]
        ends = list(map(untyped, names)), list(map(untyped, made))
        graph = onnx.helper.make_graph([onnx_ir.to_proto(node)], "numbers", *ends)
        results: Any = ReferenceEvaluator(graph, opsets=dict(model.opset_imports)).run(None, feeds)
    except Exception as error:
        _log.debug("%s is not computed: %s", node.op_type, error)
        return
    for value, result in zip(node.outputs, results, strict=False):
        if value.name and isinstance(result, np.ndarray | np.generic):
            result = np.asarray(result)
            dtype = int(onnx.helper.np_dtype_to_tensor_dtype(result.dtype))
            facts.shapes[value.name], facts.types[value.name] = result.shape, dtype
            if _may_be_number(dtype, result.shape):
                facts.numbers[value.name] = result


def _is_long(node: onnx_ir.Node, feeds: Mapping[Any, np.ndarray]) -> bool:
    """Whether a few numbers ask for an array too large to compute here."""
    sizes = [feed for feed in feeds.values() if feed.dtype.kind == "i"]
    if node.op_type in ("Expand", "Tile", "ConstantOfShape"):
        return bool(sizes) and float(np.prod(np.abs(sizes[-1]), dtype=float)) > _MOST_NUMBERS
    if node.op_type in ("Range", "OneHot"):
        return any(float(np.abs(feed).max(initial=0)) > _MOST_NUMBERS for feed in feeds.values())
    return False


def _infer(facts: Facts, node: onnx_ir.Node, model: onnx_ir.Model) -> None:
    """Ask ONNX for the shapes of a node's outputs."""
    if not _known(facts, node) or any(a.type in _GRAPHS for a in node.attributes.values()):
        return
    proto = onnx_ir.to_proto(node)
    for index in range(len(node.outputs)):
        proto.output[index] = output_name(node, index)
    names = [value.name for value in node.inputs if value is not None and value.name]
    types = {n: onnx.helper.make_tensor_type_proto(facts.types[n], facts.shapes[n]) for n in names}
    data = {
        n: onnx.numpy_helper.from_array(facts.numbers[n], n) for n in names if n in facts.numbers
    }
    try:
        schema = _schema(node.op_type, model.opset_imports[node.domain], node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=_opsets(tuple(model.opset_imports.items()))
        )
    except Exception as error:
        _log.debug("no shape for %s: %s", node.op_type, error)
        return
    for name, inferred in found.items():
        tensor = inferred.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        if tensor.HasField("shape") and len(dims) == len(tensor.shape.dim):
            facts.shapes[name], facts.types[name] = tuple(dims), tensor.elem_type


@functools.cache
def _schema(op_type: str, version: int, domain: str) -> Any:
    return onnx.defs.get_schema(op_type, version, domain)


@functools.cache
def _opsets(imports: tuple[tuple[str, int], ...]) -> list[Any]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in imports]


def _run(facts: Facts, model: onnx_ir.Model, feeds: Feeds | None) -> None:
    """Let ONNX Runtime tell the shapes that are still unknown."""
    wanted = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.name and value.name not in facts.shapes
    ]
    shapes = {value.name: facts.shapes[value.name] for value in model.graph.inputs if value.name}
    with session_of(model, wanted) as session:
        results = session.run(feeds or random_feeds(model, shapes), wanted)
    for name, result in zip(wanted, results, strict=bool(wanted)):  # asked for none, it tells all
        array = isinstance(result, np.ndarray)
        facts.shapes[name] = result.shape if array else ()
        if array and result.dtype.kind in "fiub":
            facts.types[name] = int(onnx.helper.np_dtype_to_tensor_dtype(result.dtype))
        else:
            facts.types[name] = onnx.TensorProto.STRING
