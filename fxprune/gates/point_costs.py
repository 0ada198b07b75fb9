"""A cost polynomial, or the largest of several, on vectors of sizes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fxprune.passes.polynomials import Polynomial

_SHARPNESS = 8


class PointCost:
    """The largest of some polynomials (points), as a function of tensors of sizes."""

    def __init__(self, points: Sequence[Polynomial], index: Mapping[str, int]) -> None:
        """`index` says where each variable stands in the last axis of the sizes."""
        one = len(index)  # a constant 1 is appended to the sizes
        terms = [(i, c / p.divisor, names) for i, p in enumerate(points) for c, names in p.terms]
        degree = max((len(names) for _, _, names in terms), default=0)
        rows = [[index[n] for n in names] + [one] * (degree - len(names)) for *_, names in terms]
        self.count = len(points)
        self._factors = torch.tensor(rows, dtype=torch.long).reshape(len(terms), degree)
        self._coefficients = torch.tensor([c for _, c, _ in terms], dtype=torch.double)
        self._points = torch.tensor([i for i, _, _ in terms], dtype=torch.long)

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
