"""Do the values of two models agree, and does comparing them show anything at all?

Values are arrays, or nests of them: sequences, mappings, optional values, strings. The error of one
is its largest difference over its largest expected number, and it is accepted up to

    max(TOLERANCES[dtype], min(ROUNDINGS * rounding, CAPS[dtype]))

where `rounding` is how far the first model gets from itself, never how far the second one is from
it. Whole numbers, and where and how numbers are not finite, agree exactly or not at all. A value
that stays as it is while the inputs change shows nothing, however well it agrees.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from fxprune import markup
from fxprune.errors import VerificationError

TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest accepted error relative to the largest output, by precision."""

CAPS = {"float64": 1e-6, "float32": 1e-2, "float16": 1e-1, "bfloat16": 1e-1}
"""What rounding explains at most: beyond this, models differ whatever the rounding."""

ROUNDINGS = 4
"""Errors of another order of sums over those of a model against itself."""

_TELLING = 4
"""By how many tolerances a value must move with the inputs to show something."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison: what with what, at which batch size and precision, and the error found."""

    what: str
    batch: int
    dtype: str
    error: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"{self.what}, batch {self.batch}, {self.dtype}: relative error {self.error:.1e} "
            f"(accepted {self.tolerance:.0e})"
        )

    @property
    def agrees(self) -> bool:
        """Whether the error is accepted."""
        return self.error <= self.tolerance

    @property
    def excess(self) -> tuple[float, float]:
        """Orders comparisons: the larger, the worse."""
        return self.error / (self.tolerance or 1), self.tolerance


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every comparison made; all of them within their tolerance.

    `shows_nothing` names outputs that had the same values on all inputs tried, or no finite one:
    they agree, which says nothing. `left_out` holds shapes that the first model does not run at.
    """

    comparisons: tuple[Comparison, ...]
    shows_nothing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((*map(str, self.comparisons), *self.reservations))

    def _repr_html_(self) -> str:
        """Notebooks show it so."""
        rows = [
            (item.what, item.dtype, item.batch, f"{item.error:.1e}", f"{item.tolerance:.0e}")
            for item in self.comparisons
        ]
        titles = ["compared", "precision", "batch", "error", "accepted"]
        return markup.table(titles, rows) + markup.paragraphs(self.reservations)

    @property
    def reservations(self) -> tuple[str, ...]:
        """What the comparisons do not show, one sentence each."""
        silent = (
            f"nothing is shown of {name}: it has the same values, or none that is finite, on all "
            "inputs tried"
            for name in self.shows_nothing
        )
        left_out = (f"not compared, as the first model fails: {text}" for text in self.left_out)
        return (*silent, *left_out)

    def joined(self, other: "Verdict") -> "Verdict":
        """Both as one, for a chain of models that are compared pair by pair."""
        silent = dict.fromkeys((*self.shows_nothing, *other.shows_nothing))
        left_out = dict.fromkeys((*self.left_out, *other.left_out))
        comparisons = (*self.comparisons, *other.comparisons)
        return Verdict(comparisons, tuple(silent), tuple(left_out))

    @property
    def worst(self) -> dict[str, float]:
        """The largest error by pair and precision."""
        worst: dict[str, float] = {}
        for item in self.comparisons:
            key = f"{item.what} {item.dtype}"
            worst[key] = max(item.error, worst.get(key, 0.0))
        return worst


# Values ---------------------------------------------------------------------------------------


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every array, number, text or None of a nest, with its place in it.

    >>> [place for place, _ in leaves({"boxes": [1.0, None], "label": "cat"})]
    ['.boxes[0]', '.boxes[1]', '.label']
    """
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        place, item = pending.pop()
        inner: list[tuple[str, Any]]
        if isinstance(item, Mapping):
            inner = [(f"{place}.{key}", each) for key, each in item.items()]
        elif isinstance(item, list | tuple):
            inner = [(f"{place}[{index}]", each) for index, each in enumerate(item)]
        else:
            yield place, item
            continue
        pending.extend(reversed(inner))


def error_of(expected: Any, found: Any) -> float:
    """The largest error of two nests; infinite where their form, shapes or types differ.

    >>> error_of([np.array([1.0, 4.0]), "cat"], [np.array([1.0, 5.0]), "cat"])
    0.25
    >>> error_of(np.array([1.0, np.inf]), np.array([1.0, -np.inf]))
    inf
    """
    worst = 0.0
    for left, right in zip_longest(leaves(expected), leaves(found), fillvalue=("", _Missing)):
        if left[0] != right[0]:
            return math.inf
        worst = max(worst, _error(left[1], right[1]))
    return worst


class _Missing:
    """What stands for a value that only one of two nests has."""


def _error(expected: Any, found: Any) -> float:
    if expected is None or found is None or expected is _Missing or found is _Missing:
        return 0.0 if expected is found else math.inf
    left, right = np.asarray(expected), np.asarray(found)
    if left.shape != right.shape or left.dtype != right.dtype:
        return math.inf
    if not _is_fractional(left):
        return 0.0 if np.array_equal(left, right) else math.inf
    if not left.size:
        return 0.0
    left, right = (array.astype(_widest(array), copy=False) for array in (left, right))
    finite = np.isfinite(left)
    if not finite.all():
        if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
            return math.inf
        left, right = left[finite], right[finite]
    if not np.isfinite(right).all():
        return math.inf
    largest, difference = np.abs(left).max(initial=0), np.abs(left - right).max(initial=0)
    return float(difference / largest) if largest else float(difference)


def _is_fractional(array: np.ndarray) -> bool:
    """Whether rounding is possible; also of kinds that numpy itself does not have."""
    return array.dtype.kind in "fc" or "float" in array.dtype.name


def _widest(array: np.ndarray) -> type:
    return np.complex128 if array.dtype.kind == "c" else np.float64


def precision_of(value: Any) -> str:
    """The coarsest precision in a nest, by name; what has none is compared exactly.

    >>> precision_of([np.zeros(2), np.zeros(1, np.float32), 3])
    'float32'
    """
    names = [np.asarray(leaf).dtype.name for _, leaf in leaves(value) if leaf is not None]
    known = [name for name in names if name in TOLERANCES]
    return max(known, key=TOLERANCES.__getitem__) if known else (*names, "none")[0]


def accepted_error(precision: str, rounding: float = 0.0, coarsest: str = "") -> float:
    """The largest accepted error.

    Args:
        precision: that of the values.
        rounding: how far the first model gets from itself by rounding; what is not finite explains
            nothing.
        coarsest: the coarsest precision that the models compute in, where it is another one.
    """
    if precision not in TOLERANCES:
        return 0.0
    cap = max(CAPS[precision], CAPS.get(coarsest, 0.0))
    explained = ROUNDINGS * rounding if math.isfinite(rounding) else 0.0
    return max(TOLERANCES[precision], min(explained, cap))


def compared(
    what: str,
    batch: int,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    rounding: Mapping[str, float] | None = None,
    computed_in: str = "",
    coarsest: str = "",
) -> dict[str, Comparison]:
    """A comparison of every value that either side has, by name.

    Args:
        what: what is compared with what.
        batch: how many samples.
        expected: what the first model returned, by name.
        found: what the second one did.
        rounding: how far the first model gets from itself, by name.
        computed_in: the precision that the models run in, if values may come in a finer one.
        coarsest: the coarsest precision on the way, if it is another one.
    """
    items = {}
    for name in dict.fromkeys((*expected, *found)):
        left, right = expected.get(name, _Missing), found.get(name, _Missing)
        precision = precision_of(left)
        precision = coarser(precision, computed_in) if computed_in else precision
        accepted = accepted_error(precision, (rounding or {}).get(name, 0.0), coarsest)
        items[name] = Comparison(what, batch, precision, error_of(left, right), accepted)
    return items


def worst_of(items: Mapping[str, Comparison]) -> Comparison | None:
    """The comparison with the largest error over its tolerance, if there is any."""
    return max(items.values(), key=lambda item: item.excess, default=None)


def coarser(precision: str, other: str) -> str:
    """The coarser of two precisions; what has none stays exact."""
    if precision not in TOLERANCES:
        return precision
    return max(precision, other, key=TOLERANCES.__getitem__)


# What is shown --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Numbers:
    """Random inputs: normal numbers or, `positive`, ones below 1, times `scale`; whole ones."""

    scale: float
    positive: bool
    whole_below: int


KINDS = (
    Numbers(1.0, False, 2),
    Numbers(1.0, True, 2),
    Numbers(10.0, False, 10),
    Numbers(1000.0, False, 100),
)
"""The usual random inputs, and those that are tried where the usual ones show nothing."""


_FEW = 8
"""Batches of more samples are not drawn again."""


def best_to_repeat(samples: Sequence[int]) -> int:
    """Which of several batches to draw again: the largest small one, or else the smallest."""
    return max(range(len(samples)), key=lambda i: samples[i] if samples[i] <= _FEW else -samples[i])


@dataclass(frozen=True, slots=True)
class Run:
    """What a model was given and what it returned, by name."""

    given: Mapping[str, Any]
    returned: Mapping[str, Any]

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Runs with the same shapes can be held against one another."""
        return tuple((place, np.shape(leaf)) for place, leaf in leaves(self.given))


def telling(runs: Sequence[Run], accepted: Mapping[str, float]) -> set[str]:
    """The names of values that move with inputs of one shape, by more than is accepted as error.

    A model that is given nothing is one value, which any run shows.
    """
    firsts: dict[tuple[Any, ...], Run] = {}
    found: set[str] = set()
    for run in runs:
        first = firsts.setdefault(run.shapes, run)
        constant = not any(np.size(leaf) for _, leaf in leaves(run.given))
        for name, value in run.returned.items():
            before = first.returned.get(name)
            if name in found or not any(map(_is_somewhere_finite, (before, value))):
                continue
            moved = error_of(before, value)
            if constant or moved > _TELLING * accepted.get(name, 0.0):
                found.add(name)
    return found


def is_finite(value: Any) -> bool:
    """Whether every number of a nest is finite."""
    arrays = (np.asarray(leaf) for _, leaf in leaves(value) if leaf is not None)
    return all(not _is_fractional(array) or bool(np.isfinite(array).all()) for array in arrays)


def _is_somewhere_finite(value: Any) -> bool:
    """Whether a nest has anything but numbers that are not finite."""
    arrays = (np.asarray(leaf) for _, leaf in leaves(value) if leaf is not None)
    return any(not _is_fractional(array) or bool(np.isfinite(array).any()) for array in arrays)


def handed_through(runs: Sequence[Run]) -> set[str]:
    """The names of values that are inputs as they were given."""
    names = set(runs[0].returned) if runs else set()
    for run in runs:
        given = [leaf for _, leaf in leaves(run.given)]
        names = {n for n in names if _is_among(run.returned.get(n), given)}
    return names


def _is_among(value: Any, given: Collection[Any]) -> bool:
    return any(error_of(value, each) == 0.0 for each in given)


def silent_outputs(
    outputs: Collection[str], shown: Collection[str], handed: Collection[str], what: str
) -> tuple[str, ...]:
    """The outputs that show nothing.

    Args:
        outputs: the outputs' names.
        shown: the names of all values that move, outputs or not.
        handed: the names of those that are an input as it is, which say nothing of a model.
        what: what was compared.

    Raises:
        VerificationError: nothing at all is shown.
    """
    silent = tuple(name for name in outputs if name not in shown)
    if not outputs or (silent and not set(shown) - set(handed)):
        raise VerificationError(
            f"{what}: nothing was shown, as {', '.join(silent) or 'no output'} has the same "
            "values, up to what is accepted as an error, or none that is finite, on all inputs "
            "tried: give inputs (inputs=, or data= where a verb takes that) on which outputs differ"
        )
    return silent
