"""Do two ONNX models compute the same function? ONNX Runtime runs both."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir

from fxprune.agreement import TOLERANCES, Comparison, Verdict, error_of
from fxprune.arguments import names as names_in
from fxprune.arguments import near, sizes, text
from fxprune.arguments import seed as check_seed
from fxprune.arguments import shapes as check_shapes
from fxprune.errors import InputError, VerificationError
from fxprune.onnx.backend.precision import in_double
from fxprune.onnx.frontend.data import feeds_of
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.observe import example_shapes
from fxprune.onnx.frontend.session import Feeds, random_feeds, session_of
from fxprune.progress import steps


def verify_onnx(
    before: Any,
    after: Any,
    *,
    inputs: Iterable[Feeds] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch_sizes: Sequence[int] = (1, 2),
    seed: int = 0,
    values: Sequence[str] = (),
    what: str = "before == after",
) -> Verdict:
    """Check that two ONNX models agree on random inputs and on yours.

    They are run in float64 as well where ONNX Runtime has every operator in that precision.

    Args:
        before, after: paths, bytes, ModelProtos or onnx_ir.Models, with the same inputs and
            outputs.
        inputs: further inputs of your own, by name.
        shapes: shapes of random inputs by name, where what the file leaves open matters.
        batch_sizes: sizes of first axes that the file leaves open.
        seed: seeds the random inputs.
        values: values between the layers that are compared as well, by the name that they have in
            both models.
        what: what to call the comparison.

    Raises:
        VerificationError: outputs differ; the message names the value, the error and the batch.
        InputError: the models do not have the same inputs and outputs, or do not run.
    """
    shapes, batch_sizes = check_shapes(shapes), sizes("batch_sizes", batch_sizes)
    check_seed(seed)
    text("what", what, "a name for the comparison")
    between = names_in("values", values, "names of values that both models have")
    left, right = load_onnx(before, "before"), load_onnx(after, "after")
    _check_alike(left, right)
    given = feeds_of("inputs", inputs, left.graph.inputs)
    batches = [*_random_batches(left, shapes or {}, batch_sizes, seed), *given]
    names = [*(str(value.name) for value in left.graph.outputs), *between]
    _check_values(between, left, right)
    comparisons = list(_compare(left, right, batches, names, what))
    doubles = list(map(_in_double, batches))
    exact = in_double(left, doubles[0]) if doubles else None
    also_exact = in_double(right, doubles[0]) if exact else None
    if exact and also_exact:
        comparisons.extend(_compare(exact, also_exact, doubles, names, what))
    return Verdict(tuple(comparisons))


def _check_alike(before: onnx_ir.Model, after: onnx_ir.Model) -> None:
    for kind in ("inputs", "outputs"):
        names = [[value.name for value in getattr(m.graph, kind)] for m in (before, after)]
        if names[0] != names[1]:
            raise InputError(f"the models have other {kind}: {names[0]} and {names[1]}")


def _check_values(values: Iterable[str], *models: onnx_ir.Model) -> None:
    for model in models:
        known = [str(value.name) for node in model.graph for value in node.outputs]
        for name in values:
            if name not in known:
                raise InputError(f"values: no value is called {name!r}{near(name, known)}")


def _random_batches(
    model: onnx_ir.Model,
    shapes: Mapping[str, Sequence[int]],
    batch_sizes: Sequence[int],
    seed: int,
) -> Iterator[Feeds]:
    open_ = any(v.shape and not isinstance(v.shape[0], int) for v in model.graph.inputs)
    for offset, batch in enumerate(batch_sizes if open_ else batch_sizes[:1]):
        yield random_feeds(model, example_shapes(model, shapes, batch), seed + offset)


def _in_double(feeds: Feeds) -> Feeds:
    return {n: f.astype(np.float64) if f.dtype == np.float32 else f for n, f in feeds.items()}


def _compare(
    before: onnx_ir.Model,
    after: onnx_ir.Model,
    batches: Sequence[Feeds],
    names: Sequence[str],
    what: str,
) -> Iterator[Comparison]:
    """The worst of all outputs, batch by batch; where rounding is large, more is accepted.

    Raises:
        VerificationError: an error is too large; the message names the value.
    """
    with session_of(before, names) as session:
        all_expected = [session.run(feeds, names) for feeds in steps(batches, "comparing: before")]
    with session_of(after, names) as session:
        all_found = [session.run(feeds, names) for feeds in steps(batches, "comparing: after")]
    for feeds, expected, found in zip(batches, all_expected, all_found, strict=True):
        items = _comparisons(expected, found, feeds, what)
        if not all(item.error <= item.tolerance for item in items):
            noise = map(
                max,
                _rounding(before, feeds, names, expected),
                _rounding(after, feeds, names, found),
            )
            items = [
                replace(item, tolerance=max(item.tolerance, _ROUNDINGS * own))
                for item, own in zip(items, noise, strict=True)
            ]
        for name, item in zip(names, items, strict=True):
            if not item.error <= item.tolerance:
                raise VerificationError(f"{name}: {item}")
        yield max(items, key=lambda item: (item.error / (item.tolerance or 1), item.tolerance))


_UNITS = 8
"""By how many of its last digits a sum of some hundred numbers is off."""
_ROUNDINGS = 4


def _comparisons(
    expected: Sequence[Any], found: Sequence[Any], feeds: Feeds, what: str
) -> list[Comparison]:
    """One for each value: the largest error, relative to its largest number."""
    batch = next((len(feed) for feed in feeds.values() if feed.ndim), 1)
    items = []
    for left, right in zip(expected, found, strict=True):
        dtype = str(left.dtype) if isinstance(left, np.ndarray) else "other"
        error = error_of(left, right)
        items.append(Comparison(what, batch, dtype, error, TOLERANCES.get(dtype, 0.0)))
    return items


def _rounding(
    model: onnx_ir.Model, feeds: Feeds, names: Sequence[str], values: Sequence[Any]
) -> list[float]:
    """How far a model gets from itself by other orders of sums, and by inputs that are rounded."""
    generator = np.random.default_rng(0)
    shaken = {
        name: feed if feed.dtype.kind != "f" else _shaken(feed, generator)
        for name, feed in feeds.items()
    }
    with session_of(model, names, optimised=True) as session:
        runs = [session.run(given, names) for given in (feeds, shaken)]
    errors = [[error_of(a, b) for a, b in zip(values, other, strict=True)] for other in runs]
    return [error if np.isfinite(error) else 0.0 for error in map(max, *errors)]


def _shaken(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = _UNITS * np.finfo(array.dtype).eps * generator.standard_normal(array.shape)
    shaken: np.ndarray = (array * (1 + noise)).astype(array.dtype)
    return shaken
