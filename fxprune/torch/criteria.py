"""Pruning without training: positions ranked by their weights, or by gradients on some data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.arguments import batches, choice, refusal
from fxprune.errors import InputError
from fxprune.ir import Value
from fxprune.passes.axes import Axis, spaces
from fxprune.progress import steps
from fxprune.torch.backend.masked_forms import apply_mask
from fxprune.torch.batches import running_on
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.gates.module import Gates
from fxprune.torch.record import Record, gated_record, traced_part

Loss = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to a scalar."""


def importance(
    gated: nn.Module,
    method: str = "group_norm",
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """How much every position matters, by group and branch; for `reach_target`.

    - "magnitude": the L1 norm of the filter that makes a channel (Li et al. 2017, section 3.1)
    - "group_norm": the L2 norm of all weights that make or read it (Fang et al. 2023, equation 5)
    - "bn_scale": the factor that normalisation layers give it (Liu et al. 2017)
    - "taylor": the root of the mean over batches of the squared gradient of its gate, that is of
      the sum of gradient times weight (Molchanov et al. 2019, equation 8), per cost; a gradient
      that is a sum over readers, or over what a branch holds, counts for its terms
    - "random": a random order, by torch's generator

    Norms and factors are divided by the largest of the group, so that groups compare: one with a
    few strong positions loses more than one where all are alike. They say nothing of branches,
    which close last.

    Args:
        gated: what `prepare` returned.
        method: one of the above.
        data: for "taylor", batches: an input (or tuple of inputs) and a label, or a mapping of
            arguments for a model that returns its own `loss`.
        loss: for "taylor", the loss of `loss(model, batch)`; if missing, cross entropy, or the
            model's own.

    Raises:
        InputError: the method is unknown, or "taylor" has no data.
    """
    check_method(method, data, loss)
    gates, record = gated_record(gated)
    if method == "taylor":
        assert data is not None
        rank = _taylor(gated, gates, data, loss or _usual_loss)
    else:
        rank = _of_weights(traced_part(gated)[1], gates, record, method)
    parts = torch.split(rank, list(gates.layout.sizes))
    return dict(zip(gates.layout.names, parts, strict=True))


def check_method(method: Any, data: Any, loss: Any) -> None:
    """Raise InputError unless positions can be ranked so, as far as that can be told so early."""
    choice("method", method, ("taylor", *_MEASURES), "known without training are")
    if data is not None:
        batches("data", data)
    if loss is not None and not callable(loss):
        raise refusal("loss", loss, "a function of a model and a batch that returns a scalar")
    if method == "taylor" and data is None:
        raise InputError('method="taylor" needs data: batches of (inputs, labels), or a loader')


def _of_weights(model: nn.Module, gates: Gates, record: Record, method: str) -> Tensor:
    """Sums over parameters, as the gradient of their masked sum by the masks."""
    layout = gates.layout
    masks = torch.ones(layout.total, dtype=torch.double, requires_grad=True)
    parts = torch.split(masks, list(layout.sizes))
    sums = _MEASURES[method](model, gates, record, parts)
    if not sums:
        raise InputError(f'method="{method}" finds nothing to rank by in this model')
    (totals,) = torch.autograd.grad(torch.stack(sums).sum(), masks, allow_unused=True)
    groups = list(torch.split(totals, list(layout.sizes)))[: layout.groups]
    ranks = torch.cat([group / group.max().clamp(min=1e-300) for group in groups])
    branches = torch.full((layout.total - len(ranks),), 1.0 + float(ranks.max()))
    return torch.cat([ranks, branches.double()])


def _filters(
    model: nn.Module, gates: Gates, record: Record, parts: tuple[Tensor, ...]
) -> list[Tensor]:
    """The absolute weights of producers."""
    return [
        _masked(_tensor(model, value).abs(), axes[:1], gates, parts).sum()
        for value, axes in _typed_parameters(record)
        if len(axes) > 1
    ]


def _all_weights(
    model: nn.Module, gates: Gates, record: Record, parts: tuple[Tensor, ...]
) -> list[Tensor]:
    """The squared weights of everyone."""
    return [
        _masked(_tensor(model, value).square(), axes, gates, parts).sum()
        for value, axes in _typed_parameters(record)
    ]


def _factors(
    model: nn.Module, gates: Gates, record: Record, parts: tuple[Tensor, ...]
) -> list[Tensor]:
    """The absolute factors of normalisation layers."""
    scales = {
        node.inputs[place].name  # type: ignore[union-attr]
        for node in record.program.ir.nodes
        if (place := _FACTOR_OPERANDS.get(node.op)) is not None
        and len(node.inputs) > place
        and node.inputs[place] is not None
    }
    return [
        _masked(_tensor(model, value).abs(), axes, gates, parts).sum()
        for value, axes in _typed_parameters(record)
        if value.name in scales
    ]


def _chance(
    model: nn.Module, gates: Gates, record: Record, parts: tuple[Tensor, ...]
) -> list[Tensor]:
    return [(part * torch.rand(part.shape, dtype=part.dtype)).sum() for part in parts]


_FACTOR_OPERANDS = {
    "batch_norm": 3,
    "standardise": 3,
    "instance_norm": 3,
    "layer_norm": 1,
    "rms_norm": 1,
    "group_norm": 1,
}
"""Which operand of a normalisation is its factor."""

_MEASURES: Mapping[str, Callable[..., list[Tensor]]] = {
    "magnitude": _filters,
    "group_norm": _all_weights,
    "bn_scale": _factors,
    "random": _chance,
}


def _typed_parameters(record: Record) -> list[tuple[Value, tuple[Axis, ...]]]:
    """The trained parameters whose axes are known."""
    types = record.analysis.types
    values = [v for v in record.program.ir.parameters if v.trained and v.name in types.axes]
    return [(value, types.axes[value.name]) for value in values]


def _tensor(model: nn.Module, value: Value) -> Tensor:
    return model.get_parameter(value.name).detach().double().cpu()


def _masked(x: Tensor, axes: tuple[Axis, ...], gates: Gates, parts: tuple[Tensor, ...]) -> Tensor:
    """`x` times the masks of its first axes."""
    for dim, axis in enumerate(axes):
        if any(gates.holds(space) for space in spaces(axis)):
            x = apply_mask(x, gates.mask(axis, parts), dim)
    return x


def _taylor(gated: nn.Module, gates: Gates, data: Iterable[Any], loss: Loss) -> Tensor:
    """Gate gradients in evaluation mode, ranked as `static` ranks them."""
    trained = [p for p in gated.parameters() if p.requires_grad and p is not gates.method.scores]
    total, count = torch.zeros(gates.layout.total), 0
    also = "" if loss is _usual_loss else ", or loss fails on it"
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with in_evaluation(gated), torch.enable_grad():
            for batch in steps(data, "looking at data"):
                values = torch.ones_like(gates.method.scores, requires_grad=True)
                with gates.showing(values), running_on(f"batch {count} of data{also}"):
                    (gradient,) = torch.autograd.grad(loss(gated, batch), values)
                total += gradient.detach().cpu().square()
                count += 1
    finally:
        for parameter in trained:
            parameter.requires_grad_()
    if not count:
        raise InputError('method="taylor" got no batch: the data is empty (or used up)')
    return gates.method.budget.effect_per_price(total / count, torch.ones(gates.layout.total))


def _usual_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy of the output and the label, or what the model says itself."""
    if isinstance(batch, Mapping):
        own: Tensor | None = getattr(model(**batch), "loss", None)
        if own is None:
            raise InputError("the model returns no loss for these batches: give loss=")
        return own
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise InputError(
            f"data: expected batches of (inputs, labels) or mappings, got {type(batch).__name__}: "
            "give loss="
        )
    *inputs, labels = batch
    arguments = inputs[0] if isinstance(inputs[0], list | tuple) else inputs
    output = model(*arguments)
    if not isinstance(output, Tensor):
        raise InputError(f"the model returns {type(output).__name__}, not logits: give loss=")
    return F.cross_entropy(output, labels)
