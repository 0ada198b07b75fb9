"""Which model takes the share of the time that it may? Whole models are measured, and corrected.

    x      the share that a prediction is given, of time or of multiply-accumulates
    s(x)   the share of the whole model's time that the model of x takes, measured

A target t is met by solving s(x) = t, from x = t on, between the closest models known to be faster
and slower. What is found is measured again before it counts.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from fxprune.clocks import Clock, Timed
from fxprune.errors import TargetError
from fxprune.stages import stage
from fxprune.timing import Share

_log = logging.getLogger("fxprune")

WITHIN = 0.03
"""How far the share that is reached may be from its target, as a share of that."""

_NEAR = 0.02
"""The same for what is looked for, so that it is still within when it is measured again."""

MULTIPLES = (1, 4, 8, 16)
"""Widths are tried as multiples of these; which of them a machine likes is measured."""

_MOST = 14
"""How many models of one multiple are measured at most."""

_CLOSEST = 1e-3
_MARGIN = 0.1

Keep = TypeVar("Keep")


@dataclass(frozen=True, slots=True)
class Trial(Generic[Keep]):
    """A model that was measured: the share it was made for, its widths, what it keeps."""

    at: float
    multiple: int
    keep: Keep | None
    macs: float
    share: float

    def lost_per_time(self) -> float:
        """The share of the MACs that it lacks, for every share of the time that it saves."""
        return (1 - self.macs) / (1 - self.share) if self.share < 1 else float("inf")


@dataclass(frozen=True, slots=True)
class Models(Generic[Keep]):
    """The models among which one is searched.

    `keep_at` says what the model keeps that is predicted to take a share, in widths that are
    multiples of a number; a TargetError says that none is so small. `macs` is the share of the
    multiply-accumulates that it has, `measured` its share of the time of the whole model.
    """

    keep_at: Callable[[float, int], Keep]
    macs: Callable[[Keep], float]
    measured: Callable[[Keep], Share]


def wanted_share(times: Mapping[str, float], whole_ms: float) -> float:
    """The share of the time that a target means: "latency" is one, "latency_ms" milliseconds.

    >>> wanted_share({"latency_ms": 3.0}, whole_ms=4.0)
    0.75
    """
    shares = (value / (whole_ms if name == "latency_ms" else 1.0) for name, value in times.items())
    return min(1.0, *shares)


class TimeSearch(Generic[Keep]):
    """The search for the model that takes a share of the time; it remembers what it measured."""

    def __init__(self, wanted: float, models: Models[Keep]) -> None:
        self.wanted = wanted
        self.shares: list[float] = []
        self._models = models
        self._trials: list[Trial[Keep]] = []
        self._whole_ms = 0.0
        self._repeated: set[tuple[float, int]] = set()

    def found(self) -> Trial[Keep]:
        """The model that is within 3 % of the target; where there is none, the largest
        of those that are faster.

        Models of one predicted time come first, in widths of several multiples. That which lacks
        the fewest MACs for the time that it saves is corrected, and the others only if it fails.

        Raises:
            TargetError: none is fast enough.
        """
        firsts = [self._first(multiple) for multiple in MULTIPLES]
        best_first = sorted(filter(None, firsts), key=Trial.lost_per_time)
        for multiple in [trial.multiple for trial in best_first] or MULTIPLES:
            if (found := self._corrected(multiple)) is not None:
                return found
        fast = [trial for trial in self._trials if trial.share <= self.wanted * (1 + WITHIN)]
        if not fast:
            least = min((trial.share for trial in self._trials), default=1.0)
            raise TargetError(
                f"target of latency is not reached: {self.wanted:.3g} of the whole model's "
                f"{self._whole_ms:.3g} ms is wanted, the fastest model tried takes {least:.3g}; "
                "ask for more, or pin less"
            )
        return max(fast, key=lambda trial: trial.macs)

    def timed(self, found: Trial[Keep], clock: Clock, provider: str) -> Timed:
        """What was measured, and by what."""
        return Timed(
            share=found.share,
            wanted=self.wanted,
            first=self.shares[0],
            whole_ms=self._whole_ms,
            runtime=str(clock.runtime),
            provider=provider,
            threads=clock.threads,
            batch=clock.batch,
            multiple=found.multiple,
            measured=len(self.shares),
        )

    def _first(self, multiple: int) -> Trial[Keep] | None:
        """The model that is predicted to take the share that is wanted, unless it was tried."""
        keep = self._keep_at(self.wanted, multiple)
        if keep is None or any(trial.keep == keep for trial in self._trials):
            return None
        return self._tried(self.wanted, multiple, keep)

    def _corrected(self, multiple: int) -> Trial[Keep] | None:
        """The model of a multiple that is near the target, twice; None if there seems to be none.

        If all that other limits leave is faster, that is it.
        """
        before = float("inf")
        for _ in range(_MOST):
            own = [trial for trial in self._trials if trial.multiple == multiple]
            near = [trial for trial in own if self._is_within(trial, _NEAR)]
            if near:
                again = self._again(near[0])
                if self._is_within(again, WITHIN):
                    return again
                continue
            faster, slower = self._around(own)
            if faster.keep is not None and self._keep_at(1.0, multiple) == faster.keep:
                return faster
            is_slow, before = slower.at - faster.at > before / 2, slower.at - faster.at
            between = self._between(faster, slower, multiple, halving=is_slow)
            if between is not None:
                self._tried(*between)
            elif not self._has_moved(faster, slower):
                return None
        return None

    def _around(self, own: list[Trial[Keep]]) -> tuple[Trial[Keep], Trial[Keep]]:
        """The largest model that is faster than wanted, and the next larger one, which is not.

        What was never measured stands for nothing, that takes no time, and for the whole.
        """
        nothing, whole = (Trial(at, 1, None, at, at) for at in (0.0, 1.0))
        faster = [nothing, *(trial for trial in own if trial.share < self.wanted)]
        below = max(faster, key=lambda trial: trial.at)
        larger = [trial for trial in own if trial.share >= self.wanted and trial.at > below.at]
        return below, min([*larger, whole], key=lambda trial: trial.at)

    def _between(
        self, faster: Trial[Keep], slower: Trial[Keep], multiple: int, *, halving: bool
    ) -> tuple[float, int, Keep] | None:
        """What to try next: where a line between both meets the target, or half of the way.

        None where there is no model between them.
        """
        low, high = faster.at, slower.at
        way = (self.wanted - faster.share) / max(slower.share - faster.share, 1e-9)
        way = 0.5 if halving else way
        at = low + (high - low) * min(max(way, _MARGIN), 1 - _MARGIN)
        while high - low > _CLOSEST:
            keep = self._keep_at(at, multiple)
            if keep is not None and keep not in (faster.keep, slower.keep):
                return at, multiple, keep
            low, high = (low, at) if keep is not None and keep == slower.keep else (at, high)
            at = (low + high) / 2
        return None

    def _has_moved(self, *ends: Trial[Keep]) -> bool:
        """Whether measuring the two ends again, once, puts one on the other side of the target."""
        moved = False
        for end in ends:
            place = (end.at, end.multiple)
            if end.keep is not None and place not in self._repeated:
                self._repeated.add(place)
                moved |= (self._again(end).share < self.wanted) != (end.share < self.wanted)
        return moved

    def _is_within(self, trial: Trial[Keep], tolerance: float) -> bool:
        return abs(trial.share / self.wanted - 1) <= tolerance

    def _keep_at(self, at: float, multiple: int) -> Keep | None:
        try:
            return self._models.keep_at(at, multiple)
        except TargetError:
            return None

    def _tried(self, at: float, multiple: int, keep: Keep) -> Trial[Keep]:
        trial = Trial(at, multiple, keep, self._models.macs(keep), self._share_of(keep))
        self._trials.append(trial)
        _log.info("%.3f predicted in widths of %d: %.3f measured", at, multiple, trial.share)
        return trial

    def _again(self, trial: Trial[Keep]) -> Trial[Keep]:
        """A trial with its share measured anew, instead of the former one."""
        assert trial.keep is not None
        again = replace(trial, share=self._share_of(trial.keep))
        self._trials[self._trials.index(trial)] = again
        return again

    def _share_of(self, keep: Keep) -> float:
        stage(f"measuring model {len(self.shares) + 1}")
        found = self._models.measured(keep)
        self._whole_ms = found.whole_ms
        self.shares.append(found.share)
        return found.share
