"""How long do things take here? Medians; they take turns, so that noise meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

_LEAST_RUNS = 3


def median_ms(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
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
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
