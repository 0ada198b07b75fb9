"""Weights that make up for closed positions, without training: least squares, layer by layer.

Two runs of one graph go side by side, everything open and as the keep-set has it. Where both come
to a layer that mixes channels, its weights are solved anew, so that from what the second run gives
it the layer returns what it returned in the first. Normal equations are summed batch by batch.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.arguments import batches, number
from fxprune.errors import InputError
from fxprune.shelf import Shelf
from fxprune.stages import track
from fxprune.torch.backend.gate import call_with
from fxprune.torch.backend.module import TracedModule
from fxprune.torch.batches import arguments_of, running_on
from fxprune.torch.checks import check_weights
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.spellings import bare_name
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.record import gated_record, traced_part
from fxprune.torch.recorded import recorded
from fxprune.torch.walking import Values, Walk, reached


def refit(gated: nn.Module, data: Iterable[Any], *, ridge: float = 1e-3) -> int:
    """Fit the weights behind closed positions to what they returned before (He et al. 2017, eq. 5).

    Call it between closing positions and folding or further training. Linear layers and ungrouped
    convolutions are fitted, from the input on, each to the outputs of the open model, so that
    later layers also correct what earlier ones got wrong.

    Args:
        gated: what `prepare` returned, with positions closed; its weights are changed in place.
        data: batches of inputs, perhaps with labels behind, or mappings of arguments: some hundred
            samples. What they have computed waits in memory up to 1 GiB, beyond that in temporary
            files.
        ridge: how much the old weights count, as a share of the mean square of the inputs.

    Returns:
        How many layers were fitted.

    Raises:
        InputError: `gated` is not gated, or there is no data, or it does not fit.
    """
    number("ridge", ridge, lambda share: 0 < share < math.inf, "a number above 0, such as 1e-3")
    gates, _ = gated_record(gated)
    _, part = traced_part(gated)
    if part is not gated:
        raise InputError("refit takes the prepared part and its own inputs: pass that submodule")
    check_weights(part)
    with in_evaluation(part), torch.no_grad(), Shelf() as shelf:
        traced = recorded(part)
        assert isinstance(traced, TracedModule)
        graph, samples = _placed(part, traced, data, shelf)
        return _Refit(traced, graph, gates, ridge, shelf, samples).run()


def _placed(
    part: nn.Module, traced: TracedModule, data: Iterable[Any], shelf: Shelf
) -> tuple[fx.Graph, list[int]]:
    """The graph that all batches run, whose inputs go on the shelf, and how many samples they are.

    The model runs on every batch before any weight has changed, so that what fails, fails now.
    """
    first: fx.Graph | None = None
    samples: list[int] = []
    taken = len(gated_record(part)[1].examples[0])
    for place, batch in enumerate(track(batches("data", data), "looking at data")):
        args, kwargs = arguments_of(batch, taken)
        with running_on(f"batch {place} of data"):
            graph, values = traced.call_of(args, kwargs)
            _check_finite(values, place)
            part(*args, **kwargs)
        first = first or graph
        if graph is not first and str(graph) != str(first):
            raise InputError("data has batches for several examples: refit on those of one of them")
        samples.append(
            max((len(v) for v in values if isinstance(v, Tensor) and v.dim()), default=1)
        )
        names = [node.name for node in graph.nodes if node.op == "placeholder"]
        copies = [value.clone() if isinstance(value, Tensor) else value for value in values]
        pair = (dict(zip(names, own, strict=True)) for own in (values, copies))
        shelf.put(place, tuple(pair))
    if first is None:
        raise InputError(
            "refit needs batches of inputs, or of (inputs, labels): data has none, or is used up"
        )
    return first, samples


def _check_finite(values: Iterable[Any], place: int) -> None:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"batch {place} of data holds NaN or infinite values")


class _Refit:
    """One graph with two runs, and the batches of both."""

    def __init__(
        self,
        part: TracedModule,
        graph: fx.Graph,
        gates: Gates,
        ridge: float,
        shelf: Shelf,
        samples: list[int],
    ) -> None:
        """`samples` says how many there are in each batch on the shelf."""
        self._part = part
        self._ridge = ridge
        self._shelf = shelf
        self._samples = samples
        self._nodes = list(graph.nodes)
        everything = torch.ones_like(gates.method.is_open)
        masks = _masks_in(self._nodes)
        self._opened = Walk(part, graph, masks.__contains__, lambda: gates.showing(everything))
        self._closed = Walk(part, graph, masks.__contains__, contextlib.nullcontext)
        self._touched = reached(self._nodes, lambda node: node in masks and self._closes(node))
        calls = Counter(map(_layer_of, self._nodes))
        self._shared = {name for name, count in calls.items() if count > 1}
        self._owners = Counter(id(p) for m in part.modules() for p in m._parameters.values())

    def _closes(self, mask: fx.Node) -> bool:
        """Whether a mask, or the gate of a branch, is not all open."""
        if self._opened.moving.intersection({mask}):
            return True
        value = self._closed.value(mask, {})
        return isinstance(value, Tensor) and not bool((value == 1).all())

    def run(self) -> int:
        """Walk the graph from one layer that needs it to the next; how many layers were fitted."""
        start, fitted = 0, 0
        for stop, node in enumerate(track(self._nodes, "weights solved anew")):
            layer = self._layer(node)
            if layer is not None:
                fitted += self._fit(node, layer, start, stop)
                start = stop
        return fitted

    def _layer(self, node: fx.Node) -> "nn.Linear | nn.Conv2d | None":
        """The layer that a node calls, if it is one that can be fitted and may need it."""
        path = _layer_of(node)
        layer = self._part.get_submodule(path) if path and path not in self._shared else None
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not _is_plain(layer):
            return None
        alone = self._owners[id(layer.weight)] == 1
        return layer if alone and node in self._touched else None

    def _fit(self, node: fx.Node, layer: nn.Linear | nn.Conv2d, start: int, stop: int) -> bool:
        """Go on to a layer with all batches, and fit it if what comes in has changed."""
        is_open = self._pattern(node, layer)[0].flatten() != 0
        biased = layer.bias is not None and self._owners[id(layer.bias)] == 1
        equations = _Equations(layer, is_open, biased=biased)
        changed = not bool(is_open.all())
        for place in self._shelf.numbers:
            opened, closed = self._shelf.take(place)
            self._advance(opened, closed, start, stop)
            source = _input_of(node)
            x, before = self._closed.value(source, closed), self._opened.value(source, opened)
            changed = changed or not torch.equal(x, before)
            goal = self._opened.value(node, opened) + self._debt(node, opened, closed)
            equations.add(x, goal, self._samples[place] / sum(self._samples))
            self._opened.leave(node, opened)
            self._shelf.put(place, (opened, closed))
        needed = changed and bool(is_open.any())
        if needed:
            equations.solve(self._ridge)
        for walk in (self._opened, self._closed):
            walk.forget()
        return needed

    def _advance(self, opened: Values, closed: Values, start: int, stop: int) -> None:
        """Run a batch from the layer that was fitted last to the next one, which waits in one."""
        for node in self._nodes[start:stop]:
            self._closed.advance(node, closed)
            self._closed.leave(node, closed)
        for node in self._nodes[start + (start > 0) : stop + 1]:
            self._opened.advance(node, opened)
            if node is not self._nodes[stop]:
                self._opened.leave(node, opened)

    def _debt(self, node: fx.Node, opened: Values, closed: Values) -> Tensor | float:
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
        known = [s for s in skips if s.name in opened and s.name in closed]
        own = self._opened.value(node, opened)
        if len(known) != 1 or opened[known[0].name].shape != own.shape:
            return 0.0
        error = opened[known[0].name] - closed[known[0].name]
        return error / slope if isinstance(slope, float) else _divided(error, slope)

    def _pattern(self, node: fx.Node, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """1 where the keep-set lets weights through, else 0."""
        masked = _overrides(node).get("weight")
        if masked is None:
            return torch.ones_like(layer.weight)
        kept = layer.weight.clone()
        layer.weight.fill_(1.0)
        self._closed.forget()
        pattern: Tensor = self._closed.value(masked, {}).clone()
        layer.weight.copy_(kept)
        self._closed.forget()
        return pattern


class _Equations:
    """The least squares of a layer, as sums over batches.

    For open rows X of the inputs and the wanted outputs Y the weights are
    (Y X' + r W)(X X' + r I)^-1. Where there is a bias, X and Y are taken less their means, and the
    bias makes up for these: of what is closed, at least the mean is not lost (An et al. 2024,
    section 3.3).
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, is_open: Tensor, *, biased: bool) -> None:
        self._layer = layer
        self._is_open = is_open
        self._biased = biased
        self._old = layer.weight.flatten(1).double()[:, is_open]
        self._gram = self._old.new_zeros(self._old.shape[1], self._old.shape[1])
        self._cross = torch.zeros_like(self._old)
        self._sums = self._gram.new_zeros(len(self._gram)), self._cross.new_zeros(len(self._cross))
        self._count = 0
        self._most_rows = max(_MOST_ROWS, _ROWS_PER_COLUMN * len(self._gram))

    def add(self, x: Tensor, goal: Tensor, share: float) -> None:
        """A batch, a share of all: inputs, and what the layer should return on them."""
        chunks = (torch.split(values, _CHUNK) for values in (x, goal))
        for part, wanted in zip(*chunks, strict=True):
            places = _places(self._layer, wanted)
            stride = max(1, int(places * len(x) / max(len(part), 1) / share) // self._most_rows)
            picked = torch.arange(0, places, stride, device=part.device)
            columns = _wide(_columns(self._layer, part, picked)[self._is_open])
            outputs = _wide(_outputs(self._layer, wanted, picked))
            self._gram += (columns @ columns.T).double()
            self._cross += (outputs @ columns.T).double()
            for total, numbers in zip(self._sums, (columns, outputs), strict=True):
                total += numbers.sum(1, dtype=torch.double)
            self._count += columns.shape[1]

    def solve(self, ridge: float) -> None:
        """Give the layer its new weights, and its bias."""
        damping = ridge * self._gram.diagonal().mean().clamp(min=1e-30)
        x, y = (total / max(self._count, 1) for total in self._sums)
        if self._biased:
            self._gram -= self._count * torch.outer(x, x)
            self._cross -= self._count * torch.outer(y, x)
        self._gram.diagonal().add_(damping)
        goal = self._cross + damping * self._old
        weight = self._layer.weight.flatten(1).double()
        fitted = torch.linalg.solve(self._gram, goal, left=False)
        weight[:, self._is_open] = fitted
        self._layer.weight.copy_(weight.view_as(self._layer.weight))
        if self._biased and self._layer.bias is not None:
            self._layer.bias.add_(y - fitted @ x)


def _wide(array: Tensor) -> Tensor:
    """Numbers of at least 32 bits: sums of products would not be exact enough in fewer."""
    return array.float() if array.element_size() < 4 else array


_CHUNK = 64
"""How many samples are unfolded at a time."""
_MOST_ROWS, _ROWS_PER_COLUMN = 1 << 17, 32
"""To how many positions of all samples a layer is fitted, about: whichever is more."""
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


def _input_of(node: fx.Node) -> fx.Node:
    """The array that a layer is called on."""
    place: Any = node.args[2] if node.target is call_with else node.args[0]
    return place  # type: ignore[no-any-return]


def _masks_in(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """What a graph gets of its gates: all of them together, and each."""
    calls = {node for node in nodes if node.op == "call_module" and node.target == PREFIX}
    return calls | {user for node in calls for user in node.users if bare_name(user) == "getitem"}


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


def _places(layer: nn.Linear | nn.Conv2d, y: Tensor) -> int:
    """At how many places a layer multiplies its weights."""
    return y.numel() // layer.weight.shape[0]


def _columns(layer: nn.Linear | nn.Conv2d, x: Tensor, picked: Tensor) -> Tensor:
    """What a row of weights is multiplied with at some places, of shape (inputs, places)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)[picked].T
    assert not isinstance(layer.padding, str)  # else it is not plain
    top, left = layer.padding
    windows = F.pad(x, (left, left, top, top))
    for dim, size, stride, dilation in zip(
        (2, 3), layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        windows = windows.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    sample, row, column = _unravelled(picked, windows.shape[2:4])
    return windows[sample, :, row, column].flatten(1).T


def _outputs(layer: nn.Linear | nn.Conv2d, y: Tensor, picked: Tensor) -> Tensor:
    """Outputs before the bias at some places, of shape (outputs, places)."""
    if isinstance(layer, nn.Linear):
        rows = y.flatten(0, -2)[picked]
    else:
        sample, row, column = _unravelled(picked, y.shape[2:])
        rows = y[sample, :, row, column]
    return (rows if layer.bias is None else rows - layer.bias).T


def _unravelled(places: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sample, row and column of places in images of some height and width."""
    height, width = shape
    rows = places.div(width, rounding_mode="floor")
    return rows.div(height, rounding_mode="floor"), rows % height, places % width
