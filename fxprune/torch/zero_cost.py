"""What can be told of a model before it is trained? Scores that take one look at some data.

They are those of the smaller model, found on a gated one without folding: closed positions are left
out where codes are compared, and have no gradient where weights are counted.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxprune.arguments import batches, choice, refusal
from fxprune.errors import InputError
from fxprune.torch.batches import arguments_of, running_on
from fxprune.torch.checks import check_weights
from fxprune.torch.codes import codes_of, kernel
from fxprune.torch.criteria import Loss, usual_loss
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.gates.module import PREFIX, Gates
from fxprune.torch.record import inputs_taken, traced_part
from fxprune.torch.wrapping import check_module

METHODS = ("naswot", "synflow", "snip", "zico")
"""The names of the scores."""


def score(
    model: nn.Module, data: Iterable[Any], method: str = "naswot", loss: Loss | None = None
) -> float:
    """How good a model promises to be, before it is trained: the more, the better.

    - "naswot": `log |det K|` where `K[i, j]` is the number of units behind ReLUs minus the Hamming
      distance of the codes of samples i and j: which units are above 0 (Mellor et al. 2021,
      section 3). Minus infinity where two samples have one code. Layers called ReLU (ReLU6,
      LeakyReLU, ... too) and the functions are seen
    - "synflow": the sum of `w * dR/dw` over weights of two or more axes, where R is the sum of the
      outputs for an input of ones, with absolute weights and factors of norms, without biases and
      running means (Tanaka et al. 2020, equation 2). Only the shapes of data matter
    - "snip": the sum of `|w * dL/dw|` over the same weights, with gradients averaged over batches
      (Lee et al. 2019, equation 6, before it is divided by the sum)
    - "zico": the sum over weights W of `log(sum over w in W of mean |dL/dw| / std dL/dw)`, mean
      and standard deviation over batches, of which there are two at least (Li et al. 2023, section
      3.3, and its published code)

    Norms use the statistics of the batch, as in the published code, and dropout is off; "synflow"
    uses running variances. The model stays as it was.

    Args:
        model: a gated model, of which the score is that of what is open; or any other, folded or
            not. For "naswot" it must be traceable.
        data: batches: an input (or tuple of inputs), perhaps with labels behind, or a mapping of
            arguments. "snip" and "zico" need labels, or a model that returns its own `loss`. Of
            "naswot" and "synflow" the mean over batches is returned.
        method: one of the above.
        loss: for "snip" and "zico", the loss of `loss(model, batch)`; if missing, cross entropy, or
            the model's own.

    Raises:
        InputError: an argument does not fit, the data is empty, or "naswot" finds no ReLU.
    """
    check_module("model", model)
    choice("method", method, METHODS)
    batches("data", data)
    if loss is not None and not callable(loss):
        raise refusal("loss", loss, "a function of a model and a batch that returns a scalar")
    check_weights(model)
    with _as_scored(model):
        if method in _BY_BATCH:
            found = [_BY_BATCH[method](model, batch, n) for n, batch in enumerate(data)]
        else:
            gradients = _gradients(model, data, loss or usual_loss)
            found = [_BY_GRADIENTS[method](gradients)]
    if not found:
        raise InputError("data is empty (or used up): give at least one batch")
    return math.fsum(found) / len(found) if math.isfinite(sum(found)) else float(sum(found))


@contextlib.contextmanager
def _as_scored(model: nn.Module) -> Iterator[None]:
    """Norms as in training, all else in evaluation, gates as they are open; statistics stay."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    _, part = traced_part(model)
    gates = getattr(part, PREFIX, None)
    shown = gates.showing(gates.method.is_open) if isinstance(gates, Gates) else None
    with in_evaluation(model), shown or contextlib.nullcontext():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = True
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if not torch.equal(buffer, before[name]):
                        buffer.copy_(before[name])


def _naswot(model: nn.Module, batch: Any, number: int) -> float:
    with torch.no_grad(), running_on(f"batch {number} of data"):
        codes = codes_of(model, batch)
    if not codes:
        raise InputError('method="naswot" compares what ReLUs let through: the model has none')
    similar = kernel(codes)
    units = similar[0, 0]
    alike = similar == units
    if np.count_nonzero(alike) > len(similar):
        return -math.inf
    return float(np.linalg.slogdet(similar)[1])


def _synflow(model: nn.Module, batch: Any, number: int) -> float:
    """In double precision, since products over many layers leave the range of floats."""
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    absolute = {name: _positive(name, tensor.detach()) for name, tensor in state.items()}
    weights = {
        name: absolute[name].requires_grad_()
        for name, parameter in model.named_parameters()
        if _counts(name, parameter)
    }
    args, kwargs = arguments_of(batch, inputs_taken(model))
    with in_evaluation(model), torch.enable_grad(), running_on(f"batch {number} of data"):
        result = functional_call(
            model, absolute, tuple(map(_ones, args)), {k: _ones(v) for k, v in kwargs.items()}
        )
        total = torch.stack([out.sum() for out in tensors_in(result) if _floats(out)]).sum()
        found = torch.autograd.grad(total, tuple(weights.values()), allow_unused=True)
    pairs = zip(weights.values(), found, strict=True)
    return float(sum((w.detach() * g).sum() for w, g in pairs if g is not None))


def _ones(value: Any) -> Any:
    """One sample of ones of the shape of an input; whole numbers stay."""
    return torch.ones_like(value[:1], dtype=torch.double) if _floats(value) else value


def _positive(name: str, tensor: Tensor) -> Tensor:
    """A tensor in absolute doubles; biases and means are zero."""
    if not tensor.is_floating_point() or PREFIX in name.split("."):
        return tensor
    leaf = name.rpartition(".")[2]
    tensor = tensor.double().abs()
    return torch.zeros_like(tensor) if "bias" in leaf or leaf == "running_mean" else tensor


def _snip(gradients: list["_Gradients"]) -> float:
    total = 0.0
    for each in gradients:
        mean = torch.stack(each.by_batch).mean(dim=0)
        total += float((each.weight * mean).abs().sum())
    return total


def _zico(gradients: list["_Gradients"]) -> float:
    total = 0.0
    for each in gradients:
        if len(each.by_batch) < 2:
            raise InputError('method="zico" compares batches of data: give two or more')
        gradient = torch.stack(each.by_batch)
        mean, spread = gradient.abs().mean(dim=0), gradient.std(dim=0, correction=0)
        ratio = torch.where(spread > 0, mean / spread, 0.0).sum()
        total += math.log(ratio) if ratio > 0 else 0.0
    return total


class _Gradients:
    """A weight, and its gradients by batch, in doubles."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().double().cpu()
        self.by_batch: list[Tensor] = []


def _gradients(model: nn.Module, data: Iterable[Any], loss: Loss) -> list[_Gradients]:
    named = [(n, p) for n, p in model.named_parameters() if _counts(n, p)]
    weights = [parameter for _, parameter in named]
    asked = [parameter.requires_grad for parameter in weights]
    found = [_Gradients(parameter) for parameter in weights]
    also = "" if loss is usual_loss else ", or loss fails on it"
    try:
        for parameter in weights:
            parameter.requires_grad_()
        for number, batch in enumerate(data):
            with torch.enable_grad(), running_on(f"batch {number} of data{also}"):
                made = torch.autograd.grad(loss(model, batch), weights, allow_unused=True)
            for each, weight, gradient in zip(found, weights, made, strict=True):
                given = torch.zeros_like(weight) if gradient is None else gradient
                each.by_batch.append(given.detach().double().cpu())
    finally:
        for parameter, wanted in zip(weights, asked, strict=True):
            parameter.requires_grad_(wanted)
    if not found or not found[0].by_batch:
        raise InputError("data is empty (or used up), or the model has no weights")
    return found


def _counts(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a weight of a layer that multiplies."""
    own = PREFIX not in name.split(".")
    return own and parameter.dim() > 1 and parameter.is_floating_point()


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


_BY_BATCH: dict[str, Callable[[nn.Module, Any, int], float]] = {
    "naswot": _naswot,
    "synflow": _synflow,
}
_BY_GRADIENTS: dict[str, Callable[[list[_Gradients]], float]] = {"snip": _snip, "zico": _zico}
