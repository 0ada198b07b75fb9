"""How far may two correct models be apart? As far as rounding carries, which is measured.

To first order the error of a computation is its condition times the unit roundoff u of its
arithmetic (Higham, Accuracy and Stability of Numerical Algorithms, section 1.5). So errors at the
u of float32, against float64 in the very same model on the very same inputs, tell the condition,
and with it the error of another arithmetic:

    error(u)  <=  ROUNDINGS * error(u of float32) * u / (u of float32)

Two errors are measured, and the larger counts: that of the model in float32, and that of float64
when every weight, input and result of an operation is off by up to u of float32 (Parker, Monte
Carlo Arithmetic, 1997), which also shows what cancels by luck, such as the mean of equal values,
which float32 sums in float64. No error is taken to be below one rounding of the largest value. A
rewrite re-associates sums, which changes how errors add up, but not the condition: `ROUNDINGS` pays
for it. Beyond the caps of `fxprune.agreement` rounding explains nothing; they are of the
largest value, or of one where all values are smaller, which may be what is left of a difference.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fxprune.agreement import CAPS
from fxprune.torch.frontend.nests import tensors_in
from fxprune.torch.precision import in_precision

ROUNDINGS = 32
"""Errors of a rewrite over those of the original. `python -m tests.campaign` reports how much of it
fxprune's own rewrites use."""


_SINGLE = torch.finfo(torch.float32).eps


def run(model: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors that a model returns, in order; the inputs are copied, its mode is as it is.

    Gradients are recorded, because torch multiplies matrices in another order when they are not.
    """
    return [tensor.detach() for tensor in tensors_in(model(*copy.deepcopy(tuple(inputs))))]


def converted(inputs: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """Inputs with their floating point arrays in another precision."""
    return [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy that computes in `dtype`, in the mode of the model."""
    clone = in_precision(model, dtype)
    for copied, module in zip(clone.modules(), model.modules(), strict=True):
        copied.training = module.training
    return clone


def allowed_errors(model: nn.Module, inputs: Sequence[Any], dtype: torch.dtype) -> list[float]:
    """For every output, the largest difference to a rewritten model that rounding explains."""
    exact_inputs = converted(inputs, torch.float64)
    exact = run(in_dtype(model, torch.float64), exact_inputs)
    off, generator = in_dtype(model, torch.float64), torch.Generator().manual_seed(0)
    for parameter in off.parameters():
        parameter.data = off_by_rounding(parameter.data, generator)
    with _Off(generator):
        measured = [run(off, [off_by_rounding(x, generator) for x in exact_inputs])]
    with suppress(RuntimeError):  # a constant of float64 may be beyond float32
        measured.append(run(in_dtype(model, torch.float32), converted(inputs, torch.float32)))
    scale = ROUNDINGS * torch.finfo(dtype).eps / _SINGLE
    cap = CAPS[str(dtype).removeprefix("torch.")]
    return [
        min(
            scale * max(_error(expected, other[index]) for other in measured),
            cap * max(largest_of(expected), 1),
        )
        for index, expected in enumerate(exact)
    ]


def off_by_rounding(value: Any, generator: torch.Generator) -> Any:
    """Every number of an array off by up to the unit roundoff of float32."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    noise = torch.rand(value.shape, dtype=value.dtype, generator=generator)
    return value * (1 + _SINGLE * (noise - 0.5))


class _Off(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation returns what is off; views and what is written in place stay."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(result.alias_info for result in func._schema.returns):
            return results
        return tree_map(lambda result: off_by_rounding(result, self._generator), results)


def least_error(expected: Tensor, dtype: torch.dtype) -> float:
    """What is allowed in any case: the roundings of the largest value."""
    return ROUNDINGS * torch.finfo(dtype).eps * largest_of(expected)


def largest_of(tensor: Tensor) -> float:
    """The largest absolute value that is finite."""
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _error(exact: Tensor, rounded: Tensor) -> float:
    if not exact.is_floating_point() or not exact.numel():
        return 0.0
    largest = largest_of(exact)
    same = (exact == rounded.double()) | (exact.isnan() & rounded.isnan())
    error = (rounded.double() - exact).abs()[~same].max().item() if not same.all() else 0.0
    if not math.isfinite(error):  # float32 overflows: then nothing but its range is known
        error = largest
    return max(error, _SINGLE * largest)
