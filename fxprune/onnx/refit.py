"""Weights of an ONNX model that make up for closed positions: least squares, layer by layer.

The model and its masked copy are run side by side, node by node. Where both come to a layer that
mixes channels, its weights are solved anew, so that from what the masked run gives it the layer
returns what it returned in the other (He et al. 2017, equation 5).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir

from fxprune.errors import InputError
from fxprune.onnx.frontend.names import name_of
from fxprune.onnx.frontend.program import OnnxProgram, captured_values
from fxprune.onnx.frontend.session import Feeds
from fxprune.passes.analyse import Analysis
from fxprune.passes.axes import Kept, kept_flags
from fxprune.progress import track

_MOST_ROWS = 1 << 17
"""About how many positions of all samples a layer is fitted to."""


def refitted(
    program: OnnxProgram,
    analysis: Analysis,
    masked: onnx_ir.Model,
    kept: Kept,
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
        kept: a flag for every position of the groups.
        data: batches of inputs, some hundred samples that are held in memory together.
        ridge: how much the old weights count, as a share of the mean square of the inputs.

    Raises:
        InputError: there is no data, or it does not fit.
    """
    batches = list(data)
    if not batches:
        raise InputError("there is no data to fit weights to: give some batches of inputs")
    return _Refit(program, analysis, masked, kept, ridge).run(batches)


class _Refit:
    """Two models with the values that they have computed, by name, batch by batch."""

    def __init__(
        self,
        program: OnnxProgram,
        analysis: Analysis,
        masked: onnx_ir.Model,
        kept: Kept,
        ridge: float,
    ) -> None:
        self._program = program
        self._model = program.model.clone()
        self._masked = masked
        self._kept = kept
        self._ridge = ridge
        self._types = analysis.types
        self._uses = Counter(program.initializers[name] for name in program.parameters.values())

    def run(self, batches: list[Feeds]) -> tuple[OnnxProgram, int]:
        """Walk both graphs."""
        opened, closed = _Run(self._model, batches), _Run(self._masked, batches)
        fitted = 0
        for node in track(list(self._masked.graph), "weights solved anew"):
            name = name_of(node)
            if name in self._program.nodes:
                opened.advance(name)
                fitted += self._fit(node, opened, closed)
            closed.advance(name)
        return replace(self._program, model=self._model), fitted

    def _fit(self, node: onnx_ir.Node, opened: "_Run", closed: "_Run") -> bool:
        """Fit the layer that a node is, if it can be fitted and needs it."""
        layer = self._layer(node)
        if layer is None:
            return False
        source = str(node.inputs[0].name)  # type: ignore[union-attr]
        before, now = opened.values(source), closed.values(source)
        if layer.is_open.all() and all(map(np.array_equal, before, now)):
            return False
        outputs = opened.values(name_of(node))
        wanted = [y + debt for y, debt in zip(outputs, _debts(node, opened, closed), strict=True)]
        own = self._model.graph.initializers[layer.initializer]
        assert own.const_value is not None
        weight = layer.rows(own.const_value.numpy().astype(np.float64))
        new = weight.copy()
        new[:, layer.is_open] = _solution(layer, now, wanted, weight[:, layer.is_open], self._ridge)
        array = layer.array(new, own.const_value.numpy())
        own.const_value = onnx_ir.tensor(array, name=own.name)
        hidden = layer.rows(array) * layer.is_open
        masked = node.inputs[1]
        assert masked is not None
        masked.const_value = onnx_ir.tensor(layer.array(hidden, array), name=masked.name)
        return True

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


def _solution(
    layer: _Fitted,
    inputs: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    old: np.ndarray,
    ridge: float,
) -> np.ndarray:
    """(Y X' + r W)(X X' + r I)^-1 for open rows X of the inputs and the wanted outputs Y."""
    gram, cross = np.zeros((old.shape[1], old.shape[1])), np.zeros_like(old)
    positions = sum(y.size // len(old) for y in wanted)
    stride = max(1, positions // _MOST_ROWS)
    for x, goal in zip(inputs, wanted, strict=True):
        columns, outputs = layer.columns(x, stride)[layer.is_open], layer.outputs(goal, stride)
        gram += columns @ columns.T
        cross += outputs @ columns.T
    damping = ridge * max(float(np.trace(gram)) / len(gram), 1e-30)
    gram[np.diag_indices_from(gram)] += damping
    solution: np.ndarray = np.linalg.solve(gram, (cross + damping * old).T).T
    return solution


def _debts(node: onnx_ir.Node, opened: "_Run", closed: "_Run") -> list[Any]:
    """What a branch that ends here can add to mend its skip (He et al. 2017, section 3.3)."""
    nothing = [0.0] * opened.batches
    output = node.outputs[0]
    users = [use.node for use in output.uses()]
    if len(users) != 1 or users[0].op_type != "Add":
        return nothing
    skips = [str(v.name) for v in users[0].inputs if v is not None and v is not output]
    if len(skips) != 1 or not (opened.has(skips[0]) and closed.has(skips[0])):
        return nothing
    pairs = zip(opened.values(skips[0]), closed.values(skips[0]), strict=True)
    errors = [before - now for before, now in pairs]
    own = opened.values(name_of(node))
    fits = all(error.shape == y.shape for error, y in zip(errors, own, strict=True))
    return errors if fits else nothing


class _Run:
    """A model that is run node by node; values go when nobody needs them any more."""

    def __init__(self, model: onnx_ir.Model, batches: list[Feeds]) -> None:
        self._nodes = iter(list(model.graph))
        self._opsets = dict(model.opset_imports)
        self._values: list[dict[str, np.ndarray]] = [dict(feeds) for feeds in batches]
        self._done: set[str] = set()
        last = {str(v.name): name_of(node) for node in model.graph for v in _needed(node)}
        self._read_last: dict[str, list[str]] = {}
        for value, reader in last.items():
            self._read_last.setdefault(reader, []).append(value)
        self._finished: list[str] = []
        self.batches = len(batches)

    def has(self, name: str) -> bool:
        """Whether a value is known."""
        return name in self._values[0]

    def values(self, name: str) -> list[np.ndarray]:
        """A value, batch by batch."""
        return [values[name] for values in self._values]

    def advance(self, name: str) -> None:
        """Run up to the node of that name."""
        while name not in self._done:
            for values in self._values:
                for gone in self._finished:
                    values.pop(gone, None)
            node = next(self._nodes)
            self._run(node)
            self._done.add(name_of(node))
            self._finished = self._read_last.get(name_of(node), [])

    def _run(self, node: onnx_ir.Node) -> None:
        import onnxruntime

        stored = {
            str(value.name): value.const_value.numpy()
            for value in _needed(node)
            if value.const_value is not None
        }
        arrays = {str(v.name): stored.get(str(v.name)) for v in _needed(node)}
        first = {n: self._values[0][n] if a is None else a for n, a in arrays.items()}
        infos = [
            onnx.helper.make_tensor_value_info(
                n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim
            )
            for n, a in first.items()
        ]
        names = [str(value.name) for value in node.outputs if value.name]
        graph = onnx.helper.make_graph(
            [onnx_ir.to_proto(node)],
            "node",
            infos,
            [onnx.helper.make_empty_tensor_value_info(name) for name in names],
        )
        opsets = [onnx.helper.make_opsetid(domain, v) for domain, v in self._opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, ["CPUExecutionProvider"]
        )
        for values in self._values:
            feeds = {n: values[n] if a is None else a for n, a in arrays.items()}
            values.update(zip(names, session.run(names, feeds), strict=True))


def _needed(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """What a node reads, also inside of its subgraphs."""
    return [*(value for value in node.inputs if value is not None), *captured_values(node)]
