"""Weights that make up for closed positions, without training: least squares, layer by layer.

Two runs of one graph go side by side, everything open and as the keep-set has it. Where both come
to a layer that mixes channels, its weights are solved anew, so that from what the second run gives
it the layer returns what it returned in the first.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.arguments import batches, number
from fxprune.errors import InputError
from fxprune.progress import track
from fxprune.torch.backend.gate import call_with
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.batches import running_on
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.record import gated_record, traced_part
from fxprune.torch.recorded import recorded


def refit(gated: nn.Module, data: Iterable[Any], *, ridge: float = 1e-3) -> int:
    """Fit the weights behind closed positions to what they returned before (He et al. 2017, eq. 5).

    Call it between closing positions and folding or further training. Linear layers and ungrouped
    convolutions are fitted, from the input on, each to the outputs of the open model, so that
    later layers also correct what earlier ones got wrong.

    Args:
        gated: what `prepare` returned, with positions closed; its weights are changed in place.
        data: batches of inputs, or of (inputs, labels): some hundred samples that are held in
            memory together.
        ridge: how much the old weights count, as a share of the mean square of the inputs.

    Returns:
        How many layers were fitted.

    Raises:
        InputError: `gated` is not gated, or there is no data.
    """
    number("ridge", ridge, lambda share: 0 < share < math.inf, "a number above 0, such as 1e-3")
    gates, _ = gated_record(gated)
    _, part = traced_part(gated)
    if part is not gated:
        raise InputError("refit takes the prepared part and its own inputs: pass that submodule")
    inputs = _joined(data)
    with in_evaluation(part), torch.no_grad():
        with running_on("data"):  # before any weight has changed
            part(*inputs)
        traced = recorded(part)
        assert isinstance(traced, TracedModule)
        return _Refit(traced, traced.graph_for(inputs), gates, ridge).run(inputs)


def _joined(data: Iterable[Any]) -> tuple[Tensor, ...]:
    """The inputs of all batches."""
    given = batches("data", data)
    found = [batch[0] if isinstance(batch, list | tuple) and batch else batch for batch in given]
    if not found or not all(isinstance(batch, Tensor) for batch in found):
        raise InputError(
            "refit needs batches of input tensors, or of (inputs, labels): data has none, is used "
            "up, or holds something else"
        )
    with running_on("batches of data that do not go together"):
        joined = torch.cat(found)
    if joined.is_floating_point() and not bool(joined.isfinite().all()):
        raise InputError("data holds NaN or infinite values")
    return (joined,)


class _Refit:
    """One graph with two environments."""

    def __init__(self, part: TracedModule, graph: fx.Graph, gates: Gates, ridge: float) -> None:
        self._part = part
        self._gates = gates
        self._ridge = ridge
        self._nodes = list(graph.nodes)
        self._opened = fx.Interpreter(part, graph=graph)
        self._closed = fx.Interpreter(part, graph=graph)
        calls = Counter(map(_layer_of, self._nodes))
        self._shared = {name for name, count in calls.items() if count > 1}

    def run(self, inputs: tuple[Tensor, ...]) -> int:
        """Walk the graph; how many layers were fitted."""
        everything = torch.ones_like(self._gates.method.is_open)
        for run in (self._opened, self._closed):
            run.args_iter = iter(inputs)
        last = {source: node for node in self._nodes for source in node.all_input_nodes}
        fitted = 0
        for node in track(self._nodes, "weights solved anew"):
            with self._gates.showing(everything):
                self._opened.env[node] = self._opened.run_node(node)
            fitted += self._fit(node)
            self._closed.env[node] = self._closed.run_node(node)
            for source in [source for source in node.all_input_nodes if last[source] is node]:
                self._opened.env.pop(source, None)
                self._closed.env.pop(source, None)
        return fitted

    def _fit(self, node: fx.Node) -> bool:
        """Fit the layer that a node calls, if it is one that can be fitted and needs it."""
        path = _layer_of(node)
        layer = self._part.get_submodule(path) if path and path not in self._shared else None
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not _is_plain(layer):
            return False
        place = node.args[2] if node.target is call_with else node.args[0]
        x, before = self._closed.env[place], self._opened.env[place]  # type: ignore[index]
        pattern = self._pattern(node, layer)
        is_open = pattern[0].flatten() != 0
        if not bool(is_open.any()) or (bool(is_open.all()) and torch.equal(x, before)):
            return False
        weight = layer.weight.flatten(1).double()
        wanted = self._opened.env[node] + self._debt(node)
        weight[:, is_open] = self._solution(layer, x, wanted, weight[:, is_open], is_open)
        layer.weight.copy_(weight.view_as(layer.weight))
        self._refresh(node)
        return True

    def _debt(self, node: fx.Node) -> Tensor | float:
        """What a branch that ends here, with or without a norm, can add to mend its skip.

        For `skip + a y + b` that is the error of the skip, divided by `a` (He et al. 2017,
        section 3.3).
        """
        norm = node
        users = list(node.users)
        slope: Tensor | float = 1.0
        if len(users) == 1 and users[0].op == "call_module":
            layer = self._part.get_submodule(str(users[0].target))
            if type(layer) is nn.BatchNorm2d and layer.running_var is not None:
                norm, users = users[0], list(users[0].users)
                scale = torch.ones_like(layer.running_var) if layer.weight is None else layer.weight
                slope = (scale / (layer.running_var + layer.eps).sqrt()).view(-1, 1, 1)
        if len(users) != 1 or bare_name(users[0]) != "add":
            return 0.0
        skips = [source for source in users[0].all_input_nodes if source is not norm]
        known = [s for s in skips if s in self._opened.env and s in self._closed.env]
        own = self._opened.env[node]
        if len(known) != 1 or self._opened.env[known[0]].shape != own.shape:
            return 0.0
        error = self._opened.env[known[0]] - self._closed.env[known[0]]
        return error / slope if isinstance(slope, float) else _divided(error, slope)

    def _solution(
        self, layer: nn.Linear | nn.Conv2d, x: Tensor, wanted: Tensor, old: Tensor, is_open: Tensor
    ) -> Tensor:
        """(Y X' + r W)(X X' + r I)^-1 for open rows X of the inputs and the wanted outputs Y."""
        gram = old.new_zeros(old.shape[1], old.shape[1])
        cross = torch.zeros_like(old)
        chunks = (torch.split(values, _CHUNK) for values in (x, wanted))
        for part, goal in zip(*chunks, strict=True):
            columns = _columns(layer, part)[is_open]
            outputs = _outputs(layer, goal)
            stride = max(1, columns.shape[1] * len(x) // len(part) // _MOST_ROWS)
            columns, outputs = columns[:, ::stride], outputs[:, ::stride]
            gram += (columns @ columns.T).double()
            cross += (outputs @ columns.T).double()
        damping = self._ridge * gram.diagonal().mean().clamp(min=1e-30)
        gram.diagonal().add_(damping)
        solution: Tensor = torch.linalg.solve(gram, cross + damping * old, left=False)
        return solution

    def _pattern(self, node: fx.Node, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """1 where the keep-set lets weights through, else 0."""
        masked = _overrides(node).get("weight")
        if masked is None:
            return torch.ones_like(layer.weight)
        kept = layer.weight.clone()
        layer.weight.fill_(1.0)
        self._refresh(node)
        pattern: Tensor = self._closed.env[masked].clone()
        layer.weight.copy_(kept)
        self._refresh(node)
        return pattern

    def _refresh(self, node: fx.Node) -> None:
        """Mask the present parameters of a layer again."""
        for masked in _overrides(node).values():
            self._closed.env.pop(masked, None)
            self._compute(masked)

    def _compute(self, node: fx.Node) -> None:
        missing = [source for source in node.all_input_nodes if source not in self._closed.env]
        for source in missing:
            self._compute(source)
        self._closed.env[node] = self._closed.run_node(node)
        for source in missing:  # it may be of parameters that change
            del self._closed.env[source]


_CHUNK = 64
"""How many samples are unfolded at a time."""
_MOST_ROWS = 1 << 17
"""About how many positions of all samples a layer is fitted to."""
_LEAST_SLOPE = 0.05
"""Norms that scale by less cannot mend a skip."""


def _divided(error: Tensor, slope: Tensor) -> Tensor:
    return torch.where(slope.abs() > _LEAST_SLOPE, error / slope, torch.zeros_like(error))


def _layer_of(node: fx.Node) -> str:
    """The path of the module that a node calls, plain or with masked parameters."""
    if node.op == "call_module" and node.target != PREFIX:
        return str(node.target)
    if node.target is call_with:
        owner: Any = node.args[0]
        return str(owner.target)
    return ""


def _overrides(node: fx.Node) -> dict[str, fx.Node]:
    """The masked parameters that a layer is called with."""
    overrides: Any = node.args[1] if node.target is call_with else {}
    return dict(overrides)


def _is_plain(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether `_columns` knows what the layer multiplies its weights with."""
    if isinstance(layer, nn.Linear):
        return type(layer) is nn.Linear
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Conv2d and layer.groups == 1 and zeros


def _columns(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What a row of weights is multiplied with, of shape (inputs, samples)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2).T
    settings = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return F.unfold(x, *settings).transpose(0, 1).flatten(1)  # type: ignore[arg-type]


def _outputs(layer: nn.Linear | nn.Conv2d, y: Tensor) -> Tensor:
    """Outputs before the bias, of shape (outputs, samples)."""
    flat = y.flatten(0, -2).T if isinstance(layer, nn.Linear) else y.transpose(0, 1).flatten(1)
    return flat if layer.bias is None else flat - layer.bias[:, None]
