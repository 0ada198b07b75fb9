"""What a comparison of two models found."""

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every comparison made; all of them within their tolerance."""

    comparisons: tuple[Comparison, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.comparisons))

    @property
    def worst(self) -> dict[str, float]:
        """The largest error by pair and precision."""
        worst: dict[str, float] = {}
        for item in self.comparisons:
            key = f"{item.what} {item.dtype}"
            worst[key] = max(item.error, worst.get(key, 0.0))
        return worst
