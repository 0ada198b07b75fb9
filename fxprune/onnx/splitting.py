"""Layers of an ONNX file made two nodes, and two nodes made one again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir

from fxprune.errors import InputError
from fxprune.matrices import (
    Factors,
    factors_of,
    first_matrices,
    first_weight,
    matrices_of,
    moments_of,
    portions,
    product,
    second_matrices,
    second_weight,
    turned,
)
from fxprune.onnx.frontend.names import fresh_name
from fxprune.onnx.frontend.session import Feeds, session_of
from fxprune.onnx.pairs import (
    NOTHING,
    PLACES,
    OnnxPair,
    Settings,
    Weighed,
    halves_of,
    layers_of,
    pairs_of,
)
from fxprune.passes.factorisation import FORMS, Form
from fxprune.stages import track


@dataclass(frozen=True, slots=True)
class Halves:
    """The weights of two layers, outputs first, at the precision of the file."""

    form: Form
    first: np.ndarray
    second: np.ndarray


def factorised(
    model: onnx_ir.Model, forms: Mapping[str, str], feeds: Sequence[Feeds] = ()
) -> tuple[dict[str, Halves], dict[str, np.ndarray]]:
    """Weights for layers, by name, as two of some form, and the energies of the positions between.

    On data, if there is some: then positions are turned so that the last ones matter least.
    """
    layers = layers_of(model)
    halves: dict[str, Halves] = {}
    energies: dict[str, np.ndarray] = {}
    for name, form in track(list(forms.items()), "layers factorised"):
        layer = layers[name]
        found = factors_of(matrices_of(layer.array, FORMS[form]))
        halves[name] = _halves(found, layer, FORMS[form])
        energies[name] = found.energies
    if not (feeds and halves):
        return halves, energies
    return _turned(model, layers, halves, feeds)


def _halves(factors: Factors, layer: Weighed, form: Form) -> Halves:
    shape, dtype = layer.layer, layer.tensor.dtype.numpy()
    first = first_weight(factors.first, form, shape.kernel)
    second = second_weight(factors.second, form, shape.outputs, shape.kernel)
    return Halves(form, first.astype(dtype), second.astype(dtype))


def _turned(
    model: onnx_ir.Model,
    layers: Mapping[str, Weighed],
    halves: Mapping[str, Halves],
    feeds: Sequence[Feeds],
) -> tuple[dict[str, Halves], dict[str, np.ndarray]]:
    """The same products, of which the positions are the principal components of their results."""
    pairs = as_pairs(model, halves)
    between = {name: pair.first.node.outputs[0] for name, pair in pairs_of(pairs).items()}
    sizes = {n: 8 * own.first.shape[0] ** 2 for n, own in halves.items()}
    new: dict[str, Halves] = {}
    energies: dict[str, np.ndarray] = {}
    for names in portions(sizes):
        values = {name: str(between[name].name) for name in names}
        for name, moments in _moments(pairs, values, layers, halves, feeds).items():
            own, layer = halves[name], layers[name]
            count = own.form.matrices(layer.layer)
            first = first_matrices(own.first.astype(np.float64), count)
            second = second_matrices(own.second.astype(np.float64), count)
            found = turned(Factors(first, second, np.zeros(0)), moments)
            new[name] = _halves(found, layer, own.form)
            energies[name] = found.energies
    return new, energies


def _moments(
    pairs: onnx_ir.Model,
    values: Mapping[str, str],
    layers: Mapping[str, Weighed],
    halves: Mapping[str, Halves],
    feeds: Sequence[Feeds],
) -> dict[str, np.ndarray]:
    """Mean products of what first layers return on data, of shape (matrices, rank, rank)."""
    sums: dict[str, Any] = dict.fromkeys(values, 0.0)
    counts = dict.fromkeys(values, 0)
    with session_of(pairs, list(values.values()), optimised=True) as session:
        for feed in track(feeds, "looking at data"):
            results = session.run(feed, list(values.values()))
            for name, array in zip(values, results, strict=True):
                layer = layers[name].layer
                count = halves[name].form.matrices(layer)
                own, number = moments_of(array, array.ndim - 1 - len(layer.kernel), count)
                sums[name] = sums[name] + own
                counts[name] += number
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise InputError(f"{name} returns NaN or infinite values on data")
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def as_pairs(model: onnx_ir.Model, halves: Mapping[str, Halves]) -> onnx_ir.Model:
    """A copy of a model of which some layers, by name, are two."""
    pairs = model.clone()
    layers = layers_of(pairs)
    for name, own in halves.items():
        _split(pairs.graph, layers[name], own)
    return pairs


def _split(graph: onnx_ir.Graph, layer: Weighed, halves: Halves) -> None:
    """Put a node before one, which goes on as the second; its bias is the very same."""
    node, form = layer.node, halves.form
    kind = node.op_type if node.op_type in ("Conv", "Gather") else "MatMul"
    own, others = _shared_out(layer, form) if kind == "Conv" else ({}, dict(node.attributes))
    names, whole = halves_of(layer.name), layer.value
    first = _stored(graph, names[0], halves.first if kind == "Conv" else halves.first.T, layer)
    second = _stored(graph, names[1], halves.second.T if layer.transposed else halves.second, layer)
    inputs = [first, layer.data] if kind == "Gather" else [layer.data, first]
    before = onnx_ir.node(kind, inputs, own, name=f"{node.name}_first" if node.name else None)
    before.metadata_props.update(node.metadata_props)
    graph.insert_before(node, before)
    if kind == "Gather":
        _become(node, "MatMul", before.outputs[0], second, {})
    else:
        _become(node, node.op_type, before.outputs[0], second, others)
    _drop_unused(graph, whole)


def _shared_out(layer: Weighed, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of two convolutions, from those of one."""
    first, second = (
        {name: form.shared_out(own, NOTHING[name])[half] for name, own in layer.settings.items()}
        for half in (0, 1)
    )
    padding = layer.padding_by_name
    return (
        _attributes(first, form.matrices(layer.layer), padding),
        _attributes(second, 1, padding),
    )


def _attributes(settings: Settings, group: int, padding: str) -> dict[str, Any]:
    """The attributes of a convolution."""
    found: dict[str, Any] = {name: list(own) for name, own in settings.items()}
    begins, ends = zip(*found.pop("pads"), strict=True)
    how = {"auto_pad": padding} if padding else {"pads": [*begins, *ends]}
    return {**found, **how, "group": group}


def merge_pair(graph: onnx_ir.Graph, pair: OnnxPair) -> None:
    """Make one node of two, with the bias of the second."""
    first, second, layer = pair.first, pair.second, pair.layer
    array = product(first.array, second.array, pair.form, layer)
    node, kind = second.node, second.node.op_type
    data, transposed = first.data, second.transposed
    attributes: Mapping[str, Any] = dict(node.attributes)
    if kind == "Conv":
        settings = {
            name: pair.form.joined(own, second.settings[name])
            for name, own in first.settings.items()
        }
        attributes = _attributes(settings, 1, second.padding_by_name)
    elif first.node.op_type == "Gather":
        kind, attributes, transposed = "Gather", {}, True
    weights = _stored(graph, pair.name, array.T if transposed else array, first)
    old = first.value, second.value
    _become(node, kind, data, weights, attributes)
    graph.remove(first.node, safe=True)
    for value in old:
        _drop_unused(graph, value)


def _become(
    node: onnx_ir.Node,
    kind: str,
    data: onnx_ir.Value | None,
    weights: onnx_ir.Value,
    attributes: Mapping[str, Any],
) -> None:
    """Let a node multiply other data with other weights, as another layer does."""
    node.op_type = kind
    node.replace_input_with(PLACES[kind], weights)
    node.replace_input_with(1 - PLACES[kind], data)
    node.attributes.clear()
    node.attributes.update(
        {
            attribute.name: attribute
            for attribute in onnx_ir.convenience.convert_attributes(attributes)
        }
    )


def _stored(graph: onnx_ir.Graph, name: str, array: np.ndarray, like: Weighed) -> onnx_ir.Value:
    """A new initialiser of the type of another layer's weights."""
    name = fresh_name(graph, name)
    values = np.ascontiguousarray(array.astype(like.tensor.dtype.numpy()))
    tensor = onnx_ir.Tensor(values, like.tensor.dtype, name=name)
    value = onnx_ir.Value(name=name, const_value=tensor, type=like.value.type, shape=tensor.shape)
    graph.register_initializer(value)
    return value


def _drop_unused(graph: onnx_ir.Graph, value: onnx_ir.Value) -> None:
    if not value.uses() and str(value.name) in graph.initializers:
        del graph.initializers[str(value.name)]
