"""What a comparison of two models found."""

from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2}
"""Largest accepted error relative to the largest output, by precision."""


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


def error_of(expected: Any, found: Any) -> float:
    """The largest difference relative to the largest expected value; infinite if shapes differ."""
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(expected, found) else np.inf
    if not isinstance(found, np.ndarray) or expected.shape != found.shape:
        return np.inf
    if not expected.size:
        return 0.0
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return np.inf
    finite = np.isfinite(expected)
    left, right = (x[finite].astype(np.float64) for x in (expected, found))
    largest, difference = np.abs(left).max(initial=0), np.abs(left - right).max(initial=0)
    return float(difference / largest) if largest else float(difference)
