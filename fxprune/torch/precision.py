"""Modules and inputs in another precision, and how far their outputs are apart."""

import functools
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.agreement import TOLERANCES, error_of, leaves
from fxprune.torch.backend.copying import copy_module
from fxprune.torch.backend.module import CALLS, TracedModule
from fxprune.torch.frontend.examples import random_inputs
from fxprune.torch.frontend.formulas import GROUPED
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.nests import mapped
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.hankel import with_values
from fxprune.torch.recorded import recorded

_log = logging.getLogger("fxprune")


def in_precision(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in evaluation that computes in `dtype` throughout.

    A traced module that casts to float32 by name would else be no more exact than that.
    """
    clone = copy_module(module)
    for name in CALLS:  # with autocast, say
        clone.__dict__.pop(name, None)
    clone = (recorded(clone) if dtype is torch.float64 else clone).eval()
    clone._apply(lambda tensor: _in_dtype(tensor, dtype))  # type: ignore[no-untyped-call]
    if isinstance(clone, TracedModule) and dtype is torch.float64:
        clone.replace_literals(torch.float32, torch.float64)
        clone.replace_literals(torch.complex64, torch.complex128)
        if GROUPED:
            clone.replace_function(GROUPED, grouped_mm)
    return clone


def grouped_mm(rows: Tensor, matrices: Tensor, offs: Tensor, **absent: None) -> Tensor:
    """`torch.nn.functional.grouped_mm`, of rows of any length and type of data."""
    ends = offs.tolist()
    runs = zip([0, *ends[:-1]], ends, matrices, strict=True)
    return torch.cat([rows[start:end] @ matrix for start, end, matrix in runs])


def _in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a precision; complex ones stay complex."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def relative_error(expected: Any, got: Any) -> float:
    """The largest error of all outputs, each relative to its largest expected value.

    Infinite if their form, shapes or types differ, or values that are not finite do.
    """
    return error_of(arrays_of(expected), arrays_of(got))


def arrays_of(value: Any) -> Any:
    """A nest of tensors as one of arrays; objects of which nothing is known as their type."""
    if isinstance(value, Tensor):
        return _array_of(value)
    if isinstance(value, Mapping | list | tuple):
        return mapped(value, arrays_of)
    return value if isinstance(value, _PLAIN) else type(value).__name__


_PLAIN = (bool, int, float, complex, str, type(None))


def named_outputs(value: Any) -> dict[str, Any]:
    """What a module returned, by place: arrays, numbers and all else that is not nested."""
    return {f"output{place}": leaf for place, leaf in leaves(arrays_of(value)) if leaf is not None}


def _array_of(tensor: Tensor) -> np.ndarray:
    """Numpy has no bfloat16: its numbers are those of float32 with zeros behind."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    array: np.ndarray = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    return array


def outputs_of(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """What a module returns for copies of inputs; whatever it draws at random begins anew."""
    with torch.no_grad(), drawing_anew(module):
        return module(*copied(inputs))


def agree(one: nn.Module, other: nn.Module, examples: Iterable[Arguments]) -> bool:
    """Whether two models compute the same in evaluation, for random inputs like the examples.

    Code that knows that it is traced may take another path than it does otherwise. Models without
    values get some for that time.
    """
    batches = [random_inputs(example, (2,), seed=0)[0] for example in examples]
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for model in (one, other):
                stack.enter_context(in_evaluation(model))
                stack.enter_context(with_values(model))
            expected, found = ([outputs_of(m, each) for each in batches] for m in (one, other))
    except Exception as error:
        _log.debug("a model fails on its own path: %s", error)
        return False
    arrays = [[_arrays_in(outputs) for outputs in model] for model in (expected, found)]
    return error_of(*arrays) <= TOLERANCES["float32"]


def _arrays_in(outputs: Any) -> dict[str, Any]:
    """The arrays that a model returned; its graph has none of the caches that it returns beside."""
    named = named_outputs(outputs).items()
    return {place: value for place, value in named if isinstance(value, np.ndarray)}


@contextmanager
def drawing_anew(module: nn.Module) -> Iterator[None]:
    """Random numbers of torch, numpy and Python from one seed; their generators stay as found."""
    devices = {p.device.index for p in module.parameters() if p.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(sorted(index or 0 for index in devices)):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def draws(module: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether a module draws random numbers from a generator of torch, numpy or Python."""
    with torch.no_grad(), drawing_anew(module):
        before = _generators()
        module(*copied(inputs))
        return before != _generators()


def _generators() -> tuple[Any, ...]:
    name, keys, *place = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, np.asarray(keys).tolist(), place


def copied(value: Any) -> Any:
    """A nest with copies of its tensors: some models write into what they are given."""
    return value.clone() if isinstance(value, Tensor) else mapped(value, copied)


def in_dtype(batch: Any, dtype: torch.dtype) -> Any:
    """A nest with its fractional tensors in another precision."""
    if isinstance(batch, Tensor):
        return _in_dtype(batch, dtype)
    return mapped(batch, functools.partial(in_dtype, dtype=dtype))


def samples_in(batch: tuple[Any, ...]) -> int:
    return next((int(v.shape[0]) for v in batch if isinstance(v, Tensor) and v.dim()), 1)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
