"""How long do things take here? They take turns, so that noise meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_LEAST_RUNS = 3

Run = Callable[[], object]


def median_ms(runs: Mapping[str, Run], seconds: float) -> dict[str, float]:
    """Median milliseconds of each run, by name, after one run that does not count.

    Args:
        runs: what to run.
        seconds: how long to go on for each of them; they run a few times in any case.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    deadline = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < _LEAST_RUNS:
        for name, run in runs.items():
            times[name].append(_milliseconds(run))
    return {name: statistics.median(values) for name, values in times.items()}


@dataclass(frozen=True, slots=True)
class Share:
    """The share of the time of a whole that something takes, and the milliseconds of the whole."""

    share: float
    whole_ms: float


_TURN_MS = 10.0
_LEAST_CALLS = 2
_LEAST_ROUNDS, _MOST_ROUNDS = 9, 40
_CALM = 1.05
"""By how much a run may be slower than in its fastest round, so that the round counts."""
_PRECISION = 0.003
"""The standard error at which a share is known, as a share of itself."""


def share_of_time(run: Run, whole: Run) -> Share:
    """How long a run takes beside another one.

    Each round calls both, for some milliseconds each, and compares their fastest calls: what else
    the machine does makes calls slower, never faster. The median of rounds counts in which neither
    was much slower than it can be, and there are as many rounds as that needs to be known.
    """
    rounds: list[tuple[float, float]] = []
    calm: list[float] = []
    while len(calm) < _LEAST_ROUNDS or not _is_known(calm):
        rounds.append((_fastest(run), _fastest(whole)))
        calm = _in_calm(rounds)
        if len(rounds) >= _MOST_ROUNDS:
            break
    return Share(statistics.median(calm), min(of_whole for _, of_whole in rounds))


def _in_calm(rounds: list[tuple[float, float]]) -> list[float]:
    """The ratios of rounds that nothing has disturbed; all where there is none."""
    least = [_CALM * min(times) for times in zip(*rounds, strict=True)]
    calm = [a / b for a, b in rounds if a <= least[0] and b <= least[1]]
    return calm or [a / b for a, b in rounds]


def _is_known(ratios: list[float]) -> bool:
    """Whether the standard error of the median, from the quartiles of a normal law, is small."""
    if len(ratios) < 2:
        return False
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    error: float = 0.93 * (upper - lower) / len(ratios) ** 0.5
    return error <= _PRECISION * middle


def _fastest(run: Run) -> float:
    """Milliseconds of the fastest call of a turn, whose first brings it back to the caches."""
    run()
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < _TURN_MS:
        times.append(_milliseconds(run))
    return min(times)


def _milliseconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)
