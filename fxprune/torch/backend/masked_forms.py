"""Reductions and normalisations that see open positions only.

With everything open each returns the very bits of torch's own function; the gradient that reaches
the mask is always that of the masked form.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def apply_mask(x: Tensor, mask: Tensor, dim: int, before: int = 1, after: int = 1) -> Tensor:
    """`x` with position i of axis `dim` multiplied by `mask[i]`, or in sample n by `mask[n, i]`.

    See `stretched` for `before` and `after`.
    """
    if mask.dim() == 1:
        mask = stretched(mask, x, dim, before, after)
        return x * _along(mask, dim, x.dim()).to(x.dtype)
    shape = [len(x) if axis == 0 else -1 if axis == dim else 1 for axis in range(x.dim())]
    return x * mask.view(shape).to(x.dtype)


def stretched(mask: Tensor, x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """`mask` for as many positions as axis `dim` of `x` has in this run.

    In the example run its numbers are repeated `after` times each, and `before` times as a whole,
    for factors of the axis that have no gates: sizes of pictures, which may be others now.
    """
    length = x.shape[dim]
    if length == len(mask):
        return mask
    if after > 1:
        numbers = mask[::after]
        return numbers.repeat_interleave(length // len(numbers))
    numbers = mask[: len(mask) // before]
    return numbers.repeat(length // len(numbers))


def scale(x: Tensor, gate: Tensor) -> Tensor:
    """`x` times the gate of its branch, of shape (), (1,), or (n, 1) for one per sample."""
    gate = gate.to(x.dtype)
    return x * (gate.view(-1, *[1] * (x.dim() - 1)) if gate.dim() == 2 else gate)


def pooled(x: Tensor, dim: int) -> Tensor:
    """The mean over all axes but the first, the samples, and `dim`: of shape (n, channels)."""
    others = [axis for axis in range(1, x.dim()) if axis != dim % x.dim()]
    return x.mean(others) if others else x


def mean(x: Tensor, dims: tuple[int, ...], keepdim: bool, mask: Tensor) -> Tensor:
    """The mean over open positions; `mask` broadcasts to `x` and is 1 outside gated axes."""
    mask = mask.to(x.dtype)
    others = math.prod(x.shape[dim] for dim in dims if mask.shape[dim] == 1)
    total = (x * mask).sum(dims, keepdim=keepdim)
    return _exact_when_open(x.mean(dims, keepdim), total / (mask.sum() * others), mask)


def amax(x: Tensor, dims: tuple[int, ...], keepdim: bool, mask: Tensor) -> Tensor:
    """The maximum over open positions."""
    return x.masked_fill(mask == 0, -math.inf).amax(dims, keepdim)


def amin(x: Tensor, dims: tuple[int, ...], keepdim: bool, mask: Tensor) -> Tensor:
    """The minimum over open positions."""
    return x.masked_fill(mask == 0, math.inf).amin(dims, keepdim)


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None, mask: Tensor) -> Tensor:
    """`x.softmax` over open positions, which leaves nothing to the others.

    Open and closed gates get the gradient of shares that are weighted by the mask; so do gates
    between, whose shares these are.
    """
    mask = mask.expand_as(x)
    shares = x.masked_fill(mask == 0, -math.inf).softmax(dim, dtype=dtype)
    weighted = x.softmax(dim, dtype=dtype) * mask.to(shares.dtype)
    weighted = weighted / weighted.sum(dim, keepdim=True).clamp(min=_tiny(shares))
    decided = ((mask == 0) | (mask == 1)).all()
    return torch.where(decided, shares.detach() + (weighted - weighted.detach()), weighted)


def _tiny(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).tiny)


def topk(x: Tensor, k: int, dim: int, sort: bool, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The `k` largest open positions along `dim`, and their numbers."""
    mask = mask.expand_as(x)
    least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    values, numbers = x.masked_fill(mask == 0, least).topk(k, dim, sorted=sort)
    gates = mask.gather(dim, numbers).to(x.dtype)
    return torch.where(gates == 0, values, values * gates), numbers


def variance(
    x: Tensor, dims: tuple[int, ...], keepdim: bool, mask: Tensor, correction: float
) -> Tensor:
    """The variance over open positions, divided by their number less `correction`."""
    mask = mask.to(x.dtype)
    others = math.prod(x.shape[dim] for dim in dims if mask.shape[dim] == 1)
    count = mask.sum() * others
    average = (x * mask).sum(dims, keepdim=True) / count
    squares = ((x - average).square() * mask).sum(dims, keepdim=keepdim)
    exact = x.var(dims, correction=correction, keepdim=keepdim)
    return _exact_when_open(exact, squares / (count - correction).clamp(min=0), mask)


def rms_norm(
    x: Tensor,
    mask: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None,
    eps: float | None,
) -> Tensor:
    """`F.rms_norm` with the mean square over open positions."""
    dims = tuple(range(-len(normalized_shape), 0))
    mask = mask.to(x.dtype).expand(normalized_shape)
    least = torch.finfo(x.dtype).eps if eps is None else eps
    square = (x.square() * mask).sum(dims, keepdim=True) / mask.sum().clamp(min=1)
    y = x * torch.rsqrt(square + least)
    y = y if weight is None else y * weight
    return _exact_when_open(F.rms_norm(x, normalized_shape, weight, eps), y, mask)


def layer_norm(
    x: Tensor,
    mask: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """`F.layer_norm` with statistics over open positions; `mask` has the normalised shape."""
    dims = tuple(range(-len(normalized_shape), 0))
    mask = mask.to(x.dtype)
    y = _standardise(x, mask.expand(normalized_shape), dims, eps)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return _exact_when_open(F.layer_norm(x, normalized_shape, weight, bias, eps), y, mask)


def group_norm(
    x: Tensor, mask: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`F.group_norm` with statistics over open channels; `mask` has one entry per channel."""
    mask = mask.to(x.dtype)
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    inner = mask.view(1, groups, -1, 1).expand(1, *grouped.shape[1:])
    y = _standardise(grouped, inner, (2, 3), eps).reshape(x.shape)
    y = y if weight is None else y * _along(weight, 1, x.dim())
    y = y if bias is None else y + _along(bias, 1, x.dim())
    return _exact_when_open(F.group_norm(x, groups, weight, bias, eps), y, mask)


def standardise(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`F.batch_norm` by the statistics of the batch itself, over open positions."""
    dims = (0, *range(2, x.dim()))
    mask = mask.to(x.dtype)
    y = _standardise(x, mask.expand(x.shape), dims, eps)
    y = y if weight is None else y * _along(weight, 1, x.dim())
    y = y if bias is None else y + _along(bias, 1, x.dim())
    exact = F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return _exact_when_open(exact, y, mask)


def _standardise(x: Tensor, mask: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    count = mask.sum(dims, keepdim=True).clamp(min=1)
    average = (x * mask).sum(dims, keepdim=True) / count
    centred = x - average
    variance = (centred.square() * mask).sum(dims, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


def _along(vector: Tensor, dim: int, rank: int) -> Tensor:
    return vector.view([-1 if axis == dim % rank else 1 for axis in range(rank)])


def _exact_when_open(exact: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
    """`masked`, with the value (not the gradient) of `exact` while nothing is closed."""
    open_value = exact.detach() + (masked - masked.detach())
    return torch.where((mask != 0).all(), open_value, masked)
