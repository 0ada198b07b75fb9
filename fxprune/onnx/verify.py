"""Do two ONNX models compute the same function? ONNX Runtime runs both."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from fxprune.agreement import (
    KINDS,
    Comparison,
    Run,
    Verdict,
    accepted_error,
    best_to_repeat,
    compared,
    error_of,
    handed_through,
    is_finite,
    precision_of,
    silent_outputs,
    telling,
    worst_of,
)
from fxprune.arguments import names as names_in
from fxprune.arguments import near, sizes, text
from fxprune.arguments import seed as check_seed
from fxprune.arguments import shapes as check_shapes
from fxprune.errors import InputError, VerificationError
from fxprune.onnx.backend.precision import in_double
from fxprune.onnx.backend.seeding import draws, seed_draws
from fxprune.onnx.frontend.data import feeds_of
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.session import Feeds, Providers, random_feeds, run_by, session_of
from fxprune.onnx.frontend.sizes import Shape, open_axes, shapes_at, stand_ins
from fxprune.stages import track

Values = list[Any]
"""What a model returned, in the order of the names that were asked for."""


def verify_onnx(
    before: Any,
    after: Any,
    *,
    inputs: Iterable[Feeds] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch_sizes: Sequence[int] = (1, 2, 3),
    seed: int = 0,
    values: Sequence[str] = (),
    what: str = "before == after",
    providers: Providers = None,
) -> Verdict:
    """Check that two ONNX models agree on random inputs and on yours.

    They are run in float64 as well where ONNX Runtime has every operator in that precision. Every
    axis that the file leaves open has several sizes; those at which the first model does not run
    are left out, which the verdict says. Operators that draw random numbers without a seed draw
    the same ones in both models.

    Args:
        before, after: paths, bytes, ModelProtos or onnx_ir.Models, with the same inputs and
            outputs.
        inputs: further inputs of your own, by name.
        shapes: shapes of random inputs by name, where what the file leaves open matters.
        batch_sizes: sizes of first axes that the file leaves open; none for no random inputs.
        seed: seeds the random inputs.
        values: values between the layers that are compared as well, by the name that they have in
            both models.
        what: what to call the comparison.
        providers: what ONNX Runtime computes with, by its own names, such as
            `["CUDAExecutionProvider"]`; the CPU if missing.

    Raises:
        VerificationError: outputs differ, and the message names the value, the error and the batch;
            or nothing is shown, because all of them stay as they are on all inputs tried.
        InputError: the models do not have the same inputs and outputs, or do not run.
    """
    with run_by(providers):
        return _verified(before, after, inputs, shapes, batch_sizes, seed, values, what)


def verify_rounded(
    before: Any,
    after: Any,
    *,
    inputs: Iterable[Feeds] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch_sizes: Sequence[int] = (1, 2, 3),
    what: str,
) -> Verdict:
    """The same where weights of the second model are computed and rounded anew.

    So they agree in the precision that they have, and in no finer one.
    """
    return _verified(before, after, inputs, shapes, batch_sizes, 0, (), what, finer=False)


def _verified(
    before: Any,
    after: Any,
    inputs: Iterable[Feeds],
    shapes: Mapping[str, Sequence[int]] | None,
    batch_sizes: Sequence[int],
    seed: int,
    values: Sequence[str],
    what: str,
    *,
    finer: bool = True,
) -> Verdict:
    """What `verify_onnx` does, and whether models are compared in a finer precision as well."""
    shapes, batch_sizes = check_shapes(shapes), sizes("batch_sizes", batch_sizes)
    check_seed(seed)
    text("what", what, "a name for the comparison")
    between = names_in("values", values, "names of values that both models have")
    left, right = load_onnx(before, "before"), load_onnx(after, "after")
    _check_alike(left, right)
    given = feeds_of("inputs", inputs, left.graph.inputs)
    _check_values(between, left, right)
    for model in (left, right):
        seed_draws(model)
    outputs = [str(value.name) for value in left.graph.outputs]
    single = _Pair(left, right, [*outputs, *between], what)
    trials = _Trials(left, shapes or {}, batch_sizes, seed)
    single.compare([*trials.run(single.names), *single.run(given)])
    pairs = [single, *(_in_double(single) if finer else ())]
    if set(outputs) - _shown(pairs):
        _try_other_kinds(pairs, seed)
    handed = handed_through(single.runs)
    silent = silent_outputs(outputs, _shown(pairs), handed, what)
    comparisons = tuple(item for pair in pairs for item in pair.comparisons)
    return Verdict(comparisons, silent, tuple(trials.left_out))


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


def _shown(pairs: Sequence["_Pair"]) -> set[str]:
    return set().union(*(telling(pair.runs, pair.accepted) for pair in pairs))


def _try_other_kinds(pairs: Sequence["_Pair"], seed: int) -> None:
    """More inputs like the first ones, where some output has not moved yet."""
    if not pairs[0].runs:
        return
    given = [run.given for run in pairs[0].runs]
    several = given[best_to_repeat(list(map(_samples_in, given)))]
    shapes = {name: np.shape(feed) for name, feed in several.items()}
    for number, kind in enumerate(KINDS):
        feeds = random_feeds(pairs[0].before, shapes, seed + 100 + number, kind)
        for pair in pairs:
            with suppress(InputError):
                pair.compare(pair.run([feeds]), optional=True)


def _in_double(single: "_Pair") -> Iterator["_Pair"]:
    """The same comparison in float64, if both models run in that."""
    batches = [dict(run.given) for run in single.runs]
    if not batches:
        return
    first = _as_double(batches[0])
    exact = in_double(single.before, first)
    also_exact = in_double(single.after, first) if exact else None
    if exact and also_exact:
        double = _Pair(exact, also_exact, single.names, single.what, convert=_as_double)
        double.compare(double.run(batches))
        yield double


def _as_double(feeds: Feeds) -> Feeds:
    return {n: f.astype(np.float64) if f.dtype == np.float32 else f for n, f in feeds.items()}


@contextmanager
def _running(
    model: onnx_ir.Model, names: Sequence[str], *, optimised: bool = False
) -> Iterator[Callable[[Feeds], Values]]:
    """Runs a model on one batch after another; what it draws at random begins anew each time."""

    def anew(feeds: Feeds) -> Values:
        with session_of(model, names, optimised=optimised) as session:
            return session.run(feeds, names)

    if draws(model):
        yield anew
        return
    with session_of(model, names, optimised=optimised) as session:
        yield lambda feeds: session.run(feeds, names)


class _Trials:
    """Random inputs at several sizes of what a file leaves open, twice at the first of them."""

    def __init__(
        self,
        model: onnx_ir.Model,
        given: Mapping[str, Sequence[int]],
        batch_sizes: Sequence[int],
        seed: int,
    ) -> None:
        self.left_out: list[str] = []
        self._model = model
        self._seed = seed
        self._trials = list(_shapes_of_trials(model, given, batch_sizes))

    def run(self, names: Sequence[str]) -> Iterator[tuple[Feeds, Values]]:
        """The inputs at which the model runs, with what it returns.

        Raises:
            InputError: it runs at none of them.
        """
        failure: InputError | None = None
        number = 0
        with _running(self._model, names) as run:
            for alternatives in track(self._trials, "comparing: before"):
                for shapes in alternatives:
                    feeds = random_feeds(self._model, shapes, self._seed + number)
                    try:
                        found = run(feeds)
                    except InputError as error:
                        failure = error
                        self._leave_out(shapes)
                        continue
                    number += 1
                    yield feeds, found
                    break
        if failure is not None and not number:
            raise failure

    def _leave_out(self, shapes: Mapping[str, Shape]) -> None:
        text = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        if text not in self.left_out:
            self.left_out.append(text)


def _shapes_of_trials(
    model: onnx_ir.Model, given: Mapping[str, Sequence[int]], batch_sizes: Sequence[int]
) -> Iterator[list[dict[str, Shape]]]:
    """For each trial, shapes of the inputs: the first at which the model runs are taken.

    Where the user gives shapes, other sizes follow, as the file leaves them open all the same.
    """
    axes = open_axes(model)
    unknown = {n: given[n] for n in given if n in _without_shape(model)}
    first = list(stand_ins(model))
    second = list(stand_ins(model, {size for sizes in first[:1] for size in sizes.values()}))
    several = list(batch_sizes if "batch" in axes.values() else batch_sizes[:1])
    if axes and len(several) == 1:
        several *= 2
    if given:
        several = several[:2]
    for number, batch in enumerate((*several[:1], *several)):
        sizes = second if number == 2 else first
        bound = given if number < 2 else unknown
        shapes = (
            shapes_at(model, {n: batch if axes[n] == "batch" else s[n] for n in axes}, bound)
            for s in sizes
        )
        alternatives: list[dict[str, Shape]] = []
        for each in shapes:
            if each not in alternatives:
                alternatives.append(each)
        yield alternatives


def _without_shape(model: onnx_ir.Model) -> set[str]:
    return {str(value.name) for value in model.graph.inputs if value.shape is None}


@dataclass(slots=True)
class _Pair:
    """Two models, and what comparing their values has found so far.

    `accepted` holds the largest tolerance that each value was given, `convert` makes inputs theirs.
    """

    before: onnx_ir.Model
    after: onnx_ir.Model
    names: Sequence[str]
    what: str
    convert: Callable[[Feeds], Feeds] = dict
    comparisons: list[Comparison] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    accepted: dict[str, float] = field(default_factory=dict)

    def run(self, batches: Iterable[Feeds]) -> list[tuple[Feeds, Values]]:
        """The batches with what the first model returns.

        Raises:
            InputError: it does not run on them.
        """
        converted = list(map(self.convert, batches))
        if not converted:
            return []
        with _running(self.before, self.names) as run:
            return [(feeds, run(feeds)) for feeds in converted]

    def compare(self, batches: Sequence[tuple[Feeds, Values]], *, optional: bool = False) -> None:
        """Hold what the second model returns against what the first one did.

        Args:
            batches: inputs, with what the first model returns.
            optional: leave out inputs on which the first model is no measure: it overflows, or
                rounding carries it farther from itself than is ever accepted.

        Raises:
            VerificationError: an error is too large; the message names the value.
        """
        with _running(self.after, self.names) as run:
            for feeds, expected in track(batches, "comparing: after"):
                try:
                    found = run(feeds)
                except InputError as error:
                    reason = f"{self.what}: the second model fails: {error}"
                    raise VerificationError(reason) from error
                self._judge(feeds, expected, found, optional)

    def _judge(self, feeds: Feeds, expected: Values, found: Values, optional: bool) -> None:
        items = self._items(feeds, expected, found)
        steady = True
        if not all(item.agrees for item in items.values()):
            self._check_repeats(feeds, expected, found)
            rounding = _rounding(self.before, feeds, self.names, expected)
            items = self._items(
                feeds, expected, found, dict(zip(self.names, rounding, strict=True))
            )
            steady = all(map(is_finite, expected)) and max(rounding) < _MOST_ROUNDING
        wrong = [f"{name}: {item}" for name, item in items.items() if not item.agrees]
        if wrong and optional and not steady:
            return
        if wrong:
            raise VerificationError(wrong[0])
        for name, item in items.items():
            self.accepted[name] = max(item.tolerance, self.accepted.get(name, 0.0))
        self.comparisons.extend([worst] if (worst := worst_of(items)) else [])
        self.runs.append(Run(feeds, dict(zip(self.names, expected, strict=True))))

    def _items(
        self,
        feeds: Feeds,
        expected: Values,
        found: Values,
        rounding: Mapping[str, float] | None = None,
    ) -> dict[str, Comparison]:
        batch = _samples_in(feeds)
        left, right = (dict(zip(self.names, each, strict=True)) for each in (expected, found))
        coarsest = _coarsest_precision(self.before) if rounding else ""
        return compared(self.what, batch, left, right, rounding=rounding, coarsest=coarsest)

    def _check_repeats(self, feeds: Feeds, expected: Values, found: Values) -> None:
        """Raise VerificationError where a model does not even agree with itself."""
        for model, values in ((self.before, expected), (self.after, found)):
            with _running(model, self.names) as run:
                again = run(feeds)
            for name, one, other in zip(self.names, values, again, strict=True):
                if not error_of(one, other) <= accepted_error(precision_of(one)):
                    raise VerificationError(
                        f"{self.what}: {name} differs from run to run on the same inputs, so that "
                        "it cannot be compared: make what draws random numbers deterministic"
                    )


def _samples_in(feeds: Mapping[str, Any]) -> int:
    return next((len(feed) for feed in feeds.values() if feed.ndim), 1)


def _coarsest_precision(model: onnx_ir.Model) -> str:
    """What numbers are rounded to on the way, at the coarsest; empty if nothing says so."""
    types = {
        value.const_value.dtype
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    }
    types.update(value.dtype for value in model.graph.inputs if value.dtype is not None)
    for node in model.graph.all_nodes():
        if node.op_type in _ROUNDING_TO_STEPS:
            types.add(onnx_ir.DataType.FLOAT16)
        to = node.attributes.get("to") if node.op_type == "Cast" else None
        if to is not None:
            types.add(onnx_ir.DataType(to.as_int()))
    return next((name for dtype, name in _COARSEST_FIRST.items() if dtype in types), "")


_COARSEST_FIRST = {
    onnx_ir.DataType.BFLOAT16: "bfloat16",
    onnx_ir.DataType.FLOAT16: "float16",
    onnx_ir.DataType.FLOAT: "float32",
}
_ROUNDING_TO_STEPS = ("QuantizeLinear", "DynamicQuantizeLinear")
"""A step of 8 bits is no finer than float16."""

_MOST_ROUNDING = 1e-3
"""Random inputs that are tried beyond the first ones are left out where a model is off by more."""
_UNITS = 8
"""By how many of its last digits a sum of some hundred numbers is off."""


def _rounding(
    model: onnx_ir.Model, feeds: Feeds, names: Sequence[str], values: Sequence[Any]
) -> list[float]:
    """How far a model gets from itself by other orders of sums, and by inputs that are rounded."""
    generator = np.random.default_rng(0)
    shaken = {
        name: feed if feed.dtype.kind != "f" else _shaken(feed, generator)
        for name, feed in feeds.items()
    }
    with _running(model, names, optimised=True) as run:
        runs = [run(given) for given in (feeds, shaken)]
    errors = [[error_of(a, b) for a, b in zip(values, other, strict=True)] for other in runs]
    return list(map(max, *errors))


def _shaken(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = _UNITS * np.finfo(array.dtype).eps * generator.standard_normal(array.shape)
    shaken: np.ndarray = (array * (1 + noise)).astype(array.dtype)
    return shaken
