"""What a search has found: trials, the best of them, their front, all of them as a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fxprune.searching.tables import Table


@dataclass(frozen=True, slots=True)
class Objective:
    """What is searched for: the name of a score, and whether more of it is better."""

    name: str
    maximise: bool = True

    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.maximise else -1


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was looked at.

    `config` has what was chosen by name: of a gated model how many positions groups keep, and
    whether branches stay (1 or 0). `keep_set` is what `set_keep_set` takes, empty for builders.
    """

    number: int
    config: Mapping[str, Any]
    scores: Mapping[str, float]
    costs: Mapping[str, float]
    keep_set: Mapping[str, tuple[bool, ...]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {value:,.6g}" for name, value in self.scores.items())
        costs = ", ".join(
            f"{name} {value:,.10g}" for name, value in self.costs.items() if name not in self.scores
        )
        return f"trial {self.number}: {scores}; {costs}"


@dataclass(frozen=True, slots=True)
class Found:
    """What `search` returns: all trials that are done, in their order."""

    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The best trial by the first score; of equal ones the first."""
        first = self.objectives[0]
        return max(self.trials, key=lambda trial: first.sign() * trial.scores[first.name])

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other exceeds in one score without losing in another.

        They come in the order of the first score, the best first; of equal ones the first counts.
        """
        return front_of(self.trials, self.objectives)

    @property
    def table(self) -> Table:
        """Every trial as a row: its number, scores, costs, and what was chosen."""
        names: dict[str, None] = {}
        rows = []
        for trial in self.trials:
            row = {
                "trial": trial.number,
                **trial.scores,
                **{name: cost for name, cost in trial.costs.items() if name not in trial.scores},
                **{name: value for name, value in trial.config.items()},
            }
            rows.append(row)
            names.update(dict.fromkeys(row))
        columns = tuple(names)
        return Table(columns, tuple(tuple(row.get(name) for name in columns) for row in rows))

    def points(self, cost: str = "macs", score: str = "") -> list[tuple[float, float, str]]:
        """Every trial as (cost, score, label), as `write_report(points=...)` takes them."""
        name = score or self.objectives[0].name
        return [(t.costs[cost], t.scores[name], f"trial {t.number}") for t in self.trials]

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def __str__(self) -> str:
        if not self.trials:
            return "no trial is done"
        lines = [f"{len(self.trials)} trials; the best:", str(self.best)]
        if len(self.objectives) > 1:
            lines += [f"front of {len(self.front)}:", *map(str, self.front)]
        return "\n".join(lines)


def front_of(trials: tuple[Trial, ...], objectives: tuple[Objective, ...]) -> tuple[Trial, ...]:
    """The trials that no other dominates; of those with equal scores the first."""

    def values(trial: Trial) -> tuple[float, ...]:
        return tuple(each.sign() * trial.scores[each.name] for each in objectives)

    found: list[Trial] = []
    for trial in sorted(trials, key=values, reverse=True):  # what exceeds another comes before it
        own = values(trial)
        if not any(all(a >= b for a, b in zip(values(o), own, strict=True)) for o in found):
            found.append(trial)
    return tuple(found)
