"""What does a score lose where one group alone is cut? A table, and a figure of it."""

from dataclasses import dataclass

from fxprune.searching.found import Objective
from fxprune.searching.tables import Table


@dataclass(frozen=True, slots=True)
class Cut:
    """One group (or groups that are tied, or a branch) cut alone.

    `kept` says how many of its `size` positions stay, `scores` what the score is then; `shares` are
    those that were asked for. A branch is only cut whole.
    """

    name: str
    label: str
    size: int
    shares: tuple[float, ...]
    kept: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The score of the whole model, `full`, and of every cut, in the order of the groups."""

    objective: Objective
    full: float
    cuts: tuple[Cut, ...]

    @property
    def table(self) -> Table:
        """A row for every cut: group, share and positions that stay, score, and what is lost."""
        columns = ("group", "share", "kept", "size", self.objective.name, "lost")
        sign = self.objective.sign()
        rows = (
            (cut.label or cut.name, share, kept, cut.size, score, sign * (self.full - score))
            for cut in self.cuts
            for share, kept, score in zip(cut.shares, cut.kept, cut.scores, strict=True)
        )
        return Table(columns, tuple(rows))

    def worst_first(self) -> tuple[Cut, ...]:
        """The cuts by the most that the score loses."""
        sign = self.objective.sign()
        return tuple(sorted(self.cuts, key=lambda cut: min(sign * score for score in cut.scores)))

    def __str__(self) -> str:
        return f"{self.objective.name} {self.full:.6g} with everything open\n{self.table}"
