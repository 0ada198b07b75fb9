"""All points of a space that is too large to try them one by one, where costs work on arrays.

Millions of configurations take seconds if the user's function of costs is arithmetic: it is called
with numpy arrays, a piece of the space at a time, and the best points are kept.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fxprune.errors import InputError
from fxprune.filling import ROUNDING
from fxprune.searching.found import Objective
from fxprune.searching.spaces import Picks, Space, picks_at, size_of

_PIECE = 1 << 18
"""How many points are looked at together."""


def best_of_all(
    space: Space, costs: Callable[..., Mapping[str, Any]], objective: Objective, number: int
) -> tuple[Picks, ...]:
    """The best points within limits by one cost, the best first; of equal ones the first.

    Args:
        space: what is searched.
        costs: from an array for every dimension to arrays by name.
        objective: the cost that is to be large or small.
        number: how many are kept.

    Raises:
        InputError: `costs` does not take arrays, or nothing is within limits.
    """
    best = np.empty(0)
    places = np.empty(0, dtype=np.int64)
    for start, found in _pieces(space, costs):
        value = objective.sign() * found[objective.name]
        for name, most in space.limits.items():
            value = np.where(found[name] <= most * (1 + ROUNDING), value, -np.inf)
        best = np.concatenate([best, value])
        places = np.concatenate([places, start + np.arange(len(value))])
        order = np.argsort(-best, kind="stable")[:number]
        best, places = best[order], places[order]
    places = places[best > -np.inf]
    if not len(places):
        raise InputError("no configuration is within the target: ask for more")
    return tuple(picks_at(space.dimensions, int(place)) for place in places)


def _pieces(
    space: Space, costs: Callable[..., Mapping[str, Any]]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The costs of all points, piece by piece, each with the number of its first point."""
    total = size_of(space.dimensions)
    shape = tuple(len(each.values) for each in space.dimensions)
    values = {each.name: np.array(each.values) for each in space.dimensions}
    for start in range(0, total, _PIECE):
        numbers = np.arange(start, min(start + _PIECE, total))
        picks = np.unravel_index(numbers, shape)
        chosen = {name: values[name][pick] for name, pick in zip(values, picks, strict=True)}
        try:
            given = costs(**chosen)
            found = {
                name: np.broadcast_to(np.asarray(cost, dtype=float), numbers.shape)
                for name, cost in given.items()
            }
        except Exception as error:
            raise InputError(
                f'sampler="exhaustive" looks at {total:,} points, for which costs must take numpy '
                f"arrays, and does not ({error}): write it as arithmetic, or take another sampler"
            ) from error
        yield start, found
