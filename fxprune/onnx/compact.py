"""Weights of an ONNX file in few bits: whole numbers with scales, or palettes of shared values.

    integers   w = scale * q, q from -8 to 7: a scale per output of a layer, or per block of inputs
               of a matrix (DequantizeLinear, which ONNX Runtime makes one operator with a product)
    palette    w = scale * codebook[index]: the weights of a tensor share some values, found by
               k-means (Han et al. 2016, section 3), up to a scale per output of a layer; an index
               takes 4 bits, or 8 beyond 16 values

Activations stay as they are. But for blocks, ONNX Runtime computes the weights once, as it loads a
file: so the file is small, and what runs is as fast as it was.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir

from fxprune.errors import InputError, MissingExtraError
from fxprune.onnx.frontend.names import fresh_name
from fxprune.onnx.pairs import Weighed, attribute, weighed
from fxprune.stages import track

BLOCK = 32
"""How many inputs of a matrix share a scale, where they can be cut so."""
_MOST = 7
"""The whole number that a largest weight becomes."""
_SHARES = np.linspace(1.0, 0.5, 11)
"""Shares of the largest weight that are tried as the largest that is represented."""
_PLACES = 4096
"""In how many places values are counted before they are clustered."""


def in_whole_numbers(model: onnx_ir.Model) -> int:
    """Store the weights of layers in 4 bits, in place; of how many tensors."""
    return _stored(model, _in_steps)


def in_palettes(model: onnx_ir.Model, bits: int) -> int:
    """Store the weights of layers as palettes of 2 to the power of `bits` values, in place."""
    return _stored(model, lambda graph, layer: _shared(graph, layer, 2**bits))


def _stored(
    model: onnx_ir.Model,
    store: Callable[[onnx_ir.Graph, Weighed], list[onnx_ir.Node]],
) -> int:
    """Let all that reads weights read what nodes compute, where they take less; how often.

    Raises:
        InputError: weights are no numbers.
    """
    graph, count = model.graph, 0
    found = [layer for node in graph if (layer := weighed(node)) is not None]
    layers = {layer.value: layer for layer in found if layer.tensor.dtype == onnx_ir.DataType.FLOAT}
    for value, layer in track(list(layers.items()), "weights in few bits"):
        if not np.isfinite(layer.tensor.numpy()).all():
            raise InputError(f"{layer.name} holds NaN or infinite weights: no few bits say those")
        size, before = layer.tensor.nbytes, set(graph.initializers)
        nodes = store(graph, layer)
        new = [graph.initializers[name] for name in graph.initializers if name not in before]
        if sum(item.const_value.nbytes for item in new if item.const_value is not None) >= size:
            for item in new:
                del graph.initializers[str(item.name)]
            continue
        readers = {use.node for use in value.uses()}
        graph.insert_before(next(node for node in graph if node in readers), nodes)
        value.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)
        del graph.initializers[str(value.name)]
        nodes[-1].outputs[0].name = value.name
        count += 1
    return count


def _constant(graph: onnx_ir.Graph, name: str, array: np.ndarray) -> onnx_ir.Value:
    name = fresh_name(graph, name)
    tensor = onnx_ir.tensor(array, name=name)
    value = onnx_ir.Value(name=name, const_value=tensor)
    graph.register_initializer(value)
    return value


# Whole numbers


def _in_steps(graph: onnx_ir.Graph, layer: Weighed) -> list[onnx_ir.Node]:
    """The nodes that multiply whole numbers with their scales."""
    weights, axis = layer.tensor.numpy(), _outputs(layer)
    if layer.node.op_type == "MatMul" and len(weights) % BLOCK == 0:
        blocks = np.moveaxis(weights.reshape(-1, BLOCK, weights.shape[1]), 1, -1)
        steps, scales = rounded(blocks)
        stored = _steps_of(graph, layer, np.moveaxis(steps, -1, 1))
        scale = _constant(graph, f"{layer.name}_scale", scales.astype(np.float32))
        how = {"axis": 0, "block_size": BLOCK}
        return [onnx_ir.node("DequantizeLinear", [stored, scale], how)]
    rows = np.moveaxis(weights, axis, 0)
    steps, scales = rounded(rows.reshape(len(rows), -1))
    stored = _steps_of(graph, layer, np.moveaxis(steps.reshape(rows.shape), 0, axis))
    shape = [-1 if dim == axis else 1 for dim in range(weights.ndim)]
    numbers = onnx_ir.node("Cast", [stored], {"to": int(onnx_ir.DataType.FLOAT)})
    return [numbers, _scaled(graph, layer, numbers, scales.reshape(shape))]


def _steps_of(graph: onnx_ir.Graph, layer: Weighed, steps: np.ndarray) -> onnx_ir.Value:
    steps = steps.reshape(layer.tensor.shape.numpy()).astype(onnx_ir.DataType.INT4.numpy())
    return _constant(graph, f"{layer.name}_q", steps)


def _scaled(
    graph: onnx_ir.Graph, layer: Weighed, values: onnx_ir.Node, scales: np.ndarray
) -> onnx_ir.Node:
    """The node that multiplies values with the scales of their outputs."""
    scale = _constant(graph, f"{layer.name}_scale", scales.astype(np.float32))
    return onnx_ir.node("Mul", [values.outputs[0], scale])


def _outputs(layer: Weighed) -> int:
    """The axis of weights that outputs lie along; of a table, its vectors."""
    return 0 if layer.node.op_type == "Gather" or not layer.transposed else 1


def rounded(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -8 to 7, and a scale for every row, the last axis, with the least error.

    >>> rounded(np.array([[7.0, -3.0, 0.4]]))
    (array([[ 7., -3.,  0.]]), array([1.]))
    """
    most = np.abs(rows).max(axis=-1, keepdims=True)
    most = np.where(most > 0, most, 1.0)
    best, error = most / _MOST, np.full(most.shape, np.inf)
    for share in _SHARES:
        scale = share * most / _MOST
        off = np.square(_steps(rows, scale) * scale - rows).sum(axis=-1, keepdims=True)
        best, error = np.where(off < error, scale, best), np.minimum(off, error)
    return _steps(rows, best), best[..., 0]


def _steps(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    steps: np.ndarray = np.clip(np.round(rows / scale), -_MOST - 1, _MOST)
    return steps


# Palettes


def _shared(graph: onnx_ir.Graph, layer: Weighed, number: int) -> list[onnx_ir.Node]:
    """The nodes that look weights up in a codebook, and scale them."""
    weights, axis = layer.tensor.numpy(), _outputs(layer)
    others = tuple(dim for dim in range(weights.ndim) if dim != axis)
    norms = np.sqrt(np.square(weights).mean(axis=others, keepdims=True))
    norms = np.where(norms > 0, norms, 1.0)
    codebook, places = palette(weights / norms, number)
    kind = onnx_ir.DataType.UINT4 if number <= 16 else onnx_ir.DataType.UINT8
    stored = _constant(graph, f"{layer.name}_index", places.astype(kind.numpy()))
    values = _constant(graph, f"{layer.name}_codebook", codebook.astype(np.float32))
    index = onnx_ir.node("Cast", [stored], {"to": int(onnx_ir.DataType.INT32)})
    value = onnx_ir.node("Gather", [values, index.outputs[0]], {"axis": 0})
    return [index, value, _scaled(graph, layer, value, norms)]


def palette(array: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many values that stand for all of an array, and for every element which.

    K-means of what is counted in many narrow places, so that its time does not grow with the array.

    >>> palette(np.array([0.0, 1.0, 0.0, 9.0]), 3)
    (array([0., 1., 9.]), array([0, 1, 0, 2]))

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    values = array.reshape(-1).astype(np.float64)
    counts, edges = np.histogram(values, _PLACES)
    sums, _ = np.histogram(values, edges, weights=values)
    seen = counts > 0
    means = sums[seen] / counts[seen]
    centres = means if len(means) <= number else _clusters(means, counts[seen], number)
    places = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
    members = np.bincount(places, minlength=len(centres))
    totals = np.bincount(places, values, minlength=len(centres))
    codebook = np.where(members > 0, totals / np.maximum(members, 1), centres)
    return codebook, places.reshape(array.shape)


def _clusters(points: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    """The centres of so many clusters of weighted points, in order."""
    try:
        from sklearn.cluster import KMeans
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            'form="palette" needs scikit-learn: pip install "fxprune[palettes]"'
        ) from error
    clustering = KMeans(number, n_init=4, random_state=0)
    found = clustering.fit(points[:, None], sample_weight=counts)
    return np.sort(found.cluster_centers_[:, 0])


# What is stored so, as numbers


def expanded(value: onnx_ir.Value) -> np.ndarray:
    """The weights that a stored tensor stands for, of its shape: itself, or what nodes make of it.

    Steps with their scales, of 8 bits, too, and indices with their codebook.
    """
    assert value.const_value is not None
    array = value.const_value.numpy()
    for use in value.uses():
        node = use.node
        if node.op_type == "DequantizeLinear" and use.idx == 0:
            return _dequantised(node, array)
        if node.op_type == "Cast":
            return _computed(node.outputs[0], array.astype(np.float64))
    return array


def _computed(value: onnx_ir.Value, array: np.ndarray) -> np.ndarray:
    """What becomes of numbers that are looked up in a stored list, and scaled."""
    for use in value.uses():
        table = _constant_of(use.node, "Gather", 1 - use.idx)
        scale = _constant_of(use.node, "Mul", 1 - use.idx)
        if table is not None and table.ndim == 1:
            return _computed(use.node.outputs[0], table[array.astype(np.int64)])
        if scale is not None:
            scaled: np.ndarray = array * scale
            return scaled
    return array


def _constant_of(node: onnx_ir.Node, op_type: str, place: int) -> np.ndarray | None:
    """What a node of a type has stored at a place."""
    value = node.inputs[place] if node.op_type == op_type else None
    tensor = None if value is None else value.const_value
    return None if tensor is None else tensor.numpy()


def _dequantised(node: onnx_ir.Node, array: np.ndarray) -> np.ndarray:
    steps = array.astype(np.float64)
    scale, *zero = (value.const_value for value in node.inputs[1:] if value is not None)
    if scale is None or None in zero:
        return array
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)

    def along(numbers: np.ndarray) -> np.ndarray:
        if block:
            every = np.repeat(numbers, block, axis)
            return np.take(every, range(array.shape[axis]), axis)
        shape = [1] * array.ndim
        if numbers.ndim:
            shape[axis] = -1
        return numbers.reshape(shape)

    for point in zero:
        assert point is not None
        steps = steps - along(point.numpy().astype(np.float64))
    weights: np.ndarray = steps * along(scale.numpy().astype(np.float64))
    return weights
