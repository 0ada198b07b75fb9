"""Pruning without training: positions ranked by their weights, or by what they do on data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune import criteria
from fxprune.arguments import batches, refusal
from fxprune.criteria import DEPTH, ON_FLOW, Method, called, needs_flow, scores_of
from fxprune.errors import InputError
from fxprune.passes.analyse import Analysis
from fxprune.ranking import NORMS, Scores, Sums, group_norm, ranks
from fxprune.stages import track
from fxprune.torch.batches import running_on
from fxprune.torch.checks import check_weights
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.gates.module import Gates
from fxprune.torch.gates.weights import weight_of
from fxprune.torch.observing import observed
from fxprune.torch.record import gated_record, gates_of, traced_part
from fxprune.torch.saliency import saliency

Loss = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to a scalar."""

METHODS = ("taylor", *NORMS, "random", *ON_FLOW, "saliency", DEPTH)


def importance(
    gated: nn.Module,
    method: Method = "group_norm",
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
) -> dict[str, Tensor]:
    """How much every position matters, by group and branch; for `reach_target`.

    By weights, or by chance:

    - "magnitude": the L1 norm of the filters that make a channel (Li et al. 2017, section 3.1),
      along whichever axis of a weight they lie
    - "group_norm": the L2 norm of all weights that make or read it (Fang et al. 2023, equation 5)
    - "bn_scale": the factor that normalisation layers give it (Liu et al. 2017)
    - "random": a random order, by torch's generator

    On data, which is looked at batch by batch:

    - "activation": its mean absolute value where it is read
    - "wanda": to first order, by how much closing it changes what its readers compute: the square
      norm of the weights that read it times its mean square (Sun et al. 2023, section 3, for whole
      channels)
    - "flap": by how much that varies, which is what is lost where a bias makes up for the mean, as
      with `refit`: the same norm times its sample variance (An et al. 2024, equation 5)
    - "saliency": the squared change of the model's outputs when it closes, on about eight samples,
      one run per position
    - "block_influence": branches first, each by 1 minus the cosine between what it is added to and
      the sum (Men et al. 2024, equation 1); then groups by "group_norm"
    - "taylor": the root of the mean over batches of the squared gradient of its gate, that is of
      the sum of gradient times weight (Molchanov et al. 2019, equation 8), per cost; a gradient
      that is a sum over readers, or over what a branch holds, counts for its terms

    A function of your own is given one group after the other as a `GroupView`, and returns numbers
    of shape (size,), or None where it has nothing to say of a group::

        def mean_square(group):
            return sum(reader.flow.square for reader in group.readers)

    So that groups compare, norms and factors are divided by the largest of the group (one with a
    few strong positions loses more than one where all are alike), everything else by its mean. A
    group that is left out goes in the order of "group_norm", and loses the share that the others
    lose together. Branches are ranked by their block influence where a method looks at data
    (saliency and taylor by their own effect), divided by the mean over all; else they close last.

    Args:
        gated: what `prepare` returned.
        method: one of the above.
        data: batches: an input (or tuple of inputs), perhaps with labels behind, or a mapping of
            arguments. "taylor" needs labels, or a model that returns its own `loss`.
        loss: for "taylor", the loss of `loss(model, batch)`; if missing, cross entropy, or the
            model's own.

    Raises:
        InputError: the method is unknown or returns what it should not, data is missing, or the
            model has no weights.
    """
    check_method(method, data, loss)
    gates, record = gated_record(gated)
    if method != "random":
        check_weights(traced_part(gated)[1])
    if method == "taylor":
        assert data is not None
        rank = _taylor(gated, gates, data, loss or usual_loss)
    else:
        rank = _ranked(gated, gates, record.analysis, method, data)
    parts = torch.split(rank, list(gates.layout.sizes))
    return dict(zip(gates.layout.names, parts, strict=True))


def check_method(method: Any, data: Any, loss: Any) -> None:
    """Raise InputError unless positions can be ranked so, as far as that can be told so early."""
    criteria.check_method(method, data, METHODS, "known without training are")
    if data is not None:
        batches("data", data)
    if loss is not None and not callable(loss):
        raise refusal("loss", loss, "a function of a model and a batch that returns a scalar")
    if method == "taylor" and data is None:
        raise InputError('method="taylor" needs data: batches of (inputs, labels), or a loader')


def _ranked(
    gated: nn.Module,
    gates: Gates,
    analysis: Analysis,
    method: Method,
    data: Iterable[Any] | None,
) -> Tensor:
    """Ranks by weights, by what flows, by what changes, or by chance."""
    weights = weight_of(traced_part(gated)[1])
    if method == "random":
        scores = Scores(_chance(analysis, gates))
    elif method == "saliency":
        scores = saliency(gated, data or ())
    else:
        flow = observed(gated, data) if data is not None and needs_flow(method, data) else None
        if flow is not None:
            flow.check(called(method))
        scores = scores_of(analysis, method, weights, flow)
    over = np.max if method in (*NORMS, "random") else np.mean
    by_weights = lambda: group_norm(analysis, weights)  # noqa: E731
    return torch.from_numpy(ranks(analysis, gates.layout, scores, called(method), by_weights, over))


def _chance(analysis: Analysis, gates: Gates) -> Sums:
    numbers = [torch.rand(size, dtype=torch.double).numpy() for size in gates.layout.sizes]
    spaces = [group.space for group in analysis.free_groups]
    return dict(zip(spaces, numbers, strict=False))


def _taylor(gated: nn.Module, gates: Gates, data: Iterable[Any], loss: Loss) -> Tensor:
    """Gate gradients in evaluation mode, ranked as `static` ranks them."""
    effects = gate_effects(gated, data, loss)
    return gates.method.budget.effect_per_price(effects, torch.ones(gates.layout.total))


def gate_effects(gated: nn.Module, data: Iterable[Any], loss: Loss | None = None) -> Tensor:
    """For every position the mean over batches of the squared gradient of its gate, all open.

    That is to first order the squared change of the loss if it closes (Molchanov et al. 2019,
    equation 8).

    Raises:
        InputError: the data is empty, or does not fit.
    """
    gates = gates_of(gated)
    loss = loss or usual_loss
    trained = [p for p in gated.parameters() if p.requires_grad and p is not gates.method.scores]
    total, count = torch.zeros(gates.layout.total), 0
    also = "" if loss is usual_loss else ", or loss fails on it"
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with in_evaluation(gated), torch.enable_grad():
            for batch in track(data, "looking at data"):
                values = torch.ones_like(gates.method.scores, requires_grad=True)
                with gates.showing(values), running_on(f"batch {count} of data{also}"):
                    (gradient,) = torch.autograd.grad(loss(gated, batch), values)
                gradient = gradient.detach().cpu()
                total += torch.where(gradient.isfinite(), gradient, 0.0).square()
                count += 1
    finally:
        for parameter in trained:
            parameter.requires_grad_()
    if not count:
        raise InputError('method="taylor" got no batch: the data is empty (or used up)')
    return total / count


def usual_loss(model: nn.Module, batch: Any) -> Tensor:
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
