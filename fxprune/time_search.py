"""Which model takes the share of the time that it may? Whole models are measured, and corrected.

    x      the share that a prediction is given, of time or of multiply-accumulates
    s(x)   the share of the whole model's time that the model of x takes, measured

A target t is met by solving s(x) = t, from x = t on, between the closest models known to be faster
and slower. What is found is measured again before it counts.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fxprune.clocks import Clock, Timed
from fxprune.errors import TargetError
from fxprune.stages import stage
from fxprune.timing import Run, Share, share_of_time

_log = logging.getLogger("fxprune")

WITHIN = 0.03
"""How far the share that is reached may be from its target, as a share of that."""

_NEAR = 0.02
"""The same for what is looked for, so that it is still within when it is measured again."""

MULTIPLES = (1, 4, 8, 16)
"""Widths are tried as multiples of these; which of them a machine likes is measured."""

_MOST, _MOST_IN_ALL = 14, 40
"""How many models of one multiple are measured at most, and how often any are."""

_DISTURBED = 1.1
"""By how much the whole model may be slower than it was, so that a measurement counts."""

_PATIENCE = 4
"""How often a model is measured while something else keeps the whole one slow."""

_CLOSEST = 1e-3
_MARGIN = 0.1

Keep = TypeVar("Keep")


@dataclass(eq=False, slots=True)
class Trial(Generic[Keep]):
    """A model that was measured: the share it was made for, what it keeps, what it is and takes."""

    at: float
    multiple: int
    keep: Keep | None
    macs: float
    share: float
    is_repeated: bool = False

    def lost_per_time(self) -> float:
        """The share of the MACs that it lacks, for every share of the time that it saves."""
        return (1 - self.macs) / (1 - self.share) if self.share < 1 else float("inf")


@dataclass(frozen=True, slots=True)
class Models(Generic[Keep]):
    """The models among which one is searched.

    `keep_at` says what the model keeps that is predicted to take a share, in widths that are
    multiples of a number, and beside what another one keeps, if one is given; a TargetError says
    that none is so small. `macs` is the share of the multiply-accumulates that it has, `measured`
    its share of the time of the whole model.
    """

    keep_at: Callable[[float, int, Keep | None], Keep]
    macs: Callable[[Keep], float]
    measured: Callable[[Keep], Share]


@dataclass(eq=False, slots=True)
class _Family(Generic[Keep]):
    """Models of one multiple, all of which keep what `base` does, and those that were measured."""

    multiple: int
    base: Keep | None
    trials: list[Trial[Keep]]

    def lost_per_time(self) -> float:
        """That of the first trial."""
        return self.trials[0].lost_per_time() if self.trials else 0.0


class Stopwatch(Generic[Keep]):
    """Times models beside the whole one. It is a context; the latest model stays at hand."""

    def __init__(self, run_of: Callable[[Keep | None], AbstractContextManager[Run]]) -> None:
        """`run_of` makes a model, None for the whole one, that can be run while a context lasts."""
        self._run_of = run_of
        self._always, self._latest = ExitStack(), ExitStack()
        self._keep: Keep | None = None
        self._least_ms = float("inf")

    def __enter__(self) -> "Stopwatch[Keep]":
        self._whole = self._always.enter_context(self._run_of(None))
        return self

    def __exit__(self, *_: Any) -> None:
        self._latest.close()
        self._always.close()

    def whole_ms(self) -> float:
        """How long the whole model takes."""
        return self._undisturbed(self._whole).whole_ms

    def measured(self, keep: Keep) -> Share:
        """How long a model takes beside the whole one."""
        if keep != self._keep:
            self._latest.close()
            self._run = self._latest.enter_context(self._run_of(keep))
            self._keep = keep
        return self._undisturbed(self._run)

    def _undisturbed(self, run: Run) -> Share:
        """Measured while the whole model is about as fast as it was ever seen, if that comes.

        What else a machine does can take caches from a large model that a small one does not need,
        for seconds on end.
        """
        tries: list[Share] = []
        while len(tries) < _PATIENCE:
            tries.append(share_of_time(run, self._whole))
            self._least_ms = min(self._least_ms, tries[-1].whole_ms)
            if tries[-1].whole_ms <= _DISTURBED * self._least_ms:
                return tries[-1]
            _log.info(
                "the machine is busy: %.3g ms, %.3g before", tries[-1].whole_ms, self._least_ms
            )
        return min(tries, key=lambda share: share.whole_ms)


def reaching(
    times: Mapping[str, float],
    keep_at: Callable[[float, int, Keep | None], Keep],
    macs: Callable[[Keep], float],
    run_of: Callable[[Keep | None], AbstractContextManager[Run]],
) -> "tuple[Trial[Keep], TimeSearch[Keep]]":
    """The model that takes as long as it may, see `TimeSearch`, and the search for it.

    Args:
        times: "latency", a share of the time of the whole model, and "latency_ms", milliseconds.
        keep_at, macs: see `Models`.
        run_of: see `Stopwatch`.

    Raises:
        TargetError: none is fast enough.
    """
    with Stopwatch(run_of) as watch:
        shares = [times["latency_ms"] / watch.whole_ms()] if "latency_ms" in times else []
        wanted = min(1.0, times.get("latency", 1.0), *shares)
        search = TimeSearch(wanted, Models(keep_at, macs, watch.measured))
        return search.found(), search


class TimeSearch(Generic[Keep]):
    """The search for the model that takes a share of the time; it remembers what it measured."""

    def __init__(self, wanted: float, models: Models[Keep]) -> None:
        self.wanted = wanted
        self.shares: list[float] = []
        self._models = models
        self._trials: list[Trial[Keep]] = []
        self._whole_ms = 0.0

    def found(self) -> Trial[Keep]:
        """The model that is within 3 % of the target; where there is none, a faster one.

        Models of one predicted time come first, in widths of several multiples. That which lacks
        the fewest MACs for the time that it saves is corrected, the others only if it fails.

        Raises:
            TargetError: none is fast enough.
        """
        families: list[_Family[Keep]] = [_Family(multiple, None, []) for multiple in MULTIPLES]
        for family in families:
            keep = self._keep_at(self.wanted, family)
            if keep is not None and all(trial.keep != keep for trial in self._trials):
                self._tried(self.wanted, family, keep)
        known = [family for family in families if family.trials] or families[:1]
        for family in sorted(known, key=_Family.lost_per_time):
            if (found := self._corrected(family)) is not None:
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

    def _corrected(self, family: _Family[Keep]) -> Trial[Keep] | None:
        """The model of a family that is near the target, measured twice; None if there is none.

        If all that other limits leave is faster, that is it. Where the family has nothing between
        two models, the smaller one is widened in finer steps.
        """
        before = float("inf")
        for _ in range(min(_MOST, _MOST_IN_ALL - len(self.shares))):
            near = [trial for trial in family.trials if self._is_within(trial, _NEAR)]
            if near:
                self._repeat(near[0])
                if self._is_within(near[0], WITHIN):
                    return near[0]
                continue
            faster, slower = self._around(family)
            if faster.keep is not None and self._keep_at(1.0, family) == faster.keep:
                return faster
            is_slow, before = slower.at - faster.at > before / 2, slower.at - faster.at
            between = self._between(faster, slower, family, halving=is_slow)
            if between is not None:
                self._tried(*between)
            elif not self._have_moved(faster, slower):
                return self._beside_gap(faster, slower, family)
        return None

    def _beside_gap(
        self, faster: Trial[Keep], slower: Trial[Keep], family: _Family[Keep]
    ) -> Trial[Keep] | None:
        """One of two neighbours, if it will do; else the smaller one, widened in finer steps."""
        for trial in (faster, slower):
            if trial.keep is not None and self._is_within(trial, WITHIN):
                return trial
        finer = [multiple for multiple in MULTIPLES if multiple < family.multiple]
        if faster.keep is None or not finer:
            return None
        return self._corrected(_Family(finer[-1], faster.keep, [faster, slower]))

    def _around(self, family: _Family[Keep]) -> tuple[Trial[Keep], Trial[Keep]]:
        """The largest model that is faster than wanted, and the next larger one, which is not.

        What was never measured stands for nothing, that takes no time, and for the whole.
        """
        nothing: Trial[Keep] = Trial(0.0, family.multiple, None, 0.0, 0.0)
        whole: Trial[Keep] = Trial(1.0, family.multiple, None, 1.0, 1.0)
        faster = [nothing, *(trial for trial in family.trials if trial.share < self.wanted)]
        below = max(faster, key=lambda trial: trial.at)
        slower = [trial for trial in family.trials if trial.share >= self.wanted]
        larger = [trial for trial in slower if trial.at > below.at]
        return below, min([*larger, whole], key=lambda trial: trial.at)

    def _between(
        self, faster: Trial[Keep], slower: Trial[Keep], family: _Family[Keep], *, halving: bool
    ) -> tuple[float, _Family[Keep], Keep] | None:
        """What to try next: where a line between both meets the target, or half of the way.

        None where there is no model between them.
        """
        low, high = faster.at, slower.at
        way = (self.wanted - faster.share) / max(slower.share - faster.share, 1e-9)
        way = 0.5 if halving else min(max(way, _MARGIN), 1 - _MARGIN)
        at = low + (high - low) * way
        while high - low > _CLOSEST:
            keep = self._keep_at(at, family)
            if keep is not None and keep not in (faster.keep, slower.keep):
                return at, family, keep
            low, high = (low, at) if keep is not None and keep == slower.keep else (at, high)
            at = (low + high) / 2
        return None

    def _have_moved(self, *ends: Trial[Keep]) -> bool:
        """Whether measuring two ends again, once, puts one on the other side of the target."""
        moved = False
        for end in ends:
            if end.keep is not None and not end.is_repeated:
                was_faster = end.share < self.wanted
                self._repeat(end)
                moved |= (end.share < self.wanted) != was_faster
        return moved

    def _is_within(self, trial: Trial[Keep], tolerance: float) -> bool:
        return abs(trial.share / self.wanted - 1) <= tolerance

    def _keep_at(self, at: float, family: _Family[Keep]) -> Keep | None:
        try:
            return self._models.keep_at(at, family.multiple, family.base)
        except TargetError:
            return None

    def _tried(self, at: float, family: _Family[Keep], keep: Keep) -> None:
        macs, share = self._models.macs(keep), self._share_of(keep)
        family.trials.append(Trial(at, family.multiple, keep, macs, share))
        self._trials.append(family.trials[-1])
        _log.info(
            "%.3f predicted in widths of %d: %.3f measured, with %.3f of the MACs",
            *(at, family.multiple, share, macs),
        )

    def _repeat(self, trial: Trial[Keep]) -> None:
        """Measure a trial anew; what it was is forgotten."""
        assert trial.keep is not None
        trial.share, trial.is_repeated = self._share_of(trial.keep), True

    def _share_of(self, keep: Keep) -> float:
        stage(f"measuring model {len(self.shares) + 1}")
        found = self._models.measured(keep)
        self._whole_ms = found.whole_ms
        self.shares.append(found.share)
        return found.share
