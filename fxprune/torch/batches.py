"""Data that a user gives, and what goes wrong while a model looks at it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fxprune.errors import FxpruneError, InputError


@contextlib.contextmanager
def running_on(what: str) -> Iterator[None]:
    """What fails inside is the fault of the data, or of the loss that was given with it.

    Raises:
        InputError: the block raised anything else than an error of ours.
    """
    try:
        yield
    except FxpruneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the model does not run on {what}: {reason[:500]}") from error


def arguments_of(batch: Any, taken: int = 1) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """What a model is called with on a batch: behind the inputs there may be labels.

    >>> arguments_of(("x", "label")), arguments_of({"input_ids": "x"})
    ((('x',), {}), ((), {'input_ids': 'x'}))

    Args:
        batch: an input, a tuple of `taken` inputs and perhaps labels, a tuple that begins with all
            inputs together, or a mapping of arguments.
        taken: how many inputs the model has.
    """
    if isinstance(batch, list | tuple) and batch:
        first = batch[0]
        if not isinstance(first, list | tuple | Mapping):
            return tuple(batch[:taken]), {}
        batch = first
        if not isinstance(batch, Mapping):
            return tuple(batch), {}
    return ((), batch) if isinstance(batch, Mapping) else ((batch,), {})


def repeatable(data: Iterable[Any]) -> Iterable[Any]:
    """Batches that can be gone through several times: loaders as they are, iterators as a list."""
    return list(data) if iter(data) is data else data
