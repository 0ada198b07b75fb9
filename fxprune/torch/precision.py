"""Modules and inputs in another precision, and how far their outputs are apart."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.torch.backend.module import TracedModule
from fxprune.torch.frontend.nests import tensors_in


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in evaluation that computes in `dtype` throughout.

    A traced module that casts to float32 by name would else be no more exact than that.
    """
    clone = copy.deepcopy(module).eval()
    clone._apply(lambda tensor: _in_dtype(tensor, dtype))  # type: ignore[no-untyped-call]
    if isinstance(clone, TracedModule) and dtype is torch.float64:
        clone.replace_literals(torch.float32, torch.float64)
        clone.replace_literals(torch.complex64, torch.complex128)
    return clone


def _in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a precision; complex ones stay complex."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def relative_error(expected: Any, got: Any) -> float:
    """The largest difference of all outputs, relative to the largest expected value of each.

    Infinite if shapes differ or a value is not a number on one side only.
    """
    left, right = tensors_in(expected), tensors_in(got)
    if [x.shape for x in left] != [x.shape for x in right]:
        return float("inf")
    return max((_error(a, b) for a, b in zip(left, right, strict=True)), default=0.0)


def _error(expected: Tensor, got: Tensor) -> float:
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, got.to(expected.dtype)) else float("inf")
    if not expected.numel():
        return 0.0
    difference = (expected - got).abs().max()
    if not bool(torch.isfinite(difference)):
        return float("inf")
    return float(difference / expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny))


def outputs_of(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return module(*inputs)


def in_dtype(batch: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(_in_dtype(value, dtype) if isinstance(value, Tensor) else value for value in batch)


def samples_in(batch: tuple[Any, ...]) -> int:
    return next((int(v.shape[0]) for v in batch if isinstance(v, Tensor) and v.dim()), 1)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
