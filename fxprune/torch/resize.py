"""How large should the input, the depth and the width of a small network be? TinyNet's rule.

Resolution and depth shrink less than width: they follow the five published networks (Han et al.
2020, table 2: resolution and depth by the share of the MACs of the base network, here interpolated
along the logarithm of that share). The width is then the one with which the built network has the
MACs that were asked for. The closed form, w = sqrt(share / (depth * resolution^2)), is far off
where a stem and a head do not shrink: for the smallest published network it has 14 instead of 24 M.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from fxprune.arguments import number, refusal
from fxprune.errors import TargetError
from fxprune.stages import track
from fxprune.torch.recorded_costs import recorded_costs

SHARES = (0.0631, 0.1337, 0.258, 0.5202, 0.8731, 1.0)
"""The MACs of TinyNet-E to A, recorded, as shares of EfficientNet-B0's (385,814,752)."""
RESOLUTIONS = (0.475, 0.68, 0.825, 0.84, 0.86, 1.0)
DEPTHS = (0.6, 0.695, 0.85, 1.1, 1.2, 1.0)
_NARROWEST, _WIDEST, _STEPS = 0.05, 8.0, 12


@dataclass(frozen=True, slots=True)
class Resized:
    """Multipliers of resolution, depth and width, and the MACs of what is built with them."""

    resolution: float
    depth: float
    width: float
    macs: float

    @property
    def config(self) -> dict[str, float]:
        """What the builder is called with."""
        return {"resolution": self.resolution, "depth": self.depth, "width": self.width}

    def __str__(self) -> str:
        factors = ", ".join(f"{name} {value:.4g}" for name, value in self.config.items())
        return f"{factors}: {self.macs:,.0f} MACs"


def resize(
    builder: Callable[..., Any],
    macs: float,
    *,
    resolution: float | None = None,
    depth: float | None = None,
) -> Resized:
    """Multipliers of a base network with which it has a number of MACs::

        def builder(resolution, depth, width):  # (1, 1, 1) is the base network
            size = int(224 * resolution)
            return make(depth, width), torch.zeros(1, 3, size, size)

        small = fxprune.resize(builder, 100e6)
        model, example = builder(**small.config)

    Args:
        builder: returns a module and its example inputs; it is recorded on the meta device, about
            a dozen times. MACs must not fall where the width grows.
        macs: the MACs of a sample that are wanted: a number above 1, or a share of those of the
            base network, up to 1.
        resolution: its multiplier; if missing, that of the rule.
        depth: the same for the depth.

    Returns:
        The multipliers whose MACs are closest; widths that are rounded to channels leave a few
        percent.

    Raises:
        InputError: an argument does not fit, or the builder fails; TargetError if no width between
            1/20 and 8 has such MACs.
    """
    if not callable(builder):
        raise refusal("builder", builder, "a function of resolution, depth and width")
    wanted = "a number of MACs, or a share of those of the base network"
    number("macs", macs, lambda x: 0 < x < inf, wanted)
    for name, value in (("resolution", resolution), ("depth", depth)):
        if value is not None:
            number(name, value, lambda x: 0 < x < inf, "a multiplier such as 0.86")
    base = recorded_costs(builder, {"resolution": 1.0, "depth": 1.0, "width": 1.0})["macs"]
    target = macs * base if macs <= 1 else float(macs)
    by_rule = rule(target / base)
    r = by_rule[0] if resolution is None else float(resolution)
    d = by_rule[1] if depth is None else float(depth)

    def at(width: float) -> Resized:
        config = {"resolution": r, "depth": d, "width": width}
        return Resized(**config, macs=recorded_costs(builder, config)["macs"])

    return _closest(at, target)


def rule(share: float) -> tuple[float, float]:
    """Resolution and depth for a share of the MACs of the base network.

    >>> rule(0.8731), rule(0.0631)
    ((0.86, 1.2), (0.475, 0.6))
    """
    place = np.log(share)
    known = np.log(SHARES)
    return float(np.interp(place, known, RESOLUTIONS)), float(np.interp(place, known, DEPTHS))


def _closest(at: Callable[[float], Resized], target: float) -> Resized:
    """By bisection along the logarithm of the width."""
    low, high = at(_NARROWEST), at(_WIDEST)
    if not low.macs <= target <= high.macs:
        raise TargetError(
            f"macs is {target:,.0f}, but widths of {_NARROWEST:g} to {_WIDEST:g} have "
            f"{low.macs:,.0f} to {high.macs:,.0f}: ask for others, or give resolution or depth"
        )
    for _ in track(range(_STEPS), "looking for the width"):
        middle = at((low.width * high.width) ** 0.5)
        low, high = (middle, high) if middle.macs <= target else (low, middle)
    return min(low, high, key=lambda each: abs(each.macs - target))
