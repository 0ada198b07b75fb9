"""What `search`, `sensitivity` and `prune` can ask of a smaller model, measured on data.

found = fxprune.search(gated, fxprune.scores.accuracy(validation, refit=some_batches), target=0.5)

A gated model computes what the folded one does, so these are measured without folding.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fxprune.arguments import batches
from fxprune.errors import InputError
from fxprune.extras import naming_extras
from fxprune.searching.found import Objective
from fxprune.searching.scores import Candidate, Score

with naming_extras("fxprune.scores"):
    import torch
    from torch import Tensor, nn

    from fxprune.torch.backend.copying import copy_module
    from fxprune.torch.batches import repeatable, running_on
    from fxprune.torch.criteria import Loss, usual_loss
    from fxprune.torch.frontend.modes import in_evaluation
    from fxprune.torch.refit import refit as refit_weights


def accuracy(loader: Iterable[Any], *, refit: Iterable[Any] | None = None) -> Score:
    """The share of samples, in [0, 1], for which the largest logit is that of the label.

    Args:
        loader: batches of (inputs, labels), or mappings with "labels" for models that return
            `logits`.
        refit: batches on which the weights behind closed positions are solved anew before, see
            `fxprune.refit`; of a copy, so that the gated model stays as it is.

    Raises:
        InputError: one of the two gives no batches.
    """
    return Score(Objective("accuracy"), _measured(loader, refit, _right))


def loss(
    loader: Iterable[Any], loss: Loss | None = None, *, refit: Iterable[Any] | None = None
) -> Score:
    """The mean over batches of a loss; the less, the better.

    Args:
        loader: batches, as `loss` takes them.
        loss: the loss of `loss(model, batch)`; if missing, cross entropy of (inputs, labels), or
            the model's own.
        refit: as for `accuracy`.

    Raises:
        InputError: `loader` or `refit` gives no batches.
    """
    measure = loss or usual_loss

    def of_batch(model: nn.Module, batch: Any) -> tuple[float, int]:
        return float(measure(model, batch)), 1

    return Score(Objective("loss", maximise=False), _measured(loader, refit, of_batch))


Measure = Callable[[nn.Module, Any], tuple[float, int]]
"""From a model and a batch to a sum, and over how many it is."""


def _measured(
    loader: Iterable[Any], refit: Iterable[Any] | None, measure: Measure
) -> Callable[[Candidate], float]:
    data = repeatable(batches("loader", loader))
    some = None if refit is None else repeatable(batches("refit", refit))

    def of(candidate: Candidate) -> float:
        gated = candidate.gated()
        if some is not None:
            if gated is None:
                raise InputError("refit solves weights of gated models: a builder has none")
            gated = copy_module(gated)
            refit_weights(gated, some)
        return mean(gated or candidate.model(), data, measure)

    return of


def mean(model: nn.Module, data: Iterable[Any], measure: Measure) -> float:
    """A mean over data, in evaluation."""
    total, count = 0.0, 0
    with in_evaluation(model), torch.no_grad():
        for number, batch in enumerate(data):
            with running_on(f"batch {number} of the loader"):
                more, samples = measure(model, batch)
            total, count = total + more, count + samples
    if not count:
        raise InputError("loader is empty (or used up): give at least one batch")
    return total / count


def _right(model: nn.Module, batch: Any) -> tuple[float, int]:
    """How many samples are told right, of how many."""
    if isinstance(batch, Mapping):
        labels, logits = batch.get("labels"), getattr(model(**batch), "logits", None)
    elif isinstance(batch, list | tuple) and len(batch) > 1:
        *inputs, labels = batch
        logits = model(*(inputs[0] if isinstance(inputs[0], list | tuple) else inputs))
    else:
        labels = logits = None
    if not isinstance(labels, Tensor) or not isinstance(logits, Tensor):
        raise InputError(
            "accuracy needs batches of (inputs, labels), or mappings with labels, and a model that "
            "returns logits: give a function of your own instead"
        )
    guessed = logits.argmax(dim=-1)
    return float((guessed == labels.to(guessed.device)).sum()), labels.numel()
