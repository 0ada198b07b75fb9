"""A cost polynomial, or the largest of several, on vectors of sizes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fxprune.filling import terms_of
from fxprune.passes.polynomials import Polynomial

_SHARPNESS = 8


class PointCost:
    """The largest of some polynomials (points), as a function of tensors of sizes."""

    def __init__(self, points: Sequence[Polynomial], index: Mapping[str, int]) -> None:
        """`index` says where each variable stands in the last axis of the sizes."""
        terms = terms_of(points, index)
        self.count = terms.count
        self._factors = torch.from_numpy(terms.factors)
        self._coefficients = torch.from_numpy(terms.coefficients)
        self._points = torch.from_numpy(terms.points)

    def at(self, sizes: Tensor) -> Tensor:
        """The value of every point, for sizes along the last axis."""
        products = self._values(sizes).prod(dim=-1) * self._coefficients.to(sizes.device)
        points = sizes.new_zeros(*sizes.shape[:-1], self.count)
        return points.index_add(-1, self._points.to(sizes.device), products)

    def _values(self, sizes: Tensor) -> Tensor:
        extended = torch.cat([sizes, sizes.new_ones(*sizes.shape[:-1], 1)], dim=-1)
        return extended[..., self._factors.to(sizes.device)]

    def __call__(self, sizes: Tensor) -> Tensor:
        """The cost."""
        return self.at(sizes).amax(dim=-1)

    def priced(self, sizes: Tensor, limit: float) -> Tensor:
        """A scalar whose gradient says what a position costs.

        Of several points all that are above the limit have a say, and those near it, so that a
        position which is not in the largest one is not free.
        """
        points = self.at(sizes)
        top = min(limit, float(points.detach().max()))
        near = (points.detach() / max(top, 1e-12)).clamp(max=1) ** _SHARPNESS
        return (near * points).sum() / near.sum().clamp(min=1e-12)
