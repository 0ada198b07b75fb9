"""Weights of an ONNX model that make up for closed positions: least squares, layer by layer.

The model and its masked copy are run side by side, node by node. Where both come to a layer that
mixes channels, its weights are solved anew, so that from what the masked run gives it the layer
returns what it returned in the other (He et al. 2017, equation 5).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir

from fxprune.errors import InputError
from fxprune.keep_sets import closed_branches, kept_of
from fxprune.onnx.frontend.names import name_of
from fxprune.onnx.frontend.program import OnnxProgram, captured_values
from fxprune.onnx.frontend.session import Feeds
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import kept_flags
from fxprune.passes.fold import KeepSet
from fxprune.shelf import Shelf
from fxprune.stages import track

_MOST_ROWS, _ROWS_PER_COLUMN = 1 << 17, 32
"""To how many positions of all samples a layer is fitted, about: whichever is more."""


def refitted(
    program: OnnxProgram,
    analysis: Analysis,
    masked: onnx_ir.Model,
    keep: KeepSet,
    data: Iterable[Feeds],
    ridge: float = 1e-3,
) -> tuple[OnnxProgram, int]:
    """The program with weights that make up for what a keep-set closes, and how many layers.

    `Conv` without groups, `Gemm` and `MatMul` with a weight of their own are fitted, from the
    input on, so that later layers also correct what earlier ones got wrong.

    Args:
        program: the model; it stays as it is.
        analysis: the facts about it.
        masked: its masked copy under the keep-set; its weights are changed in place.
        keep: the keep-set.
        data: batches of inputs, some hundred samples. What they have computed waits in memory up to
            1 GiB, beyond that in temporary files.
        ridge: how much the old weights count, as a share of the mean square of the inputs.

    Raises:
        InputError: there is no data, or it does not fit.
    """
    samples: list[int] = []
    with Shelf() as shelf:
        for number, feeds in enumerate(data):
            shelf.put(number, (dict(feeds), dict(feeds)))
            samples.append(max((len(a) for a in feeds.values() if a.ndim and len(a)), default=1))
        if not shelf.numbers:
            raise InputError("there is no data to fit weights to: give some batches of inputs")
        return _Refit(program, analysis, masked, keep, ridge, shelf, samples).run()


class _Refit:
    """Two models, and the values that batches have computed in both."""

    def __init__(
        self,
        program: OnnxProgram,
        analysis: Analysis,
        masked: onnx_ir.Model,
        keep: KeepSet,
        ridge: float,
        shelf: Shelf,
        samples: Sequence[int],
    ) -> None:
        """`samples` says how many there are in each batch on the shelf."""
        self._program = program
        self._model = program.model.clone()
        self._kept = kept_of(analysis, keep)
        self._ridge = ridge
        self._shelf = shelf
        self._samples = samples
        self._types = analysis.types
        self._uses = Counter(program.initializers[name] for name in program.parameters.values())
        self._biases: dict[str, onnx_ir.TensorProtocol] = {}
        self._opened, self._closed = _Walk(self._model), _Walk(masked)
        self._left = _changed(masked, program)
        self._left.difference_update(*(b.nodes for b in closed_branches(analysis, keep)))

    def run(self) -> tuple[OnnxProgram, int]:
        """Walk both graphs from one layer that needs it to the next."""
        fitted = 0
        for node in track(list(self._closed.nodes), "weights solved anew"):
            layer = self._layer(node) if name_of(node) in self._left else None
            if layer is not None:
                fitted += self._fit(node, layer)
        for name, bias in self._biases.items():
            self._model.graph.initializers[name].const_value = bias
        return replace(self._program, model=self._model), fitted

    def _fit(self, node: onnx_ir.Node, layer: "_Fitted") -> bool:
        """Go on to a layer with all batches, and fit it if what comes in has changed."""
        own = self._model.graph.initializers[layer.initializer]
        assert own.const_value is not None
        weight = layer.rows(own.const_value.numpy().astype(np.float64))
        bias = self._bias(node, len(weight))
        equations = _Equations(layer, weight[:, layer.is_open], biased=bias is not None)
        source, name = str(node.inputs[0].name), name_of(node)  # type: ignore[union-attr]
        changed = not layer.is_open.all()
        ways = self._opened.way_to(name, inclusive=True), self._closed.way_to(name)
        for number in self._shelf.numbers:
            opened, closed = self._shelf.take(number)
            for way, values in zip(ways, (opened, closed), strict=True):
                way(values)
            changed = changed or not np.array_equal(opened[source], closed[source])
            goal = opened[name] + _debt(node, opened, closed)
            equations.add(closed[source], goal, self._samples[number] / sum(self._samples))
            self._shelf.put(number, (opened, closed))
        if changed and layer.is_open.any():
            weight[:, layer.is_open], gained = equations.solution(self._ridge)
            if bias is not None:
                self._shift(bias, gained)
            array = layer.array(weight, own.const_value.numpy())
            own.const_value = onnx_ir.tensor(array, name=own.name)
            masked = node.inputs[1]
            assert masked is not None
            hidden = layer.rows(array) * layer.is_open
            masked.const_value = onnx_ir.tensor(layer.array(hidden, array), name=masked.name)
        return bool(changed and layer.is_open.any())

    def _bias(self, node: onnx_ir.Node, outputs: int) -> onnx_ir.Value | None:
        """What a node adds to what it multiplies, in the node itself or behind it."""
        bias = node.inputs[2] if len(node.inputs) > 2 else _added_to(node)
        if bias is None or bias.const_value is None or self._uses[str(bias.name)] != 1:
            return None
        is_plain = dict(node.attributes).get("beta") is None or node.attributes["beta"].value == 1
        known = str(bias.name) in self._model.graph.initializers
        fits = bias.const_value.size == outputs == bias.const_value.numpy().shape[-1]
        return bias if known and is_plain and fits else None

    def _shift(self, bias: onnx_ir.Value, gained: np.ndarray) -> None:
        """Add to a bias; the open model, which may still have to add it, gets it in the end."""
        assert bias.const_value is not None
        old = bias.const_value.numpy()
        new = (old + gained.reshape(old.shape)).astype(old.dtype)
        bias.const_value = onnx_ir.tensor(new, name=bias.name)
        self._biases[str(bias.name)] = bias.const_value

    def _layer(self, node: onnx_ir.Node) -> "_Fitted | None":
        name = name_of(node)
        parameter = self._program.parameters.get((name, 1))
        if parameter is None or node.op_type not in _READ_AXIS or node.domain:
            return None
        initializer = self._program.initializers[parameter]
        alone = self._uses[initializer] == 1 and node.inputs[1] is not None
        if not alone or not node.inputs[1].is_initializer():  # type: ignore[union-attr]
            return None
        shape = self._program.facts.shapes[initializer]
        attributes = {key: attribute.value for key, attribute in node.attributes.items()}
        if not _is_plain(node.op_type, shape, attributes):
            return None
        dim = _READ_AXIS[node.op_type](attributes)
        flags = np.array(kept_flags(self._types.axes[parameter][dim], self._kept))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is None:
            return None
        shift = None if bias is None else bias.const_value.numpy()  # type: ignore[union-attr]
        return _Fitted(node.op_type, initializer, shape, dim, flags, attributes, shift)


_READ_AXIS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "Conv": lambda attributes: 1,
    "Gemm": lambda attributes: 1 if attributes.get("transB") else 0,
    "MatMul": lambda attributes: 0,
}
"""Along which axis each operator type reads its weight."""


def _is_plain(op_type: str, shape: Sequence[int], attributes: Mapping[str, Any]) -> bool:
    """Whether `_Fitted` knows what the weights are multiplied with."""
    if op_type == "Conv":
        automatic = attributes.get("auto_pad", "NOTSET") != "NOTSET"
        return len(shape) == 4 and attributes.get("group", 1) == 1 and not automatic
    if op_type == "Gemm":
        return not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0
    return len(shape) == 2


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A matrix of weights, one row per output, and what it is multiplied with."""

    op_type: str
    initializer: str
    shape: tuple[int, ...]
    dim: int
    flags: np.ndarray
    attributes: Mapping[str, Any]
    bias: np.ndarray | None

    @property
    def is_open(self) -> np.ndarray:
        """A flag for every column; a kernel repeats those of its channels."""
        return np.repeat(self.flags, int(np.prod(self.shape[2:], dtype=np.int64)))

    def rows(self, weight: np.ndarray) -> np.ndarray:
        """Weights as rows."""
        return weight.T if self.dim == 0 else weight.reshape(len(weight), -1)

    def array(self, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Rows as the weights that they were."""
        return np.ascontiguousarray(
            rows.T if self.dim == 0 else rows.reshape(like.shape), dtype=like.dtype
        )

    def columns(self, x: np.ndarray, stride: int) -> np.ndarray:
        """What a row is multiplied with at every `stride`-th position: (inputs, positions)."""
        if self.op_type != "Conv":
            return x.reshape(-1, x.shape[-1])[::stride].T
        top, left, bottom, right = self.attributes.get("pads", (0, 0, 0, 0))
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        gaps, steps = (self.attributes.get(name, (1, 1)) for name in ("dilations", "strides"))
        extent = tuple((k - 1) * gap + 1 for k, gap in zip(self.shape[2:], gaps, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
        taken = windows[:, :, :: steps[0], :: steps[1], :: gaps[0], :: gaps[1]]
        samples, _, height, width = taken.shape[:4]
        chosen = np.arange(0, samples * height * width, stride)
        sample, row, column = np.unravel_index(chosen, (samples, height, width))
        return taken[sample, :, row, column].reshape(len(chosen), -1).T

    def outputs(self, y: np.ndarray, stride: int) -> np.ndarray:
        """Outputs before the bias at the same positions: (outputs, positions)."""
        last = np.moveaxis(y, 1, -1) if self.op_type == "Conv" else y
        flat = last.reshape(-1, last.shape[-1])[::stride].T
        beta = self.attributes.get("beta", 1.0)
        return flat if self.bias is None else flat - beta * np.reshape(self.bias, (-1, 1))


class _Equations:
    """The least squares of a layer, as sums over batches.

    For open rows X of the inputs and the wanted outputs Y the weights are
    (Y X' + r W)(X X' + r I)^-1. Where there is a bias, X and Y are taken less their means, and the
    bias makes up for these: of what is closed, at least the mean is not lost (An et al. 2024,
    section 3.3).
    """

    def __init__(self, layer: _Fitted, old: np.ndarray, *, biased: bool) -> None:
        self._layer = layer
        self._old = old
        self._biased = biased
        self._gram, self._cross = np.zeros((old.shape[1], old.shape[1])), np.zeros_like(old)
        self._sums = np.zeros(old.shape[1]), np.zeros(len(old))
        self._count = 0

    def add(self, x: np.ndarray, goal: np.ndarray, share: float) -> None:
        """A batch, a share of all: inputs, and what the layer should return on them."""
        rows = goal.size / len(self._old) / share
        stride = max(1, int(rows) // max(_MOST_ROWS, _ROWS_PER_COLUMN * len(self._gram)))
        columns = self._layer.columns(x, stride)[self._layer.is_open]
        outputs = self._layer.outputs(goal, stride)
        self._gram += columns @ columns.T
        self._cross += outputs @ columns.T
        for total, numbers in zip(self._sums, (columns, outputs), strict=True):
            total += numbers.sum(1, dtype=np.float64)
        self._count += columns.shape[1]

    def solution(self, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """The new weights, and what the bias gains."""
        gram, cross = self._gram, self._cross
        damping = ridge * max(float(np.trace(gram)) / max(len(gram), 1), 1e-30)
        x, y = (total / max(self._count, 1) for total in self._sums)
        if self._biased:
            gram -= self._count * np.outer(x, x)
            cross -= self._count * np.outer(y, x)
        gram[np.diag_indices_from(gram)] += damping
        fitted: np.ndarray = np.linalg.solve(gram, (cross + damping * self._old).T).T
        return fitted, y - fitted @ x


def _changed(masked: onnx_ir.Model, program: OnnxProgram) -> set[str]:
    """The nodes of the program that are masked, or read what is computed from that."""
    known = program.model.graph.initializers
    reached: set[str] = set()
    names: set[str] = set()
    for node in masked.graph:
        values = _needed(node)
        is_mask = name_of(node) not in program.nodes
        changed = any(v.is_initializer() and v.name not in known for v in values)
        if is_mask or changed or any(value.name in reached for value in values):
            reached.update(str(value.name) for value in node.outputs)
            names.add(name_of(node))
    return names & program.nodes.keys()


def _debt(node: onnx_ir.Node, opened: Feeds, closed: Feeds) -> Any:
    """What a branch that ends here can add to mend its skip (He et al. 2017, section 3.3)."""
    output = node.outputs[0]
    if _added_to(node) is not None:
        output = next(use.node for use in output.uses()).outputs[0]
    users = [use.node for use in output.uses()]
    if len(users) != 1 or users[0].op_type != "Add":
        return 0.0
    skips = [str(v.name) for v in users[0].inputs if v is not None and v is not output]
    if len(skips) != 1 or not (skips[0] in opened and skips[0] in closed):
        return 0.0
    error = opened[skips[0]] - closed[skips[0]]
    return error if error.shape == opened[name_of(node)].shape else 0.0


def _added_to(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """The constant that is added to what a product of matrices returns, and nothing else reads."""
    users = [use.node for use in node.outputs[0].uses()]
    alone = len(users) == 1 and not node.outputs[0].is_graph_output()
    if node.op_type != "MatMul" or not alone or users[0].op_type != "Add":
        return None
    others = [v for v in users[0].inputs if v is not None and v is not node.outputs[0]]
    return others[0] if len(others) == 1 and others[0].is_initializer() else None


class _Walk:
    """A model that is run from one node to the next, on one batch after the other."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self.nodes = list(model.graph)
        self._opsets = dict(model.opset_imports)
        self._done = 0
        self._places = {name_of(node): place for place, node in enumerate(self.nodes)}
        self._last = {
            str(value.name): place
            for place, node in enumerate(self.nodes)
            for value in _needed(node)
        }

    def way_to(self, name: str, *, inclusive: bool = False) -> "_Way":
        """What runs a batch from where the last way ended to a node."""
        start, stop = self._done, self._places[name] + inclusive
        self._done = stop
        nodes = self.nodes[start:stop]
        read = {value for value, place in self._last.items() if place >= stop - 1}
        own = [str(v.name) for v in nodes[-1].outputs] if nodes and inclusive else []
        return _Way(nodes, self._opsets, read.union(own))


class _Way:
    """Nodes that are run together; of what they compute stays what is `read` behind them."""

    def __init__(
        self, nodes: Sequence[onnx_ir.Node], opsets: Mapping[str, int], read: Collection[str]
    ) -> None:
        self._nodes = nodes
        self._opsets = opsets
        self._read = read
        computed = [str(v.name) for node in nodes for v in node.outputs if v.name]
        self._names = [name for name in computed if name in read]
        needed = {str(v.name): v for node in nodes for v in _needed(node)}
        self._inputs = {n: value for n, value in needed.items() if n not in set(computed)}
        self._stored: Feeds = {}
        self._session: Any = None

    def __call__(self, values: Feeds) -> None:
        """Run a batch."""
        if self._names:
            self._session = self._session or self._made(values)
            feeds = {name: self._stored.get(name, values.get(name)) for name in self._inputs}
            values.update(zip(self._names, self._session.run(self._names, feeds), strict=True))
        for name in [name for name in values if name not in self._read]:
            del values[name]

    def _made(self, values: Feeds) -> Any:
        """The nodes as a model, which takes arrays of any size; weights are fed as well."""
        import onnxruntime

        constants = ((name, value.const_value) for name, value in self._inputs.items())
        self._stored = {name: value.numpy() for name, value in constants if value is not None}
        known, dtype_of = {**values, **self._stored}, onnx.helper.np_dtype_to_tensor_dtype
        infos = [
            onnx.helper.make_tensor_value_info(name, dtype_of(array.dtype), [None] * array.ndim)
            for name, array in ((name, known[name]) for name in self._inputs)
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in self._names]
        nodes = [onnx_ir.to_proto(node) for node in self._nodes]
        graph = onnx.helper.make_graph(nodes, "way", infos, outputs)
        opsets = [onnx.helper.make_opsetid(name, number) for name, number in self._opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        content, provider = model.SerializeToString(), "CPUExecutionProvider"
        return onnxruntime.InferenceSession(content, options, [provider])


def _needed(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """What a node reads, also inside of its subgraphs."""
    return [*(value for value in node.inputs if value is not None), *captured_values(node)]
