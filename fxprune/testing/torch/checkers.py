"""Checkers for rewrites of models. Each raises AssertionError with the numbers, or is silent.

They compare models by running them, never by what a plan says about them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from fxprune.testing.torch.counting import count_macs
from fxprune.testing.torch.facts import equal, facts_of
from fxprune.testing.torch.layers import first_differing_layer
from fxprune.testing.torch.rounding import (
    allowed_errors,
    converted,
    in_dtype,
    largest_of,
    least_error,
    run,
)

T = TypeVar("T")


def assert_close(
    name: str, expected: Tensor, got: Tensor, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """No value differs by more than `rtol` of the largest expected value, plus `atol`.

    What is not finite is the same in both, and is no measure of what is.
    """
    assert got.shape == expected.shape, (
        f"{name} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    )
    assert got.dtype == expected.dtype, f"{name} is {got.dtype}, expected {expected.dtype}"
    if not expected.numel():
        return
    largest = largest_of(expected)
    allowed = rtol * largest + atol
    same = (got == expected) | ((got != got) & (expected != expected))
    difference = (_wide(expected) - _wide(got)).abs()
    wrong = ~(same | (expected.isfinite() & (difference <= allowed)))
    if not bool(wrong.any()):
        return
    index = tuple(wrong.nonzero()[0].tolist())
    worst = difference[wrong].max().item()
    raise AssertionError(
        f"{name} differs by {worst:.3g}, which is {worst / (largest or 1):.3g} of its largest "
        f"value {largest:.3g}; at most {allowed:.3g} is allowed. First at {list(index)}: expected "
        f"{expected[index].item():.9g}, got {got[index].item():.9g}"
    )


def _wide(tensor: Tensor) -> Tensor:
    """Booleans have no difference, and small whole numbers one that overflows."""
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()


def assert_rewrite_equivalent(
    before: nn.Module,
    after: nn.Module,
    *,
    inputs: Sequence[Any] | None = None,
    rtol: float | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """A rewritten model computes what the model before it does.

    >>> before = nn.Sequential(nn.Linear(2, 3), nn.Identity())
    >>> assert_rewrite_equivalent(before, before[0], inputs=[torch.randn(4, 2)])

    Args:
        before: the model as it was.
        after: what a rewrite made of it.
        inputs: what both are given; a `Network` has its own.
        rtol: the largest difference relative to the largest value of an output; zero asks for the
            very same bits. By default what rounding explains (`fxprune.testing.torch.rounding`).
        dtype: a precision that copies of both run in; by default they run as they are.

    Raises:
        AssertionError: they differ; with the first differing value, and the layer it comes from.
    """
    inputs = inputs_of(before) if inputs is None else inputs
    if dtype is not None:
        before, after = in_dtype(before, dtype), in_dtype(after, dtype)
        inputs = converted(inputs, dtype)
    expected, got = run(before, inputs), run(after, inputs)
    assert len(expected) == len(got) > 0, f"{len(got)} outputs, expected {len(expected)}"
    assert any(bool(each.isfinite().any()) for each in expected), "no output has a finite value"
    precision = precision_of(before, inputs)
    atol = [0.0 if rtol is not None else least_error(each, precision) for each in expected]
    try:
        _assert_all_close(expected, got, rtol or 0.0, atol)
    except AssertionError as first:
        error = first
        if rtol is None:  # rounding may explain more
            try:
                atol = allowed_errors(before, inputs, precision)
                return _assert_all_close(expected, got, 0.0, atol)
            except AssertionError as final:
                error = final
        raise AssertionError(f"{error}; {_guilty(before, after, inputs)}") from None


def _assert_all_close(
    expected: Sequence[Tensor], got: Sequence[Tensor], rtol: float, atol: Sequence[float]
) -> None:
    for index, (left, right) in enumerate(zip(expected, got, strict=True)):
        assert_close(f"output {index}", left, right, rtol, atol[index])


def _guilty(before: nn.Module, after: nn.Module, inputs: Sequence[Any]) -> str:
    """The first layer that differs by more than a hundred millionth, or in float32 a thousandth."""
    relative = torch.finfo(precision_of(before, inputs)).eps ** 0.5

    def agree(expected: Tensor, got: Tensor) -> bool:
        return not (got - expected).abs().max() > relative * expected.abs().max()

    return first_differing_layer(before, after, inputs, agree, relative)


def precision_of(model: nn.Module, inputs: Sequence[Any]) -> torch.dtype:
    """What a model computes in: that of its weights, or of its inputs."""
    for tensor in (*model.parameters(), *model.buffers(), *inputs):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def inputs_of(model: nn.Module) -> Sequence[Any]:
    """The inputs that a drawn network has."""
    inputs: Any = getattr(model, "inputs", None)
    assert isinstance(inputs, tuple), f"a {type(model).__name__} has no inputs: give some"
    return inputs


def assert_same_state(
    expected: Mapping[str, Tensor], got: Mapping[str, Tensor], rtol: float = 0.0
) -> None:
    """Two states have the same keys in the same order, and the same tensors up to `rtol`."""
    assert list(got) == list(expected), (
        f"keys differ: left out {[k for k in expected if k not in got]}, "
        f"new {[k for k in got if k not in expected]}, or their order"
    )
    for name, tensor in expected.items():
        assert_close(name, tensor.double(), got[name].double(), rtol)


@contextmanager
def assert_unchanged(*models: nn.Module) -> Iterator[None]:
    """What runs inside leaves models, their gradients and torch's random numbers as they were."""
    before, generator = [facts_of(model) for model in models], torch.get_rng_state()
    yield
    drawn = not torch.equal(generator, torch.get_rng_state())
    for old, model in zip(before, models, strict=True):
        new = facts_of(model)
        for name in {**old, **new}:
            assert name in new, f"{name} is gone"
            assert name in old, f"{name} is new"
            assert equal(old[name], new[name]), f"{name} has changed"
    assert not drawn, "random numbers were drawn"


def assert_no_mutation(fn: Callable[[Any], T], model: nn.Module) -> T:
    """What `fn(model)` returns; the model, its gradients and torch's random numbers stay.

    >>> import copy
    >>> copied = assert_no_mutation(copy.deepcopy, nn.Linear(2, 2))

    Args:
        fn: what must not change the model.
        model: what `fn` is given.

    Raises:
        AssertionError: something has changed; the message says what.
    """
    with assert_unchanged(model):
        return fn(model)


def assert_idempotent(
    pass_: Callable[[Any], nn.Module], model: nn.Module, *, inputs: Sequence[Any] | None = None
) -> None:
    """A pass that runs again on what it returned changes nothing: same state, code and bits.

    >>> assert_idempotent(lambda model: model, nn.Linear(2, 2), inputs=[torch.randn(1, 2)])

    Args:
        pass_: a function from a model to the rewritten model.
        model: what it is given first.
        inputs: what the models are run on; a `Network` has its own.

    Raises:
        AssertionError: the second run changed something.
    """
    inputs = inputs_of(model) if inputs is None else inputs
    once = pass_(model)
    twice = pass_(once)
    assert_same_state(once.state_dict(), twice.state_dict())
    if isinstance(once, fx.GraphModule) and isinstance(twice, fx.GraphModule):
        assert once.code == twice.code, f"the code changes from\n{once.code}\nto\n{twice.code}"
    assert_rewrite_equivalent(once, twice, inputs=inputs, rtol=0.0)


def assert_costs(model: nn.Module, inputs: Sequence[Any], predicted: Mapping[str, int]) -> None:
    """Predicted MACs per sample, parameters and their bytes are those counted, to the unit."""
    single = [x[:1] if isinstance(x, Tensor) else x for x in inputs]
    parameters = list(model.parameters())
    counted = {
        "macs": count_macs(model, single),
        "params": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
    }
    for name, number in counted.items():
        assert predicted[name] == number, (
            f"predicted {predicted[name]:,} {name}, counted {number:,}"
        )
