"""What do frequent functions return without data? By formulas, where torch's own are slow.

Torch runs its shape rules for elementwise functions, means and attention in Python, one or two
levels deep: a tenth of a millisecond to several, for each of the thousand calls of a transformer.
A formula answers for float arrays of one type whose order in memory is plain, and says that order,
too; torch answers for all else, and for what is wrong.
"""

import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Formula = Callable[..., Any]
"""The result for the same arguments; None where torch itself has to say."""


def by_formula(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What `function` returns for tensors on the meta device, None where no formula tells it."""
    formula = _formula_of(function)
    if formula is None:
        return None
    try:
        return formula(*args, **kwargs)
    except TypeError:  # arguments that the formula does not have
        return None


class ByFormula(TorchFunctionMode):
    """While it is entered torch's functions answer by formula where there is one."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = by_formula(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if result is None else result


def _formula_of(function: Any) -> Formula | None:
    try:
        return FORMULAS.get(function)
    except TypeError:  # it cannot be a key
        return None


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.is_contiguous()


_META = torch.device("meta")


def _made(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=_META)


def _has_one_order(x: Tensor) -> bool:
    """Whether the order of its axes in memory is the only one that their strides allow."""
    strides = x.stride()
    return not (1 in x.shape or 0 in strides or len(set(strides)) < len(strides))


def _ordered(like: Tensor) -> Tensor | None:
    """An array of the shape of another whose axes lie in memory in the order of that one."""
    if like.is_contiguous():
        return _made(like, like.shape)
    if not _has_one_order(like):
        return None
    strides = like.stride()
    order = sorted(range(like.dim()), key=strides.__getitem__)
    found, step = [0] * like.dim(), 1
    for axis in order:
        found[axis], step = step, step * like.shape[axis]
    return torch.empty_strided(like.shape, found, dtype=like.dtype, device="meta")


def _of_one(x: Any) -> Tensor | None:
    return _ordered(x) if isinstance(x, Tensor) and x.is_floating_point() else None


def _of_two(x: Any, y: Any) -> Tensor | None:
    """Two arrays, or an array and a number, broadcast.

    The first array says the order in memory, the second if the first has one axis at most.
    """
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        array, number = (x, y) if isinstance(x, Tensor) else (y, x)
        return _of_one(array) if type(number) in (int, float) else None
    if x.dtype != y.dtype or not x.is_floating_point():
        return None
    shape = _broadcast(x.shape, y.shape)
    if shape is None:
        return None
    if x.is_contiguous() and y.is_contiguous():
        return _made(x, shape)
    if shape == x.shape:
        return _ordered(x)
    return _ordered(y) if shape == y.shape and sum(n > 1 for n in x.shape) <= 1 else None


def _overwritten(x: Any, y: Any = 0) -> Tensor | None:
    """An array that takes up another, or a number, and stays what it is."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if not x.is_contiguous() and not _has_one_order(x):
        return None
    if not isinstance(y, Tensor):
        return x if type(y) in (int, float) else None
    shares = x.untyped_storage()._cdata == y.untyped_storage()._cdata
    fits = x.dtype == y.dtype and _broadcast(x.shape, y.shape) == x.shape
    return x if fits and not shares else None


def _of_three(x: Any, one: Any, other: Any) -> Tensor | None:
    product = _of_two(one, other)
    known = product is not None and isinstance(one, Tensor) and isinstance(other, Tensor)
    plain = known and x.is_contiguous() and one.is_contiguous() and other.is_contiguous()
    return _of_two(x, product) if plain else None


def _broadcast(one: torch.Size, other: torch.Size) -> tuple[int, ...] | None:
    if one == other:
        return one
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    start = len(longer) - len(shorter)
    shape = list(longer)
    for i, (n, m) in enumerate(zip(longer[start:], shorter, strict=True), start):
        if n != m and 1 not in (n, m):
            return None
        shape[i] = m if n == 1 else n
    return tuple(shape)


def _mean(x: Any, dim: Any = None, keepdim: Any = False) -> Tensor | None:
    dims = (dim,) if isinstance(dim, int) else dim
    if not _is_plain(x) or not isinstance(dims, list | tuple) or not dims:
        return None
    if not all(isinstance(d, int) and -x.dim() <= d < x.dim() for d in dims):
        return None
    gone = {d % x.dim() for d in dims}
    if len(gone) < len(dims):
        return None
    if keepdim:
        return _made(x, tuple(1 if i in gone else n for i, n in enumerate(x.shape)))
    return _made(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


def _norm(
    x: Any, p: Any = "fro", dim: Any = None, keepdim: Any = False, dtype: Any = None
) -> Tensor | None:
    known = dtype is None and (p == "fro" or type(p) in (int, float))
    return _mean(x, dim, keepdim) if known else None


def _contiguous(x: Any) -> Tensor | None:
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        return None
    return x if x.is_contiguous() else _made(x, x.shape)


def _reshaped(x: Any, *shape: Any) -> Tensor | None:
    """Of what lies in memory as it must, a view; else a copy."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    if not (shape and isinstance(x, Tensor) and all(type(size) is int for size in sizes)):
        return None
    if x.numel() and (x.is_contiguous() or _has_one_order(x)):
        for each in (x, _made(x, x.shape)):
            with suppress(RuntimeError):  # no view has that shape
                return each.view(sizes)
    return None


def _cat(tensors: Any, dim: Any = 0) -> Tensor | None:
    if not isinstance(tensors, list | tuple) or not tensors or not all(map(_is_plain, tensors)):
        return None
    first, rank = tensors[0], tensors[0].dim()
    if not rank or not isinstance(dim, int) or not -rank <= dim < rank:
        return None
    shapes = [list(x.shape) for x in tensors]
    if any(x.dtype != first.dtype or x.dim() != rank for x in tensors):
        return None
    total = sum(shape.pop(dim % rank) for shape in shapes)
    if any(shape != shapes[0] for shape in shapes):
        return None
    rest = shapes[0]
    rest.insert(dim % rank, total)
    return _made(first, tuple(rest))


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
) -> Tensor | None:
    """Of heads of one shape; torch's order in memory follows the layout of the query."""
    q, k, v = query, key, value
    if not all(isinstance(x, Tensor) and x.is_floating_point() and x.dim() == 4 for x in (q, k, v)):
        return None
    if k.shape[:3] != v.shape[:3] or q.shape[-1] != k.shape[-1] or q.shape[0] != k.shape[0]:
        return None
    if len({q.dtype, k.dtype, v.dtype}) > 1 or 0 in (*q.shape, *k.shape, *v.shape):
        return None
    shared = q.shape[1] % k.shape[1] == 0 if enable_gqa else q.shape[1] == k.shape[1]
    if not shared or not _masks(attn_mask, (*q.shape[:3], k.shape[2]), q.dtype):
        return None
    if is_causal and attn_mask is not None:
        return None
    return _made(q, (*q.shape[:3], v.shape[-1]))


def _masks(mask: Any, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether a mask fits to weights of attention of a shape."""
    if mask is None:
        return True
    known = isinstance(mask, Tensor) and mask.dtype in (torch.bool, dtype)
    return known and _broadcast(torch.Size(shape), mask.shape) == shape


def _linear(x: Any, weight: Any, bias: Any = None) -> Tensor | None:
    if not all(isinstance(each, Tensor) and each.dtype == x.dtype for each in (x, weight)):
        return None
    fits = x.dim() > 0 and weight.dim() == 2 and x.shape[-1] == weight.shape[-1]
    if not fits or not x.is_floating_point():
        return None
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        return None
    return _made(x, (*x.shape[:-1], weight.shape[0]))


def _added_product(added: Any, one: Any, other: Any) -> Tensor | None:
    arrays = (added, one, other)
    if not all(isinstance(each, Tensor) and each.dtype == one.dtype for each in arrays):
        return None
    if not one.is_floating_point() or one.dim() != 2 or other.dim() != 2:
        return None
    shape = (one.shape[0], other.shape[1])
    if one.shape[1] != other.shape[0] or _broadcast(torch.Size(shape), added.shape) != shape:
        return None
    return _made(one, shape)


def _product(one: Any, other: Any) -> Tensor | None:
    """Of two stacks of as many matrices each."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype):
        return None
    if not one.is_floating_point() or one.dim() != other.dim() or one.dim() < 2:
        return None
    if one.shape[:-2] != other.shape[:-2] or one.shape[-1] != other.shape[-2]:
        return None
    return _made(one, (*one.shape[:-1], other.shape[-1]))


def _layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = 0, *rest: Any
) -> Tensor | None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    if not isinstance(normalized_shape, list | tuple):
        return None
    own = tuple(normalized_shape)
    if not own or tuple(x.shape[-len(own) :]) != own:
        return None
    given = [each for each in (weight, bias) if each is not None]
    fits = all(each.dtype == x.dtype and tuple(each.shape) == own for each in given)
    return _made(x, x.shape) if fits else None


def _in_one_step(recurrence: Any, *args: Any) -> Any:
    """What a recurrence returns: without data it would take all its steps one by one, in Python."""
    if args[0].dim() != 3:
        return recurrence(*args)  # packed: the second operand says how long each sequence is
    x, time = args[0], 1 if args[-1] else 0  # batch_first
    outputs, *states = recurrence(x[:, :1] if time else x[:1], *args[1:])
    shape = list(outputs.shape)
    shape[time] = x.shape[time]
    return outputs.new_empty(shape), *states


def _in_groups(rows: Any, matrices: Any, *args: Any, **kwargs: Any) -> Any:
    """A product of runs of rows with a stack of matrices, whatever its type of data.

    Torch's own rule for shapes knows one type of data only.
    """
    if (rows.dim(), matrices.dim()) != (2, 3):
        return torch._grouped_mm(rows, matrices, *args, **kwargs)
    dtype = kwargs.get("out_dtype") or rows.dtype
    return rows.new_empty((rows.shape[0], matrices.shape[-1]), dtype=dtype)


_UNARY = ("neg", "rsqrt", "sqrt", "exp", "sin", "cos", "tanh", "sigmoid", "erf", "abs", "square")
_BINARY = ("mul", "sub", "add", "div")
_ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "hardsigmoid")
_RECURRENCES = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_OPERATORS: dict[Any, Formula] = {
    operator.mul: _of_two,
    operator.add: _of_two,
    operator.sub: _of_two,
    operator.truediv: _of_two,
    operator.neg: _of_one,
}


def _power(x: Any, y: Any) -> Tensor | None:
    return _of_one(x) if type(y) in (int, float) else None


def _activation(x: Any, approximate: Any = "none") -> Tensor | None:
    return _of_one(x) if approximate in ("none", "tanh") else None


def _activated(x: Any, inplace: Any = False) -> Tensor | None:
    """Of the functions that torch.nn.functional writes in Python."""
    return _overwritten(x) if inplace else _of_one(x)


GROUPED = getattr(torch, "_grouped_mm", None)
"""What multiplies rows with the matrix of their group, since torch 2.8."""

FORMULAS: dict[Any, Formula] = {
    **{getattr(home, name): _of_one for home in (torch, Tensor) for name in _UNARY},
    **{getattr(home, name): _of_two for home in (torch, Tensor) for name in _BINARY},
    **_OPERATORS,
    **dict.fromkeys((torch.pow, Tensor.pow, operator.pow), _power),
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
    **dict.fromkeys((torch._C._nn.silu, torch._C._nn.gelu), _activation),
    **dict.fromkeys((torch.relu, Tensor.relu), _of_one),
    **{getattr(functional, name): _activated for name in _ACTIVATIONS},
    torch.cat: _cat,
    functional.linear: _linear,
    torch.addmm: _added_product,
    **dict.fromkeys((torch.layer_norm, functional.layer_norm), _layer_norm),
    **{getattr(Tensor, f"{name}_"): _overwritten for name in (*_BINARY, "relu")},
    **dict.fromkeys((operator.iadd, operator.isub, operator.imul, torch.relu_), _overwritten),
    **dict.fromkeys((torch.addcmul, Tensor.addcmul), _of_three),
    **dict.fromkeys((torch.norm, Tensor.norm), _norm),
    Tensor.contiguous: _contiguous,
    **dict.fromkeys((torch.reshape, Tensor.reshape), _reshaped),
    **dict.fromkeys((torch.matmul, Tensor.matmul, operator.matmul), _product),
    functional.scaled_dot_product_attention: _attention,
    **({GROUPED: _in_groups} if GROUPED else {}),
    **{recurrence: partial(_in_one_step, recurrence) for recurrence in _RECURRENCES},
}
